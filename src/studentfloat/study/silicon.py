"""Join a comparison with what its formats cost in silicon, and draw the frontiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from studentfloat.errors import MissingDependencyError, StudentFloatError
from studentfloat.formats import Format
from studentfloat.progress import Progress, silent
from studentfloat.records import (
    AreaBreakdown,
    Comparison,
    FormatHardware,
    FormatQuality,
    Frontier,
)
from studentfloat.records.pareto import Candidate, frontier
from studentfloat.study.code_pairs import CodePairs

if TYPE_CHECKING:
    from studentfloat.hardware.records import HardwareCost, HardwareTable

__all__ = [
    "HardwareOptions",
    "check_hardware",
    "format_hardware",
    "hardware_is_installed",
    "with_frontiers",
    "with_hardware",
]

_COSTS = {
    "area": "area of a multiply-accumulate unit",
    "energy_fj": "energy per multiply-accumulate",
    "bits_per_weight": "bits per weight",
}


@dataclass(frozen=True)
class HardwareOptions:
    """What is costed.

    Attributes
    ----------
    unit
        As of :func:`studentfloat.hardware.cost`.
    liberty
        The cell library; none: the built-in generic one.
    lookup_bits
        Width of the fixed-point numbers that a format without an integer grid is rounded to,
        for its quality as for its silicon.
    """

    unit: str = "mac"
    liberty: tuple[str, ...] = field(default_factory=tuple)
    lookup_bits: int = 8


def hardware_is_installed() -> bool:
    """Whether the extra ``hardware`` is there."""
    return find_spec("pyosys") is not None


def check_hardware(options: HardwareOptions) -> None:
    """Raise now what costing would raise later: an unknown unit, a library that is unsound.

    Raises
    ------
    StudentFloatError
        As :func:`studentfloat.hardware.cost`.
    """
    from studentfloat.hardware import check_unit, load_library

    check_unit(options.unit)
    load_library(options.liberty)
    if not hardware_is_installed():
        raise MissingDependencyError.for_extra("pyosys", "hardware")


def with_hardware(
    comparison: Comparison,
    formats: Sequence[tuple[str, Format]],
    options: HardwareOptions | None = None,
    codes: CodePairs | None = None,
    *,
    progress: Progress = silent,
) -> Comparison:
    """Add area, delay and energy of each row's format, then the frontiers.

    Parameters
    ----------
    comparison
        Of any model.
    formats
        Name of each row, and its format. Rows that share a format (under another scale
        rule, say) share its silicon, but not the codes that it meets.
    options
        The unit and the library.
    codes
        By the row's name, which pairs of codes meet.
    progress
        Told about each format that is done; those in the cache are at once.
    """
    wanted, met = options or HardwareOptions(), codes or CodePairs()
    buildable, refused = _buildable(formats, wanted.lookup_bits)
    if met.problem:
        refused.append(f"energy is on uniform codes only: {met.problem}")
    if refused:
        comparison = replace(comparison, cautions=(*comparison.cautions, *refused))
    rows: dict[str, FormatHardware] = {}
    while rest := [pair for pair in buildable if pair[0] not in rows]:
        # Each format once at a time: the rows that share it come from the cache.
        rows |= _costed(list({fmt: (name, fmt) for name, fmt in rest[::-1]}.values())[::-1],
                        wanted, met, progress)  # fmt: skip
    hardware = tuple(rows[name] for name, _ in formats if name in rows)
    return with_frontiers(replace(comparison, hardware=hardware))


def _costed(
    formats: Sequence[tuple[str, Format]],
    options: HardwareOptions,
    codes: CodePairs,
    progress: Progress,
) -> dict[str, FormatHardware]:
    """Silicon of rows of different formats, by the row's name."""
    from studentfloat.hardware import cost, load_library

    table = cost(
        [fmt for _, fmt in formats],
        unit=options.unit,
        library=load_library(options.liberty),
        lookup_bits=(options.lookup_bits,),
        code_histograms={fmt.name: codes.counts[n] for n, fmt in formats if n in codes.counts},
        codes=codes.codes,
        progress=progress,
    )
    rows = zip(formats, table.formats, strict=True)
    return {name: format_hardware(name, table, row) for (name, _), row in rows}


