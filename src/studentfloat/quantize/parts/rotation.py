"""An orthogonal matrix that inputs are multiplied by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from studentfloat.errors import ConfigError, ModelError, SchemeError
from studentfloat.kernels.hadamard import Rotation
from studentfloat.quantize.fields import read_table
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.parts.part import (
    InputTransform,
    InputTransformSpec,
    MatrixSpec,
    TensorSpec,
)
from studentfloat.quantize.rotation import rotate
from studentfloat.quantize.scheme_json import LayoutTables

__all__ = ["InputRotation", "InputRotationSpec"]


@dataclass(frozen=True)
class InputRotationSpec(InputTransformSpec):
    """That inputs are rotated, and how: no tensors.

    Attributes
    ----------
    block, seed
        As for :class:`~studentfloat.kernels.hadamard.Rotation`.
    """

    block: int
    seed: int

    kind: ClassVar[str] = "rotation"

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        _rotation(matrix.shape[-1], self.block, self.seed)
        return {}

    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> InputRotation:
        return InputRotation(_rotation(matrix.shape[-1], self.block, self.seed))

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {"block": self.block, "seed": self.seed}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> InputRotationSpec:
        table = read_table(data, ("block", "seed"), where)
        for key in ("block", "seed"):
            value = table.get(key)
            if type(value) is not int or value < 0:
                raise ModelError(f"{where}: {key} is {value!r}, not a whole number from 0 on")
        return cls(table["block"], table["seed"])

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "rotates its inputs"


@dataclass(frozen=True, eq=False)
class InputRotation(InputTransform):
    """What inputs are multiplied by from the right before they meet the matrix.

    Attributes
    ----------
    rotation
        Of the matrix's last axis.
    """

    rotation: Rotation

    kind: ClassVar[str] = InputRotationSpec.kind

    @property
    def spec(self) -> InputRotationSpec:
        return InputRotationSpec(self.rotation.block, self.rotation.seed)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def fit(self, shape: tuple[int, ...]) -> None:
        if self.rotation.width != shape[-1]:
            raise SchemeError(
                f"a rotation of {self.rotation.width} inputs does not fit a weight of shape {shape}"
            )

    def check(self, shape: tuple[int, ...], name: str) -> None:
        pass

    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> InputRotation:
        return self

    def member(self, number: int, shape: tuple[int, ...]) -> InputRotation:
        return self

    def apply(self, weight: Tensor) -> Tensor:
        return rotate(weight, self.rotation, inverse=True)

    def absorb(self, weight: Tensor) -> Tensor:
        return rotate(weight, self.rotation)

    def statistics(self, inputs: InputStatistics) -> InputStatistics:
        half = rotate(inputs.hessian, self.rotation)
        hessian = rotate(half.transpose(-1, -2).contiguous(), self.rotation)
        # Of magnitudes nothing is known: whoever asks for them gets no number.
        unknown = torch.full_like(inputs.magnitude, torch.nan)
        return InputStatistics(hessian, unknown, unknown, inputs.tokens)

    def transform(self, x: Tensor) -> Tensor:
        return rotate(x, self.rotation)

    def undo(self, x: Tensor) -> Tensor:
        return rotate(x, self.rotation, inverse=True)


@lru_cache(maxsize=256)
def _rotation(width: int, block: int, seed: int) -> Rotation:
    """One object for all layers of a width, since it keeps its signs and factors."""
    try:
        return Rotation(width, block, seed)
    except ConfigError as error:
        raise ModelError(str(error)) from None
