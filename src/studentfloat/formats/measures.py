"""What a codebook is fitted to: a law, a histogram or samples, seen as one measure on the line.

Lloyd's algorithm asks a distribution for two things only: the mass and the first moment
of an interval. A :class:`Measure` answers both from cumulative sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError

__all__ = ["Distribution", "Measure", "Source", "as_distribution", "as_measure"]

Floats: TypeAlias = npt.NDArray[np.float64]

_CELLS = 2**15
_TAIL = 1e-13
_MOST_SAMPLES_KEPT = 2**22
_BINS_OF_SAMPLES = 2**14


@runtime_checkable
class Distribution(Protocol):
    """A continuous law: any frozen ``scipy.stats`` distribution is one."""

    def pdf(self, x: Any, /) -> Any: ...

    def cdf(self, x: Any, /) -> Any: ...

    def sf(self, x: Any, /) -> Any: ...

    def ppf(self, p: Any, /) -> Any: ...

    def isf(self, p: Any, /) -> Any: ...

    def var(self) -> Any: ...


Source: TypeAlias = "Distribution | tuple[npt.ArrayLike, npt.ArrayLike] | npt.ArrayLike"
"""A distribution, a histogram ``(counts, edges)`` as of ``numpy.histogram``, or samples."""


@dataclass(frozen=True)
class Measure:
    """Mass on the line, as cells of constant density or as points.

    Attributes
    ----------
    edges
        Shape ``(n + 1,)``, ascending: the borders of the cells. For points,
        the n points themselves, preceded by minus infinity.
    mass, moment
        Shape ``(n + 1,)``: mass and first moment up to each edge, inclusive.
    second_moment
        Second moment of the whole.
    continuous
        Whether mass spreads evenly within a cell (else it sits on the points).
    """

    edges: Floats
    mass: Floats
    moment: Floats
    second_moment: float
    continuous: bool

    @classmethod
    def of_cells(cls, edges: Floats, masses: Floats) -> Measure:
        """Cells of constant density: `edges` of shape (n+1,), `masses` of shape (n,)."""
        widths_ok = np.all(np.diff(edges) > 0)
        if not widths_ok or np.any(masses < 0) or not np.isfinite(masses).all():
            raise FormatError("a histogram has ascending edges and counts that are not negative")
        if masses.sum() <= 0:
            raise FormatError("a histogram without counts has no codebook")
        left, right = edges[:-1], edges[1:]
        second = float(np.sum(masses * (left**2 + left * right + right**2) / 3))
        return cls(
            edges=edges,
            mass=np.concatenate([[0.0], np.cumsum(masses)]),
            moment=np.concatenate([[0.0], np.cumsum(masses * (left + right) / 2)]),
            second_moment=second,
            continuous=True,
        )

    @classmethod
    def of_points(cls, points: Floats, weights: Floats | None = None) -> Measure:
        """Points with weights (1 each by default), in any order."""
        x = np.asarray(points, dtype=np.float64).ravel()
        w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
        if w.shape != x.shape:
            raise FormatError(f"{x.size} samples but {w.size} weights: give one weight per sample")
        if x.size == 0:
            raise FormatError("no samples: a codebook needs at least two different ones")
        bad = np.count_nonzero(~np.isfinite(x)) + np.count_nonzero(~np.isfinite(w) | (w < 0))
        if bad:
            raise FormatError(
                f"{bad} samples or weights are NaN, infinite or negative weights: remove them"
            )
        order = np.argsort(x, kind="stable")
        x, w = x[order], w[order]
        if w.sum() <= 0:
            raise FormatError("all weights are zero: a codebook needs some weight")
        return cls(
            edges=np.concatenate([[-np.inf], x]),
            mass=np.concatenate([[0.0], np.cumsum(w)]),
            moment=np.concatenate([[0.0], np.cumsum(w * x)]),
            second_moment=float(np.sum(w * x**2)),
            continuous=False,
        )

    @property
    def low(self) -> float:
        """Where mass begins."""
        return float(self.edges[0] if self.continuous else self.edges[1])

    @property
    def high(self) -> float:
        """Where mass ends."""
        return float(self.edges[-1])

    def up_to(self, positions: Floats) -> tuple[Floats, Floats]:
        """Mass and first moment at or below each position, each of the shape of `positions`."""
        index = np.searchsorted(self.edges, positions, side="right") - 1
        index = np.clip(index, 0, len(self.edges) - 1)
        mass, moment = self.mass[index], self.moment[index]
        if self.continuous:
            inside = (index < len(self.edges) - 1) & (positions > self.edges[0])
            cell = np.minimum(index, len(self.edges) - 2)
            left, right = self.edges[cell], self.edges[cell + 1]
            density = (self.mass[cell + 1] - self.mass[cell]) / (right - left)
            reach = np.where(inside, positions - left, 0.0)
            mass = mass + density * reach
            moment = moment + density * reach * (left + reach / 2)
        return mass, moment

    def cell_sums(self, boundaries: Floats) -> tuple[Floats, Floats]:
        """Mass and first moment between boundaries, each of shape ``(len(boundaries) + 1,)``."""
        mass, moment = self.up_to(boundaries)
        return (
            np.diff(np.concatenate([[0.0], mass, [self.mass[-1]]])),
            np.diff(np.concatenate([[0.0], moment, [self.moment[-1]]])),
        )

    def squared_error(self, levels: Floats) -> float:
        """Total squared error when each number takes its nearest level (ascending)."""
        mass, moment = self.cell_sums((levels[:-1] + levels[1:]) / 2)
        return float(self.second_moment + np.sum(levels * (levels * mass - 2 * moment)))

    def powered(self, exponent: float) -> Measure:
        """The measure whose density is this one's density to a power (cells only)."""
        if not self.continuous:
            raise FormatError("a power of a density needs a law or a histogram, not samples")
        widths = np.diff(self.edges)
        return Measure.of_cells(self.edges, (np.diff(self.mass) / widths) ** exponent * widths)

    def quantile(self, probabilities: Floats) -> Floats:
        """Where the given shares of the mass are reached (cells only)."""
        return np.asarray(np.interp(probabilities * self.mass[-1], self.mass, self.edges))


