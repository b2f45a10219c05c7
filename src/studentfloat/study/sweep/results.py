"""What a study has found: its cells joined to rows, differences and frontiers."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studentfloat.errors import DataError
from studentfloat.evaluate import paired_differences, ranks
from studentfloat.progress import Progress, silent
from studentfloat.records import (
    Baseline,
    Comparison,
    FormatHardware,
    FormatQuality,
    Frontier,
    PairedDifference,
    Provenance,
    StudyCell,
    StudyModel,
    StudyResult,
    StudyRow,
    TaskScore,
    record_to_json,
)
from studentfloat.records.provenance import machine_facts, package_versions
from studentfloat.study.silicon import with_frontiers
from studentfloat.study.sweep.drive import open_study
from studentfloat.study.sweep.options import ORIGINAL, ModelEntry
from studentfloat.study.sweep.plan import HARDWARE, LAWS, QUALITY, Group, Plan, PlannedCell
from studentfloat.study.sweep.resolve import ResolvedModel
from studentfloat.study.sweep.store import Store

__all__ = ["read_study"]

_MOST_ROWS_COMPARED = 64
"""Beyond so many rows, two are compared only if they differ in one thing."""


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

    def result(self, progress: Progress) -> StudyResult:
        plan, store = self.plan, self.store
        hardware = self._hardware()
        models = []
        entries = [e for e in plan.options.models if any(g.model == e.name for g in plan.groups)]
        for i, entry in enumerate(entries):
            progress(i / len(entries), f"reading {entry.name}")
            models.append(self._model(entry, hardware))
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

    def _read(self, planned: PlannedCell) -> StudyCell | None:
        """A cell under the name that it has in this study; others may share its numbers."""
        cell = self.store.read_cell(planned.address)
        return None if cell is None else replace(cell, configuration=planned.configuration)

    def _hardware(self) -> dict[str, list[tuple[str, FormatHardware]]]:
        """By format: each cell's address and silicon."""
        found: dict[str, list[tuple[str, FormatHardware]]] = {}
        for planned in self.plan.cells:
            if planned.evaluation == HARDWARE and (cell := self._read(planned)) is not None:
                assert cell.hardware is not None
                its = found.setdefault(planned.configuration.format, [])
                its.append((cell.address, cell.hardware))
        return found

    def _model(
        self, entry: ModelEntry, hardware: dict[str, list[tuple[str, FormatHardware]]]
    ) -> StudyModel:
        groups = [group for group in self.plan.groups if group.model == entry.name]
        resolved = self.plan.resolution.model(entry.id) or ResolvedModel(entry.id)
        original = [cell for group in groups if _is_original(group) for cell in self._cells(group)]
        rows = [
            row
            for group in groups
            if not _is_original(group) and (row := self._row(group, hardware)) is not None
        ]
        baseline = next((c.baseline for c in original if c.evaluation == QUALITY), None)
        differences, cautions = _differences(rows, self.plan.options.seed)
        rows = _ranked(rows, differences)
        blank = StudyModel(
            model=entry.name,
            rows=tuple(rows),
            baseline=baseline,
            original_scores=tuple(s for cell in original for s in cell.scores),
            differences=differences,
            frontiers=(),
            laws=tuple(law for c in original if c.evaluation == LAWS for law in c.laws),
            provenance=self._provenance(resolved),
            skipped=next((c.skipped for c in original if c.evaluation == QUALITY), ()),
            cautions=(*resolved.cautions, *cautions),
        )
        return replace(blank, frontiers=_frontiers(blank))

    def _cells(self, group: Group) -> list[StudyCell]:
        return [cell for planned in group.cells if (cell := self._read(planned)) is not None]

    def _row(
        self, group: Group, hardware: dict[str, list[tuple[str, FormatHardware]]]
    ) -> StudyRow | None:
        """A configuration's cells as one row; None if not one of them is done."""
        cells = self._cells(group)
        if not cells:
            return None
        configuration = group.cells[0].configuration
        silicon: list[tuple[str, FormatHardware]] = []
        assert group.variant is not None
        request = group.variant.request
        if request is not None and request.unit_format is not None:
            silicon = hardware.get(request.asked.name, [])
        quality = next((cell.quality for cell in cells if cell.quality is not None), None)
        if quality is not None:
            quality = replace(quality, name=configuration.name)
        return StudyRow(
            configuration=configuration,
            bits_per_weight=next((c.bits_per_weight for c in cells if c.bits_per_weight), None),
            quality=quality,
            scores=tuple(score for cell in cells for score in cell.scores),
            hardware=tuple(replace(its, name=configuration.name) for _, its in silicon),
            cells=(*(cell.address for cell in cells), *(address for address, _ in silicon)),
        )

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
            text_sha256=known.text_sha256,
            text_source=known.text_source,
            machine={**(distinct[0] if distinct else machine_facts()), "others": distinct[1:]},
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _is_original(group: Group) -> bool:
    return group.cells[0].configuration.format == ORIGINAL


