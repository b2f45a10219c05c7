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
from studentfloat.hardware.cache import ContentCache, library_digest
from studentfloat.hardware.dequantizer import dequantizer
from studentfloat.hardware.energy import code_pairs
from studentfloat.hardware.generic_library import generic_liberty
from studentfloat.hardware.liberty import Library, read_libraries
from studentfloat.hardware.operands import (
    LOOKUP_BITS,
    needs_lookup,
    operand_from_format,
    resolve_operand,
)
from studentfloat.hardware.records import HardwareCost, HardwareTable
from studentfloat.hardware.rows import ARRAY_SIDE, Job, Setting, build, cached_row
from studentfloat.hardware.synthesis import AREA_RECIPES, generic_library
from studentfloat.hardware.units import DEFAULT_DOT_LENGTH
from studentfloat.hardware.yosys import yosys_version
from studentfloat.progress import Progress, silent

__all__ = ["UNITS", "check_unit", "cost", "load_library", "unit_verilog"]

UNITS = ("mac", "dotN", "systolic", "dequantizer")
"""Kinds of unit; N is a number of lanes."""


def load_library(library: Library | Sequence[str | os.PathLike[str]] | None) -> Library:
    """A cell library: one that is read already, Liberty files, or the built-in one."""
    if isinstance(library, Library):
        return library
    if not library:
        return generic_library()
    return read_libraries([Path(path) for path in library])


def cost(
    formats: Sequence[Format | str],
    *,
    unit: str = "mac",
    activations: str | Format | None = None,
    scale_type: str = "bf16",
    dot_length: int = DEFAULT_DOT_LENGTH,
    lookup_bits: Sequence[int] = LOOKUP_BITS,
    library: Library | Sequence[str | os.PathLike[str]] | None = None,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
    code_histograms: Mapping[str, npt.ArrayLike] | None = None,
    codes: str | None = None,
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
    kind = check_unit(unit)
    resolved = [get_format(f) if isinstance(f, str) else f for f in formats]
    if not resolved:
        raise ConfigError("no formats given: name one or more")
    read = load_library(library)
    setting = Setting(
        kind=kind,
        dot_length=dot_length,
        library=read,
        library_key=library_digest(read.files, generic_liberty()),
        recipes=AREA_RECIPES,
        prove=prove,
        tool=yosys_version(),
        scale_type=scale_type,
        accumulator_bits=accumulator_bits,
        overflow=overflow,
    )
    wanted = _jobs(resolved, activations, lookup_bits, code_histograms or {})
    base = _jobs([get_format("int4")], activations, lookup_bits, {})[0]
    rows = _run(
        [*wanted, base],
        setting,
        (cache or ContentCache()) if use_cache else None,
        jobs or os.cpu_count() or 1,
        progress,
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
        notes=_notes(setting, read),
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
    if table.unit == "dequantizer":
        return dequantizer(a, table.scale_type).verilog
    b = a if table.activations is None else resolve_operand(table.activations)
    built = build(
        a,
        b,
        row.architecture,
        table.unit,
        table.dot_length,
        accumulator_bits=table.accumulator_bits,
        overflow=table.overflow,
    )
    return built.verilog


def check_unit(unit: str) -> str:
    match = re.fullmatch(r"mac|systolic|dequantizer|dot(\d+)", unit)
    if not match or (match[1] and not 2 <= int(match[1]) <= 256):
        raise ConfigError(f"unit {unit!r}: mac, dot2 to dot256, systolic or dequantizer")
    return unit


def _notes(setting: Setting, library: Library) -> tuple[str, ...]:
    notes = ["after synthesis: no placement, no wires, no clock tree"]
    if library.area_unit == "GE":
        notes.append("built-in library: gate equivalents, relative; ns and fJ only in ratio")
    if setting.kind == "dequantizer":
        notes.append(f"one {setting.scale_type} value per clock cycle, of blocks with one scale")
    if setting.kind == "systolic":
        notes.append("energy of one element with decoders of its own")
        notes.append(f"decoders shared over an array of {ARRAY_SIDE} x {ARRAY_SIDE}")
    return tuple(notes)


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
    setting: Setting,
    cache: ContentCache | None,
    workers: int,
    progress: Progress,
) -> list[HardwareCost]:
    done = 0
    lock = threading.Lock()

    def one(job: Job) -> HardwareCost:
        nonlocal done
        row = cached_row(job, setting, cache)
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