def as_measure(source: Source, weights: npt.ArrayLike | None = None) -> Measure:
    """See a distribution, a histogram or samples as a measure.

    Parameters
    ----------
    source
        A frozen ``scipy.stats`` distribution, ``(counts, edges)``, or samples of any shape.
    weights
        One weight per sample; only for samples.
    """
    if isinstance(source, Distribution):
        if weights is not None:
            raise FormatError("weights go with samples, not with a distribution")
        return measure_of_law(source)
    if isinstance(source, tuple):
        if weights is not None:
            raise FormatError("weights go with samples; a histogram's counts are its weights")
        counts, edges = (np.asarray(part, dtype=np.float64) for part in source)
        if counts.ndim != 1 or edges.shape != (counts.size + 1,):
            raise FormatError(
                f"a histogram is (counts, edges) with one edge more than counts, not "
                f"{counts.shape} and {edges.shape}"
            )
        return Measure.of_cells(edges, counts)
    samples = np.asarray(source, dtype=np.float64).ravel()
    weight_array = None if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    return Measure.of_points(samples, weight_array)


def measure_of_law(law: Distribution) -> Measure:
    """Cells that are finer where the law has its mass: evenly spaced in asinh."""
    low, high = float(law.ppf(_TAIL)), float(law.isf(_TAIL))
    quartiles = np.asarray(law.ppf([0.25, 0.5, 0.75]), dtype=np.float64)
    center, spread = float(quartiles[1]), float(quartiles[2] - quartiles[0])
    if not all(map(np.isfinite, (low, high, center, spread))) or spread <= 0:
        raise FormatError("the distribution has no finite quantiles that differ")
    ends = np.arcsinh((np.array([low, high]) - center) / spread)
    edges = center + spread * np.sinh(np.linspace(ends[0], ends[1], _CELLS + 1))
    # The survival function keeps its digits in the upper tail, the cdf in the lower.
    cdf, sf = np.asarray(law.cdf(edges)), np.asarray(law.sf(edges))
    masses = np.where(edges[:-1] > center, sf[:-1] - sf[1:], np.diff(cdf))
    return Measure.of_cells(edges, np.maximum(masses, 0.0))


def as_distribution(source: Source) -> Distribution:
    """See a distribution, a histogram or samples as a law with density and quantiles."""
    if isinstance(source, Distribution):
        return source
    from scipy.stats import rv_histogram

    if isinstance(source, tuple):
        measure = as_measure(source)
        return cast(
            Distribution, rv_histogram((np.diff(measure.mass), measure.edges), density=False)
        )
    samples = np.asarray(source, dtype=np.float64).ravel()
    Measure.of_points(samples[:_MOST_SAMPLES_KEPT])  # refuses NaN and emptiness with one voice
    if samples.min() == samples.max():
        raise FormatError(f"all samples equal {samples[0]:g}: a codebook needs different ones")
    spread = float(np.std(samples))
    ends = np.arcsinh(np.array([samples.min(), samples.max()]) / spread)
    edges = spread * np.sinh(np.linspace(ends[0], ends[1], _BINS_OF_SAMPLES + 1))
    edges[0], edges[-1] = samples.min(), np.nextafter(samples.max(), np.inf)
    counts, _ = np.histogram(samples, bins=edges)
    return cast(Distribution, rv_histogram((counts, edges), density=False))


def density_function(law: Distribution) -> Callable[[Floats], Floats]:
    """The law's density as a function on float64 arrays."""
    return lambda x: np.asarray(law.pdf(x), dtype=np.float64)
