"""Codes with their scales: what every weight has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from studentfloat.formats import Format
from studentfloat.quantize.fields import read_table
from studentfloat.quantize.parts.part import CodesPartSpec, MatrixSpec, TensorSpec
from studentfloat.quantize.parts.tensor_layout import (
    check_codes,
    tensor_fields,
    tensor_specs,
    tensors_of,
)
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.tensor import MOST_PACKED_BITS, QuantizedTensor, has_packed_matrix

__all__ = ["CodesSpec"]


@dataclass(frozen=True)
class CodesSpec(CodesPartSpec):
    """A code per number and a scale per block, as the weight's scheme says.

    The codes take the weight's own name, so a loader that does not know them stops at
    their shape.
    """

    kind: ClassVar[str] = "codes"

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> CodesSpec:
        return cls()

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        return tensor_specs(matrix, "")

    def take(self, tensor: QuantizedTensor) -> dict[str, Tensor]:
        return tensors_of(tensor, "")

    def fields(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return tensor_fields(matrix, tensors, "")

    def check(self, tensor: QuantizedTensor, name: str) -> None:
        check_codes(tensor, name)

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> CodesSpec:
        read_table(data, (), where)
        return cls()

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return None if matrix.blocks_run_along_rows else "has blocks across rows"

    def without_kernel(self, matrix: MatrixSpec) -> str | None:
        scheme = matrix.scheme
        if has_packed_matrix(scheme, matrix.shape):
            return None
        if not isinstance(scheme.code, Format):
            return f"codes with memory ({scheme.format_name})"
        if scheme.format.bits > MOST_PACKED_BITS:
            return f"codes of {scheme.format.bits} bits"
        return f"blocks of {scheme.block_size} along axis {scheme.axis}"
