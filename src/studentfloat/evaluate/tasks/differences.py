"""Which differences between formats on a task are real: tests on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.stats import binomtest, norm

from studentfloat.errors import DataError
from studentfloat.evaluate.bootstrap import holm, paired_differences
from studentfloat.records import PairedDifference, TaskScore

__all__ = ["paired_task_differences"]

_LEVEL = 0.05


def paired_task_differences(
    scores: Mapping[str, TaskScore], *, seed: int = 0
) -> tuple[PairedDifference, ...]:
    """Compare every pair of formats on the items of one task.

    Where items are right or wrong, by McNemar's exact test: among the items that just one of
    two formats gets right, each should have half if the formats were equal. Elsewhere by
    :func:`~studentfloat.evaluate.paired_differences` on the items' numbers.

    Parameters
    ----------
    scores
        Format name to its score; all of one task and measure, on the same items.
    seed
        Of the bootstrap's draws.

    Returns
    -------
    tuple of PairedDifference
        One per pair, in the order of `scores`: mean over items of first minus second, a 95 %
        interval, and a two-sided p-value, Holm-adjusted over all pairs. A difference of
        perplexities is one of their logarithms.

    Raises
    ------
    DataError
        If the scores are not of the same task, measure and items.

    References
    ----------
    McNemar, Psychometrika 12(2), 1947; Holm, Scand. J. Statist. 6(2), 1979. The interval:
    Agresti and Min, Statistics in Medicine 24(5), 2005, half an item added to each cell.
    """
    _check_same(scores)
    names = list(scores)
    if len(names) < 2 or len(scores[names[0]].items) < 2:
        return ()
    measure = f"{scores[names[0]].task} {scores[names[0]].metric}"
    if not all(item in (0.0, 1.0) for score in scores.values() for item in score.items):
        table = {name: score.items for name, score in scores.items()}
        return paired_differences(measure, table, seed=seed)
    right = {name: np.array(score.items, dtype=bool) for name, score in scores.items()}
    pairs = list(combinations(names, 2))
    tests = [_mcnemar(right[first], right[second]) for first, second in pairs]
    adjusted = holm([p for *_, p in tests])
    return tuple(
        PairedDifference(measure, first, second, mean, low, high, p, bool(p < _LEVEL))
        for (first, second), (mean, low, high, _), p in zip(pairs, tests, adjusted, strict=True)
    )


def _mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float, float]:
    """Difference of proportions, its 95 % interval, and the exact p-value of no difference."""
    count = len(first)
    gained = int(np.count_nonzero(first & ~second))
    lost = int(np.count_nonzero(second & ~first))
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    total = count + 2
    center = (gained - lost) / total
    spread = math.sqrt(max(0.0, (gained + lost + 1) - (gained - lost) ** 2 / total)) / total
    reach = float(norm.ppf(1 - _LEVEL / 2)) * spread
    low, high = max(-1.0, center - reach), min(1.0, center + reach)
    return (gained - lost) / count, low, high, float(p_value)


def _check_same(scores: Mapping[str, TaskScore]) -> None:
    asked = sorted({f"{score.task} {score.metric}" for score in scores.values()})
    if len(asked) > 1:
        raise DataError(f"scores of different measures cannot be paired: {', '.join(asked)}")
    items = sorted({f"{len(s.items)} ({s.data_sha256[:12]})" for s in scores.values()})
    if len(items) > 1:
        raise DataError(
            f"scores of {asked[0]} on different items cannot be paired: {', '.join(items)}"
        )
