"""A quantized weight repacked for products: its codes by the kernel, its extras beside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from studentfloat.kernels import PackedMatrix
from studentfloat.kernels.corrections import Corrections, LowRankMatrix, SparseMatrix
from studentfloat.kernels.packed_matrix import Compute
from studentfloat.quantize.scheme import ROW
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.tensor import MOST_PACKED_BITS, QuantizedTensor, has_packed_matrix
from studentfloat.quantize.weight import LowRank, QuantizedWeight

__all__ = ["PackedWeight", "pack_weight", "why_not_packed"]

# Rows dequantized at a time to see what an outlier replaces.
_ROWS = 1024
_INTEGERS = np.arange(256, dtype=np.uint8).view(np.int8)


def why_not_packed(stored: StoredWeight) -> str | None:
    """Why :func:`pack_weight` does not take such weights; None where it does."""
    scheme = stored.scheme
    if stored.row_tables is not None:
        return "a table of values per row"
    if has_packed_matrix(scheme, stored.matrix_shape):
        return None
    if scheme.format.bits > MOST_PACKED_BITS:
        return f"codes of {scheme.format.bits} bits"
    return f"blocks of {scheme.block_size} along axis {scheme.axis}"


def pack_weight(weight: QuantizedWeight) -> PackedMatrix | PackedWeight:
    """Repack a weight on the CPU for products; input scales are left to whoever calls.

    Raises
    ------
    SchemeError
        As :meth:`~studentfloat.quantize.QuantizedTensor.packed_matrix` does.
    """
    if weight.low_rank is None and weight.outliers is None:
        return weight.base.packed_matrix()
    return PackedWeight(weight)


class PackedWeight:
    """Multiplies by ``base + left @ right`` with outliers put in place, as one matrix.

    The base's codes are repacked. Beside them are held, and not copied, the positions of
    outliers and low-rank factors in bfloat16 (or any floating-point type) or in int8 with a
    scale per row; quantized factors of other kinds are dequantized, once, to float32. New are
    4 bytes per outlier, for what its value differs by in float32 from what it replaces, and 8
    per row.

    Parameters
    ----------
    weight
        On the CPU; its input scale does not count.
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        self.matrix = weight.base.packed_matrix()
        low_rank = None if weight.low_rank is None else _low_rank(weight.low_rank)
        sparse = None
        if weight.outliers is not None:
            positions = weight.outliers.positions.contiguous()
            sparse = SparseMatrix(positions, _differences(weight), self.matrix.shape)
        self.corrections = Corrections(low_rank, sparse)

    def matmul(self, x: Tensor, *, compute: Compute | None = None) -> Tensor:
        """Multiply: ``x @ W.T``.

        Parameters
        ----------
        x
            float32 or bfloat16, of shape ``(..., in_features)``, on the CPU.
        compute
            Of the base's product, as for :meth:`PackedMatrix.matmul`; what is added to it is
            computed and summed up in float32.

        Returns
        -------
        Tensor
            Of shape ``(..., out_features)`` and the type of `x`, rounded to it once.
        """
        product: Tensor = self.matrix.matmul(x, compute=compute, corrections=self.corrections)
        return product

    def matmul_transposed(self, x: Tensor) -> Tensor:
        """Multiply by the transpose: ``x @ W``, of shape ``(..., in_features)``."""
        short = x.reshape(-1, x.shape[-1])
        rows, out = short.float().contiguous(), self.matrix.matmul_transposed(short).float()
        self.corrections.add_product_transposed(rows, out)
        product: Tensor = out.reshape(*x.shape[:-1], out.shape[-1]).to(x.dtype)
        return product

    def packed(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """The packed codes of the base."""
        return self.matrix.packed()


def _low_rank(low_rank: LowRank) -> LowRankMatrix:
    left, right = _factor(low_rank.left), _factor(low_rank.right)
    if (left[1] is None) != (right[1] is None):
        left, right = _dequantized(low_rank.left), _dequantized(low_rank.right)
    return LowRankMatrix(left[0], right[0], left[1], right[1])


def _factor(factor: Tensor | QuantizedTensor) -> tuple[Tensor, Tensor | None]:
    """Numbers of a factor, and what its rows are multiplied by."""
    if isinstance(factor, Tensor):
        return factor.contiguous(), None
    scheme = factor.scheme
    table = scheme.format.decode_table
    means_integers = len(table) == len(_INTEGERS) and np.array_equal(
        table[np.isfinite(table)], _INTEGERS[np.isfinite(table)]
    )
    if not means_integers or scheme.block_size != ROW or scheme.alternatives or scheme.axis != -1:
        return _dequantized(factor)
    # The codes are the numbers, in two's complement.
    return factor.packed.contiguous().view(torch.int8), factor.block_scales()[:, 0].contiguous()


def _dequantized(factor: Tensor | QuantizedTensor) -> tuple[Tensor, None]:
    if isinstance(factor, QuantizedTensor):
        return factor.dequantize(torch.float32).contiguous(), None
    return factor.float().contiguous(), None


def _differences(weight: QuantizedWeight) -> Tensor:
    """What each outlier's value differs by from what it replaces: float32."""
    assert weight.outliers is not None
    positions, width = weight.outliers.positions, weight.shape[-1]
    replaced = torch.empty(len(positions))
    for first, tile in _tiles(weight):
        begin, end = first * width, first * width + tile.numel()
        chosen = slice(*torch.searchsorted(positions, torch.tensor([begin, end])).tolist())
        replaced[chosen] = tile.reshape(-1)[positions[chosen].long() - begin]
    return weight.outliers.values.float() - replaced


def _tiles(weight: QuantizedWeight) -> Iterator[tuple[int, Tensor]]:
    """The first row of each tile of rows, and what is there without outliers: float32."""
    low_rank = None if weight.low_rank is None else _low_rank(weight.low_rank).factors()
    for first in range(0, weight.shape[0], _ROWS):
        last = min(first + _ROWS, weight.shape[0])
        tile = weight.base.rows(torch.arange(first, last)).float()
        if low_rank is not None:
            left, right = low_rank
            tile = tile + left[first:last] @ right
        yield first, tile