Measure = Callable[[StudyRow], Sequence[float]]


def _differences(
    rows: list[StudyRow], seed: int
) -> tuple[tuple[PairedDifference, ...], tuple[str, ...]]:
    """Which rows differ for certain, measure by measure; and what a reader must know of it."""
    if len(rows) > _MOST_ROWS_COMPARED:
        return (), (
            f"{len(rows)} rows are too many to compare each with each: no differences are "
            f"tested beyond {_MOST_ROWS_COMPARED}",
        )
    from studentfloat.evaluate.tasks import paired_task_differences

    found: list[PairedDifference] = []
    loss, per_window = _loss(rows)
    if per_window is not None:
        scores = {row.configuration.name: per_window(row) for row in rows if per_window(row)}
        found += paired_differences(loss, scores, seed=seed)
    by_task: dict[tuple[str, str], dict[str, TaskScore]] = {}
    for row in rows:
        for score in row.scores:
            if score.primary:
                its = by_task.setdefault((score.task, score.metric), {})
                its[row.configuration.name] = score
    cautions = []
    for (task, _), scored in by_task.items():
        try:
            found += paired_task_differences(scored, seed=seed)
        except DataError as error:
            cautions.append(f"{task}: {error}")
    return tuple(found), tuple(cautions)


def _loss(rows: Sequence[StudyRow]) -> tuple[str, Measure | None]:
    """The sharpest measure of quality that rows have."""
    qualities = [row.quality for row in rows if row.quality is not None]
    if any(quality.window_kl for quality in qualities):
        return "kl", lambda row: () if row.quality is None else row.quality.window_kl
    if any(quality.window_output_nmse for quality in qualities):
        return (
            "output_nmse",
            lambda row: () if row.quality is None else row.quality.window_output_nmse,
        )
    return "weight_nmse", None


def _ranked(rows: list[StudyRow], differences: tuple[PairedDifference, ...]) -> list[StudyRow]:
    """Rows with their quality's rank, the best first."""
    loss, per_window = _loss(rows)
    its = [pair for pair in differences if pair.measure == loss]
    if per_window is None or not its:
        return rows
    names = [row.configuration.name for row in rows if per_window(row)]
    rank = ranks(names, its)

    def key(row: StudyRow) -> tuple[float, float]:
        value = None if row.quality is None else getattr(row.quality, loss)
        return (rank.get(row.configuration.name, len(rows)), value if value is not None else 0.0)

    return [
        row
        if row.quality is None
        else replace(row, quality=replace(row.quality, rank=rank.get(row.configuration.name)))
        for row in sorted(rows, key=key)
    ]


def _frontiers(model: StudyModel) -> tuple[Frontier, ...]:
    """Loss against bits, and against area and energy in each unit."""
    loss, _ = _loss(model.rows)
    formats: list[FormatQuality] = [
        row.quality
        for row in model.rows
        if row.quality is not None and getattr(row.quality, loss) is not None
    ]
    if not formats:
        return ()
    units = list(dict.fromkeys(its.unit for row in model.rows for its in row.hardware))
    found: list[Frontier] = []
    for unit in units or [""]:
        hardware = [its for row in model.rows for its in row.hardware if its.unit == unit]
        joined = with_frontiers(
            Comparison(
                model=model.model,
                formats=tuple(formats),
                baseline=model.baseline or Baseline(perplexity=None),
                provenance=model.provenance,
                ranked_by=loss,
                differences=tuple(d for d in model.differences if d.measure == loss),
                hardware=tuple(hardware),
            )
        )
        for frontier in joined.frontiers:
            if frontier.cost != "bits_per_weight":
                found.append(replace(frontier, unit=unit or None))
            elif all(other.cost != "bits_per_weight" for other in found):
                found.append(frontier)
    return tuple(found)
