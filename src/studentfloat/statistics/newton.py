"""Newton's method for a likelihood of one to three parameters, safeguarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Maximum", "Objective", "maximize"]

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


def maximize(objective: Objective, start: npt.ArrayLike) -> Maximum:
    """Climb to a maximum.

    Parameters
    ----------
    objective
        Value, gradient and Hessian at once. Parameters are logarithms or in units of
        their own size, so that a step of 1 is a long one: no step is longer.
    start
        Shape ``(k,)``.
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
        if float(np.abs(step).max()) < _SMALLEST_STEP:
            break
    return Maximum(at, value, hessian)


def _uphill(gradient: Floats, hessian: Floats) -> Floats:
    """Newton's step; where the function curves the wrong way, along that axis, turned round."""
    eigenvalues, axes = np.linalg.eigh(hessian)
    floor = 1e-12 * max(float(np.abs(eigenvalues).max()), 1e-300)
    return np.asarray(axes @ ((axes.T @ gradient) / np.maximum(np.abs(eigenvalues), floor)))
