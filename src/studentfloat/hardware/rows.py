"""One row of the table: build all architectures, keep the best, prove and measure it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from studentfloat.hardware.cache import ContentCache, content_key
from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.dequantizer import Dequantizer, dequantizer, prove_dequantizer
from studentfloat.hardware.energy import CodePairs, dequantizer_energy, energy_per_cycle
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.multipliers import ARCHITECTURES
from studentfloat.hardware.netlist import area_by_module, netlist_from_json
from studentfloat.hardware.operands import Operand
from studentfloat.hardware.proof import (
    Proof,
    prove_lane,
    prove_lane_exhaustively,
    prove_sum,
    prove_unit,
)
from studentfloat.hardware.records import Candidate, HardwareCost
from studentfloat.hardware.synthesis import Recipe, SynthesisResult, synthesize
from studentfloat.hardware.timing import analyze_timing
from studentfloat.hardware.units import Unit, dot, mac, systolic_array
from studentfloat.records import AreaBreakdown

__all__ = [
    "ARRAY_SIDE",
    "METHOD_VERSION",
    "Job",
    "Setting",
    "build",
    "cached_row",
    "candidates",
    "kept_modules",
    "prove_result",
]

METHOD_VERSION = 2
"""Part of every cache key: raise it when a figure would come out differently."""

_SOLVER_BITS = 12
"""Most input bits of a lane that is left to the SAT solver."""
_EXHAUSTIVE_BITS = 24
"""Most input bits of a lane that is simulated on all pairs of codes."""
_BEHIND = 1.15
"""An architecture whose first area is this much above the best's is not tried by all recipes."""

ARRAY_SIDE = 16
"""Rows and columns of the systolic array over which the decoders at its edge are shared."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table."""

    name: str
    format: str
    a: Operand
    b: Operand
    pairs: CodePairs | None


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rows share."""

    kind: str
    dot_length: int
    library: Library
    library_key: str
    recipes: tuple[Recipe, ...]
    prove: bool
    tool: str
    scale_type: str
    accumulator_bits: int | None = None
    overflow: str = "wrap"


def cached_row(job: Job, setting: Setting, cache: ContentCache | None) -> HardwareCost:
    """One row, from the cache where it is there; real codes cost no new proof."""
    key = content_key(
        method=METHOD_VERSION,
        kind=setting.kind,
        a=job.a,
        b=job.b,
        name=(job.name, job.format),
        verilog=[unit.verilog for unit in _designs(job, setting)],
        dot_length=setting.dot_length,
        library=setting.library_key,
        recipes=setting.recipes,
        prove=setting.prove,
        tool=setting.tool,
    )
    known = cache.get(key) if cache else None
    row = _row(job, setting) if known is None else _row_from_json(known)
    if cache and known is None:
        cache.put(key, dataclasses.asdict(row))
    if job.pairs is None:
        return row
    real_key = content_key(row=key, pairs=job.pairs.tolist())
    real = cache.get(real_key) if cache else None
    if real is None:
        real = _real_energy(row, job, setting)
        if cache:
            cache.put(real_key, real)
    return dataclasses.replace(row, energy_real_fj=real)


def _real_energy(row: HardwareCost, job: Job, setting: Setting) -> float:
    """Energy of the row's unit on real codes: its netlist is made once more."""
    library = setting.library
    assert job.pairs is not None
    recipes = [recipe for recipe in setting.recipes if recipe.name == row.recipe]
    if setting.kind == "dequantizer":
        plain = dequantizer(job.a, setting.scale_type)
        (result,) = synthesize(plain.verilog, plain.top, library, recipes)
        timing = analyze_timing(result.netlist)
        counts = job.pairs.sum(axis=1)
        return dequantizer_energy(result.netlist, plain, library, timing, counts=counts)
    (unit,) = (u for u in candidates(job, setting) if u.architecture == row.architecture)
    (result,) = synthesize(unit.verilog, unit.top, library, recipes, keep=kept_modules(unit))
    timing = analyze_timing(result.netlist)
    return energy_per_cycle(result.netlist, unit, library, timing, pairs=job.pairs)


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / 2


def _row_from_json(data: dict[str, object]) -> HardwareCost:
    split, candidates = data.pop("area_split"), data.pop("candidates")
    assert isinstance(candidates, list)
    return HardwareCost(
        **data,  # type: ignore[arg-type]
        area_split=AreaBreakdown(**split) if isinstance(split, dict) else None,
        candidates=tuple(Candidate(**candidate) for candidate in candidates),
    )


def _designs(job: Job, setting: Setting) -> Sequence[Unit | Dequantizer]:
    if setting.kind == "dequantizer":
        return [dequantizer(job.a, setting.scale_type)]
    return candidates(job, setting)


def candidates(job: Job, setting: Setting) -> list[Unit]:
    """The unit in every architecture that the operands lend themselves to."""
    units = []
    for architecture in ARCHITECTURES:
        with contextlib.suppress(UnavailableError):
            units.append(
                build(
                    job.a,
                    job.b,
                    architecture,
                    setting.kind,
                    setting.dot_length,
                    accumulator_bits=setting.accumulator_bits,
                    overflow=setting.overflow,
                )
            )
    return units


