"""A quantized weight as a layer multiplies by it: codes, and what a method added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.quantize.scheme import TENSOR
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["LowRank", "Outliers", "QuantizedWeight"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """A correction ``left @ right`` that is added to the dequantized weight.

    Attributes
    ----------
    left
        Of shape ``(..., out_features, rank)``.
    right
        Of shape ``(..., rank, in_features)``. Either is stored in 16 bits as a tensor, or
        in fewer as a QuantizedTensor.
    """

    left: Tensor | QuantizedTensor
    right: Tensor | QuantizedTensor

    @property
    def rank(self) -> int:
        """Columns of `left`."""
        return int(self.left.shape[-1])

    @property
    def bits(self) -> int:
        """All bits stored."""
        return _bits(self.left) + _bits(self.right)

    def product(self) -> Tensor:
        """``left @ right`` in float32."""
        return _values(self.left) @ _values(self.right)


@dataclass(frozen=True, eq=False)
class Outliers:
    """Weights kept in 16 bits: they replace what the codes say.

    Attributes
    ----------
    positions
        int32 (int64 beyond 2³¹ weights), of shape ``(n,)``, ascending: flat row-major
        positions in the weight's matrix.
    values
        bfloat16 or float16, of shape ``(n,)``.
    """

    positions: Tensor
    values: Tensor

    @property
    def bits(self) -> int:
        """All bits stored: position and value of each."""
        return 8 * (
            self.positions.numel() * self.positions.element_size()
            + self.values.numel() * self.values.element_size()
        )


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """What a layer stores instead of its weight.

    Seen as a matrix with the summed-up axis last, as
    :meth:`~studentfloat.models.WeightSite.matrix` gives it. The layer computes
    ``W @ (x / input_scale)`` with ``W = base + left @ right``, outliers put in place.

    Attributes
    ----------
    base
        Codes and scales, of the matrix's shape.
    low_rank, outliers
        What a method added, None where nothing.
    input_scale
        float32, of shape ``(in_features,)``: what the input is divided by where smoothing
        could not be folded into what comes before; None for ones.
    """

    base: QuantizedTensor
    low_rank: LowRank | None = None
    outliers: Outliers | None = None
    input_scale: Tensor | None = None

    def __post_init__(self) -> None:
        scale = self.input_scale
        if scale is not None and tuple(scale.shape) != self.shape[-1:]:
            raise SchemeError(
                f"input_scale of shape {tuple(scale.shape)} does not fit a weight of shape "
                f"{self.shape}: one number per input feature"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.base.shape

    def scaled_weight(self) -> Tensor:
        """The matrix that ``x / input_scale`` is multiplied by: float32 (or float64)."""
        weight = self.base.dequantize()
        if weight.dtype != torch.float64:
            weight = weight.float()
        if self.low_rank is not None:
            weight = weight + self.low_rank.product().to(weight.dtype)
        if self.outliers is not None:
            flat = weight.reshape(-1).clone()
            flat[self.outliers.positions.long()] = self.outliers.values.to(weight.dtype)
            weight = flat.reshape(weight.shape)
        return weight

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The effective matrix, by which `x` itself is multiplied.

        Parameters
        ----------
        dtype
            Of the result; by default the type that was quantized.
        """
        weight = self.scaled_weight()
        if self.input_scale is not None:
            weight = weight / self.input_scale.to(weight.dtype)
        return weight.to(dtype or self.base.dtype)

    def member(self, number: int) -> QuantizedWeight:
        """One matrix of a weight of shape ``(count, out_features, in_features)``.

        Raises
        ------
        SchemeError
            If blocks do not run along the rows of each.
        """
        low_rank, outliers = self.low_rank, self.outliers
        if low_rank is not None:
            left, right = (_member(part, number) for part in (low_rank.left, low_rank.right))
            low_rank = LowRank(left, right)
        if outliers is not None:
            size = self.shape[1] * self.shape[2]
            ends = torch.tensor([number * size, (number + 1) * size])
            its = slice(*torch.searchsorted(outliers.positions, ends.to(outliers.positions)))
            outliers = Outliers(outliers.positions[its] - number * size, outliers.values[its])
        base = _member(self.base, number)
        return QuantizedWeight(base, low_rank, outliers, self.input_scale)

    @property
    def bits(self) -> int:
        """All bits stored."""
        extra = sum(part.bits for part in (self.low_rank, self.outliers) if part is not None)
        scale = 0 if self.input_scale is None else 32 * self.input_scale.numel()
        return self.base.bits + extra + scale

    @property
    def bits_per_weight(self) -> float:
        """:attr:`bits` over the number of weights."""
        return self.bits / max(1, torch.Size(self.shape).numel())


@overload
def _member(part: QuantizedTensor, number: int) -> QuantizedTensor: ...
@overload
def _member(part: Tensor | QuantizedTensor, number: int) -> Tensor | QuantizedTensor: ...


def _member(part: Tensor | QuantizedTensor, number: int) -> Tensor | QuantizedTensor:
    """One of those stacked along the first axis."""
    if isinstance(part, Tensor):
        return part[number]
    scheme = part.scheme
    if scheme.block_size == TENSOR or scheme.axis not in (-1, len(part.shape) - 1):
        raise SchemeError(
            f"blocks of {scheme.block_size} along axis {scheme.axis} of a tensor of shape "
            f"{part.shape} do not keep its matrices apart: the last axis does"
        )
    rows = part.shape[-2]
    chosen = torch.arange(number * rows, (number + 1) * rows, device=part.packed.device)
    return part.select_rows(chosen)


def _bits(part: Tensor | QuantizedTensor) -> int:
    if isinstance(part, QuantizedTensor):
        return part.bits
    return 8 * part.numel() * part.element_size()


def _values(part: Tensor | QuantizedTensor) -> Tensor:
    return part.dequantize(torch.float32) if isinstance(part, QuantizedTensor) else part.float()