def format_hardware(name: str, table: HardwareTable, row: HardwareCost) -> FormatHardware:
    """What one row of a hardware table says of the format of a row called `name`."""
    split = row.area_split
    return FormatHardware(
        name=name,
        unit=table.unit,
        library=table.library,
        lookup_bits=row.lookup_bits,
        area=row.area,
        area_unit=row.area_unit,
        area_spread=row.area_spread,
        area_relative_to_int4=row.area_relative_to_int4,
        delay_ns=row.delay_ns,
        energy_fj=row.energy_fj,
        energy_spread_fj=row.energy_spread_fj,
        energy_real_fj=row.energy_real_fj,
        codes=None if row.energy_real_fj is None else table.codes,
        proved=row.proved,
        area_breakdown=None if split is None else AreaBreakdown(**asdict(split)),
    )


def _buildable(
    formats: Sequence[tuple[str, Format]], lookup_bits: int
) -> tuple[list[tuple[str, Format]], list[str]]:
    """The rows that hardware can be made of; and why the others cannot."""
    from studentfloat.hardware import resolve_operand

    buildable, refused = [], []
    for name, fmt in formats:
        try:
            resolve_operand(fmt, (lookup_bits,))
        except StudentFloatError as error:
            refused.append(f"{name} is not costed in silicon: {error}")
        else:
            buildable.append((name, fmt))
    return buildable, refused


def with_frontiers(comparison: Comparison) -> Comparison:
    """Set the comparison's frontiers: quality against area, energy and bits per weight."""
    frontiers = [found for cost in _COSTS if (found := _frontier(comparison, cost)) is not None]
    return replace(comparison, frontiers=tuple(frontiers))


def _frontier(comparison: Comparison, cost: str) -> Frontier | None:
    hardware = {row.name: row for row in comparison.hardware}
    loss = comparison.ranked_by
    candidates = []
    unit = {"bits_per_weight": "bits", "energy_fj": "fJ"}.get(cost, "")
    for row in comparison.formats:
        value, spread = float(row.bits_per_weight), 0.0
        if cost != "bits_per_weight":
            silicon = hardware.get(row.name)
            of_it = None if silicon is None else getattr(silicon, cost)
            if silicon is None or of_it is None:
                continue
            value = float(of_it)
            if cost == "area":
                spread, unit = silicon.area_spread, silicon.area_unit
            else:
                spread = silicon.energy_spread_fj or 0.0
                value = value if silicon.energy_real_fj is None else silicon.energy_real_fj
        candidates.append(
            Candidate(row.name, value, getattr(row, loss), spread, _loss_error(row, loss))
        )
    if not candidates:
        return None
    spreads = {c.name: (c.cost, c.cost_error) for c in candidates}
    tied = {
        frozenset((pair.first, pair.second))
        for pair in comparison.differences
        if not pair.significant
    }

    # Of scores over fewer than two windows nothing was tested, so nothing is told apart.
    untested = not comparison.differences and loss != "weight_nmse"

    def loss_tie(a: str, b: str) -> bool:
        return untested or frozenset((a, b)) in tied

    def cost_tie(a: str, b: str) -> bool:
        (cost_a, error_a), (cost_b, error_b) = spreads[a], spreads[b]
        return abs(cost_a - cost_b) <= error_a + error_b

    points = frontier(candidates, cost_tie=cost_tie, loss_tie=loss_tie)
    return Frontier(cost=cost, cost_unit=unit, loss=loss, points=points)


def _loss_error(row: FormatQuality, loss: str) -> float:
    error = getattr(row, f"{loss}_se", None)
    return 0.0 if error is None else float(error)
