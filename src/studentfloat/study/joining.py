"""Cells joined to comparisons: rows, which differ for certain, and where each stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from studentfloat.records import (
    Baseline,
    Comparison,
    Provenance,
    Row,
    StudyCell,
    join_rows,
)
from studentfloat.records.metrics import over_texts
from studentfloat.study.options import ORIGINAL, ModelEntry
from studentfloat.study.plan import HARDWARE, LAWS, QUALITY, Group, Plan
from studentfloat.study.ranking import rank_rows
from studentfloat.study.resolve import ResolvedModel

__all__ = ["Read", "join_model"]

Read = Callable[[str], "StudyCell | None"]
"""From a cell's address to the cell; None where it is not done."""


def join_model(plan: Plan, entry: ModelEntry, read: Read, provenance: Provenance) -> Comparison:
    """Everything that was found about one model.

    Parameters
    ----------
    read
        Gives the cells.
    provenance
        Of the comparison.
    """
    groups = [g for g in plan.groups if g.model == entry.name and not _is_silicon(g)]
    resolved = plan.resolution.model(entry.id) or ResolvedModel(entry.id)
    silicon = _Silicon(plan, entry.name, read)
    original = [cell for group in groups if _is_original(group) for cell in _cells(group, read)]
    rows = [
        row
        for group in groups
        if not _is_original(group) and (row := _row(group, read, silicon)) is not None
    ]
    ranking = rank_rows(rows, plan.options.seed)
    measured = [cell.baseline for cell in original if cell.baseline is not None]
    return Comparison(
        model=entry.name,
        formats=ranking.rows,
        baseline=Baseline(
            over_texts([baseline.measures for baseline in measured]),
            next((one.window_start for one in measured if one.window_start), None),
        ),
        provenance=provenance,
        ranked_by=ranking.metric,
        differences=ranking.differences,
        skipped=next((c.skipped for c in original if c.evaluation == QUALITY), ()),
        cautions=tuple(
            dict.fromkeys((*resolved.cautions, *ranking.cautions, *plan.notes, *silicon.notes))
        ),
        frontiers=ranking.frontiers,
        original_scores=tuple(s for cell in original for s in cell.row.scores),
        laws=tuple(law for c in original if c.evaluation == LAWS for law in c.laws),
    )


class _Silicon:
    """The hardware cells that belong to a model's rows."""

    def __init__(self, plan: Plan, model: str, read: Read) -> None:
        self._by_row: dict[str, list[Row]] = {}
        self._by_format: dict[str, list[Row]] = {}
        self.notes: list[str] = []
        for planned in plan.cells:
            where = planned.configuration
            if planned.evaluation != HARDWARE or where.model not in ("", model):
                continue
            cell = read(planned.address)
            if cell is not None:
                # Without real codes a unit is any model's; its row is named by the format alone.
                place, key = (
                    (self._by_row, where.name) if where.model else (self._by_format, where.format)
                )
                place.setdefault(key, []).append(_found(cell))
                self.notes += cell.notes

    def of(self, group: Group) -> list[Row]:
        """What was found about the unit that holds exactly the group's values."""
        variant = group.variant
        assert variant is not None
        found = list(self._by_row.get(variant.name, ()))
        if variant.silicon_format is not None:
            found += self._by_format.get(variant.silicon_format.name, ())
        return found


def _row(group: Group, read: Read, silicon: _Silicon) -> Row | None:
    """A configuration's cells as one row; None if not one of them is done."""
    cells = _cells(group, read)
    if not cells:
        return None
    parts = [*map(_found, cells), *silicon.of(group)]
    return join_rows(group.cells[0].configuration, parts)


def _found(cell: StudyCell) -> Row:
    return replace(cell.row, cells=(cell.address,))


def _cells(group: Group, read: Read) -> Sequence[StudyCell]:
    return [cell for planned in group.cells if (cell := read(planned.address)) is not None]


def _is_original(group: Group) -> bool:
    return group.cells[0].configuration.format == ORIGINAL


def _is_silicon(group: Group) -> bool:
    return group.cells[0].evaluation == HARDWARE
