"""Which rows are better than which: ranks, and where each stands on a Pareto frontier.

There is one rule for both axes of every map, here; the page repeats it in ``study.js`` among the
rows that its reader has chosen, and a browser test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from studentfloat.records.comparison import FrontierPoint, PairedDifference, Standing

__all__ = ["MapPoint", "Tie", "frontier", "place", "ranks"]

Tie = Callable[[str, str], bool]


@dataclass(frozen=True)
class MapPoint:
    """A row with its cost and its loss; less of either is better.

    Attributes
    ----------
    cost_error
        Half the range over synthesis recipes.
    loss_error
        One standard error; None where none is known, as with one window.
    """

    name: str
    cost: float
    loss: float
    cost_error: float = 0.0
    loss_error: float | None = 0.0


def ranks(
    names: Sequence[str],
    differences: Iterable[PairedDifference],
    *,
    higher_is_better: bool = False,
    counted: Collection[str] | None = None,
) -> dict[str, int]:
    """Rank rows: 1 + the number of rows that are significantly better.

    Parameters
    ----------
    names
        Of the rows.
    differences
        Between them, of one measure.
    higher_is_better
        The measure's direction.
    counted
        Rows that may push others down; by default all.
    """
    rank = dict.fromkeys(names, 1)
    for pair in differences:
        first_wins = (pair.difference > 0) == higher_is_better
        better, worse = (pair.first, pair.second) if first_wins else (pair.second, pair.first)
        if pair.significant and worse in rank and (counted is None or better in counted):
            rank[worse] += 1
    return rank


def place(
    points: Sequence[MapPoint], tests: Iterable[PairedDifference], *, exact: bool
) -> tuple[FrontierPoint, ...]:
    """Say of each row whether it is on the frontier, within its noise, or dominated.

    Two rows tie on a cost where their errors meet. On a loss without noise (`exact`) only equals
    tie; else rows tie where a paired test does not tell them apart; where none was made, where bars
    of two standard errors meet; and where no error is known (one window), always.

    Parameters
    ----------
    points
        At most one for each name.
    tests
        Paired differences of the loss.
    exact
        Whether the loss has no noise.

    Returns
    -------
    tuple of FrontierPoint
        In ascending order of cost.
    """
    known = {point.name: point for point in points}
    tested = {frozenset((pair.first, pair.second)): not pair.significant for pair in tests}

    def cost_tie(a: str, b: str) -> bool:
        one, other = known[a], known[b]
        return abs(one.cost - other.cost) <= one.cost_error + other.cost_error

    def loss_tie(a: str, b: str) -> bool:
        if exact:
            return False
        if (tie := tested.get(frozenset((a, b)))) is not None:
            return tie
        one, other = known[a], known[b]
        if one.loss_error is None or other.loss_error is None:
            return True
        return abs(one.loss - other.loss) <= 2 * (one.loss_error + other.loss_error)

    return frontier(points, cost_tie=cost_tie, loss_tie=loss_tie)


def frontier(
    points: Sequence[MapPoint], *, cost_tie: Tie, loss_tie: Tie
) -> tuple[FrontierPoint, ...]:
    """The frontier under given ties.

    By the figures alone, a point is dominated if another costs no more and loses no more, and less
    of one. It is *certainly* dominated if another is better on one axis for certain, and better or
    tied on the other. A point that is dominated in neither sense is on the frontier; in both,
    dominated; in one only, within the noise of the frontier.

    Parameters
    ----------
    cost_tie, loss_tie
        Whether two points, by name, differ on that axis by no more than the noise.

    Returns
    -------
    tuple of FrontierPoint
        In ascending order of cost.
    """

    def nominal(a: MapPoint, b: MapPoint) -> bool:
        no_worse = b.cost <= a.cost and b.loss <= a.loss
        return no_worse and (b.cost < a.cost or b.loss < a.loss)

    def certain(a: MapPoint, b: MapPoint) -> bool:
        cheaper = b.cost < a.cost and not cost_tie(a.name, b.name)
        better = b.loss < a.loss and not loss_tie(a.name, b.name)
        cost_allows = b.cost <= a.cost or cost_tie(a.name, b.name)
        loss_allows = b.loss <= a.loss or loss_tie(a.name, b.name)
        return (cheaper and loss_allows) or (better and cost_allows)

    placed = []
    for a in points:
        others = [b for b in points if b is not a]
        by_figures = any(nominal(a, b) for b in others)
        for_certain = any(certain(a, b) for b in others)
        if by_figures and for_certain:
            standing = Standing.DOMINATED
        elif by_figures or for_certain:
            standing = Standing.WITHIN_NOISE
        else:
            standing = Standing.FRONTIER
        placed.append(
            FrontierPoint(a.name, a.cost, a.cost_error, a.loss, a.loss_error, standing.value)
        )
    return tuple(sorted(placed, key=lambda point: (point.cost, point.loss)))
