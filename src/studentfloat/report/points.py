"""What can be drawn against what: the costs and measures that rows have, and who ties with whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from studentfloat.records import FormatHardware, StudyModel, StudyResult, StudyRow, TaskScore
from studentfloat.records.pareto import Candidate, Tie, frontier

__all__ = ["Axis", "Point", "PointMap", "map_points", "rank_marks", "standings"]


@dataclass(frozen=True)
class Axis:
    """Something that rows are told apart by.

    Attributes
    ----------
    key
        ``area mac generic``, ``bits_per_weight``; ``kl``, ``piqa acc_norm``.
    label
        With the unit, for an axis.
    short
        For the heading of a column and the name of a file.
    higher_is_better
        Of costs never.
    logarithmic
        Whether ratios of it say more than differences.
    digits
        After the point, in tables.
    """

    key: str
    label: str
    short: str
    higher_is_better: bool = False
    logarithmic: bool = True
    digits: int = 3


@dataclass(frozen=True)
class Point:
    """A row by its numbers: for each axis the value and its error.

    Attributes
    ----------
    bits
        That one code has, if known.
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
    costs: dict[str, tuple[float, float]]
    measures: dict[str, tuple[float, float | None]]


@dataclass(frozen=True)
class PointMap:
    """All points of a study, with the axes on which any two of them differ.

    Attributes
    ----------
    originals
        By model and measure: what the model does as it was.
    ties
        By model and measure: pairs of names that a paired test does not tell apart. A measure
        that is not there was not tested.
    """

    costs: tuple[Axis, ...]
    measures: tuple[Axis, ...]
    points: tuple[Point, ...]
    originals: dict[str, dict[str, tuple[float, float | None]]] = field(default_factory=dict)
    ties: dict[str, dict[str, frozenset[frozenset[str]]]] = field(default_factory=dict)

    def of(self, model: str) -> tuple[Point, ...]:
        """The points of one model."""
        return tuple(point for point in self.points if point.model == model)


_QUALITIES = (
    Axis("kl", "KL from the original (nats per token)", "KL"),
    Axis("perplexity", "perplexity", "perplexity", digits=2),
    Axis("top1_agreement", "same most likely token as the original", "top-1", True, False),
    Axis("output_nmse", "error of the last hidden state", "output error", digits=5),
    Axis("weight_nmse", "weight error", "weight error", digits=5),
)
_BITS = Axis("bits_per_weight", "bits per weight, scales included", "bits")


def map_points(result: StudyResult) -> PointMap:
    """Lay out all rows of all models by what was measured of them."""
    costs, measures, points = {_BITS.key: _BITS}, {axis.key: axis for axis in _QUALITIES}, []
    for model in result.models:
        for row in model.rows:
            for silicon in row.hardware:
                costs |= {axis.key: axis for axis in _silicon_axes(silicon)}
            measures |= {_score_key(s): _score_axis(s) for s in row.scores if s.primary}
            points.append(_point(model.model, row))
        measures |= {_score_key(s): _score_axis(s) for s in model.original_scores if s.primary}
    # The frontier against silicon is what the reader came for; bits are on every row.
    order = sorted(costs.values(), key=lambda axis: (axis.key == _BITS.key, axis.key))
    return PointMap(
        costs=tuple(axis for axis in order if any(axis.key in p.costs for p in points)),
        measures=tuple(
            axis for axis in measures.values() if any(axis.key in p.measures for p in points)
        ),
        points=tuple(points),
        originals={model.model: _originals(model) for model in result.models},
        ties={model.model: _ties(model) for model in result.models},
    )


def _silicon_axes(silicon: FormatHardware) -> dict[Axis, tuple[float, float]]:
    """Each thing that a unit costs, with how much of it and its spread."""
    unit, of = silicon.unit, f"{silicon.unit} {silicon.library}"
    energy, spread = f"energy of one {unit} per clock cycle (fJ)", silicon.energy_spread_fj or 0.0
    area = Axis(f"area {of}", f"area of one {unit} ({silicon.area_unit})", f"area of {unit}")
    axes = {area: (silicon.area, silicon.area_spread)}
    if silicon.energy_real_fj is not None:
        label = f"{energy}, the model's codes"
        real = Axis(f"energy, real {of}", label, f"energy of {unit}, real codes")
        axes[real] = (silicon.energy_real_fj, spread)
    if silicon.energy_fj is not None:
        label = f"{energy}, uniform codes"
        uniform = Axis(f"energy, uniform {of}", label, f"energy of {unit}, uniform codes")
        axes[uniform] = (silicon.energy_fj, spread)
    return axes


