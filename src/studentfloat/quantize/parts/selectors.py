"""Which of the scheme's formats each block took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from studentfloat.errors import ModelError
from studentfloat.quantize.fields import read_table
from studentfloat.quantize.packing import packed_width, unpack_codes
from studentfloat.quantize.parts.part import CodesPartSpec, MatrixSpec, TensorSpec
from studentfloat.quantize.parts.tensor_layout import join_rows
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["SelectorsSpec"]

_SUFFIX = "_selector"


@dataclass(frozen=True)
class SelectorsSpec(CodesPartSpec):
    """An index into the scheme's formats per block, packed like codes."""

    kind: ClassVar[str] = "selectors"

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> SelectorsSpec | None:
        return None if tensor.selectors is None else cls()

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        width = packed_width(matrix.blocks, matrix.scheme.selector_bits)
        return {_SUFFIX: TensorSpec(torch.uint8, (*matrix.lead, width))}

    def take(self, tensor: QuantizedTensor) -> dict[str, Tensor]:
        assert tensor.selectors is not None
        lead = MatrixSpec(tensor.shape, tensor.scheme).lead
        return {_SUFFIX: tensor.selectors.reshape(*lead, -1)}

    def fields(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"selectors": join_rows(tensors[_SUFFIX])}

    def check(self, tensor: QuantizedTensor, name: str) -> None:
        assert tensor.selectors is not None
        scheme, blocks = tensor.scheme, MatrixSpec(tensor.shape, tensor.scheme).blocks
        highest = int(unpack_codes(tensor.selectors, scheme.selector_bits, blocks).max())
        if highest >= len(scheme.formats):
            raise ModelError(f"{name} selects format {highest} of {len(scheme.formats)} in a block")

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> SelectorsSpec:
        read_table(data, (), where)
        return cls()

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return f"chooses among {len(matrix.scheme.formats)} formats in each block"
