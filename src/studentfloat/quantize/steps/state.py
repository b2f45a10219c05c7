"""What steps hand on: one weight on its way, and the weights that share an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.parts import InputTransform, Part
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.steps.step import Step
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["SharedInput", "WeightState"]


@dataclass(frozen=True, eq=False)
class SharedInput:
    """All weights that are fed with one input, for steps that transform it.

    Attributes
    ----------
    weights
        Each of shape ``(..., in_features)``.
    inputs
        What they are fed with; None where that is not known.
    scheme
        The method's, with its scale rule.
    """

    weights: tuple[Tensor, ...]
    inputs: InputStatistics | None
    scheme: Scheme

    def transformed(self, transform: InputTransform) -> SharedInput:
        """The same after a transform."""
        return replace(
            self,
            weights=tuple(transform.absorb(weight) for weight in self.weights),
            inputs=None if self.inputs is None else transform.statistics(self.inputs),
        )


@dataclass(frozen=True, eq=False)
class WeightState:
    """One weight between two steps.

    Attributes
    ----------
    name
        For messages.
    weight
        What is to be quantized: of shape ``(..., in_features)``, after input transforms.
    scheme
        What to; steps that learn codebooks replace its formats.
    steps
        All steps of the method.
    inputs
        What the layer is fed with, after input transforms; None where that is not known.
    transforms
        Of the input, in the order in which they are applied to it.
    keep
        bool, of the weight's shape: what is kept aside in 16 bits.
    row_tables
        Codebooks of the rows' own.
    base
        Codes and scales, once the weight is rounded.
    parts
        What is stored beside them, in the order in which steps found it.
    notes
        In words, what a reader of the result must know.
    """

    name: str
    weight: Tensor
    scheme: Scheme
    steps: Sequence[Step]
    inputs: InputStatistics | None = None
    transforms: tuple[InputTransform, ...] = ()
    keep: Tensor | None = None
    row_tables: Tensor | None = None
    base: QuantizedTensor | None = None
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rest(self) -> Tensor:
        """The weight without what is kept aside."""
        return self.weight if self.keep is None else self.weight.masked_fill(self.keep, 0)

    @property
    def energy(self) -> Tensor | None:
        """Energy of each input, relative, so that none overflows; broadcastable to the weight."""
        if self.inputs is None:
            return None
        energy = self.inputs.energy
        relative = energy / energy.amax(dim=-1, keepdim=True).clamp(min=1e-30)
        if relative.dim() == 2:
            relative = relative[:, None, :]
        wide = self.weight.dtype == torch.float64
        return relative.to(torch.float64 if wide else torch.float32)

    @property
    def rule_weights(self) -> Tensor | None:
        """What the scale rule weighs each number's error by; None where it does not."""
        return self.energy if self.scheme.scale_rule.weighted else None
