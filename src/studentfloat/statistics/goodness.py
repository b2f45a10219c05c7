"""How well a law describes cells: distances, quantiles, and which of two laws is better."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from studentfloat.statistics.laws import Law
from studentfloat.statistics.sketch import Cells

__all__ = ["anderson_darling", "kolmogorov_smirnov", "quantile_pairs", "vuong_p_value"]

Floats: TypeAlias = npt.NDArray[np.float64]

_STRIDE = 8


def kolmogorov_smirnov(cells: Cells, law: Law) -> float:
    """Greatest distance between the distribution functions of the numbers and of a law.

    Taken at the edges of the cells, where the counts are exact; between them it can be
    greater by no more than the law's probability of one cell (under 0.0008 for
    cells of 1/512 of the spread). The law is asked at every eighth edge first, and at the
    others only where, both functions ascending, the distance could still be the greatest.

    References
    ----------
    Kolmogorov 1933; Smirnov 1948.
    """
    below = np.concatenate([[0.0], np.cumsum(cells.count)]) / cells.total
    edges = np.stack([cells.low, cells.high], axis=1).ravel()
    reached = np.stack([below[:-1], below[1:]], axis=1).ravel()
    # Where a cell begins at the end of the one before, one edge serves both.
    fresh = np.concatenate([[True], (edges[1:] != edges[:-1]) | (reached[1:] != reached[:-1])])
    edges, reached = edges[fresh], reached[fresh]
    some = np.append(np.arange(0, edges.size - 1, _STRIDE), edges.size - 1)
    expected, there = law.cdf(edges[some]), reached[some]
    greatest = float(np.abs(expected - there).max())
    most = np.maximum(expected[1:] - there[:-1], there[1:] - expected[:-1])
    between = np.repeat(most > greatest, np.diff(some))
    if between.any():
        finer = law.cdf(edges[:-1][between]) - reached[:-1][between]
        greatest = max(greatest, float(np.abs(finer).max()))
    return greatest


def anderson_darling(cells: Cells, law: Law) -> float:
    r"""Anderson and Darling's A² over the number of samples, which weighs the tails more.

    .. math:: A^2 / n = -1 - \frac{1}{n^2} \sum_i (2i - 1)
              \left[\log F(x_{(i)}) + \log(1 - F(x_{(n+1-i)}))\right]

    with each cell's numbers at their mean, and a correction for their spread in it.
    Divided by n it estimates a distance that does not depend on how many there are.

    References
    ----------
    Anderson & Darling, JASA 49(268), 1954, eq. 1.
    """
    below = np.concatenate([[0.0], np.cumsum(cells.count)]) / cells.total
    share = cells.count / cells.total
    left = np.diff(below**2)
    right = -np.diff((1 - below) ** 2)
    log_cdf, log_sf = law.log_probabilities(cells.mean)
    # Numbers evenly spread in a cell of probability p: rank and log F rise together, which
    # takes p³ / 6F(1-F); log F bends, which gives half of it back. Nothing for numbers that
    # are alike, and between the two by their variance.
    middle = (below[1:] + below[:-1]) / 2
    width = cells.high - cells.low
    variance = np.maximum(cells.square - cells.mean**2, 0.0)
    evenness = np.minimum(12 * variance / np.where(width > 0, width, np.inf) ** 2, 2.0)
    within = evenness * share * (share**2 - 1 / cells.total**2) / (12 * middle * (1 - middle))
    return float(max(-1.0 - left @ log_cdf - right @ log_sf - within.sum(), 0.0))


def quantile_pairs(cells: Cells, law: Law, points: int = 99) -> tuple[Floats, Floats]:
    """A Q-Q plot: quantiles of the law and of the numbers at the same probabilities.

    The probabilities are even on the logit scale, from ``1/n`` (but at least 1e-6) to its
    complement, so both tails show; each array is of shape ``(points,)``.
    """
    least = max(1 / (cells.total + 1), 1e-6)
    ends = math.log(least / (1 - least))
    probabilities = special.expit(np.linspace(ends, -ends, points))
    return law.ppf(probabilities), cells.quantile(probabilities)


def vuong_p_value(cells: Cells, first: Law, second: Law) -> float:
    """Two-sided p-value of Vuong's test that two laws are equally near the truth.

    For laws neither of which contains the other; samples taken as independent.

    References
    ----------
    Vuong, Econometrica 57(2), 1989, theorem 5.1.
    """
    difference = first.logpdf(cells.mean) - second.logpdf(cells.mean)
    weight = cells.count / cells.total
    mean = float(weight @ difference)
    variance = float(weight @ (difference - mean) ** 2)
    if variance <= 0:
        return 1.0
    return float(2 * special.ndtr(-abs(mean) * math.sqrt(cells.total / variance)))
