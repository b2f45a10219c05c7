"""What can be drawn against what: the costs and measures that rows have, and where rows stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from studentfloat.records import (
    METRICS,
    Comparison,
    FormatHardware,
    Metric,
    PairedDifference,
    Row,
    StudyResult,
    TaskScore,
)
from studentfloat.records.metrics import Mean, Measured
from studentfloat.records.pareto import MapPoint, place, ranks

__all__ = ["BITS", "Point", "PointMap", "as_study", "map_points", "rank_marks", "standings"]

BITS = Metric("bits_per_weight", "bits", "bits per weight, scales included")
"""The cost that every row has."""


@dataclass(frozen=True)
class Point:
    """A row by its numbers: for each axis the value and its error.

    Attributes
    ----------
    bits
        That one code has, if known.
    exact
        Of what silicon holds, the row with the format's exact values.
    costs
        The error is half the range over synthesis recipes.
    measures
        The error is one standard error, None where there is none to know.
    """

    model: str
    name: str
    method: str
    format: str
    bits: int | None
    exact: str | None
    costs: dict[str, tuple[float, float]]
    measures: dict[str, Measured]


@dataclass(frozen=True)
class PointMap:
    """All points of a study, with the axes on which any two of them differ.

    Attributes
    ----------
    costs, measures
        The axes; of measures the one that rows are ranked by comes first.
    originals
        By model and measure: what the model does as it was.
    tests
        By model and measure: paired differences. A measure that is not there was not tested.
    """

    costs: tuple[Metric, ...]
    measures: tuple[Metric, ...]
    points: tuple[Point, ...]
    originals: dict[str, dict[str, Measured]] = field(default_factory=dict)
    tests: dict[str, dict[str, tuple[PairedDifference, ...]]] = field(default_factory=dict)

    def of(self, model: str) -> tuple[Point, ...]:
        """The points of one model."""
        return tuple(point for point in self.points if point.model == model)


def as_study(comparison: Comparison) -> StudyResult:
    """One model's comparison as a study that is done."""
    rows = len(comparison.formats)
    return StudyResult(comparison.model, (comparison,), planned=rows, done=rows, failures=())


def map_points(result: StudyResult) -> PointMap:
    """Lay out all rows of all models by what was measured of them."""
    costs, points = {BITS.key: BITS}, []
    tasks: dict[str, Metric] = {}
    for model in result.models:
        for row in model.formats:
            for silicon in row.hardware:
                costs |= {axis.key: axis for axis in _silicon_axes(silicon)}
            tasks |= {_score_key(s): _score_axis(s) for s in row.scores if s.primary}
            points.append(_point(model.model, row))
        tasks |= {_score_key(s): _score_axis(s) for s in model.original_scores if s.primary}
    headlines = {model.ranked_by for model in result.models}
    measures = [
        *sorted(METRICS.values(), key=lambda axis: (axis.key not in headlines, axis.detail)),
        *tasks.values(),
    ]
    # The frontier against silicon is what the reader came for; bits are on every row.
    order = sorted(costs.values(), key=lambda axis: (axis.key == BITS.key, axis.key))
    return PointMap(
        costs=tuple(axis for axis in order if any(axis.key in p.costs for p in points)),
        measures=tuple(a for a in measures if any(a.key in p.measures for p in points)),
        points=tuple(points),
        originals={model.model: _originals(model) for model in result.models},
        tests={model.model: _tests(model) for model in result.models},
    )


def _silicon_axes(silicon: FormatHardware) -> dict[Metric, tuple[float, float]]:
    """Each thing that a unit costs, with how much of it and its spread."""
    unit, of = silicon.unit, f"{silicon.unit} {silicon.library}"
    energy, spread = f"energy of one {unit} per clock cycle", silicon.energy_spread_fj or 0.0
    area = Metric(f"area {of}", f"area of {unit}", f"area of one {unit}", silicon.area_unit,
                  digits=0)  # fmt: skip
    axes = {area: (silicon.area, silicon.area_spread)}
    if silicon.energy_real_fj is not None:
        short, words = f"energy of {unit}, real codes", f"{energy}, the model's codes"
        axes[Metric(f"energy, real {of}", short, words, "fJ", digits=0)] = (
            silicon.energy_real_fj,
            spread,
        )
    if silicon.energy_fj is not None:
        short, words = f"energy of {unit}, uniform codes", f"{energy}, uniform codes"
        axes[Metric(f"energy, uniform {of}", short, words, "fJ", digits=0)] = (
            silicon.energy_fj,
            spread,
        )
    return axes


def _score_key(score: TaskScore) -> str:
    return f"{score.task} {score.metric}"


def _score_axis(score: TaskScore) -> Metric:
    key, higher = _score_key(score), score.higher_is_better
    return Metric(key, key, key, aggregate=Mean(), higher_is_better=higher, logarithmic=not higher)


def _point(model: str, row: Row) -> Point:
    costs: dict[str, tuple[float, float]] = {}
    # What silicon holds of a format is no other checkpoint.
    if row.bits_per_weight is not None and row.exact is None:
        costs[BITS.key] = (row.bits_per_weight, 0.0)
    for silicon in row.hardware:
        costs |= {axis.key: value for axis, value in _silicon_axes(silicon).items()}
    measures = {one.metric: (one.value, one.standard_error) for one in row.measures}
    return Point(
        model,
        row.name,
        row.method,
        row.format,
        row.bits,
        row.exact,
        costs,
        {**measures, **_scores(row.scores)},
    )


def _scores(scores: Sequence[TaskScore]) -> dict[str, Measured]:
    return {_score_key(s): (s.value, s.standard_error) for s in scores if s.primary}


def _originals(model: Comparison) -> dict[str, Measured]:
    measured = {one.metric: (one.value, one.standard_error) for one in model.baseline.measures}
    return {**_scores(model.original_scores), **measured}


def _tests(model: Comparison) -> dict[str, tuple[PairedDifference, ...]]:
    found: dict[str, list[PairedDifference]] = {}
    for pair in model.differences:
        found.setdefault(pair.measure, []).append(pair)
    return {measure: tuple(pairs) for measure, pairs in found.items()}


def standings(points: PointMap, model: str, cost: str, measure: Metric) -> dict[str, str]:
    """Where each row of a model stands on the map of a measure against a cost.

    The page does the same among the rows that its reader has chosen (``study.js``).

    Returns
    -------
    dict
        Values of :class:`~studentfloat.records.Standing` by the row's name; rows that lack the
        cost or the measure are left out.
    """
    sign = -1 if measure.higher_is_better else 1
    shown = []
    for point in points.of(model):
        if cost in point.costs and measure.key in point.measures:
            (at, spread), (value, error) = point.costs[cost], point.measures[measure.key]
            shown.append(MapPoint(point.name, at, sign * value, spread, error))
    tests = points.tests.get(model, {}).get(measure.key, ())
    return {point.name: point.standing for point in place(shown, tests, exact=measure.exact)}


def rank_marks(points: PointMap, model: Comparison) -> dict[tuple[str, str], str]:
    """Ranks by (row, measure): 1 + how many formats are significantly better; ``=`` if shared."""
    higher = {axis.key: axis.higher_is_better for axis in points.measures}
    exact = [row.name for row in model.formats if row.exact is None]
    marks = {}
    for measure, pairs in _tests(model).items():
        names = list(dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second)))
        better = higher.get(measure, False)
        found = ranks(names, pairs, higher_is_better=better, counted=exact)
        shared = Counter(found.values())
        for name, rank in found.items():
            marks[name, measure] = f"{'=' if shared[rank] > 1 else ''}{rank}"
    return marks
