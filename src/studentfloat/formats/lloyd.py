"""Codebooks that minimize squared error: Lloyd-Max, block-optimal, power density."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError
from studentfloat.formats.format import Format
from studentfloat.formats.measures import (
    Distribution,
    Floats,
    Measure,
    Source,
    as_distribution,
    as_measure,
    density_function,
)
from studentfloat.formats.quantiles import tail_probability

__all__ = ["block_optimal", "lloyd_max", "power_density"]

_MOST_ITERATIONS = 20_000
_TOLERANCE = 1e-11
_BLOCK_CELLS = 4096
_BLOCK_MAXIMA = 801
_LEAST_POSITIVE = 1e-300


def lloyd_max(
    source: Source,
    bits: int,
    *,
    weights: npt.ArrayLike | None = None,
    pinned: Sequence[float] = (),
    name: str = "lloyd",
) -> Format:
    """The codebook of least expected squared error for a law, a histogram or samples.

    Parameters
    ----------
    source
        A frozen ``scipy.stats`` distribution; a histogram ``(counts, edges)``;
        or samples of any shape.
    bits
        2 to 8.
    weights
        One weight per sample (activation energy, say).
    pinned
        Levels that stay where they are, such as ``(-1, 0, 1)``.

    Raises
    ------
    FormatError
        If the law has no variance (Student's t with ν ≤ 2), there are fewer distinct
        samples than levels, or pinned values lie outside what the samples span.

    References
    ----------
    Lloyd, IEEE Trans. Inf. Theory 28(2), 1982; Max, IRE Trans. Inf. Theory 6(1), 1960.

    Examples
    --------
    Max's table for the normal law, 2 bits: ±0.4528 and ±1.510.

    >>> from scipy.stats import norm
    >>> [round(v, 4) for v in lloyd_max(norm(), 2).levels]
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    if isinstance(source, Distribution):
        _require_variance(source)
    levels = _lloyd(as_measure(source, weights), 2**bits, pinned)
    return Format.from_values(
        levels.tolist(),
        name=name,
        bits=bits,
        description="least squared error (Lloyd-Max)"
        + (f", pinned at {', '.join(f'{p:g}' for p in sorted(pinned))}" if pinned else ""),
        source="Lloyd 1982; Max 1960",
    )


def block_optimal(
    source: Source,
    bits: int = 4,
    block_size: int = 128,
    scale_rule: str = "absmax",
    *,
    name: str = "block-optimal",
) -> Format:
    """The codebook of least squared error after each block is scaled by its largest magnitude.

    A block of independent numbers of the given law is divided by its absmax M, rounded,
    and multiplied back, so an error at ``w = x / M`` weighs ``M**2``. Of the other
    ``B - 1`` numbers, given ``M = m``, each has the law truncated to ``[-m, m]``; the
    density that Lloyd's algorithm sees is therefore, with ``H(m) = P(|X| <= m)`` and
    ``h = H'``,

    .. math:: g(w) \\propto \\int H(m)^{B-2}\\, h(m)\\, m^3\\, f(m w)\\, dm .

    Parameters
    ----------
    source
        The law of a single number: a frozen ``scipy.stats`` distribution
        (``t(5)``, ``norm()``, ``laplace()``), a histogram ``(counts, edges)``, or samples.
        Its scale does not matter; its center does (weights have theirs near 0).
    bits
        2 to 8.
    block_size
        B, at least 2.
    scale_rule
        "absmax": both extremes are scaled to, so −1, 0 and 1 are levels.
        "signed-absmax": the largest magnitude becomes +1, so 0 and 1 are.
    name
        Of the format that comes out.

    Raises
    ------
    FormatError
        If the law has no variance (Student's t with ν ≤ 2), or for another scale rule.

    References
    ----------
    Blumenberg, Graichen and Fingscheidt, "Improving block-wise LLM quantization by 4-bit
    block-wise optimal float (BOF4)", arXiv 2505.06653, do this for the normal law.
    """
    if scale_rule not in _PINNED_BY_RULE:
        raise FormatError(
            f"block_optimal knows no scale rule {scale_rule!r}: "
            f"one of {', '.join(map(repr, _PINNED_BY_RULE))}"
        )
    _require_block_size("block_optimal", block_size)
    law = as_distribution(source)
    _require_variance(law)
    measure = _block_measure(law, block_size, signed=scale_rule != "absmax")
    levels = _lloyd(measure, 2**bits, _PINNED_BY_RULE[scale_rule])
    return Format.from_values(
        levels.tolist(),
        name=name,
        bits=bits,
        description=f"least squared error of blocks of {block_size} under {scale_rule}",
        source="arXiv 2505.06653, for any law",
    )


_PINNED_BY_RULE: dict[str, tuple[float, ...]] = {
    "absmax": (-1.0, 0.0, 1.0),
    "signed-absmax": (0.0, 1.0),
}


def power_density(
    source: Source,
    bits: int = 4,
    *,
    exponent: float = 1 / 3,
    block_size: int | None = None,
    zero: bool = True,
    name: str = "power-density",
) -> Format:
    """Levels whose density is proportional to a power of the law's density.

    With the exponent 1/3 this is the high-resolution optimum for squared error; 1 gives
    quantiles. Scaled so that the greatest magnitude is 1.

    Parameters
    ----------
    source
        A frozen ``scipy.stats`` distribution or a histogram ``(counts, edges)``.
    bits
        2 to 8.
    exponent
        Above 0.
    block_size
        None: levels reach as far out as :func:`tail_probability` says. A number: the
        law is cut at the expected absmax of such a block, and the extremes lie on the cut.
    zero
        As in :func:`quantile_format`.

    References
    ----------
    Panter and Dite, Proc. IRE 39(1), 1951; Orr et al., "Optimal formats for weight
    quantisation", arXiv 2505.12988.
    """
    if not exponent > 0:
        raise FormatError(f"exponent {exponent}: a number above 0")
    if block_size is not None:
        _require_block_size("power_density", block_size)
    if not isinstance(source, (Distribution, tuple)):
        raise FormatError("power_density needs a law or a histogram, not samples")
    law, measure = as_distribution(source), as_measure(source)
    _require_convergence(measure, exponent)
    if block_size is None:
        powered, tail = measure.powered(exponent), tail_probability(bits)
    else:
        reach = expected_absmax(law, block_size)
        edges = np.linspace(-reach, reach, 2**15 + 1)
        middle = (edges[:-1] + edges[1:]) / 2
        masses = density_function(law)(middle) ** exponent * np.diff(edges)
        powered, tail = Measure.of_cells(edges, masses), 0.0
    half = 2 ** (bits - 1)
    if zero:
        center = float(np.interp(0.0, powered.edges, powered.mass) / powered.mass[-1])
        lower = np.linspace(tail, center, half)
        shares = np.concatenate([lower, np.linspace(center, 1 - tail, half + 1)[1:]])
    else:
        shares = np.linspace(tail, 1 - tail, 2 * half)
    levels = powered.quantile(shares)
    if zero:
        levels[half - 1] = 0.0
    return Format.from_values(
        (levels / np.abs(levels).max()).tolist(),
        name=name,
        bits=bits,
        description=f"levels as dense as the density to the power {exponent:.3g}"
        + (f", blocks of {block_size}" if block_size else ""),
        source="Panter and Dite 1951; arXiv 2505.12988",
    )


def expected_absmax(law: Distribution, block_size: int) -> float:
    """Mean of the largest magnitude among `block_size` independent numbers of the law."""
    probabilities, weights = np.polynomial.legendre.leggauss(400)
    # E[M] is the integral of M's quantile over u = 1 - s**4, which tames the heavy tail.
    s = (probabilities + 1) / 2
    magnitudes = _absolute_quantile(law, np.exp(np.log1p(-(s**4)) / block_size))
    return float(np.sum(weights / 2 * 4 * s**3 * magnitudes))


def _absolute_quantile(law: Distribution, shares: Floats) -> Floats:
    """Solve P(|X| <= m) = share for m, by bisection on all shares at once."""
    low = np.zeros_like(shares)
    tails = np.asarray(law.ppf(np.array([1e-15, 1 - 1e-15])), dtype=np.float64)
    high = np.full_like(shares, float(np.abs(tails).max()))
    for _ in range(80):
        middle = (low + high) / 2
        below = np.asarray(law.cdf(middle)) - np.asarray(law.cdf(-middle)) < shares
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _require_convergence(measure: Measure, exponent: float) -> None:
    """Refuse a tail so heavy that the density's power has no finite integral.

    The measure ends where 1e-13 of the mass is left. Where the powered density has as much
    in the last decade before that end as in the decade before, its integral diverges, or
    converges so slowly that the end chosen here would decide the result.
    """
    powered = measure.powered(exponent)
    reach = float(np.abs(measure.edges[[0, -1]]).max())

    def beyond(m: Measure, x: float) -> float:
        return float(1 - np.diff(m.up_to(np.array([-x, x]))[0])[0] / m.mass[-1])

    last = beyond(powered, reach / 10)
    before = beyond(powered, reach / 100) - last
    if last > 0.8 * before and beyond(measure, reach / 100) < 1e-3:
        raise FormatError(
            f"the law's tail is too heavy for the exponent {exponent:.3g}: "
            "its density to that power has no finite integral"
        )


def _block_measure(law: Distribution, block_size: int, *, signed: bool) -> Measure:
    """Error-weighted density of scaled numbers: see :func:`block_optimal`."""
    density = density_function(law)
    least, greatest = _range_of_maxima(law, block_size)
    log_m = np.linspace(np.log(least), np.log(greatest), _BLOCK_MAXIMA)
    m = np.exp(log_m)
    inside = np.asarray(law.cdf(m)) - np.asarray(law.cdf(-m))
    # In log m the integrand has one more power of m; the trapezoid rule is then exact to
    # rounding, since it vanishes smoothly at both ends.
    common = np.exp((block_size - 2) * np.log(np.maximum(inside, _LEAST_POSITIVE))) * m**4
    edges = np.linspace(-1.0, 1.0, _BLOCK_CELLS + 1)
    w = (edges[:-1] + edges[1:]) / 2
    positive, negative = common * density(m), common * density(-m)
    g = np.zeros_like(w)
    for k in range(_BLOCK_MAXIMA):
        f = density(m[k] * w)
        g += (
            (positive[k] * f + negative[k] * f[::-1])
            if signed
            else ((positive[k] + negative[k]) * f)
        )
    if not np.isfinite(g).all():
        raise FormatError("the law's density is not finite everywhere")
    return Measure.of_cells(edges, g / g.sum())


def _require_block_size(what: str, block_size: object) -> None:
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 2:
        raise FormatError(f"{what} needs a block size of 2 or more, not {block_size!r}")


def _require_variance(law: Distribution) -> None:
    """Refuse a law under which every codebook has an infinite squared error."""
    with np.errstate(all="ignore"):
        variance = float(law.var())
    if not np.isfinite(variance):
        raise FormatError(
            f"the law has no finite variance but {variance:g} (Student's t needs more than 2 "
            "degrees of freedom): no codebook has a finite squared error"
        )


def _range_of_maxima(law: Distribution, block_size: int) -> tuple[float, float]:
    shares = np.array([10.0 ** (-18 / block_size), 1 - 1e-15])
    least, greatest = _absolute_quantile(law, shares)
    support_end = float(np.abs(np.asarray(law.ppf(np.array([0.0, 1.0])))).max())
    return max(float(least), float(greatest) * 1e-6), (
        support_end if np.isfinite(support_end) else float(greatest)
    )


def _lloyd(measure: Measure, count: int, pinned: Sequence[float]) -> Floats:
    """Run Lloyd's algorithm from each way to spread the free levels between the pinned ones."""
    pins = np.array(sorted(set(map(float, pinned))))
    if pins.size >= count:
        raise FormatError(f"{pins.size} pinned levels leave none of {count} to fit")
    best: tuple[float, Floats] | None = None
    for start in _starts(measure, count, pins):
        levels = _iterate(measure, start, np.isin(start, pins))
        error = measure.squared_error(levels)
        if best is None or error < best[0] * (1 - 1e-9):
            best = (error, levels)
    assert best is not None
    if len(np.unique(best[1])) < count:
        raise FormatError(
            f"the samples have fewer than {count} different values where levels are free: "
            "use fewer bits"
        )
    return best[1]


def _starts(measure: Measure, count: int, pins: Floats) -> list[Floats]:
    """Starting codebooks: the free levels spread by mass over the gaps between the pins.

    Rounding leaves a choice of one level per gap; all choices next to the proportional
    one are tried, those with more positive levels first.
    """
    free = count - pins.size
    if pins.size == 0:
        return [_spread(measure, -np.inf, np.inf, free)]
    borders = np.concatenate([[-np.inf], pins, [np.inf]])
    gaps = list(pairwise(borders))
    masses = np.array([_gap_mass(measure, low, high) for low, high in gaps])
    if masses.sum() <= 0:
        raise FormatError("no mass lies between the pinned levels")
    ideal = masses / masses.sum() * free
    starts = []
    options = [range(max(0, int(i) - 1), int(i) + 3) if i > 0 else range(1) for i in ideal]
    for allocation in product(*(sorted(option) for option in options)):
        if sum(allocation) == free:
            parts = [
                _spread(measure, low, high, n)
                for (low, high), n in zip(gaps, allocation, strict=True)
            ]
            start = np.sort(np.concatenate([pins, *parts]))
            if len(np.unique(start)) == count:
                starts.append(start)
    if not starts:
        raise FormatError(
            f"the samples do not hold {count} different levels beside the pinned ones: "
            "use fewer bits"
        )
    return starts


def _gap_mass(measure: Measure, low: float, high: float) -> float:
    """Cube-root share of the mass in a gap, which is how optimal levels spread."""
    powered = _cube_root(measure)
    return float(np.diff(powered.up_to(np.array([low, high]))[0])[0])


def _cube_root(measure: Measure) -> Measure:
    return measure.powered(1 / 3) if measure.continuous else measure


def _spread(measure: Measure, low: float, high: float, n: int) -> Floats:
    powered = _cube_root(measure)
    below, up_to = powered.up_to(np.array([low, high]))[0]
    shares = below + (np.arange(n) + 0.5) / max(n, 1) * (up_to - below)
    if powered.continuous:
        return np.asarray(np.interp(shares, powered.mass, powered.edges))
    index = np.searchsorted(powered.mass, shares, side="left")
    return np.asarray(powered.edges[np.clip(index, 1, len(powered.edges) - 1)])


def _iterate(measure: Measure, start: Floats, fixed: npt.NDArray[np.bool_]) -> Floats:
    levels = start.copy()
    span = float(levels[-1] - levels[0]) or 1.0
    for _ in range(_MOST_ITERATIONS):
        mass, moment = measure.cell_sums((levels[:-1] + levels[1:]) / 2)
        movable = ~fixed & (mass > 0)
        centroids = np.where(movable, moment / np.where(mass > 0, mass, 1.0), levels)
        shift = float(np.abs(centroids - levels).max())
        levels = np.sort(centroids)
        if shift <= _TOLERANCE * span:
            break
    return levels
