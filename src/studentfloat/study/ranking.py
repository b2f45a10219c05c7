"""Which rows of a model differ for certain, and how they rank and stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from studentfloat.errors import DataError
from studentfloat.evaluate import paired_differences
from studentfloat.records import Frontier, Metric, PairedDifference, Row, TaskScore
from studentfloat.records.metrics import sharpest
from studentfloat.records.pareto import MapPoint, place, ranks

__all__ = ["Ranking", "rank_rows"]

_MOST_ROWS_COMPARED = 64
"""Beyond so many rows, no two are compared."""


@dataclass(frozen=True)
class Ranking:
    """Rows, the best first, and what was tested to order them.

    Attributes
    ----------
    metric
        Key of the one that ranks and frontiers are of.
    cautions
        What could not be tested, and why.
    """

    rows: tuple[Row, ...]
    metric: str
    differences: tuple[PairedDifference, ...]
    frontiers: tuple[Frontier, ...]
    cautions: tuple[str, ...]


def rank_rows(rows: Sequence[Row], seed: int) -> Ranking:
    """Test every pair of rows, and rank them by the sharpest metric that they have.

    Rows of what silicon holds are compared too, but only formats' exact values push others down,
    and those are tested as if there were no other rows: costing silicon changes no rank.
    """
    metric = sharpest([one.metric for row in rows for one in row.measures])
    differences: list[PairedDifference] = []
    cautions: list[str] = []
    if len(rows) > _MOST_ROWS_COMPARED:
        cautions.append(
            f"{len(rows)} rows are too many to compare each with each: no differences are "
            f"tested beyond {_MOST_ROWS_COMPARED}"
        )
    else:
        differences += _by_windows(rows, metric, seed)
        of_tasks, untested = _by_items(rows, seed)
        differences += of_tasks
        cautions += untested
    of_metric = [pair for pair in differences if pair.measure == metric.key]
    if metric.exact or len(rows) <= _MOST_ROWS_COMPARED:
        rows = _ranked(rows, metric, of_metric)
    return Ranking(
        tuple(rows),
        metric.key,
        tuple(differences),
        tuple(_frontiers(rows, metric, of_metric)),
        tuple(cautions),
    )


def _by_windows(rows: Sequence[Row], metric: Metric, seed: int) -> list[PairedDifference]:
    """Paired over windows; rows that are not measured on every text yet wait."""
    scores = {row.name: row.windows(metric.key) for row in rows}
    most = max((len(windows) for windows in scores.values()), default=0)
    scores = {name: windows for name, windows in scores.items() if windows and len(windows) == most}
    kept = [row for row in rows if row.name in scores]
    exact = [row.name for row in kept if row.exact is None]
    first = paired_differences(metric.key, {name: scores[name] for name in exact}, seed=seed)
    others = [
        (one.name, other.name)
        for one, other in combinations(kept, 2)
        if one.exact is not None or other.exact is not None
    ]
    return [*first, *paired_differences(metric.key, scores, pairs=others, seed=seed)]


def _by_items(rows: Sequence[Row], seed: int) -> tuple[list[PairedDifference], list[str]]:
    """Paired over the items of each task."""
    from studentfloat.evaluate.tasks import paired_task_differences

    by_task: dict[tuple[str, str], dict[str, TaskScore]] = {}
    for row in rows:
        for score in row.scores:
            if score.primary:
                by_task.setdefault((score.task, score.metric), {})[row.name] = score
    found: list[PairedDifference] = []
    cautions = []
    for (task, _), scored in by_task.items():
        try:
            found += paired_task_differences(scored, seed=seed)
        except DataError as error:
            cautions.append(f"{task}: {error}")
    return found, cautions


def _ranked(
    rows: Sequence[Row], metric: Metric, differences: Iterable[PairedDifference]
) -> list[Row]:
    """Rows with their rank, the best first; those without the metric last, without a rank."""
    values = {row.name: found[0] for row in rows if (found := row.value(metric.key)) is not None}
    sign = -1 if metric.higher_is_better else 1
    exact = [row.name for row in rows if row.exact is None and row.name in values]
    if metric.exact:
        rank = {
            name: 1 + sum(sign * values[other] < sign * value for other in exact)
            for name, value in values.items()
        }
    else:
        rank = ranks(
            list(values), differences, higher_is_better=metric.higher_is_better, counted=exact
        )
    ranked = [replace(row, rank=rank.get(row.name)) for row in rows]
    return sorted(
        ranked,
        key=lambda row: (row.rank or len(rows) + 1, sign * values.get(row.name, 0.0)),
    )


def _frontiers(
    rows: Sequence[Row], metric: Metric, differences: Sequence[PairedDifference]
) -> list[Frontier]:
    """Loss against area and energy of each unit, and against bits."""
    units = dict.fromkeys(its.unit for row in rows for its in row.hardware)
    axes = [*product(units, ("area", "energy_fj")), (None, "bits_per_weight")]
    found = [_frontier(rows, metric, differences, cost, unit) for unit, cost in axes]
    return [one for one in found if one.points]


def _frontier(
    rows: Sequence[Row],
    metric: Metric,
    differences: Sequence[PairedDifference],
    cost: str,
    unit: str | None,
) -> Frontier:
    sign = -1 if metric.higher_is_better else 1
    points, measured_in = [], "bits"
    for row in rows:
        loss, at = row.value(metric.key), _cost(row, cost, unit)
        if loss is not None and at is not None:
            points.append(MapPoint(row.name, at[0], sign * loss[0], at[1], loss[1]))
            measured_in = at[2]
    placed = place(points, differences, exact=metric.exact)
    return Frontier(cost=cost, cost_unit=measured_in, loss=metric.key, points=placed, unit=unit)


def _cost(row: Row, cost: str, unit: str | None) -> tuple[float, float, str] | None:
    """A row's cost, its spread and its unit; None where the row has none.

    A row of what silicon holds is no other checkpoint: its bits are those of the exact row.
    """
    if unit is None:
        known = row.exact is None and row.bits_per_weight is not None
        return (float(row.bits_per_weight or 0), 0.0, "bits") if known else None
    silicon = next((its for its in row.hardware if its.unit == unit), None)
    if silicon is None:
        return None
    if cost == "area":
        return silicon.area, silicon.area_spread, silicon.area_unit
    energy = silicon.energy_real_fj if silicon.energy_real_fj is not None else silicon.energy_fj
    return None if energy is None else (energy, silicon.energy_spread_fj or 0.0, "fJ")
