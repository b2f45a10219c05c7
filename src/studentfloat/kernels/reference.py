"""The kernels once more in NumPy, as plainly as they can be said; the tests hold them together.

Also what runs where there are no compiled kernels.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "ACTIVATION_BLOCK",
    "dequantize",
    "look_up",
    "matmul_int8",
    "pack",
    "round_activations",
    "sparse_product",
    "unpack",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

ACTIVATION_BLOCK = 128  # most activations that share a scale in int8 mode


def unpack(packed: Bytes, bits: int, columns: int) -> Bytes:
    """Codes of shape ``(rows, columns)``: a row's bytes are one number, low code first."""
    ones = np.unpackbits(packed, axis=1, bitorder="little")[:, : columns * bits]
    weights = (1 << np.arange(bits)).astype(np.uint8)
    codes: Bytes = (ones.reshape(len(packed), columns, bits) * weights).sum(axis=2, dtype=np.uint8)
    return codes


def pack(codes: Bytes, bits: int) -> Bytes:
    """Undo :func:`unpack`: rows padded to whole bytes with zeros."""
    ones = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(ones.reshape(len(codes), -1), axis=1, bitorder="little")


def dequantize(
    packed: Bytes,
    scales: Floats,
    table: Floats,
    *,
    bits: int,
    columns: int,
    block_size: int,
    selectors: Bytes | None = None,
) -> Floats:
    """Value times scale, float32, of shape ``(rows, columns)``.

    With selectors, one per scale, `table` has a row for each number that they may be.
    """
    per_column = np.repeat(scales, block_size, axis=1)[:, :columns]
    codes = unpack(packed, bits, columns)
    return look_up(codes, table, block_size, selectors) * per_column


def look_up(
    codes: Bytes, table: npt.NDArray[Any], block_size: int, selectors: Bytes | None
) -> npt.NDArray[Any]:
    """What codes stand for, in the table of their block."""
    if selectors is None:
        return table[codes]
    return table[np.repeat(selectors, block_size, axis=1)[:, : codes.shape[1]], codes]


def _segments(columns: int, block_size: int) -> list[slice]:
    """Columns whose activations share a scale: blocks, cut where they are longer than 128."""
    # Cuts come after whole groups of 8 columns, as the kernels' lines have them.
    return [
        slice(start, min(start + ACTIVATION_BLOCK, block + block_size, columns))
        for block in range(0, columns, block_size)
        for start in range(block, min(block + block_size, columns), ACTIVATION_BLOCK)
    ]


def round_activations(x: Floats, block_size: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Activations as integers of -127 to 127 and, for each, the step it counts.

    Both of the shape of `x`, ``(n, columns)``. Where a number is infinite or NaN, the steps
    of all that share its scale are NaN.
    """
    integers = np.zeros(x.shape, dtype=np.int8)
    steps = np.zeros_like(x)
    for part in _segments(x.shape[1], block_size):
        finite = np.isfinite(x[:, part]).all(axis=1, keepdims=True)
        numbers = np.where(finite, x[:, part], np.float32(0))
        peak = np.abs(numbers).max(axis=1, keepdims=True)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.float32(127) / peak
        # The inverse of a subnormal number may be infinite: such a segment counts as zero.
        inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))
        integers[:, part] = np.rint(numbers * inverse)
        steps[:, part] = np.where(finite, peak / np.float32(127), np.float32(np.nan))
    return integers, steps


def matmul_int8(
    x: Floats,
    codes: Bytes,
    scales: Floats,
    table: npt.NDArray[np.int8],
    *,
    step: float | Floats,
    block_size: int,
    selectors: Bytes | None = None,
) -> npt.NDArray[np.float64]:
    """``x @ W.T`` with activations and table in 8-bit integers, summed exactly (float64).

    With selectors, `table` and `step` have a row for each number that they may be.
    """
    integers, steps = round_activations(x, block_size)
    values = table.astype(np.float64) * np.asarray(step)[..., None]
    weights = look_up(codes, values, block_size, selectors)
    weights *= np.repeat(scales, block_size, axis=1)[:, : codes.shape[1]]
    product: npt.NDArray[np.float64] = (integers.astype(np.float64) * steps) @ weights.T
    return product


def sparse_product(
    x: Floats,
    positions: npt.NDArray[np.integer],
    values: Floats,
    shape: tuple[int, int],
    *,
    transposed: bool = False,
) -> Floats:
    """``x @ D.T``, or ``x @ D``, for the D of that shape with `values` at flat positions."""
    row, column = np.divmod(positions, shape[1])
    from_, to = (row, column) if transposed else (column, row)
    product = np.zeros((shape[1 if transposed else 0], len(x)), dtype=np.float32)
    for i, numbers in enumerate(x):
        np.add.at(product[:, i], to, values * numbers[from_])
    return product.T
