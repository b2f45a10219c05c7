"""Rows of the table for units that multiply and accumulate."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.energy import energy_per_cycle
from studentfloat.hardware.kinds import Job, Measured, Setting, UnitKind, spread
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.multipliers import ARCHITECTURES
from studentfloat.hardware.netlist import Netlist, area_by_module, netlist_from_json
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
from studentfloat.hardware.units import ARRAY_SIDE, Unit, dot, mac, systolic_array
from studentfloat.records import AreaBreakdown

__all__ = [
    "DotKind",
    "MacKind",
    "MultiplyAccumulate",
    "SystolicKind",
    "kept_modules",
    "prove_result",
]

_SOLVER_BITS = 12
"""Most input bits of a lane that is left to the SAT solver."""
_EXHAUSTIVE_BITS = 24
"""Most input bits of a lane that is simulated on all pairs of codes."""
_BEHIND = 1.15
"""An architecture whose first area is this much above the best's is not tried by all recipes."""


class MultiplyAccumulate(UnitKind):
    """Products of codes that join an accumulator."""

    heeds = frozenset({"activations", "accumulator_bits", "overflow", "dot_length"})

    @abstractmethod
    def build(self, a: Operand, b: Operand, architecture: str, setting: Setting) -> Unit:
        """The unit in one architecture.

        Raises
        ------
        UnavailableError
            If the operands do not lend themselves to it.
        """

    def designs(self, job: Job, setting: Setting) -> list[Unit]:
        """See :meth:`UnitKind.designs`."""
        units = []
        for architecture in ARCHITECTURES:
            with contextlib.suppress(UnavailableError):
                units.append(self.build(job.a, job.b, architecture, setting))
        return units

    def measure(self, job: Job, setting: Setting) -> Measured:
        """See :meth:`UnitKind.measure`."""
        library = setting.library
        tried: list[tuple[float, Unit, SynthesisResult]] = []

        def attempt(unit: Unit, recipes: Sequence[Recipe]) -> None:
            results = synthesize(unit.verilog, unit.top, library, recipes, keep=kept_modules(unit))
            tried.extend((_area(unit, result, library), unit, result) for result in results)

        for unit in self.designs(job, setting):
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
            prove_result(unit, result, library)
            if setting.prove
            else Proof(False, "", "not asked for")
        )
        row = HardwareCost(
            name=job.name,
            format=job.format,
            lookup_bits=job.a.lookup_bits,
            architecture=unit.architecture,
            recipe=result.recipe.name,
            area=area,
            area_unit=library.area_unit,
            area_spread=spread([other for other, _ in same]),
            area_relative_to_int4=None,
            area_split=_split(unit, library, result.recipe),
            delay_ns=timing.delay_ns,
            energy_fj=energies[result.recipe.name],
            energy_spread_fj=spread(list(energies.values())),
            energy_real_fj=None,
            accumulator_bits=unit.accumulator_bits,
            proved=proof.proved,
            proof=proof.method if proof.proved else proof.detail,
            cells=len(result.netlist.instances),
            candidates=tuple(
                Candidate(its.architecture, one.recipe.name, other) for other, its, one in tried
            ),
        )
        return Measured(row, result.json, unit.top)

    def real_energy(self, row: HardwareCost, netlist: Netlist, job: Job, setting: Setting) -> float:
        """See :meth:`UnitKind.real_energy`."""
        unit = self.build(job.a, job.b, row.architecture, setting)
        timing = analyze_timing(netlist)
        return energy_per_cycle(netlist, unit, setting.library, timing, pairs=job.pairs)


@dataclass(frozen=True)
class MacKind(MultiplyAccumulate):
    """One product a clock cycle."""

    name = "mac"

    def build(self, a: Operand, b: Operand, architecture: str, setting: Setting) -> Unit:
        """See :meth:`MultiplyAccumulate.build`."""
        return mac(
            a,
            b,
            architecture,
            setting.dot_length,
            accumulator_bits=setting.accumulator_bits,
            overflow=setting.overflow,
        )


@dataclass(frozen=True)
class DotKind(MultiplyAccumulate):
    """Several products a clock cycle, and one adder tree."""

    lanes: int

    @property
    def name(self) -> str:
        """As the user spells it."""
        return f"dot{self.lanes}"

    def build(self, a: Operand, b: Operand, architecture: str, setting: Setting) -> Unit:
        """See :meth:`MultiplyAccumulate.build`."""
        return dot(
            a,
            b,
            architecture,
            self.lanes,
            setting.dot_length,
            accumulator_bits=setting.accumulator_bits,
            overflow=setting.overflow,
        )


@dataclass(frozen=True)
class SystolicKind(MultiplyAccumulate):
    """An element of a systolic array, with its share of the decoders at the array's edge."""

    name = "systolic"

    def build(self, a: Operand, b: Operand, architecture: str, setting: Setting) -> Unit:
        """See :meth:`MultiplyAccumulate.build`."""
        return systolic_array(
            a,
            b,
            architecture,
            dot_length=setting.dot_length,
            accumulator_bits=setting.accumulator_bits,
            overflow=setting.overflow,
        )

    def notes(self, setting: Setting) -> tuple[str, ...]:
        """See :meth:`UnitKind.notes`."""
        return (
            "energy of one element with decoders of its own",
            f"decoders shared over an array of {ARRAY_SIDE} x {ARRAY_SIDE}",
        )


def kept_modules(unit: Unit) -> tuple[str, ...]:
    """Modules whose boundaries stay, since proof or sharing rests on them."""
    if unit.array_side > 1:
        return (unit.lane,)
    if unit.lanes == 1 and unit.a.bits + unit.b.bits <= _SOLVER_BITS:
        return ()
    return (unit.lane, unit.sum)


def _area(unit: Unit, result: SynthesisResult, library: Library) -> float:
    """Area of the unit; of a systolic element with its share of the decoders."""
    if unit.array_side == 1:
        return result.netlist.area
    element = sum(area_by_module(result.modular_json, unit.lane, library).get(unit.lane, (0, 0)))
    # At the edge of a square array both sides' decoders serve a row or a column each.
    return element + (result.netlist.area - element) / unit.array_side


def _split(unit: Unit, library: Library, recipe: Recipe) -> AreaBreakdown:
    """Synthesize once more with all boundaries kept, and see what lies where."""
    multiplier = unit.multiplier
    decoders = {d.name for d in (multiplier.decoder_a, multiplier.decoder_b) if d}
    kept = (*decoders, multiplier.name, unit.lane, unit.sum)
    (result,) = synthesize(unit.verilog, unit.top, library, [recipe], keep=kept)
    areas = area_by_module(result.modular_json, unit.top, library)
    logic = {name: own for name, (own, _) in areas.items()}
    return AreaBreakdown(
        decoder=sum(logic.get(name, 0.0) for name in decoders) / unit.array_side,
        multiplier=sum(
            own for name, own in logic.items() if name not in decoders and name != unit.sum
        ),
        adder=logic.get(unit.sum, 0.0),
        register=sum(flops for _, flops in areas.values()),
    )


def prove_result(unit: Unit, result: SynthesisResult, library: Library) -> Proof:
    """Prove a unit as written and as mapped; as a whole, or its lanes and its sum."""
    bits = unit.a.bits + unit.b.bits
    if not kept_modules(unit) or unit.array_side > 1:
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
