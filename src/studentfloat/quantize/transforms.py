"""Transforms of a layer's input: the layer computes ``(W T) (T^-1 x)`` instead of ``W x``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from studentfloat.quantize.inputs import InputStatistics

__all__ = ["ChannelScale", "InputTransform"]


class InputTransform(ABC):
    """An invertible linear map of a layer's input channels."""

    @abstractmethod
    def on_weight(self, weight: Tensor) -> Tensor:
        """The weight that transformed inputs are multiplied by; shape ``(..., in_features)``."""

    @abstractmethod
    def on_statistics(self, inputs: InputStatistics) -> InputStatistics:
        """What is known of the transformed inputs."""


@dataclass(frozen=True, eq=False)
class ChannelScale(InputTransform):
    """Each input channel divided by a number of its own.

    Attributes
    ----------
    scale
        float32, of shape ``(in_features,)``, not zero.
    """

    scale: Tensor

    def on_weight(self, weight: Tensor) -> Tensor:
        """The weight times the scale."""
        return weight * self.scale.to(weight.dtype)

    def on_statistics(self, inputs: InputStatistics) -> InputStatistics:
        """Of the inputs divided by the scale."""
        return inputs.scaled(self.scale)
