"""Weights kept in 16 bits beside the codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.kernels.corrections import SparseMatrix
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
from studentfloat.quantize.scheme_json import LayoutTables

__all__ = ["Outliers", "OutliersSpec"]

_POSITION, _VALUE = "_outlier_position", "_outlier_value"
# Rows dequantized at a time to see what an outlier replaces.
_ROWS = 1024


@dataclass(frozen=True)
class OutliersSpec(PartOfWeightSpec):
    """How many outliers there are, and the type of their values by name."""

    count: int
    dtype: str

    kind: ClassVar[str] = "outliers"

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        index = torch.int32 if matrix.count < 1 << 31 else torch.int64
        return {
            _POSITION: TensorSpec(index, (self.count,)),
            _VALUE: TensorSpec(FLOAT_TYPES[self.dtype], (self.count,)),
        }

    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> Outliers:
        return Outliers(tensors[_POSITION], tensors[_VALUE])

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {"count": self.count, "dtype": self.dtype}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> OutliersSpec:
        read_table(data, ("count", "dtype"), where)
        count = read_whole(data.get("count"), f"{where}: count", least=0)
        return cls(count, read_float_type(data.get("dtype"), where))

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "keeps outliers beside its codes"


@dataclass(frozen=True, eq=False)
class Outliers(Correction):
    """Weights kept in 16 bits: they replace what the parts before them say.

    Attributes
    ----------
    positions
        int32 (int64 from 2³¹ weights on), of shape ``(n,)``, ascending: flat row-major
        positions in the weight's matrix.
    values
        bfloat16 or float16, of shape ``(n,)``.
    """

    positions: Tensor
    values: Tensor

    kind: ClassVar[str] = OutliersSpec.kind

    @property
    def spec(self) -> OutliersSpec:
        return OutliersSpec(self.positions.numel(), dtype_name(self.values.dtype))

    def tensors(self) -> dict[str, Tensor]:
        return {_POSITION: self.positions, _VALUE: self.values}

    def fit(self, shape: tuple[int, ...]) -> None:
        if self.positions.dim() != 1 or self.positions.shape != self.values.shape:
            raise SchemeError(
                f"outliers with positions of shape {tuple(self.positions.shape)} and values of "
                f"shape {tuple(self.values.shape)}: one value per position"
            )

    def check(self, shape: tuple[int, ...], name: str) -> None:
        positions, count = self.positions, math.prod(shape)
        if positions.numel() and not (int(positions.min()) >= 0 and int(positions.max()) < count):
            raise ModelError(f"{name}_outlier_position points outside of {count} weights")
        if not bool((positions[1:] > positions[:-1]).all()):
            raise ModelError(f"{name}_outlier_position does not ascend")

    def apply(self, weight: Tensor) -> Tensor:
        flat = weight.reshape(-1).clone()
        flat[self.positions.long()] = self.values.to(weight.dtype)
        return flat.reshape(weight.shape)

    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> Outliers:
        width = shape[-1]
        starts = indices.long() * width
        bounds = torch.stack([starts, starts + width]).to(self.positions.dtype)
        first, last = torch.searchsorted(self.positions, bounds)
        counts = last - first
        row = torch.repeat_interleave(torch.arange(len(indices), device=counts.device), counts)
        # Each row's outliers lie side by side: where they begin, and how far in one is.
        within = torch.arange(len(row), device=counts.device) - (counts.cumsum(0) - counts)[row]
        chosen = first[row] + within
        columns = self.positions[chosen].long() - starts[row]
        return Outliers((row * width + columns).to(self.positions.dtype), self.values[chosen])

    def member(self, number: int, shape: tuple[int, ...]) -> Outliers:
        size = shape[1] * shape[2]
        ends = torch.tensor([number * size, (number + 1) * size])
        its = slice(*torch.searchsorted(self.positions, ends.to(self.positions)).tolist())
        return Outliers(self.positions[its] - number * size, self.values[its])

    def kernel(self, before: RowReader, shape: tuple[int, int]) -> SparseMatrix:
        positions = self.positions.contiguous()
        return SparseMatrix(positions, self._differences(before, shape), shape)

    def _differences(self, before: RowReader, shape: tuple[int, int]) -> Tensor:
        """What each value differs by from what it replaces: float32."""
        rows, width = shape
        replaced = torch.empty(len(self.positions))
        for first in range(0, rows, _ROWS):
            last = min(first + _ROWS, rows)
            ends = torch.tensor([first * width, last * width]).to(self.positions)
            its = slice(*torch.searchsorted(self.positions, ends).tolist())
            tile = before(torch.arange(first, last))
            replaced[its] = tile.reshape(-1)[self.positions[its].long() - first * width]
        return self.values.float() - replaced
