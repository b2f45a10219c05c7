"""Codebooks of the rows' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from studentfloat.quantize.fields import FLOAT_TYPES, dtype_name, read_float_type, read_table
from studentfloat.quantize.parts.part import CodesPartSpec, MatrixSpec, TensorSpec
from studentfloat.quantize.parts.tensor_layout import join_rows
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["RowTablesSpec"]

_SUFFIX = "_table"


@dataclass(frozen=True)
class RowTablesSpec(CodesPartSpec):
    """A table of values per row, into which the row's codes are indices.

    Attributes
    ----------
    dtype
        Type of the values, by name.
    """

    dtype: str

    kind: ClassVar[str] = "row_tables"

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> RowTablesSpec | None:
        return None if tensor.row_tables is None else cls(dtype_name(tensor.row_tables.dtype))

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        levels = 1 << matrix.scheme.code_bits
        return {_SUFFIX: TensorSpec(FLOAT_TYPES[self.dtype], (*matrix.lead, levels))}

    def take(self, tensor: QuantizedTensor) -> dict[str, Tensor]:
        assert tensor.row_tables is not None
        lead = MatrixSpec(tensor.shape, tensor.scheme).lead
        return {_SUFFIX: tensor.row_tables.reshape(*lead, -1)}

    def fields(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"row_tables": join_rows(tensors[_SUFFIX])}

    def check(self, tensor: QuantizedTensor, name: str) -> None:
        """Any finite table will do."""

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {"dtype": self.dtype}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> RowTablesSpec:
        return cls(read_float_type(read_table(data, ("dtype",), where).get("dtype"), where))

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "has a table of values per row"

    def without_kernel(self, matrix: MatrixSpec) -> str | None:
        return "a table of values per row"
