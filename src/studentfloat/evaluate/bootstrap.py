"""Which differences between formats are real: a paired bootstrap over windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from studentfloat.errors import DataError
from studentfloat.records import PairedDifference
from studentfloat.records.metrics import mean_and_error
from studentfloat.records.pareto import ranks

__all__ = ["holm", "mean_and_error", "paired_differences", "ranks"]

_LEAST_RESAMPLES = 20_000
_RESAMPLES_PER_PAIR = 60
_LEVEL = 0.05
# Beyond this a draw's own error is nothing but rounding: it held one window only.
_FARTHEST = 1e6
# Numbers held at a time: thousands of items need their draws in parts.
_MOST_SHARES = 1 << 24

Floats = npt.NDArray[np.float64]


def paired_differences(
    measure: str,
    scores: Mapping[str, Sequence[float]],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
) -> tuple[PairedDifference, ...]:
    """Compare pairs of formats on the same windows, by a studentized paired bootstrap.

    For each pair the differences by window are drawn with replacement, and the mean of a draw,
    less the mean that was measured, is set in relation to the draw's own standard error. How
    often that exceeds what was measured is the p-value. (The plain percentile bootstrap is far
    too sure of itself with a dozen windows.) P-values are two-sided and Holm-adjusted over all
    these pairs, so that a table without any real difference shows one at most about once in 20.

    Parameters
    ----------
    measure
        Its name.
    scores
        Format name to one score per window, the windows in the same order for all; of several
        texts one after the other.
    pairs
        Names to compare with each other; by default all pairs.
    seed
        Of the draws.

    Returns
    -------
    tuple of PairedDifference
        One per pair; empty for fewer than two windows, of which nothing can be said.

    Raises
    ------
    DataError
        If the formats do not have the same windows.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 12.5 and 16.4;
    Holm, Scand. J. Statist. 6(2), 1979.
    """
    names = list(scores)
    counts = {len(scores[name]) for name in names}
    if len(counts) > 1:
        raise DataError(f"formats were scored on different numbers of windows: {sorted(counts)}")
    windows = counts.pop() if counts else 0
    chosen = list(combinations(names, 2)) if pairs is None else list(pairs)
    if windows < 2 or not chosen:
        return ()
    table = {name: np.array(scores[name], dtype=np.float64) for name in names}
    differences = np.stack([table[first] - table[second] for first, second in chosen])
    # Holm divides 5 % by the number of pairs: the least p-value must lie well below that.
    resamples = max(_LEAST_RESAMPLES, _RESAMPLES_PER_PAIR * len(chosen))
    ratios = np.empty((len(chosen), resamples))
    for part, draws in _draws(windows, resamples, seed):
        for row, difference in zip(ratios, differences, strict=True):
            row[part] = _studentized(difference, draws)
    tests = [_test(*both) for both in zip(differences, ratios, strict=True)]
    adjusted = holm([p for *_, p in tests])
    return tuple(
        PairedDifference(
            measure=measure,
            first=first,
            second=second,
            difference=mean,
            low=mean - reach,
            high=mean + reach,
            p_value=p_value,
            significant=bool(p_value < _LEVEL),
        )
        for (first, second), (mean, reach, _), p_value in zip(chosen, tests, adjusted, strict=True)
    )


def _draws(windows: int, resamples: int, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Shares of each window in each draw, of shape ``(draws, windows)``, some draws at a time."""
    rng = np.random.default_rng(seed)
    size = max(1, _MOST_SHARES // windows)
    even = np.full(windows, 1 / windows)
    for start in range(0, resamples, size):
        stop = min(start + size, resamples)
        yield slice(start, stop), rng.multinomial(windows, even, size=stop - start) / windows


def _studentized(difference: Floats, draws: Floats) -> Floats:
    """How far each draw's mean is from the measured one, in units of the draw's own error.

    `difference` has shape ``(windows,)``, `draws` shape ``(draws, windows)``, rows summing to
    one.
    """
    centered = difference - difference.mean()
    shift = draws @ centered
    variance = np.maximum(draws @ centered**2 - shift**2, 0.0)
    floor = _least_error(difference)
    with np.errstate(over="ignore"):  # a draw of one window alone: infinitely far off
        ratio: Floats = np.abs(shift) / np.maximum(np.sqrt(variance / (len(difference) - 1)), floor)
    return ratio


def _least_error(difference: Floats) -> float:
    """A difference that is the same in every window has no error; it is no less real for that."""
    return float(1e-12 * max(abs(difference.mean()), np.finfo(np.float64).tiny))


def _test(difference: Floats, ratio: Floats) -> tuple[float, float, float]:
    """Mean difference, half-width of its 95 % interval, and p-value of no difference."""
    mean = float(difference.mean())
    error = float(np.sqrt(np.mean((difference - mean) ** 2) / (len(difference) - 1)))
    floor = _least_error(difference)
    measured = abs(mean) / max(error, floor)
    p_value = (int(np.count_nonzero(ratio >= measured)) + 1) / (len(ratio) + 1)
    finite = np.where(ratio < _FARTHEST, ratio, 0.0).max()
    bound = min(float(np.quantile(ratio, 1 - _LEVEL, method="higher")), float(finite))
    reach = error * bound if error > floor else 0.0
    return mean, reach, 1.0 if mean == 0 else p_value


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(order):
        running = max(running, (len(p_values) - step) * p_values[index])
        adjusted[index] = min(1.0, float(running))
    return adjusted
