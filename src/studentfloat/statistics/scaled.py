"""Sketches of what a quantizer sees: numbers over the scale of their block or row."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.statistics.sketch import Sketch

__all__ = ["sketch_blocks", "sketch_rows"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_AT_ONCE = 1 << 20


def sketch_blocks(matrix: Floats, block_size: int) -> Sketch:
    """Numbers over the largest magnitude of their block, without that largest one.

    The largest becomes 1 or -1 by construction and says nothing about the law of the
    others. A last block shorter than the rest is a block of its own; blocks of zeros and
    blocks that are not finite are left out.

    Parameters
    ----------
    matrix
        Of shape ``(rows, row_length)``; blocks run along a row.
    block_size
        2 or more.
    """
    sketch = Sketch()
    length = matrix.shape[1]
    whole = length - length % block_size
    for rows in _chunks(matrix):
        if whole:
            _add_scaled(sketch, rows[:, :whole].reshape(-1, block_size))
        if length - whole > 1:
            _add_scaled(sketch, rows[:, whole:])
    return sketch


def sketch_rows(matrix: Floats) -> Sketch:
    """Numbers over the root mean square of their row (an output channel of a weight).

    Rows of zeros and rows that are not finite are left out.
    """
    sketch = Sketch()
    for rows in _chunks(matrix):
        wide = rows.astype(np.float64)
        with np.errstate(over="ignore"):
            scale = np.sqrt(np.mean(wide**2, axis=1))
        sound = np.isfinite(scale) & (scale > 0)
        sketch.update((wide[sound] / scale[sound, None]).astype(np.float32))
    return sketch


def _chunks(matrix: Floats) -> list[Floats]:
    """Rows a million numbers at a time, so that no copy is as large as the tensor."""
    step = max(1, _AT_ONCE // max(1, matrix.shape[1]))
    return [matrix[start : start + step] for start in range(0, len(matrix), step)]


def _add_scaled(sketch: Sketch, blocks: Floats) -> None:
    magnitude = np.abs(blocks)
    at = magnitude.argmax(axis=1)
    largest = magnitude[np.arange(len(blocks)), at]
    sound = np.isfinite(largest) & (largest > 0)
    others = np.ones(blocks.shape, dtype=bool)
    others[np.arange(len(blocks)), at] = False
    scaled = blocks[sound] / largest[sound, None]
    sketch.update(scaled[others[sound]])
