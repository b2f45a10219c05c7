"""The nearest of a table of points, for many vectors at once."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.kernels.arrays import default_threads
from studentfloat.kernels.dispatch import native

__all__ = ["nearest_points", "reference_nearest_points"]

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

# Products that are worth waking a thread for.
_PER_THREAD = 1 << 20
_REFERENCE_SCORES = 1 << 22


def nearest_points(vectors: Floats, points: Floats, *, threads: int | None = None) -> Indices:
    """Index of the nearest point of each vector, the first of those that are as near.

    Nearest is the one with the largest ``x · p - |p|² / 2``, summed in float32 in the order of
    the coordinates and without fused operations, so that all instruction sets agree.

    Parameters
    ----------
    vectors
        float32, of shape ``(vectors, dimension)``, finite.
    points
        float32, of shape ``(points, dimension)``, finite.

    Returns
    -------
    ndarray
        int64, of shape ``(vectors,)``.
    """
    given, table = np.ascontiguousarray(vectors), np.ascontiguousarray(points)
    module = native()
    if module is None:
        return reference_nearest_points(given, table)
    halves = _half_squares(table)
    found = np.empty(len(given), dtype=np.int64)
    work = given.size * len(table) // _PER_THREAD
    module.nearest_points(
        given.ctypes.data,
        len(given),
        table.ctypes.data,
        halves.ctypes.data,
        len(table),
        table.shape[1],
        found.ctypes.data,
        max(1, min(default_threads() if threads is None else threads, work)),
    )
    return found


def reference_nearest_points(vectors: Floats, points: Floats) -> Indices:
    """:func:`nearest_points` in NumPy."""
    halves = _half_squares(points)
    found = np.empty(len(vectors), dtype=np.int64)
    step = max(1, _REFERENCE_SCORES // len(points))
    for first in range(0, len(vectors), step):
        part = vectors[first : first + step]
        score = part[:, :1] * points[:, 0]
        for axis in range(1, points.shape[1]):
            score += part[:, axis : axis + 1] * points[:, axis]
        found[first : first + step] = (score - halves).argmax(axis=1)
    return found


def _half_squares(points: Floats) -> Floats:
    halves: Floats = ((points.astype(np.float64) ** 2).sum(axis=1) / 2).astype(np.float32)
    return halves
