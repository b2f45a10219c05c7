"""A number per block that is added to each of its numbers: a minimum, or a zero point's share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.kernels.corrections import BlockOffsets
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
    tensor_specs,
    tensors_of,
)
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["Offsets", "OffsetsSpec"]

_SUFFIX = "_offset"


@dataclass(frozen=True)
class OffsetsSpec(PartOfWeightSpec):
    """Blocks and type of the offsets.

    Attributes
    ----------
    block_size
        Numbers along the last axis that share an offset.
    type
        A float's name, or the scheme that quantized the offsets: as one row, row-major.
    """

    block_size: int
    type: str | Scheme

    kind: ClassVar[str] = "offsets"

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        if isinstance(self.type, Scheme):
            return tensor_specs(self._line(matrix, self.type), _SUFFIX)
        return {_SUFFIX: TensorSpec(FLOAT_TYPES[self.type], self._shape(matrix))}

    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> Offsets:
        if isinstance(self.type, Scheme):
            line = assemble_tensor(self._line(matrix, self.type), tensors, _SUFFIX)
            return Offsets(line, self.block_size)
        return Offsets(tensors[_SUFFIX], self.block_size)

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        data: dict[str, Any] = {"block_size": self.block_size}
        if isinstance(self.type, Scheme):
            return data | {"scheme": tables.scheme_number(self.type)}
        return data | {"dtype": self.type}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> OffsetsSpec:
        read_table(data, ("block_size", "dtype", "scheme"), where)
        if ("dtype" in data) == ("scheme" in data):
            raise ModelError(f"{where}: one of 'dtype' and 'scheme' gives the offsets' type")
        size = read_whole(data.get("block_size"), f"{where}: block_size")
        if "scheme" in data:
            return cls(size, tables.scheme(data["scheme"], where))
        return cls(size, read_float_type(data["dtype"], where))

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "adds an offset to each block"

    def _shape(self, matrix: MatrixSpec) -> tuple[int, ...]:
        return (*matrix.shape[:-1], -(-matrix.shape[-1] // self.block_size))

    def _line(self, matrix: MatrixSpec, scheme: Scheme) -> MatrixSpec:
        return MatrixSpec((1, torch.Size(self._shape(matrix)).numel()), scheme)


@dataclass(frozen=True, eq=False)
class Offsets(Correction):
    """What is added to every number of a block, whatever its code.

    Attributes
    ----------
    values
        Of shape ``(..., out_features, blocks)`` and a floating-point type; or, where they are
        quantized themselves, a tensor of one row that holds them in row-major order.
    block_size
        Numbers along the last axis that share an offset; a last block may be shorter.
    """

    values: Tensor | QuantizedTensor
    block_size: int

    kind: ClassVar[str] = OffsetsSpec.kind

    @property
    def spec(self) -> OffsetsSpec:
        if isinstance(self.values, QuantizedTensor):
            return OffsetsSpec(self.block_size, self.values.scheme)
        return OffsetsSpec(self.block_size, dtype_name(self.values.dtype))

    def tensors(self) -> dict[str, Tensor]:
        if isinstance(self.values, QuantizedTensor):
            return tensors_of(self.values, _SUFFIX)
        return {_SUFFIX: self.values}

    def numbers(self, shape: tuple[int, ...]) -> Tensor:
        """The offsets as numbers: float32, of shape ``(..., out_features, blocks)``."""
        if isinstance(self.values, QuantizedTensor):
            return self.values.dequantize(torch.float32).reshape(self._shape(shape))
        return self.values.float()

    def fit(self, shape: tuple[int, ...]) -> None:
        wanted, given = self._shape(shape), tuple(self.values.shape)
        if isinstance(self.values, QuantizedTensor):
            wanted = (1, torch.Size(wanted).numel())
        if self.block_size < 1 or given != wanted:
            raise SchemeError(
                f"offsets of shape {given} for blocks of {self.block_size} do not fit a weight of "
                f"shape {shape}: {wanted} would"
            )

    def check(self, shape: tuple[int, ...], name: str) -> None:
        if isinstance(self.values, QuantizedTensor):
            check_codes(self.values, f"{name}{_SUFFIX}")

    def apply(self, weight: Tensor) -> Tensor:
        numbers = self.numbers(tuple(weight.shape)).to(weight.dtype)
        spread = numbers.repeat_interleave(self.block_size, dim=-1)
        return weight + spread[..., : weight.shape[-1]]

    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> Offsets:
        # Quantized offsets run across rows: as numbers, they can be picked.
        return Offsets(self.numbers(shape)[indices], self.block_size)

    def member(self, number: int, shape: tuple[int, ...]) -> Offsets:
        return Offsets(self.numbers(shape)[number], self.block_size)

    def kernel(self, before: RowReader, shape: tuple[int, int]) -> BlockOffsets:
        return BlockOffsets(self.numbers(shape).contiguous(), self.block_size, shape[1])

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], -(-shape[-1] // max(1, self.block_size)))
