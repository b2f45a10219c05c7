"""Studies beyond the table: area against delay, accumulator width, share of the chip."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from studentfloat.errors import ConfigError
from studentfloat.formats import Format
from studentfloat.hardware.cost import Progress, load_library
from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.multipliers import ARCHITECTURES
from studentfloat.hardware.operands import Operand, resolve_operand
from studentfloat.hardware.records import AccumulatorPoint, SweepPoint
from studentfloat.hardware.synthesis import AREA_RECIPES, Recipe, speed_recipes, synthesize
from studentfloat.hardware.timing import analyze_timing
from studentfloat.hardware.units import DEFAULT_DOT_LENGTH, Unit, accumulator_width, mac

__all__ = [
    "MAC_SHARE",
    "ChipShares",
    "accumulator_study",
    "accumulators_all",
    "chip_overhead",
    "sweep",
    "sweep_all",
]

MAC_SHARE = 0.10
"""Default share of the die that MAC units take."""


@dataclass(frozen=True)
class ChipShares:
    """What part of the die a figure concerns; the rest of the die stays as it is.

    Attributes
    ----------
    mac
        Share of the die that multiply-accumulate units take, 0 to 1.
    sram
        Share that memory for weights takes. It grows with the bits per weight; 0 leaves it out.
    """

    mac: float = MAC_SHARE
    sram: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.mac <= 1 and 0 <= self.sram <= 1 and self.mac + self.sram <= 1):
            raise ConfigError(
                f"shares of the die: MAC {self.mac:g} and SRAM {self.sram:g} must be 0 to 1 "
                "and together at most 1"
            )


def chip_overhead(
    relative_area: float, shares: ChipShares | None = None, relative_bits: float = 1.0
) -> float:
    """Growth of the die, as a share of it, when its MAC units take another format.

    ``mac * (relative_area - 1) + sram * (relative_bits - 1)``.

    Parameters
    ----------
    relative_area
        MAC area over that of the format that the die had.
    relative_bits
        Bits per weight over those of the format that the die had.

    Examples
    --------
    >>> round(chip_overhead(1.122), 4)
    0.0122
    """
    chosen = shares or ChipShares()
    return chosen.mac * (relative_area - 1) + chosen.sram * (relative_bits - 1)


def _architectures(a: Operand, b: Operand, dot_length: int) -> list[Unit]:
    units = []
    for architecture in ARCHITECTURES:
        with contextlib.suppress(UnavailableError):
            units.append(mac(a, b, architecture, dot_length))
    return units


def sweep(
    number_format: Format | str,
    targets_ns: Sequence[float] | None = None,
    *,
    activations: str | Format | None = None,
    dot_length: int = 128,
    library: Library | None = None,
) -> list[SweepPoint]:
    """Smallest MAC that reaches each clock target, over all architectures and speed recipes.

    Parameters
    ----------
    targets_ns
        Clock periods; by default five, from a half of the area-optimal delay up to it.

    Returns
    -------
    list of SweepPoint
        One for each target; where none reaches it, the fastest, with `met` false.
    """
    read = load_library(library)
    a = resolve_operand(number_format)
    b = a if activations is None else resolve_operand(activations)
    units = _architectures(a, b, dot_length)
    found = [_points(unit, read, AREA_RECIPES) for unit in units]
    slowest = min((point for points in found for point in points), key=lambda p: p[0])[1]
    targets = list(targets_ns or (slowest * share for share in (1.0, 0.85, 0.7, 0.6, 0.5)))
    if not all(target > 0 for target in targets):
        raise ConfigError(f"clock targets {targets}: above 0 ns")
    # The flat tables are large and slow: what is far behind in area and delay cannot win.
    least = min(points[0][0] for points in found)
    entries: list[tuple[float, float, str]] = []
    for unit, points in zip(units, found, strict=True):
        if points[0][0] > 1.6 * least:
            continue
        recipes = [recipe for target in targets for recipe in speed_recipes(target)]
        every = [*points, *_points(unit, read, recipes)]
        entries += [(area, delay, unit.architecture) for area, delay in every]
    results = []
    for target in targets:
        meeting = [entry for entry in entries if entry[1] <= target]
        fallback = min(entries, key=lambda entry: entry[1])
        area, delay, architecture = min(meeting) if meeting else fallback
        results.append(
            SweepPoint(a.name, architecture, target, area, read.area_unit, delay, bool(meeting))
        )
    return results


def _points(unit: Unit, library: Library, recipes: Sequence[Recipe]) -> list[tuple[float, float]]:
    results = synthesize(unit.verilog, unit.top, library, recipes)
    return [(r.netlist.area, analyze_timing(r.netlist).delay_ns) for r in results]


def accumulator_study(
    number_format: Format | str,
    dot_lengths: Sequence[int] = (1, 16, 128, 1024, 8192),
    *,
    activations: str | Format | None = None,
    library: Library | None = None,
) -> list[AccumulatorPoint]:
    """Area of the smallest MAC as the dot product that its accumulator holds grows.

    The width is exact: it never saturates and never wraps. Beside it stands the width that holds
    six standard deviations of a dot product of uniform, independent codes (two cases in a
    billion lie outside, for a normal law): what a saturating accumulator could get by with.
    """
    read = load_library(library)
    a = resolve_operand(number_format)
    b = a if activations is None else resolve_operand(activations)
    best = min(
        _architectures(a, b, DEFAULT_DOT_LENGTH),
        key=lambda unit: _points(unit, read, AREA_RECIPES[:1])[0][0],
    )
    points = []
    for length in dot_lengths:
        unit = mac(a, b, best.architecture, length)
        area = min(area for area, _ in _points(unit, read, AREA_RECIPES))
        exact, typical = accumulator_width(a, b, length), _typical_width(a, b, length)
        points.append(AccumulatorPoint(a.name, length, exact, typical, area, read.area_unit))
    return points


_STANDARD_DEVIATIONS = 6.0


def sweep_all(
    formats: Sequence[Format],
    *,
    activations: str | Format | None = None,
    library: Library | None = None,
    progress: Progress | None = None,
) -> list[SweepPoint]:
    """:func:`sweep` of several formats."""
    points = []
    for i, number_format in enumerate(formats):
        if progress:
            progress(i / len(formats), f"clock targets of {number_format.name}")
        points += sweep(number_format, activations=activations, library=library)
    return points


def accumulators_all(
    formats: Sequence[Format],
    *,
    activations: str | Format | None = None,
    library: Library | None = None,
    progress: Progress | None = None,
) -> list[AccumulatorPoint]:
    """:func:`accumulator_study` of several formats."""
    points = []
    for i, number_format in enumerate(formats):
        if progress:
            progress(i / len(formats), f"accumulators of {number_format.name}")
        points += accumulator_study(number_format, activations=activations, library=library)
    return points


def _typical_width(a: Operand, b: Operand, dot_length: int) -> int:
    def moments(operand: Operand) -> tuple[float, float]:
        values = [float(v) for v in operand.numbers]
        return sum(values) / len(values), sum(v * v for v in values) / len(values)

    (mean_a, square_a), (mean_b, square_b) = moments(a), moments(b)
    mean = mean_a * mean_b
    deviation = (max(0.0, square_a * square_b - mean**2) * dot_length) ** 0.5
    reach = abs(mean) * dot_length + _STANDARD_DEVIATIONS * deviation
    exact = accumulator_width(a, b, dot_length)
    return min(exact, int(reach).bit_length() + 1)