def build(
    a: Operand,
    b: Operand,
    architecture: str,
    kind: str,
    dot_length: int,
    *,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
) -> Unit:
    """A unit that multiplies and accumulates, by the name of its kind."""
    if kind == "mac":
        return mac(
            a, b, architecture, dot_length, accumulator_bits=accumulator_bits, overflow=overflow
        )
    if kind == "systolic":
        return systolic_array(
            a,
            b,
            architecture,
            dot_length=dot_length,
            accumulator_bits=accumulator_bits,
            overflow=overflow,
        )
    lanes = int(kind.removeprefix("dot"))
    return dot(
        a, b, architecture, lanes, dot_length, accumulator_bits=accumulator_bits, overflow=overflow
    )


def kept_modules(unit: Unit) -> tuple[str, ...]:
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


def _dequantizer_row(job: Job, setting: Setting) -> HardwareCost:
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
    energies = [
        dequantizer_energy(one.netlist, unit, library, analyze_timing(one.netlist), seed=seed)
        for seed, one in enumerate(results)
    ]
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
        area_spread=_spread(areas),
        area_relative_to_int4=None,
        area_split=AreaBreakdown(
            decoder=parts.get(unit.decoder.name, (0.0, 0.0))[0],
            multiplier=parts[unit.top][0],
            adder=0.0,
            register=parts[unit.top][1],
        ),
        delay_ns=timing.delay_ns,
        energy_fj=energies[results.index(result)],
        energy_spread_fj=_spread(energies),
        energy_real_fj=None,
        accumulator_bits=None,
        proved=proof.proved,
        proof=proof.method if proof.proved else proof.detail,
        cells=len(result.netlist.instances),
        candidates=tuple(
            Candidate("normalized", one.recipe.name, one.netlist.area) for one in results
        ),
    )


def _row(job: Job, setting: Setting) -> HardwareCost:
    if setting.kind == "dequantizer":
        return _dequantizer_row(job, setting)
    library = setting.library
    tried: list[tuple[float, Unit, SynthesisResult]] = []

    def attempt(unit: Unit, recipes: Sequence[Recipe]) -> None:
        results = synthesize(unit.verilog, unit.top, library, recipes, keep=kept_modules(unit))
        tried.extend((_area(unit, result, library), unit, result) for result in results)

    for unit in candidates(job, setting):
        attempt(unit, setting.recipes[:1])
    least = min(area for area, _, _ in tried)
    for _, unit, _ in [entry for entry in tried if entry[0] <= least * _BEHIND]:
        attempt(unit, setting.recipes[1:])
    area, unit, result = min(tried, key=lambda entry: entry[0])
    same = [(other, one) for other, its, one in tried if its.architecture == unit.architecture]
    timing = analyze_timing(result.netlist)
    # Each with codes of its own, so that the spread holds the luck of the draw too.
    energies = {
        one.recipe.name: energy_per_cycle(
            one.netlist, unit, library, analyze_timing(one.netlist), seed=seed
        )
        for seed, (_, one) in enumerate(same)
    }
    proof = (
        prove_result(unit, result, library) if setting.prove else Proof(False, "", "not asked for")
    )
    return HardwareCost(
        name=job.name,
        format=job.format,
        lookup_bits=job.a.lookup_bits,
        architecture=unit.architecture,
        recipe=result.recipe.name,
        area=area,
        area_unit=library.area_unit,
        area_spread=_spread([other for other, _ in same]),
        area_relative_to_int4=None,
        area_split=_split(unit, library, result.recipe),
        delay_ns=timing.delay_ns,
        energy_fj=energies[result.recipe.name],
        energy_spread_fj=_spread(list(energies.values())),
        energy_real_fj=None,
        accumulator_bits=unit.accumulator_bits,
        proved=proof.proved,
        proof=proof.method if proof.proved else proof.detail,
        cells=len(result.netlist.instances),
        candidates=tuple(
            Candidate(its.architecture, one.recipe.name, other) for other, its, one in tried
        ),
    )


def _split(unit: Unit, library: Library, recipe: Recipe) -> AreaBreakdown:
    """Synthesize once more with all boundaries kept, and see what lies where."""
    multiplier = unit.multiplier
    decoders = {d.name for d in (multiplier.decoder_a, multiplier.decoder_b) if d}
    kept = (*decoders, multiplier.name, unit.lane, unit.sum)
    (result,) = synthesize(unit.verilog, unit.top, library, [recipe], keep=kept)
    areas = area_by_module(result.modular_json, unit.top, library)
    share = ARRAY_SIDE if unit.kind == "systolic" else 1
    logic = {name: own for name, (own, _) in areas.items()}
    return AreaBreakdown(
        decoder=sum(logic.get(name, 0.0) for name in decoders) / share,
        multiplier=sum(
            own for name, own in logic.items() if name not in decoders and name != unit.sum
        ),
        adder=logic.get(unit.sum, 0.0),
        register=sum(flops for _, flops in areas.values()),
    )


def prove_result(unit: Unit, result: SynthesisResult, library: Library) -> Proof:
    """Prove a unit as written and as mapped; as a whole, or its lanes and its sum."""
    bits = unit.a.bits + unit.b.bits
    if not kept_modules(unit) or unit.kind == "systolic":
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
