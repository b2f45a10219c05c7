"""Rows of the table for dequantizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studentfloat.hardware.dequantizer import Dequantizer, dequantizer, prove_dequantizer
from studentfloat.hardware.energy import dequantizer_energy
from studentfloat.hardware.kinds import Job, Measured, Setting, UnitKind, spread
from studentfloat.hardware.netlist import Netlist, area_by_module
from studentfloat.hardware.proof import Proof
from studentfloat.hardware.records import Candidate, HardwareCost
from studentfloat.hardware.synthesis import synthesize
from studentfloat.hardware.timing import analyze_timing
from studentfloat.records import AreaBreakdown

__all__ = ["DequantizerKind"]


@dataclass(frozen=True)
class DequantizerKind(UnitKind):
    """A code and a scale in, a floating-point number out."""

    heeds = frozenset({"scale_type"})
    name = "dequantizer"

    def designs(self, job: Job, setting: Setting) -> Sequence[Dequantizer]:
        """See :meth:`UnitKind.designs`."""
        return [dequantizer(job.a, setting.scale_type)]

    def measure(self, job: Job, setting: Setting) -> Measured:
        """See :meth:`UnitKind.measure`."""
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
        row = HardwareCost(
            name=job.name,
            format=job.format,
            lookup_bits=job.a.lookup_bits,
            architecture="normalized",
            recipe=result.recipe.name,
            area=min(areas),
            area_unit=library.area_unit,
            area_spread=spread(areas),
            area_relative_to_int4=None,
            area_split=AreaBreakdown(
                decoder=parts.get(unit.decoder.name, (0.0, 0.0))[0],
                multiplier=parts[unit.top][0],
                adder=0.0,
                register=parts[unit.top][1],
            ),
            delay_ns=timing.delay_ns,
            energy_fj=energies[results.index(result)],
            energy_spread_fj=spread(energies),
            energy_real_fj=None,
            accumulator_bits=None,
            proved=proof.proved,
            proof=proof.method if proof.proved else proof.detail,
            cells=len(result.netlist.instances),
            candidates=tuple(
                Candidate("normalized", one.recipe.name, one.netlist.area) for one in results
            ),
        )
        return Measured(row, result.json, unit.top)

    def real_energy(self, row: HardwareCost, netlist: Netlist, job: Job, setting: Setting) -> float:
        """See :meth:`UnitKind.real_energy`."""
        assert job.pairs is not None
        (unit,) = self.designs(job, setting)
        counts = job.pairs.sum(axis=1)
        timing = analyze_timing(netlist)
        return dequantizer_energy(netlist, unit, setting.library, timing, counts=counts)

    def notes(self, setting: Setting) -> tuple[str, ...]:
        """See :meth:`UnitKind.notes`."""
        return (f"one {setting.scale_type} value per clock cycle, of blocks with one scale",)
