"""Newton's method for a likelihood of one to three parameters, safeguarded; two simple searches.

``scipy.optimize`` has all of these, and takes longer to import than a model's worth of fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Maximum", "Objective", "bisect", "golden_section", "maximize"]

Floats: TypeAlias = npt.NDArray[np.float64]

Objective: TypeAlias = Callable[[Floats], tuple[float, Floats, Floats]]
"""Parameters of shape ``(k,)`` to value, gradient ``(k,)`` and Hessian ``(k, k)``."""

_LONGEST_STEP = 1.0
_SMALLEST_STEP = 1e-10
_MOST_STEPS = 1000
_MOST_HALVINGS = 30


class Maximum(NamedTuple):
    """Where a function is greatest, its value and its Hessian there."""

    at: Floats
    value: float
    hessian: Floats


def maximize(
    objective: Objective, start: npt.ArrayLike, stop: Callable[[Floats], bool] = lambda at: False
) -> Maximum:
    """Climb to a maximum.

    Parameters
    ----------
    objective
        Value, gradient and Hessian at once. Parameters are logarithms or in units of
        their own size, so that a step of 1 is a long one: no step is longer.
    start
        Shape ``(k,)``.
    stop
        Asked at each step; where it is true the climb ends, there and then.
    """
    at = np.array(start, dtype=np.float64)
    value, gradient, hessian = objective(at)
    for _ in range(_MOST_STEPS):
        step = _uphill(gradient, hessian)
        step *= min(1.0, _LONGEST_STEP / max(float(np.abs(step).max()), 1e-300))
        for _ in range(_MOST_HALVINGS):
            following = objective(at + step)
            # Near the top the values agree to rounding: a step that small is taken as it is.
            if following[0] >= value - 1e-14 * (1 + abs(value)):
                break
            step /= 2
        else:
            break
        at = at + step
        value, gradient, hessian = following
        if float(np.abs(step).max()) < _SMALLEST_STEP or stop(at):
            break
    return Maximum(at, value, hessian)


def _uphill(gradient: Floats, hessian: Floats) -> Floats:
    """Newton's step; where the function curves the wrong way, along that axis, turned round."""
    eigenvalues, axes = np.linalg.eigh(hessian)
    floor = 1e-12 * max(float(np.abs(eigenvalues).max()), 1e-300)
    return np.asarray(axes @ ((axes.T @ gradient) / np.maximum(np.abs(eigenvalues), floor)))


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function changes its sign between `low` and `high`, to 1e-6."""
    rising = function(high) > 0
    while abs(high - low) > 1e-6:
        middle = (low + high) / 2
        if (function(middle) > 0) == rising:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def golden_section(
    function: Callable[[float], float], low: float, high: float, tolerance: float
) -> float:
    """Where a function with one maximum between `low` and `high` has it.

    References
    ----------
    Kiefer, Proc. AMS 4(3), 1953.
    """
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
