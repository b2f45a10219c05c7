"""What formats cost in silicon: build all architectures, keep the best, prove and measure it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy.typing as npt

from studentfloat.errors import ConfigError, FormatError
from studentfloat.formats import Format, get_format
from studentfloat.hardware.cache import ContentCache, content_key, library_digest
from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.dequantizer import Dequantizer, dequantizer, prove_dequantizer
from studentfloat.hardware.energy import CodePairs, code_pairs, energy_per_cycle
from studentfloat.hardware.generic_library import generic_liberty
from studentfloat.hardware.liberty import Library, read_libraries
from studentfloat.hardware.multipliers import ARCHITECTURES
from studentfloat.hardware.netlist import area_by_module, netlist_from_json
from studentfloat.hardware.operands import (
    LOOKUP_BITS,
    Operand,
    needs_lookup,
    operand_from_format,
    resolve_operand,
)
from studentfloat.hardware.proof import (
    Proof,
    prove_lane,
    prove_lane_exhaustively,
    prove_sum,
    prove_unit,
)
from studentfloat.hardware.records import AreaSplit, Candidate, HardwareCost, HardwareTable
from studentfloat.hardware.synthesis import (
    AREA_RECIPES,
    Recipe,
    SynthesisResult,
    generic_library,
    synthesize,
)
from studentfloat.hardware.timing import analyze_timing
from studentfloat.hardware.units import DEFAULT_DOT_LENGTH, Unit, dot, mac, systolic_array
from studentfloat.hardware.yosys import yosys_version

__all__ = ["UNITS", "Progress", "check_unit", "cost", "load_library", "unit_verilog"]

UNITS = ("mac", "dotN", "systolic", "dequantizer")
"""Kinds of unit; N is a number of lanes."""

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and what is being done."""

_METHOD_VERSION = 1
"""Part of every cache key: raise it when a figure would come out differently."""

_SOLVER_BITS = 12
"""Most input bits of a lane that is left to the SAT solver."""
_EXHAUSTIVE_BITS = 20
"""Most input bits of a lane that is simulated on all pairs of codes."""
_BEHIND = 1.15
"""An architecture whose first area is this much above the best's is not tried by all recipes."""

ARRAY_SIDE = 16
"""Rows and columns of the systolic array over which the decoders at its edge are shared."""


def load_library(library: Library | Sequence[str | os.PathLike[str]] | None) -> Library:
    """A cell library: one that is read already, Liberty files, or the built-in one."""
    if isinstance(library, Library):
        return library
    if not library:
        return generic_library()
    return read_libraries([Path(path) for path in library])


