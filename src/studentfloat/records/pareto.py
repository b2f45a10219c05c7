"""The frontier of quality against a cost, with noise on both axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from studentfloat.records.comparison import FrontierPoint, Standing

__all__ = ["Candidate", "frontier"]

Tie = Callable[[str, str], bool]


@dataclass(frozen=True)
class Candidate:
    """A format with its cost and its loss; less of either is better.

    Attributes
    ----------
    cost_error, loss_error
        Half-widths of the error bars, for drawing.
    """

    name: str
    cost: float
    loss: float
    cost_error: float = 0.0
    loss_error: float = 0.0


def frontier(
    candidates: Sequence[Candidate], *, cost_tie: Tie, loss_tie: Tie
) -> tuple[FrontierPoint, ...]:
    """Say of each candidate whether it is on the Pareto frontier, within its noise, or dominated.

    By the figures alone, a candidate is dominated if another costs no more and loses no more,
    and less of one. It is *certainly* dominated if another is better on one axis for certain,
    and better or tied on the other. A candidate that is dominated in neither sense is on the
    frontier; in both, dominated; in one only, within the noise of the frontier.

    Parameters
    ----------
    cost_tie, loss_tie
        Whether two candidates, by name, differ on that axis by no more than the noise.

    Returns
    -------
    tuple of FrontierPoint
        In ascending order of cost.
    """

    def nominal(a: Candidate, b: Candidate) -> bool:
        no_worse = b.cost <= a.cost and b.loss <= a.loss
        return no_worse and (b.cost < a.cost or b.loss < a.loss)

    def certain(a: Candidate, b: Candidate) -> bool:
        cheaper = b.cost < a.cost and not cost_tie(a.name, b.name)
        better = b.loss < a.loss and not loss_tie(a.name, b.name)
        cost_allows = b.cost <= a.cost or cost_tie(a.name, b.name)
        loss_allows = b.loss <= a.loss or loss_tie(a.name, b.name)
        return (cheaper and loss_allows) or (better and cost_allows)

    points = []
    for a in candidates:
        others = [b for b in candidates if b is not a]
        by_figures = any(nominal(a, b) for b in others)
        for_certain = any(certain(a, b) for b in others)
        if by_figures and for_certain:
            standing = Standing.DOMINATED
        elif by_figures or for_certain:
            standing = Standing.WITHIN_NOISE
        else:
            standing = Standing.FRONTIER
        points.append(
            FrontierPoint(a.name, a.cost, a.cost_error, a.loss, a.loss_error, standing.value)
        )
    return tuple(sorted(points, key=lambda point: (point.cost, point.loss)))
