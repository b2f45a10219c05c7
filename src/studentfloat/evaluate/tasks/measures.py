"""A task's measures from what was found item by item, with standard errors in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from studentfloat.evaluate.bootstrap import mean_and_error

__all__ = ["measure"]


def measure(metric: str, found: Sequence[Any]) -> dict[str, Any]:
    """Value, standard error and numbers per item of a measure.

    Parameters
    ----------
    metric
        lm-evaluation-harness's name.
    found
        What its definition gives for each item: a number, or for a perplexity of texts the
        log-likelihood and the number of words or bytes.

    Returns
    -------
    dict
        ``value``; ``standard_error``, None for fewer than two items; ``items``, whose mean is
        the value, or its logarithm for a perplexity.

    Notes
    -----
    The harness draws 100,000 bootstrap samples for what is no mean, which takes minutes. A
    perplexity's error is that of its logarithm times itself (the delta method); the logarithm
    of a perplexity by words is a ratio of sums, whose error is that of the residuals (Cochran,
    Sampling Techniques, 1977, section 6.4).
    """
    if metric in _MEASURES:
        return _MEASURES[metric](found)
    return _mean(found)


def _mean(found: Sequence[float]) -> dict[str, Any]:
    value, error = mean_and_error(found)
    return _result(value, error, found)


def _perplexity(found: Sequence[float]) -> dict[str, Any]:
    losses = [-float(likelihood) for likelihood in found]
    mean, error = mean_and_error(losses)
    return _exponential(mean, error, losses)


def _ratio(found: Sequence[tuple[float, int]]) -> tuple[float, float | None, list[float]]:
    losses, sizes = np.array(found, dtype=np.float64).T
    losses = -losses
    count, mean_size = len(losses), sizes.mean()
    ratio = float(losses.sum() / sizes.sum())
    residuals = losses - ratio * sizes
    error = None
    if count > 1:
        error = float(math.sqrt(np.sum(residuals**2) / (count * (count - 1))) / mean_size)
    return ratio, error, [float(loss / mean_size) for loss in losses]


def _ratio_perplexity(found: Sequence[tuple[float, int]]) -> dict[str, Any]:
    return _exponential(*_ratio(found))


def _bits(found: Sequence[tuple[float, int]]) -> dict[str, Any]:
    ratio, error, items = _ratio(found)
    per_bit = 1 / math.log(2)
    scaled = None if error is None else error * per_bit
    return _result(ratio * per_bit, scaled, [item * per_bit for item in items])


def _exponential(mean: float, error: float | None, items: Sequence[float]) -> dict[str, Any]:
    # A model that knows nothing may be past what a float holds: infinity, not an exception.
    value = math.exp(mean) if mean < 700 else math.inf
    return _result(value, None if error is None else value * error, items)


def _result(value: float, error: float | None, items: Sequence[float]) -> dict[str, Any]:
    return {
        "value": float(value),
        "standard_error": error,
        "items": tuple(float(item) for item in items),
    }


_MEASURES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "perplexity": _perplexity,
    "word_perplexity": _ratio_perplexity,
    "byte_perplexity": _ratio_perplexity,
    "bits_per_byte": _bits,
}
