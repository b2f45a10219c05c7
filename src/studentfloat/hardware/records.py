"""Results of the hardware part as frozen records; units are in the names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from studentfloat.records import AreaBreakdown

__all__ = [
    "AccumulatorPoint",
    "Candidate",
    "HardwareCost",
    "HardwareTable",
    "SweepPoint",
]


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
    energy_fj, energy_spread_fj
        Per clock cycle, codes uniform. The spread is half the range over the recipes, each
        with codes of its own: differences within both spreads are ties.
    energy_real_fj
        On the given histogram of code pairs: see the table's `codes`.
    accumulator_bits
        Wide enough for every dot product of the table's `dot_length` terms, unless a width was
        asked for.
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
    area_split: AreaBreakdown | None
    delay_ns: float
    energy_fj: float | None
    energy_real_fj: float | None
    accumulator_bits: int | None
    proved: bool
    proof: str
    cells: int
    candidates: tuple[Candidate, ...] = ()
    energy_spread_fj: float | None = None


@dataclass(frozen=True)
class HardwareTable:
    """Costs of several formats in one kind of unit and one library.

    Attributes
    ----------
    accumulator_bits, overflow
        Width that was asked for (None: exact), and what happens where it is too narrow.
    codes
        Of what the code pairs behind `energy_real_fj` are.
    """

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
    accumulator_bits: int | None = None
    overflow: str = "wrap"
    codes: str | None = None


@dataclass(frozen=True)
class SweepPoint:
    """Area and delay reached for one clock target, and whether that netlist was proved."""

    format: str
    architecture: str
    target_ns: float
    area: float
    area_unit: str
    delay_ns: float
    met: bool
    proved: bool
    proof: str


@dataclass(frozen=True)
class AccumulatorPoint:
    """A MAC's area with an accumulator of one width, and how often that overflows.

    Attributes
    ----------
    exact_bits
        Width that no dot product of that length overflows.
    accumulator_bits, overflow
        Of the unit, and what it does with a sum that it cannot hold.
    overflow_share
        Share of the dot products, drawn at random, that it gets wrong: where it wraps around,
        those whose sum does not fit; where it saturates, those with any partial sum that
        does not. 0 where it is exact.
    draws
        How many were drawn: a share of 0 means less than about 3 over that.
    codes
        Of what the pairs of codes are that were drawn.
    """

    format: str
    dot_length: int
    exact_bits: int
    accumulator_bits: int
    overflow: str
    overflow_share: float
    draws: int
    codes: str
    area: float
    area_spread: float
    area_unit: str
    proved: bool