@dataclasses.dataclass(frozen=True)
class _Job:
    """One row of the table."""

    name: str
    format: str
    a: Operand
    b: Operand
    pairs: CodePairs | None


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What all rows share."""

    kind: str
    dot_length: int
    library: Library
    library_key: str
    recipes: tuple[Recipe, ...]
    prove: bool
    tool: str
    scale_type: str


def cost(
    formats: Sequence[Format | str],
    *,
    unit: str = "mac",
    activations: str | Format | None = None,
    scale_type: str = "bf16",
    dot_length: int = DEFAULT_DOT_LENGTH,
    lookup_bits: Sequence[int] = LOOKUP_BITS,
    library: Library | Sequence[str | os.PathLike[str]] | None = None,
    code_histograms: Mapping[str, npt.ArrayLike] | None = None,
    prove: bool = True,
    cache: ContentCache | None = None,
    use_cache: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
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
    code_histograms
        By the format's name: how often each pair of codes meets in a real product, of shape
        ``(2**bits, 2**activation bits)``; gives `energy_real_fj`.
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
    setting = _Setting(
        kind,
        dot_length,
        read,
        library_digest(read.files, generic_liberty()),
        AREA_RECIPES,
        prove,
        yosys_version(),
        scale_type,
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
    return _build(a, b, row.architecture, table.unit, table.dot_length).verilog


def check_unit(unit: str) -> str:
    match = re.fullmatch(r"mac|systolic|dequantizer|dot(\d+)", unit)
    if not match or (match[1] and not 2 <= int(match[1]) <= 256):
        raise ConfigError(f"unit {unit!r}: mac, dot2 to dot256, systolic or dequantizer")
    return unit


def _notes(setting: _Setting, library: Library) -> tuple[str, ...]:
    notes = ["after synthesis: no placement, no wires, no clock tree"]
    if library.area_unit == "GE":
        notes.append("built-in library: gate equivalents, relative; ns and fJ only in ratio")
    if setting.kind == "dequantizer":
        notes.append(f"one {setting.scale_type} value per clock cycle; energy is not measured")
    if setting.kind == "systolic":
        notes.append("energy of one element with decoders of its own")
        notes.append(f"decoders shared over an array of {ARRAY_SIDE} x {ARRAY_SIDE}")
    return tuple(notes)


def _jobs(
    formats: Sequence[Format],
    activations: str | Format | None,
    lookup_bits: Sequence[int],
    histograms: Mapping[str, npt.ArrayLike],
) -> list[_Job]:
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
            pairs = code_pairs(a, b, histograms.get(number_format.name))
            jobs.append(_Job(name, number_format.name, a, b, pairs))
    return jobs


def _run(
    work: Sequence[_Job],
    setting: _Setting,
    cache: ContentCache | None,
    workers: int,
    progress: Progress | None,
) -> list[HardwareCost]:
    done = 0
    lock = threading.Lock()

    def one(job: _Job) -> HardwareCost:
        nonlocal done
        row = _cached_row(job, setting, cache)
        with lock:
            done += 1
            if progress:
                progress(done / len(work), f"synthesis and proof ({job.name} done)")
        return row

    if progress:
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


def _cached_row(job: _Job, setting: _Setting, cache: ContentCache | None) -> HardwareCost:
    if cache is None:
        return _row(job, setting)
    key = content_key(
        method=_METHOD_VERSION,
        kind=setting.kind,
        a=job.a,
        b=job.b,
        name=(job.name, job.format),
        verilog=[unit.verilog for unit in _designs(job, setting)],
        pairs=None if job.pairs is None else job.pairs.tolist(),
        dot_length=setting.dot_length,
        library=setting.library_key,
        recipes=setting.recipes,
        prove=setting.prove,
        tool=setting.tool,
    )
    known = cache.get(key)
    if known is not None:
        return _row_from_json(known)
    row = _row(job, setting)
    cache.put(key, dataclasses.asdict(row))
    return row


def _row_from_json(data: dict[str, object]) -> HardwareCost:
    split, candidates = data.pop("area_split"), data.pop("candidates")
    assert isinstance(candidates, list)
    return HardwareCost(
        **data,  # type: ignore[arg-type]
        area_split=AreaSplit(**split) if isinstance(split, dict) else None,
        candidates=tuple(Candidate(**candidate) for candidate in candidates),
    )


def _designs(job: _Job, setting: _Setting) -> Sequence[Unit | Dequantizer]:
    if setting.kind == "dequantizer":
        return [dequantizer(job.a, setting.scale_type)]
    return _candidates(job, setting)


def _candidates(job: _Job, setting: _Setting) -> list[Unit]:
    """The unit in every architecture that the operands lend themselves to."""
    units = []
    for architecture in ARCHITECTURES:
        with contextlib.suppress(UnavailableError):
            units.append(_build(job.a, job.b, architecture, setting.kind, setting.dot_length))
    return units


def _build(a: Operand, b: Operand, architecture: str, kind: str, dot_length: int) -> Unit:
    if kind == "mac":
        return mac(a, b, architecture, dot_length)
    if kind == "systolic":
        return systolic_array(a, b, architecture, dot_length=dot_length)
    return dot(a, b, architecture, int(kind.removeprefix("dot")), dot_length)


def _kept(unit: Unit) -> tuple[str, ...]:
    """Modules whose boundaries stay, since proof or sharing rests on them."""
    if unit.kind == "systolic":
        return (unit.lane,)
    if unit.kind == "mac" and unit.a.bits + unit.b.bits <= _SOLVER_BITS:
        return ()
    return (unit.lane, unit.sum)


def _area(unit: Unit, result: SynthesisResult, library: Library) -> float:
    """Area of the unit; of a systolic element with its share of the decoders."""
    if unit.kind != "systolic":
        return result.netlist.area
    element = sum(area_by_module(result.modular_json, unit.lane, library).get(unit.lane, (0, 0)))
    # At the edge of a square array both sides' decoders serve a row or a column each.
    return element + (result.netlist.area - element) / ARRAY_SIDE


def _dequantizer_row(job: _Job, setting: _Setting) -> HardwareCost:
    library = setting.library
    unit = dequantizer(job.a, setting.scale_type)
    results = synthesize(unit.verilog, unit.top, library, setting.recipes)
    result = min(results, key=lambda one: one.netlist.area)
    areas = [one.netlist.area for one in results]
    (apart,) = synthesize(
        unit.verilog, unit.top, library, [result.recipe], keep=(unit.decoder.name,)
    )
    parts = area_by_module(apart.modular_json, unit.top, library)
    timing = analyze_timing(result.netlist)
    proof = Proof(False, "", "not asked for")
    if setting.prove:
        proof = prove_dequantizer(unit, result.netlist)
    return HardwareCost(
        name=job.name,
        format=job.format,
        lookup_bits=job.a.lookup_bits,
        architecture="normalized",
        recipe=result.recipe.name,
        area=min(areas),
        area_unit=library.area_unit,
        area_spread=(max(areas) - min(areas)) / 2,
        area_relative_to_int4=None,
        area_split=AreaSplit(
            decoder=parts.get(unit.decoder.name, (0.0, 0.0))[0],
            multiplier=parts[unit.top][0],
            adder=0.0,
            register=parts[unit.top][1],
        ),
        delay_ns=timing.delay_ns,
        energy_fj=None,
        energy_real_fj=None,
        accumulator_bits=None,
        proved=proof.proved,
        proof=proof.method if proof.proved else proof.detail,
        cells=len(result.netlist.instances),
        candidates=tuple(
            Candidate("normalized", one.recipe.name, one.netlist.area) for one in results
        ),
    )


def _row(job: _Job, setting: _Setting) -> HardwareCost:
    if setting.kind == "dequantizer":
        return _dequantizer_row(job, setting)
    library = setting.library
    tried: list[tuple[float, Unit, SynthesisResult]] = []

    def attempt(unit: Unit, recipes: Sequence[Recipe]) -> None:
        results = synthesize(unit.verilog, unit.top, library, recipes, keep=_kept(unit))
        tried.extend((_area(unit, result, library), unit, result) for result in results)

    for unit in _candidates(job, setting):
        attempt(unit, setting.recipes[:1])
    least = min(area for area, _, _ in tried)
    for _, unit, _ in [entry for entry in tried if entry[0] <= least * _BEHIND]:
        attempt(unit, setting.recipes[1:])
    area, unit, result = min(tried, key=lambda entry: entry[0])
    same = [other for other, its, _ in tried if its.architecture == unit.architecture]
    timing = analyze_timing(result.netlist)
    real = None
    if job.pairs is not None:
        real = energy_per_cycle(result.netlist, unit, library, timing, pairs=job.pairs)
    proof = _prove(unit, result, library) if setting.prove else Proof(False, "", "not asked for")
    return HardwareCost(
        name=job.name,
        format=job.format,
        lookup_bits=job.a.lookup_bits,
        architecture=unit.architecture,
        recipe=result.recipe.name,
        area=area,
        area_unit=library.area_unit,
        area_spread=(max(same) - min(same)) / 2,
        area_relative_to_int4=None,
        area_split=_split(unit, library, result.recipe),
        delay_ns=timing.delay_ns,
        energy_fj=energy_per_cycle(result.netlist, unit, library, timing),
        energy_real_fj=real,
        accumulator_bits=unit.accumulator_bits,
        proved=proof.proved,
        proof=proof.method if proof.proved else proof.detail,
        cells=len(result.netlist.instances),
        candidates=tuple(
            Candidate(its.architecture, one.recipe.name, other) for other, its, one in tried
        ),
    )


def _split(unit: Unit, library: Library, recipe: Recipe) -> AreaSplit:
    """Synthesize once more with all boundaries kept, and see what lies where."""
    multiplier = unit.multiplier
    decoders = {d.name for d in (multiplier.decoder_a, multiplier.decoder_b) if d}
    kept = (*decoders, multiplier.name, unit.lane, unit.sum)
    (result,) = synthesize(unit.verilog, unit.top, library, [recipe], keep=kept)
    areas = area_by_module(result.modular_json, unit.top, library)
    share = ARRAY_SIDE if unit.kind == "systolic" else 1
    logic = {name: own for name, (own, _) in areas.items()}
    return AreaSplit(
        decoder=sum(logic.get(name, 0.0) for name in decoders) / share,
        multiplier=sum(
            own for name, own in logic.items() if name not in decoders and name != unit.sum
        ),
        adder=logic.get(unit.sum, 0.0),
        register=sum(flops for _, flops in areas.values()),
    )


def _prove(unit: Unit, result: SynthesisResult, library: Library) -> Proof:
    """Prove a unit as written and as mapped; as a whole, or its lanes and its sum."""
    bits = unit.a.bits + unit.b.bits
    if not _kept(unit) or unit.kind == "systolic":
        return _all(prove_unit(unit), prove_unit(unit, verilog=result.verilog, library=library))
    own = area_by_module(result.modular_json, unit.top, library).get(unit.top)
    if own:
        return Proof(False, "", "logic outside of lanes and sum")
    modular = result.modular_verilog
    sums = prove_sum(unit), prove_sum(unit, verilog=modular, library=library)
    if bits <= _SOLVER_BITS:
        return _all(prove_lane(unit), prove_lane(unit, verilog=modular, library=library), *sums)
    if bits > _EXHAUSTIVE_BITS:
        return Proof(False, "", f"{bits} input bits: too many for the solver and for all pairs")
    lane = netlist_from_json(result.modular_json, unit.lane, library)
    return _all(prove_lane_exhaustively(unit, lane), *sums)


def _all(*proofs: Proof) -> Proof:
    for proof in proofs:
        if not proof.proved:
            return proof
    methods = list(dict.fromkeys(proof.method for proof in proofs))
    return Proof(True, "; ".join(methods))
