"""``awq``: a scale per input channel, and clipping, both searched under the scheme."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.steps.step import TransformStep, no_value

if TYPE_CHECKING:
    from studentfloat.quantize.parts import InputTransform
    from studentfloat.quantize.steps.state import SharedInput, WeightState

__all__ = ["Awq"]


@dataclass(frozen=True)
class Awq(TransformStep):
    """Scale input channels, then clip blocks, each for the least error of the layer's output."""

    spellings: ClassVar[tuple[str, ...]] = ("awq",)
    kind: ClassVar[str] = "scale per input channel"

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``awq``."""
        no_value(value)
        return cls()

    @property
    def needs_inputs(self) -> bool:
        """It needs their magnitudes and second moments."""
        return True

    def find(self, shared: SharedInput) -> InputTransform | None:
        """AWQ's scale."""
        from studentfloat.quantize.parts import InputScale
        from studentfloat.quantize.smoothing import awq_scale

        assert shared.inputs is not None
        scale = awq_scale(shared.weights, shared.scheme, shared.inputs)
        return None if bool((scale == 1).all()) else InputScale(scale)

    def apply(self, state: WeightState) -> WeightState:
        """The weight with its blocks clipped; not beside GPTQ, which makes up for errors itself."""
        from studentfloat.quantize.smoothing import clip_to_outputs
        from studentfloat.quantize.steps.nearest import Nearest

        if Nearest() not in state.steps:
            return state
        assert state.inputs is not None
        clipped = clip_to_outputs(state.weight, state.scheme, state.inputs)
        return replace(state, weight=clipped)
