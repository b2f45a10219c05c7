"""Which differences between formats are real: a paired bootstrap over windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from studentfloat.errors import DataError
from studentfloat.records import PairedDifference

__all__ = ["mean_and_error", "paired_differences", "ranks"]

_RESAMPLES = 20_000
_LEVEL = 0.05


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over windows and its standard error (None for fewer than two windows)."""
    array = np.asarray(values, dtype=np.float64)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None
    return float(array.mean()), error


def paired_differences(
    measure: str, scores: Mapping[str, Sequence[float]], *, seed: int = 0
) -> tuple[PairedDifference, ...]:
    """Compare every pair of formats on the same windows.

    Windows are drawn with replacement, the same draw for all formats, and the difference
    of means is taken each time. P-values are two-sided and Holm-adjusted over all pairs,
    so that the chance of any false "significant" in the table is at most 5 %, as far as
    the windows are a fair sample.

    Parameters
    ----------
    measure
        Its name.
    scores
        Format name to one score per window, the windows in the same order for all.
    seed
        Of the draws.

    Raises
    ------
    DataError
        If the formats do not have the same windows.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16;
    Holm, Scand. J. Statist. 6(2), 1979.
    """
    names = list(scores)
    counts = {len(scores[name]) for name in names}
    if len(counts) > 1:
        raise DataError(f"formats were scored on different numbers of windows: {sorted(counts)}")
    windows = counts.pop() if counts else 0
    if windows < 2 or len(names) < 2:
        return ()
    table = np.array([scores[name] for name in names], dtype=np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(windows, np.full(windows, 1 / windows), size=_RESAMPLES) / windows
    pairs = list(combinations(range(len(names)), 2))
    means = draws @ table.T
    found: list[tuple[float, float, float, float]] = []
    for i, j in pairs:
        difference = means[:, i] - means[:, j]
        low, high = np.quantile(difference, [_LEVEL / 2, 1 - _LEVEL / 2])
        tail = min(np.count_nonzero(difference <= 0), np.count_nonzero(difference >= 0))
        p_value = min(1.0, 2 * (int(tail) + 1) / (_RESAMPLES + 1))
        found.append((float(table[i].mean() - table[j].mean()), float(low), float(high), p_value))
    adjusted = _holm([p for *_, p in found])
    return tuple(
        PairedDifference(
            measure=measure,
            first=names[i],
            second=names[j],
            difference=difference,
            low=low,
            high=high,
            p_value=p_value,
            significant=bool(p_value < _LEVEL),
        )
        for (i, j), (difference, low, high, _), p_value in zip(pairs, found, adjusted, strict=True)
    )


def ranks(names: Sequence[str], differences: Sequence[PairedDifference]) -> dict[str, int]:
    """Rank where less is better: 1 + the number of formats that are significantly better."""
    rank = dict.fromkeys(names, 1)
    for pair in differences:
        if pair.significant:
            rank[pair.first if pair.difference > 0 else pair.second] += 1
    return rank


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(order):
        running = max(running, (len(p_values) - step) * p_values[index])
        adjusted[index] = min(1.0, float(running))
    return adjusted
