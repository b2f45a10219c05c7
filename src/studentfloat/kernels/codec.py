"""Numbers to packed codes and back, at the speed of memory.

What is meant by it is said in ``studentfloat.quantize``, whose torch path these are equal to,
bit for bit; that is also where they are called from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from studentfloat.kernels.arrays import Array, address, default_threads, dtype_name, empty_like
from studentfloat.kernels.dispatch import native

__all__ = ["SCALE_TYPES", "CodeBook", "Encoded", "ScaleRule", "decode", "encode"]

SCALE_TYPES = ("float32", "bfloat16", "float16")
_MOST_LEVELS = 16
# Numbers that are worth waking a thread for.
_PER_THREAD = 1 << 15


class ScaleRule(IntEnum):
    """How a block's greatest and least number (no less and no greater than 0) make its scale."""

    ABSMAX = 0  # the larger of greatest / maximum and least / minimum
    MAGNITUDE = 1  # the larger magnitude / maximum, rounded to nearest
    SIGNED_PEAK = 2  # the one of larger magnitude / peak


@dataclass(frozen=True, eq=False)
class CodeBook:
    """A format as the kernels see it: at most 16 levels.

    Attributes
    ----------
    bits
        Of a code, at most 4.
    thresholds
        float32: a number takes the level that has as many of them below it.
    level_codes
        uint8: the code of each level.
    maximum, minimum, peak
        The extremes, and the one that :attr:`ScaleRule.SIGNED_PEAK` divides by.
    """

    bits: int
    thresholds: npt.NDArray[np.float32]
    level_codes: npt.NDArray[np.uint8]
    maximum: float
    minimum: float
    peak: float

    @property
    def fits(self) -> bool:
        """Whether the kernels can take it."""
        return self.bits <= 4 and len(self.level_codes) <= _MOST_LEVELS


class Encoded(NamedTuple):
    """Packed codes, uint8 ``(rows, bytes)``, and scales, float32 ``(rows, blocks)``."""

    packed: Array
    scales: Array


def encode(
    numbers: Array,
    book: CodeBook,
    *,
    rule: ScaleRule,
    scale_type: str,
    rounds_away: bool,
    block_size: int,
    threads: int | None = None,
) -> Encoded | None:
    """Scale and round a float32 matrix, contiguous and in main memory, block by block.

    Returns
    -------
    Encoded or None
        None where numbers or scales are not finite: the caller says which and why.
    """
    module = native()
    assert module is not None
    rows, columns = numbers.shape
    block_size = min(block_size, columns)
    packed = empty_like(numbers, (rows, -(-columns * book.bits // 8)), "uint8")
    scales = empty_like(numbers, (rows, -(-columns // block_size)), "float32")
    finite = module.encode(
        book.thresholds.ctypes.data,
        book.level_codes.ctypes.data,
        len(book.level_codes),
        book.bits,
        int(rule),
        book.maximum,
        book.minimum,
        book.peak,
        SCALE_TYPES.index(scale_type),
        rounds_away,
        address(numbers, "the matrix"),
        rows,
        columns,
        block_size,
        address(packed, "packed codes"),
        address(scales, "scales"),
        _threads(threads, rows * columns),
    )
    if not finite or not np.isfinite(np.asarray(scales)).all():
        return None
    return Encoded(packed, scales)


def decode(
    packed: Array,
    scales: Array,
    table: npt.NDArray[np.float32],
    out: Array,
    *,
    bits: int,
    block_size: int,
    threads: int | None = None,
) -> None:
    """Value times scale in float32, rounded to nearest even where `out` is of a short type.

    Parameters
    ----------
    packed
        uint8, of shape ``(rows, ceil(columns * bits / 8))``.
    scales
        float32, of shape ``(rows, ceil(columns / block_size))``.
    table
        float32, of shape ``(16,)``: the value of each code.
    out
        float32, bfloat16 or float16, of shape ``(rows, columns)``. All are contiguous and in
        main memory.
    """
    module = native()
    assert module is not None
    rows, columns = out.shape
    module.decode(
        address(packed, "packed codes"),
        address(scales, "scales"),
        table.ctypes.data,
        bits,
        rows,
        columns,
        min(block_size, columns),
        SCALE_TYPES.index(dtype_name(out)),
        address(out, "the output"),
        _threads(threads, rows * columns),
    )


def _threads(asked: int | None, numbers: int) -> int:
    return max(1, min(default_threads() if asked is None else asked, numbers // _PER_THREAD))
