"""A vector that inputs are divided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.quantize.fields import read_table
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.parts.part import (
    InputTransform,
    InputTransformSpec,
    MatrixSpec,
    TensorSpec,
)
from studentfloat.quantize.scheme_json import LayoutTables

__all__ = ["InputScale", "InputScaleSpec"]

_SUFFIX = "_input_scale"


@dataclass(frozen=True)
class InputScaleSpec(InputTransformSpec):
    """That inputs are divided by a vector."""

    kind: ClassVar[str] = "input_scale"

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        return {_SUFFIX: TensorSpec(torch.float32, matrix.shape[-1:])}

    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> InputScale:
        return InputScale(tensors[_SUFFIX])

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> InputScaleSpec:
        read_table(data, (), where)
        return cls()

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "divides its inputs by a vector"


@dataclass(frozen=True, eq=False)
class InputScale(InputTransform):
    """What inputs are divided by where smoothing could not be folded into what comes before.

    Attributes
    ----------
    scale
        float32, of shape ``(in_features,)``.
    """

    scale: Tensor

    kind: ClassVar[str] = InputScaleSpec.kind

    @property
    def spec(self) -> InputScaleSpec:
        return InputScaleSpec()

    def tensors(self) -> dict[str, Tensor]:
        return {_SUFFIX: self.scale}

    def fit(self, shape: tuple[int, ...]) -> None:
        if tuple(self.scale.shape) != shape[-1:]:
            raise SchemeError(
                f"input_scale of shape {tuple(self.scale.shape)} does not fit a weight of shape "
                f"{shape}: one number per input feature"
            )

    def check(self, shape: tuple[int, ...], name: str) -> None:
        if bool((self.scale == 0).any()):
            raise ModelError(f"{name}_input_scale holds a zero, which inputs are divided by")

    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> InputScale:
        return self

    def member(self, number: int, shape: tuple[int, ...]) -> InputScale:
        return self

    def apply(self, weight: Tensor) -> Tensor:
        return weight / self.scale.to(weight.dtype)

    def transform(self, x: Tensor) -> Tensor:
        return x / self.scale.to(x.dtype)

    def undo(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype)

    def absorb(self, weight: Tensor) -> Tensor:
        return weight * self.scale.to(weight.dtype)

    def statistics(self, inputs: InputStatistics) -> InputStatistics:
        return inputs.scaled(self.scale)
