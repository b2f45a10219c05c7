"""What formats cost in silicon: build all architectures, keep the best, prove and measure it."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy.typing as npt

from studentfloat.errors import ConfigError, FormatError
from studentfloat.formats import Format, get_format
from studentfloat.hardware.cache import ContentCache, content_key, library_digest
from studentfloat.hardware.dequantizer import FLOATS
from studentfloat.hardware.energy import code_pairs
from studentfloat.hardware.generic_library import generic_liberty
from studentfloat.hardware.kinds import Job, Setting, UnitKind
from studentfloat.hardware.liberty import Library, read_libraries
from studentfloat.hardware.operands import (
    LOOKUP_BITS,
    needs_lookup,
    operand_from_format,
    resolve_operand,
)
from studentfloat.hardware.records import HardwareCost, HardwareTable
from studentfloat.hardware.rows import UNITS, cached_row, unit_kind
from studentfloat.hardware.synthesis import AREA_RECIPES, generic_library
from studentfloat.hardware.units import DEFAULT_DOT_LENGTH, OVERFLOWS
from studentfloat.hardware.yosys import yosys_version
from studentfloat.progress import Progress, silent

__all__ = ["UNITS", "check_unit", "cost", "load_library", "unit_verilog"]

DEFAULT_SCALE_TYPE = "bf16"
_DEFAULTS: Mapping[str, object] = {
    "activations": None,
    "dot_length": DEFAULT_DOT_LENGTH,
    "scale_type": DEFAULT_SCALE_TYPE,
    "accumulator_bits": None,
    "overflow": OVERFLOWS[0],
}


def load_library(
    library: Library | Sequence[str | os.PathLike[str]] | None, dont_use: Sequence[str] = ()
) -> Library:
    """A cell library: one that is read already, Liberty files, or the built-in one.

    Parameters
    ----------
    dont_use
        Patterns of names of cells that are not to be used, or files that list such patterns
        (words, or the line ``DONT_USE_CELLS = ...`` of a flow's settings).
    """
    if isinstance(library, Library):
        return library
    if not library:
        if dont_use:
            raise ConfigError(f"--dont-use {dont_use[0]!r}: goes with --liberty")
        return generic_library()
    return read_libraries([Path(path) for path in library], _patterns(dont_use))


def _patterns(given: Sequence[str]) -> list[str]:
    patterns: list[str] = []
    for one in given:
        if not Path(one).is_file():
            patterns.append(one)
            continue
        text = Path(one).read_text(encoding="utf-8", errors="replace")
        listed = re.search(r"DONT_USE_CELLS\s*[:?+]?=((?:\\\n|[^\n])*)", text)
        patterns += (listed[1].replace("\\", " ") if listed else text).split()
    return patterns


def library_key(library: Library) -> str:
    """Hash of a library and of what is not used of it."""
    avoided = sorted(cell.name for cell in library.cells.values() if cell.dont_use)
    return content_key(library=library_digest(library.files, generic_liberty()), avoided=avoided)


def cost(
    formats: Sequence[Format | str],
    *,
    unit: str = "mac",
    activations: str | Format | None = None,
    scale_type: str = DEFAULT_SCALE_TYPE,
    dot_length: int = DEFAULT_DOT_LENGTH,
    lookup_bits: Sequence[int] = LOOKUP_BITS,
    library: Library | Sequence[str | os.PathLike[str]] | None = None,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
    code_histograms: Mapping[str, npt.ArrayLike] | None = None,
    codes: str | None = None,
    most_collapsed: int | None = None,
    prove: bool = True,
    cache: ContentCache | None = None,
    use_cache: bool = True,
    jobs: int | None = None,
    progress: Progress = silent,
) -> HardwareTable:
    """Cost of a unit for each format.

    Parameters
    ----------
    formats
        Formats or their names. One without an exact integer grid makes a row for
        each of `lookup_bits`.
    unit
        ``mac``, ``dotN`` (``dot16`` has 16 lanes), ``systolic`` or ``dequantizer``.
    activations
        The other operand: ``int8``, ``fp8`` (E4M3), ``int16``, ``fp16`` or any
        format; by default the format itself.
    scale_type
        Of a dequantizer's scale and result: ``bf16`` or ``fp16``.
    dot_length
        Terms that the accumulator holds without overflow.
    library
        Liberty files, or a library that is read already; by default the built-in one.
    accumulator_bits, overflow
        A width of the accumulator's own, and whether a sum that it cannot hold makes it
        ``wrap`` around or ``saturate``.
    code_histograms
        By the row's or the format's name: how often each pair of codes meets in a real product,
        of shape ``(2**bits, 2**activation bits)``; gives `energy_real_fj`.
    codes
        Of what those are, in words.
    most_collapsed
        How many levels of a format may fall together with a neighbor where they are rounded
        to a lookup's width; None allows any number, and the table's notes say how many.
    prove
        False saves time and leaves all rows unproved.
    jobs
        Rows worked on at a time; by default the number of processors.
    progress
        Told about each row that is done.

    Raises
    ------
    UsageError
        If a format cannot be built, or a setting is out of range.
    FailureError
        If synthesis fails, or the library or Yosys is missing something.
    """
    kind = unit_kind(unit)
    _check_heeded(
        kind,
        {
            "activations": activations,
            "dot_length": dot_length,
            "scale_type": scale_type,
            "accumulator_bits": accumulator_bits,
            "overflow": overflow,
        },
    )
    resolved = [get_format(f) if isinstance(f, str) else f for f in formats]
    if not resolved:
        raise ConfigError("no formats given: name one or more")
    read = load_library(library)
    setting = _setting(read, dot_length, scale_type, accumulator_bits, overflow, prove=prove)
    wanted = _jobs(resolved, activations, lookup_bits, code_histograms or {})
    collapsed = _collapsed(wanted, most_collapsed)
    base = _jobs([get_format("int4")], activations, lookup_bits, {})[0]
    rows = _run(
        [*wanted, base],
        kind,
        setting,
        cache=(cache or ContentCache()) if use_cache else None,
        workers=jobs or os.cpu_count() or 1,
        progress=progress,
    )
    int4 = rows[-1].area
    finished = [
        dataclasses.replace(row, area_relative_to_int4=row.area / int4) for row in rows[:-1]
    ]
    shown = activations.name if isinstance(activations, Format) else activations
    return HardwareTable(
        unit=unit,
        library=read.name,
        area_unit=read.area_unit,
        activations=shown,
        dot_length=dot_length,
        scale_type=scale_type,
        formats=tuple(finished),
        versions={"pyosys": setting.tool},
        notes=(*_notes(kind, setting, read), *collapsed),
        accumulator_bits=accumulator_bits,
        overflow=overflow,
        codes=codes,
    )


def unit_verilog(number_format: Format, row: HardwareCost, table: HardwareTable) -> str:
    """Verilog of the unit that a row of a table is about.

    Parameters
    ----------
    number_format
        The row's format.
    """
    a = operand_from_format(number_format, row.lookup_bits)
    b = a if table.activations is None else resolve_operand(table.activations)
    job = Job(row.name, row.format, a, b, None)
    setting = _setting(
        generic_library(),
        table.dot_length,
        table.scale_type,
        table.accumulator_bits,
        table.overflow,
        prove=False,
    )
    designs = unit_kind(table.unit).designs(job, setting)
    return next(one.verilog for one in designs if one.architecture == row.architecture)


def _setting(
    library: Library,
    dot_length: int,
    scale_type: str,
    accumulator_bits: int | None,
    overflow: str,
    *,
    prove: bool,
) -> Setting:
    return Setting(
        dot_length=dot_length,
        library=library,
        library_key=library_key(library),
        recipes=AREA_RECIPES,
        prove=prove,
        tool=yosys_version(),
        scale_type=scale_type,
        accumulator_bits=accumulator_bits,
        overflow=overflow,
    )


def check_unit(unit: str) -> str:
    """The name of a kind of unit, if there is one.

    Raises
    ------
    ConfigError
        If there is none.
    """
    return unit_kind(unit).name


def _collapsed(work: Sequence[Job], most: int | None) -> list[str]:
    """In words, which rows' lookups hold fewer levels than the format has.

    Raises
    ------
    FormatError
        If one of them lost more than `most`.
    """
    said = []
    for job in work:
        lost, bits = job.a.collapsed, job.a.lookup_bits
        if not lost:
            continue
        words = (
            f"{lost} of {len(job.a.numbers)} levels of {job.format} fall together in {bits} bits"
        )
        if most is not None and lost > most:
            raise FormatError(
                f"{words}: use a wider --lookup-bits, or allow --collapsed-levels {lost}"
            )
        said.append(words)
    return said


def _notes(kind: UnitKind, setting: Setting, library: Library) -> tuple[str, ...]:
    notes = ["after synthesis: no placement, no wires, no clock tree"]
    if library.area_unit == "GE":
        notes.append("built-in library: gate equivalents, relative; ns and fJ only in ratio")
    return (*notes, *kind.notes(setting))


def _check_heeded(kind: UnitKind, options: Mapping[str, object]) -> None:
    """Refuse options that are sound for another kind of unit and do nothing for this one."""
    for option, choices in (("scale_type", FLOATS), ("overflow", OVERFLOWS)):
        if options[option] not in choices:
            raise ConfigError(
                f"--{option.replace('_', '-')} {options[option]!r}: one of {', '.join(choices)}"
            )
    idle = [
        f"--{option.replace('_', '-')} {value}"
        for option, value in options.items()
        if value != _DEFAULTS[option] and option not in kind.heeds
    ]
    if idle:
        raise ConfigError(f"{', '.join(idle)}: makes no difference to the unit {kind.name}")


def _jobs(
    formats: Sequence[Format],
    activations: str | Format | None,
    lookup_bits: Sequence[int],
    histograms: Mapping[str, npt.ArrayLike],
) -> list[Job]:
    """Rows of the table: more than one for a format that is looked up."""
    jobs = []
    names: set[str] = set()
    for number_format in formats:
        if number_format.name in names:
            raise FormatError(f"format {number_format.name!r} is given twice")
        names.add(number_format.name)
        looked_up = needs_lookup(number_format)
        if looked_up and not lookup_bits:
            raise ConfigError(f"format {number_format.name!r} needs a lookup: give its width")
        for i, bits in enumerate(dict.fromkeys(lookup_bits) if looked_up else (None,)):
            a = operand_from_format(number_format, bits)
            b = a if activations is None else resolve_operand(activations, lookup_bits)
            name = number_format.name if i == 0 else f"{number_format.name}-fixed{bits}"
            counts = histograms.get(name, histograms.get(number_format.name))
            pairs = code_pairs(a, b, counts)
            jobs.append(Job(name, number_format.name, a, b, pairs))
    return jobs


def _run(
    work: Sequence[Job],
    kind: UnitKind,
    setting: Setting,
    *,
    cache: ContentCache | None,
    workers: int,
    progress: Progress,
) -> list[HardwareCost]:
    done = 0
    lock = threading.Lock()

    def one(job: Job) -> HardwareCost:
        nonlocal done
        row = cached_row(job, kind, setting, cache)
        with lock:
            done += 1
            progress(done / len(work), f"synthesis and proof ({job.name} done)")
        return row

    progress(0.0, "synthesis and proof")
    # Yosys runs in processes of its own, so threads are enough.
    executor = ThreadPoolExecutor(max_workers=max(1, min(workers, len(work))))
    try:
        futures = {}
        for job in work:
            key = (job.a, job.b, job.name)
            if key not in futures:
                futures[key] = executor.submit(one, job)
        return [futures[job.a, job.b, job.name].result() for job in work]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
