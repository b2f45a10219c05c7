"""What rows' formats cost in silicon."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from studentfloat.errors import MissingDependencyError
from studentfloat.formats import Format
from studentfloat.progress import Progress, silent
from studentfloat.records import FormatHardware
from studentfloat.study.code_pairs import CodePairs
from studentfloat.study.options import HardwareOptions

if TYPE_CHECKING:
    from studentfloat.hardware.records import HardwareCost, HardwareTable

__all__ = ["check_hardware", "cost_units", "hardware_is_installed"]


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

    for unit in options.units:
        check_unit(unit)
    load_library(options.liberty)
    if not hardware_is_installed():
        raise MissingDependencyError.for_extra("pyosys", "hardware")


def cost_units(
    asked: Sequence[tuple[str, str, Format]],
    options: HardwareOptions,
    codes: CodePairs,
    progress: Progress = silent,
) -> list[FormatHardware]:
    """Synthesize, prove and measure units, several at a time.

    Parameters
    ----------
    asked
        Name of a row, the unit, and the row's format as it was asked for. Rows that share a format
        (under another scale rule, say) share its silicon, but not the codes that it meets.
    codes
        By the row's name, which pairs of codes meet.
    progress
        Told about each format that is done; those in the cache are at once.
    """
    found: dict[tuple[str, str], FormatHardware] = {}
    for unit in dict.fromkeys(unit for _, unit, _ in asked):
        rest = [(name, fmt) for name, its, fmt in asked if its == unit]
        while rest:
            # Each format once at a time: the rows that share it come from the cache.
            batch = list({fmt: (name, fmt) for name, fmt in rest[::-1]}.values())[::-1]
            for name, row in _costed(batch, unit, options, codes, progress).items():
                found[name, unit] = row
            rest = [pair for pair in rest if (pair[0], unit) not in found]
    return [found[name, unit] for name, unit, _ in asked]


def _costed(
    formats: Sequence[tuple[str, Format]],
    unit: str,
    options: HardwareOptions,
    codes: CodePairs,
    progress: Progress,
) -> dict[str, FormatHardware]:
    """Silicon of rows of different formats, by the row's name."""
    from studentfloat.hardware import cost, load_library

    table = cost(
        [fmt for _, fmt in formats],
        unit=unit,
        activations=options.activations,
        library=load_library(options.liberty),
        lookup_bits=(options.lookup_bits,),
        code_histograms={fmt.name: codes.counts[n] for n, fmt in formats if n in codes.counts},
        codes=codes.codes,
        progress=progress,
    )
    rows = zip(formats, table.formats, strict=True)
    return {name: _record(name, table, row) for (name, _), row in rows}


def _record(name: str, table: HardwareTable, row: HardwareCost) -> FormatHardware:
    """What one row of a hardware table says of the format of a row called `name`."""
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
        area_breakdown=row.area_split,
    )
