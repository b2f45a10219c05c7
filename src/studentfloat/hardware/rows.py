"""One row of the table: from the cache, or measured."""

from __future__ import annotations

import dataclasses
import re

from studentfloat.errors import ConfigError
from studentfloat.hardware.cache import ContentCache, content_key
from studentfloat.hardware.dequantizer_rows import DequantizerKind
from studentfloat.hardware.kinds import Job, Measured, Setting, UnitKind
from studentfloat.hardware.mac_rows import DotKind, MacKind, SystolicKind
from studentfloat.hardware.netlist import netlist_from_json
from studentfloat.hardware.records import Candidate, HardwareCost
from studentfloat.hardware.units import MOST_LANES
from studentfloat.records import AreaBreakdown

__all__ = ["METHOD_VERSION", "UNITS", "cached_row", "unit_kind"]

METHOD_VERSION = 3
"""Part of every cache key: raise it when a figure would come out differently."""

UNITS = ("mac", "dotN", "systolic", "dequantizer")
"""Kinds of unit; N is a number of lanes."""

_KINDS: dict[str, UnitKind] = {
    kind.name: kind for kind in (MacKind(), SystolicKind(), DequantizerKind())
}


def unit_kind(name: str) -> UnitKind:
    """The kind of unit that a user spells.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name in _KINDS:
        return _KINDS[name]
    lanes = re.fullmatch(r"dot(\d{1,4})", name)
    if not lanes or not 2 <= int(lanes[1]) <= MOST_LANES:
        raise ConfigError(f"unit {name!r}: mac, dot2 to dot{MOST_LANES}, systolic or dequantizer")
    return DotKind(int(lanes[1]))


def cached_row(
    job: Job, kind: UnitKind, setting: Setting, cache: ContentCache | None
) -> HardwareCost:
    """One row, from the cache where it is there; real codes cost no new proof."""
    key = content_key(
        method=METHOD_VERSION,
        kind=kind.name,
        a=job.a,
        b=job.b,
        name=(job.name, job.format),
        verilog=[unit.verilog for unit in kind.designs(job, setting)],
        dot_length=setting.dot_length,
        library=setting.library_key,
        recipes=setting.recipes,
        prove=setting.prove,
        tool=setting.tool,
    )
    known = cache.get(key) if cache else None
    measured = kind.measure(job, setting) if known is None else _from_json(known)
    if cache and known is None:
        cache.put(key, dataclasses.asdict(measured))
    if job.pairs is None:
        return measured.row
    real_key = content_key(row=key, pairs=job.pairs.tolist())
    real = cache.get(real_key) if cache else None
    if real is None:
        netlist = netlist_from_json(measured.netlist_json, measured.top, setting.library)
        real = kind.real_energy(measured.row, netlist, job, setting)
        if cache:
            cache.put(real_key, real)
    return dataclasses.replace(measured.row, energy_real_fj=real)


def _from_json(data: dict[str, object]) -> Measured:
    row, netlist, top = data["row"], data["netlist_json"], data["top"]
    assert isinstance(row, dict)
    split, candidates = row.pop("area_split"), row.pop("candidates")
    cost = HardwareCost(
        **row,
        area_split=AreaBreakdown(**split) if isinstance(split, dict) else None,
        candidates=tuple(Candidate(**candidate) for candidate in candidates),
    )
    return Measured(cost, str(netlist), str(top))
