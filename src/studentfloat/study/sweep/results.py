"""What a study has found so far, read from its store."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from studentfloat.progress import Progress, silent
from studentfloat.records import Provenance, StudyCell, StudyResult, record_to_json
from studentfloat.records.provenance import machine_facts, package_versions
from studentfloat.study.joining import join_model
from studentfloat.study.plan import Plan
from studentfloat.study.resolve import ResolvedModel
from studentfloat.study.sweep.drive import open_study
from studentfloat.study.sweep.store import Store

__all__ = ["read_study"]


def read_study(directory: str | Path, progress: Progress = silent) -> StudyResult:
    """Everything that a study's directory holds, as one record; it may be unfinished.

    Parameters
    ----------
    directory
        As of ``studentfloat study run -o``.
    progress
        Told about each model.

    Raises
    ------
    ConfigError
        If the directory holds no study.
    """
    plan, store = open_study(Path(directory))
    return _Reader(plan, store).result(progress)


@dataclass
class _Reader:
    """Cells read once, and joined."""

    plan: Plan
    store: Store
    _cells: dict[str, StudyCell | None] = field(default_factory=dict)

    def result(self, progress: Progress) -> StudyResult:
        plan, store = self.plan, self.store
        models = []
        entries = [e for e in plan.options.models if any(g.model == e.name for g in plan.groups)]
        for i, entry in enumerate(entries):
            progress(i / len(entries), f"reading {entry.name}")
            resolved = plan.resolution.model(entry.id) or ResolvedModel(entry.id)
            models.append(join_model(plan, entry, self._read, self._provenance(resolved)))
        addresses = plan.by_address.keys()
        done = store.done() & addresses
        failures = (store.read_failure(a) for a in sorted(store.failed() & (addresses - done)))
        return StudyResult(
            name=plan.options.title,
            models=tuple(models),
            planned=len(addresses),
            done=len(done),
            failures=tuple(failure for failure in failures if failure is not None),
            settings=record_to_json(plan.options),
        )

    def _read(self, address: str) -> StudyCell | None:
        if address not in self._cells:
            self._cells[address] = self.store.read_cell(address)
        return self._cells[address]

    def _provenance(self, resolved: ResolvedModel) -> Provenance:
        machines = [
            line["machine"]
            for line in self.store.log_lines()
            if line["event"] == "began" and isinstance(line.get("machine"), dict)
        ]
        distinct = list({str(sorted(m.items())): m for m in machines}.values())
        known = self.plan.resolution
        return Provenance(
            versions={**package_versions(), **known.versions},
            seed=self.plan.options.seed,
            model_sha256=resolved.sha256,
            model_source=resolved.problem or resolved.description,
            texts=known.texts,
            machine={**(distinct[0] if distinct else machine_facts()), "others": distinct[1:]},
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
