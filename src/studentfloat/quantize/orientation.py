"""How a weight as a model has it becomes a matrix whose last axis is summed up."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Orientation"]

Array: TypeAlias = Any  # numpy.ndarray or torch.Tensor


class Orientation(Enum):
    """Where the axis lies that numbers are summed up along.

    Blocks run along it, and so do GPTQ's columns, channels of a profile and rows of a kernel;
    all of them get their matrices here. Loads without torch.
    """

    PLAIN = "plain"
    """Last, as in ``nn.Linear``; more axes in front are matrices of their own."""
    TRANSPOSED = "transposed"
    """Last but one, as in GPT-2's ``Conv1D``."""
    FLATTENED = "flattened"
    """All but the first, as in a convolution's kernel: one row per output channel."""

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the matrix for a weight of `shape`."""
        if self is Orientation.TRANSPOSED:
            return (*shape[:-2], shape[-1], shape[-2])
        if self is Orientation.FLATTENED:
            return (shape[0], math.prod(shape[1:]))
        return shape

    def to_matrix(self, weight: Array) -> Array:
        """The weight with the summed-up axis last: a view where that can be."""
        if self is Orientation.TRANSPOSED:
            return weight.swapaxes(-1, -2)
        return weight.reshape(len(weight), -1) if self is Orientation.FLATTENED else weight

    def from_matrix(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The way back, contiguous."""
        if self is Orientation.TRANSPOSED:
            return matrix.transpose(-1, -2).contiguous()
        return matrix.reshape(shape)
