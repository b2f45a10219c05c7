"""A low-rank correction added to the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.kernels.corrections import LowRankMatrix
from studentfloat.quantize.fields import (
    FLOAT_TYPES,
    dtype_name,
    read_float_type,
    read_table,
    read_whole,
)
from studentfloat.quantize.parts.part import (
    Correction,
    MatrixSpec,
    PartOfWeightSpec,
    RowReader,
    TensorSpec,
)
from studentfloat.quantize.parts.tensor_layout import (
    assemble_tensor,
    check_codes,
    member_of,
    tensor_specs,
    tensors_of,
)
from studentfloat.quantize.scheme import ROW, Scheme
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["LowRank", "LowRankSpec"]

_LEFT, _RIGHT = "_low_rank_left", "_low_rank_right"
_INTEGERS = np.arange(256, dtype=np.uint8).view(np.int8)


@dataclass(frozen=True)
class LowRankSpec(PartOfWeightSpec):
    """Rank and type of a low-rank correction.

    Attributes
    ----------
    rank
        Columns of the left factor.
    type
        Of both factors: a float's name, or the scheme that quantized them.
    """

    rank: int
    type: str | Scheme

    kind: ClassVar[str] = "low_rank"

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        found: dict[str, TensorSpec] = {}
        for suffix, shape in self._shapes(matrix).items():
            if isinstance(self.type, Scheme):
                found |= tensor_specs(MatrixSpec(shape, self.type), suffix)
            else:
                found[suffix] = TensorSpec(FLOAT_TYPES[self.type], shape)
        return found

    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> LowRank:
        if not isinstance(self.type, Scheme):
            return LowRank(tensors[_LEFT], tensors[_RIGHT])
        left, right = (
            assemble_tensor(MatrixSpec(shape, self.type), tensors, suffix)
            for suffix, shape in self._shapes(matrix).items()
        )
        return LowRank(left, right)

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        if isinstance(self.type, Scheme):
            return {"rank": self.rank, "scheme": tables.scheme_number(self.type)}
        return {"rank": self.rank, "dtype": self.type}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> LowRankSpec:
        read_table(data, ("rank", "dtype", "scheme"), where)
        if ("dtype" in data) == ("scheme" in data):
            raise ModelError(f"{where}: one of 'dtype' and 'scheme' gives the factors' type")
        rank = read_whole(data.get("rank"), f"{where}: rank")
        if "scheme" in data:
            return cls(rank, tables.scheme(data["scheme"], where))
        return cls(rank, read_float_type(data["dtype"], where))

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "has a low-rank correction"

    def _shapes(self, matrix: MatrixSpec) -> dict[str, tuple[int, ...]]:
        if len(matrix.shape) < 2:
            raise ModelError(
                f"a low-rank correction of shape {list(matrix.shape)}: two axes or more"
            )
        *lead, rows, columns = matrix.shape
        return {_LEFT: (*lead, rows, self.rank), _RIGHT: (*lead, self.rank, columns)}


@dataclass(frozen=True, eq=False)
class LowRank(Correction):
    """A correction ``left @ right`` that is added to the weight.

    Attributes
    ----------
    left
        Of shape ``(..., out_features, rank)``.
    right
        Of shape ``(..., rank, in_features)``. Both are stored as floating-point tensors (16
        bits), or quantized.
    """

    left: Tensor | QuantizedTensor
    right: Tensor | QuantizedTensor

    kind: ClassVar[str] = LowRankSpec.kind

    @property
    def rank(self) -> int:
        """Columns of `left`."""
        return int(self.left.shape[-1])

    @property
    def spec(self) -> LowRankSpec:
        left, right = (_type_of(factor) for factor in (self.left, self.right))
        if left != right:
            raise ModelError("the two factors of a low-rank correction are of different types")
        return LowRankSpec(self.rank, left)

    def tensors(self) -> dict[str, Tensor]:
        return _tensors_of(self.left, _LEFT) | _tensors_of(self.right, _RIGHT)

    def fit(self, shape: tuple[int, ...]) -> None:
        left, right = tuple(self.left.shape), tuple(self.right.shape)
        if (*left[:-1], right[-1]) != shape or (*shape[:-2], left[-1], shape[-1]) != right:
            raise SchemeError(
                f"low-rank factors of shapes {left} and {right} do not fit a weight of shape "
                f"{shape}"
            )

    def check(self, shape: tuple[int, ...], name: str) -> None:
        for factor, suffix in ((self.left, _LEFT), (self.right, _RIGHT)):
            if isinstance(factor, QuantizedTensor):
                check_codes(factor, f"{name}{suffix}")

    def product(self) -> Tensor:
        """``left @ right`` in float32."""
        return _values(self.left) @ _values(self.right)

    def apply(self, weight: Tensor) -> Tensor:
        return weight + self.product().to(weight.dtype)

    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> LowRank:
        left = self.left
        chosen = left[indices] if isinstance(left, Tensor) else left.select_rows(indices)
        return LowRank(chosen, self.right)

    def member(self, number: int, shape: tuple[int, ...]) -> LowRank:
        left, right = (
            factor[number] if isinstance(factor, Tensor) else member_of(factor, number)
            for factor in (self.left, self.right)
        )
        return LowRank(left, right)

    def kernel(self, before: RowReader, shape: tuple[int, int]) -> LowRankMatrix:
        left, right = _for_kernel(self.left), _for_kernel(self.right)
        if (left[1] is None) != (right[1] is None):
            left, right = _dequantized(self.left), _dequantized(self.right)
        return LowRankMatrix(left[0], right[0], left[1], right[1])


def _type_of(factor: Tensor | QuantizedTensor) -> str | Scheme:
    return factor.scheme if isinstance(factor, QuantizedTensor) else dtype_name(factor.dtype)


def _tensors_of(factor: Tensor | QuantizedTensor, suffix: str) -> dict[str, Tensor]:
    return tensors_of(factor, suffix) if isinstance(factor, QuantizedTensor) else {suffix: factor}


def _values(factor: Tensor | QuantizedTensor) -> Tensor:
    if isinstance(factor, QuantizedTensor):
        return factor.dequantize(torch.float32)
    return factor.float()


def _for_kernel(factor: Tensor | QuantizedTensor) -> tuple[Tensor, Tensor | None]:
    """Numbers of a factor, and what its rows are multiplied by."""
    if isinstance(factor, Tensor):
        return factor.contiguous(), None
    scheme = factor.scheme
    table = scheme.format.decode_table
    means_integers = len(table) == len(_INTEGERS) and np.array_equal(
        table[np.isfinite(table)], _INTEGERS[np.isfinite(table)]
    )
    if not means_integers or scheme.block_size != ROW or scheme.has_choice or scheme.axis != -1:
        return _dequantized(factor)
    # The codes are the numbers, in two's complement.
    return factor.packed.contiguous().view(torch.int8), factor.block_scales()[:, 0].contiguous()


def _dequantized(factor: Tensor | QuantizedTensor) -> tuple[Tensor, None]:
    return _values(factor).contiguous(), None