def _score_key(score: TaskScore) -> str:
    return f"{score.task} {score.metric}"


def _score_axis(score: TaskScore) -> Axis:
    key = _score_key(score)
    return Axis(key, key, key, score.higher_is_better, logarithmic=not score.higher_is_better)


def _point(model: str, row: StudyRow) -> Point:
    costs: dict[str, tuple[float, float]] = {}
    if row.bits_per_weight is not None:
        costs[_BITS.key] = (row.bits_per_weight, 0.0)
    for silicon in row.hardware:
        costs |= {axis.key: value for axis, value in _silicon_axes(silicon).items()}
    measures: dict[str, tuple[float, float | None]] = {}
    for axis in _QUALITIES if row.quality else ():
        value = getattr(row.quality, axis.key)
        if value is not None:
            measures[axis.key] = (value, getattr(row.quality, f"{axis.key}_se", None))
    measures |= _scores(row.scores)
    setting = row.configuration
    bits = None if row.quality is None else row.quality.bits
    return Point(model, setting.name, setting.method, setting.format, bits, costs, measures)


def _scores(scores: Sequence[TaskScore]) -> dict[str, tuple[float, float | None]]:
    return {_score_key(s): (s.value, s.standard_error) for s in scores if s.primary}


def _originals(model: StudyModel) -> dict[str, tuple[float, float | None]]:
    found = _scores(model.original_scores)
    if model.baseline is not None and model.baseline.perplexity is not None:
        found["perplexity"] = (model.baseline.perplexity, model.baseline.perplexity_se)
    return found


def _ties(model: StudyModel) -> dict[str, frozenset[frozenset[str]]]:
    ties: dict[str, set[frozenset[str]]] = {}
    for pair in model.differences:
        of_measure = ties.setdefault(pair.measure, set())
        if not pair.significant:
            of_measure.add(frozenset((pair.first, pair.second)))
    return {measure: frozenset(pairs) for measure, pairs in ties.items()}


def standings(points: PointMap, model: str, cost: str, measure: Axis) -> dict[str, str]:
    """Where each row of a model stands on the map of a measure against a cost.

    The page does the same among the rows that its reader has chosen (``page.js``).

    Returns
    -------
    dict
        Values of :class:`~studentfloat.records.Standing` by the row's name; rows that lack the
        cost or the measure are left out.
    """
    shown = [p for p in points.of(model) if cost in p.costs and measure.key in p.measures]
    sign = -1 if measure.higher_is_better else 1
    candidates = [
        Candidate(p.name, p.costs[cost][0], sign * p.measures[measure.key][0]) for p in shown
    ]
    found = frontier(
        candidates,
        cost_tie=_overlap({p.name: p.costs[cost] for p in shown}, errors=1),
        loss_tie=_loss_tie(points, model, measure.key, shown),
    )
    return {point.name: point.standing for point in found}


def _loss_tie(points: PointMap, model: str, measure: str, shown: Sequence[Point]) -> Tie:
    tested = points.ties.get(model, {}).get(measure)
    if tested is None:
        # No paired test of it: bars of two standard errors must be apart.
        errors = {p.name: p.measures[measure] for p in shown}
        return _overlap({n: (v, e or 0.0) for n, (v, e) in errors.items()}, errors=2)
    return lambda a, b: frozenset((a, b)) in tested


def _overlap(values: dict[str, tuple[float, float]], *, errors: int) -> Tie:
    def tie(a: str, b: str) -> bool:
        (value_a, error_a), (value_b, error_b) = values[a], values[b]
        return abs(value_a - value_b) <= errors * (error_a + error_b)

    return tie


def rank_marks(points: PointMap, model: StudyModel) -> dict[tuple[str, str], str]:
    """Ranks by (row, measure): 1 + how many are significantly better; ``=`` before shared ones."""
    higher = {axis.key: axis.higher_is_better for axis in points.measures}
    ranks: dict[str, Counter[str]] = {}
    for pair in model.differences:
        of_measure = ranks.setdefault(pair.measure, Counter())
        first_wins = (pair.difference > 0) == higher.get(pair.measure, False)
        better, worse = (pair.first, pair.second) if first_wins else (pair.second, pair.first)
        of_measure[better] += 0
        of_measure[worse] += pair.significant
    marks = {}
    for measure, losses in ranks.items():
        shared = Counter(losses.values())
        for name, losses_of in losses.items():
            marks[name, measure] = f"{'=' if shared[losses_of] > 1 else ''}{losses_of + 1}"
    return marks
