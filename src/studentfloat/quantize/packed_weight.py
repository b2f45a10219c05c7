"""A quantized weight repacked for products: its codes by the kernel, corrections beside them."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from studentfloat.kernels import PackedMatrix
from studentfloat.kernels.corrections import Corrections
from studentfloat.kernels.packed_matrix import Compute
from studentfloat.quantize.parts.part import Correction
from studentfloat.quantize.weight import QuantizedWeight

__all__ = ["PackedWeight", "pack_weight"]


def pack_weight(weight: QuantizedWeight) -> PackedMatrix | PackedWeight:
    """Repack a weight on the CPU for products; transforming inputs is left to the caller.

    Raises
    ------
    SchemeError
        As :meth:`~studentfloat.quantize.QuantizedTensor.packed_matrix` does.
    """
    return PackedWeight(weight) if weight.corrections else weight.base.packed_matrix()


class PackedWeight:
    """Multiplies by the codes and what corrects them, as one matrix.

    The base's codes are repacked. What a correction holds beside them, and does not copy, it
    says itself: positions of outliers; low-rank factors in bfloat16 (or any floating-point
    type) or in int8 with a scale per row, quantized factors of other kinds dequantized, once,
    to float32. New are 4 bytes per outlier, for what its value differs by in float32 from what
    it replaces, and 8 per row.

    Parameters
    ----------
    weight
        On the CPU; its input transforms do not count.
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        self.matrix = weight.base.packed_matrix()
        parts = weight.corrections
        self.corrections = Corrections(
            *(
                part.kernel(partial(_rows, weight, parts[:number]), self.matrix.shape)
                for number, part in enumerate(parts)
            )
        )

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


def _rows(weight: QuantizedWeight, parts: tuple[Correction, ...], indices: Tensor) -> Tensor:
    """Some rows of the matrix that the codes and a few parts make: float32."""
    rows = weight.base.rows(indices).float()
    for part in parts:
        rows = part.rows(indices, weight.shape).apply(rows)
    return rows
