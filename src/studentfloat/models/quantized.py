"""What quantizing a model gives: weights, changed parameters and records, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from studentfloat.formats import Format
from studentfloat.models.roles import layer_of, role_of
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import SkippedTensor, TensorQuantization

__all__ = ["QuantizedBlock", "QuantizedModel", "weight_record"]


def weight_record(
    name: str, weight: QuantizedWeight, method: str, **facts: Any
) -> TensorQuantization:
    """What is told of a quantized weight; its place, format, bits and scales are read off it.

    Parameters
    ----------
    name
        Of the weight, as :attr:`TensorQuantization.name`.
    weight
        As it is stored.
    method
        That made it.
    facts
        The record's other fields: errors, tokens, seconds, notes.
    """
    scales = weight.base.block_scales()
    sizes = scales.abs().flatten()
    return TensorQuantization(
        name=name,
        layer=layer_of(name),
        kind=role_of(name),
        shape=weight.shape,
        method=method,
        format=weight.base.scheme.format_name,
        bits_per_weight=weight.bits_per_weight,
        scale_least=float(sizes.min()),
        scale_median=float(sizes.median()),
        scale_greatest=float(sizes.max()),
        negative_scales=float((scales < 0).float().mean()),
        **facts,
    )


@dataclass(frozen=True, eq=False)
class QuantizedBlock:
    """One finished part of a model: a decoder block, or what lies outside of all blocks.

    Attributes
    ----------
    name
        Module name of the block (``model.layers.3``); "" for what lies outside.
    weights
        By site name, as :class:`~studentfloat.models.WeightSite` has it.
    changed
        Other parameters that the method changed (norm weights that smoothing was folded
        into), by name, as they are now.
    records
        One per weight.
    """

    name: str
    weights: Mapping[str, QuantizedWeight]
    changed: Mapping[str, Tensor] = field(default_factory=dict)
    records: tuple[TensorQuantization, ...] = ()


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A model's weights after quantizing: finished blocks in the model's order.

    Attributes
    ----------
    scheme, method
        What was asked for.
    settings
        Everything else that the result depends on, as plain data.
    blocks
        In the order in which they were quantized; what lies outside of blocks is last.
    skipped
        Parameters that were left alone, and why.
    """

    scheme: Scheme
    method: str
    blocks: tuple[QuantizedBlock, ...]
    skipped: tuple[SkippedTensor, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def weights(self) -> dict[str, QuantizedWeight]:
        """All weights by site name."""
        return {name: weight for block in self.blocks for name, weight in block.weights.items()}

    @cached_property
    def changed(self) -> dict[str, Tensor]:
        """All other parameters that changed, by name."""
        return {name: value for block in self.blocks for name, value in block.changed.items()}

    @property
    def records(self) -> tuple[TensorQuantization, ...]:
        """One per weight."""
        return tuple(record for block in self.blocks for record in block.records)

    @property
    def bits(self) -> int:
        """All bits stored for the weights; codebooks learned per tensor are counted too.

        One table (the scheme's own) is free, as in :attr:`QuantizedTensor.bits`.
        """
        schemes = (self.scheme, *(weight.base.scheme for weight in self.weights.values()))
        own, *others = [
            set(scheme.formats if isinstance(scheme.code, Format) else ()) for scheme in schemes
        ]
        learned = set().union(*others) - own
        return sum(weight.bits for weight in self.weights.values()) + sum(
            32 << f.bits for f in learned
        )

    @property
    def bits_per_weight(self) -> float:
        """:attr:`bits` over the number of weights."""
        count = sum(weight.base.numel for weight in self.weights.values())
        return self.bits / max(1, count)
