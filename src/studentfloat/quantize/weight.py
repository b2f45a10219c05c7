"""A quantized weight as a layer multiplies by it: codes, and what a method added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.parts.part import Correction, InputTransform, MatrixSpec, Part
from studentfloat.quantize.parts.registry import specs_of_codes
from studentfloat.quantize.parts.tensor_layout import member_of
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["QuantizedWeight"]

AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """What a layer stores instead of its weight.

    Seen as a matrix with the summed-up axis last, as
    :meth:`~studentfloat.models.WeightSite.matrix` gives it. Its parts make it from first to
    last: corrections change the matrix of the codes, then input transforms say what inputs go
    through before it. A layer computes ``W @ T(x)``; the last transform meets `x` first.

    Attributes
    ----------
    base
        Codes and scales, of the matrix's shape.
    parts
        What a method added: :class:`~studentfloat.quantize.parts.LowRank`,
        :class:`~studentfloat.quantize.parts.Outliers`,
        :class:`~studentfloat.quantize.parts.InputScale`; corrections first.

    Raises
    ------
    SchemeError
        If a part does not fit the matrix, or a correction follows an input transform.

    Examples
    --------
    >>> from studentfloat.quantize import InputScale, Scheme, quantize
    >>> base = quantize(torch.tensor([[0.5, -1.0]]), Scheme("int8", block_size=2))
    >>> QuantizedWeight(base, (InputScale(torch.tensor([2.0, 1.0])),)).dequantize()
    tensor([[ 0.2500, -1.0000]])
    """

    base: QuantizedTensor
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            part.fit(self.shape)
        transforms = [isinstance(part, InputTransform) for part in self.parts]
        if transforms != sorted(transforms):
            raise SchemeError("corrections of the matrix stand before transforms of the inputs")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.base.shape

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The parts that change the matrix, in order."""
        return tuple(part for part in self.parts if isinstance(part, Correction))

    @property
    def transforms(self) -> tuple[InputTransform, ...]:
        """The parts that change the inputs, in the order in which inputs meet them."""
        return tuple(p for p in reversed(self.parts) if isinstance(p, InputTransform))

    def part(self, kind: type[AnyPart]) -> AnyPart | None:
        """The part of a class; None where there is none."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    def product_matrix(self) -> Tensor:
        """The dense matrix that transformed inputs are multiplied by: float32 (or float64)."""
        weight = self.base.dequantize()
        if weight.dtype != torch.float64:
            weight = weight.float()
        for part in self.corrections:
            weight = part.apply(weight)
        return weight

    def transform_inputs(self, x: Tensor) -> Tensor:
        """Inputs, of shape ``(..., in_features)``, as :meth:`product_matrix` takes them."""
        for part in self.transforms:
            x = part.transform(x)
        return x

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The effective matrix, by which `x` itself is multiplied.

        Parameters
        ----------
        dtype
            Of the result; by default the type that was quantized.
        """
        weight = self.product_matrix()
        for part in reversed(self.transforms):
            weight = part.apply(weight)
        return weight.to(dtype or self.base.dtype)

    @property
    def has_rows(self) -> bool:
        """Whether rows can be taken out of what is stored.

        Blocks run along them, and each is encoded by itself.
        """
        scheme = self.base.scheme
        if not isinstance(scheme.code, Format):
            return False
        return MatrixSpec(self.shape, scheme).blocks_run_along_rows

    def rows(self, indices: Tensor) -> QuantizedWeight:
        """Some rows as they are stored; others are not touched.

        Parameters
        ----------
        indices
            int64, of shape ``(n,)``: rows of a matrix.

        Raises
        ------
        SchemeError
            If blocks do not run along the rows (:attr:`has_rows`).
        """
        if isinstance(self.base.scheme.code, Format) and not self.has_rows:
            raise SchemeError(
                f"blocks of {self.base.scheme.block_size} along axis {self.base.scheme.axis} do "
                f"not keep the rows of a matrix of shape {self.shape} apart: the last axis does"
            )
        base = self.base.select_rows(indices)
        return QuantizedWeight(base, tuple(part.rows(indices, self.shape) for part in self.parts))

    def member(self, number: int) -> QuantizedWeight:
        """One matrix of a weight of shape ``(count, out_features, in_features)``.

        Raises
        ------
        SchemeError
            If blocks do not run along the rows of each.
        """
        base = member_of(self.base, number)
        return QuantizedWeight(base, tuple(part.member(number, self.shape) for part in self.parts))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors as they are stored, by the suffix that their names have."""
        found: dict[str, Tensor] = {}
        for spec in specs_of_codes(self.base):
            found |= spec.take(self.base)
        for part in self.parts:
            found |= part.tensors()
        return found

    @property
    def bits(self) -> int:
        """All bits stored."""
        return self.base.bits + sum(part.bits for part in self.parts)

    @property
    def bits_per_weight(self) -> float:
        """:attr:`bits` over the number of weights."""
        return self.bits / max(1, torch.Size(self.shape).numel())
