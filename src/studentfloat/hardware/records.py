"""Results of the hardware part as frozen records; units are in the names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

__all__ = [
    "AccumulatorPoint",
    "AreaSplit",
    "Candidate",
    "HardwareCost",
    "HardwareTable",
    "SweepPoint",
]


@dataclass(frozen=True)
class AreaSplit:
    """Where the area goes, with the boundaries between the parts kept during synthesis.

    Kept boundaries cost some area, so the parts add up to a little more than the whole.
    """

    decoder: float
    multiplier: float
    adder: float
    register: float


@dataclass(frozen=True)
class Candidate:
    """One architecture by one recipe."""

    architecture: str
    recipe: str
    area: float


@dataclass(frozen=True)
class HardwareCost:
    """What a unit of one format costs, after synthesis and before placement.

    Attributes
    ----------
    name
        Of the row; the format's name, with ``-fixed12`` and the like after the first lookup width.
    format
        Name of the format.
    lookup_bits
        Width of the fixed-point numbers behind the lookup, None where values are exact.
    area
        Of the smallest architecture, in `area_unit`: ``GE`` (gate equivalents of our own
        library, relative) or ``um2``.
    area_spread
        Half the range over the synthesis recipes for that architecture: the noise bar. Areas
        nearer to each other than both spreads together are ties.
    area_relative_to_int4
        Area over that of int4 in the same unit and library.
    delay_ns
        Shortest clock period by static timing, without wires.
    energy_fj
        Per clock cycle, codes uniform; `energy_real_fj` on the given histogram of code pairs.
    accumulator_bits
        Wide enough for every dot product of the table's `dot_length` terms.
    proved
        True only if both the Verilog and the mapped netlist (or, where `proof` says so, the
        netlist alone) were shown equal to the format's values.
    proof
        How it was proved, or why it is not.
    cells
        Number of cells.
    candidates
        All that was synthesized.
    """

    name: str
    format: str
    lookup_bits: int | None
    architecture: str
    recipe: str
    area: float
    area_unit: str
    area_spread: float
    area_relative_to_int4: float | None
    area_split: AreaSplit | None
    delay_ns: float
    energy_fj: float | None
    energy_real_fj: float | None
    accumulator_bits: int | None
    proved: bool
    proof: str
    cells: int
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class HardwareTable:
    """Costs of several formats in one kind of unit and one library."""

    KIND: ClassVar[str] = "hardware"
    VERSION: ClassVar[int] = 1

    unit: str
    library: str
    area_unit: str
    activations: str | None
    dot_length: int
    scale_type: str
    formats: tuple[HardwareCost, ...]
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepPoint:
    """Area and delay reached for one clock target."""

    format: str
    architecture: str
    target_ns: float
    area: float
    area_unit: str
    delay_ns: float
    met: bool


@dataclass(frozen=True)
class AccumulatorPoint:
    """A MAC's area for the longest dot product that its accumulator holds.

    Attributes
    ----------
    exact_bits
        Width that no dot product overflows; the unit has that.
    typical_bits
        Width that six standard deviations of a dot product of uniform codes need.
    """

    format: str
    dot_length: int
    exact_bits: int
    typical_bits: int
    area: float
    area_unit: str
