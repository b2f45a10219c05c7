"""``smooth=0.5``: SmoothQuant's scale per input channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.steps.step import TransformStep, number

if TYPE_CHECKING:
    from studentfloat.quantize.parts import InputTransform
    from studentfloat.quantize.steps.state import SharedInput

__all__ = ["Smooth"]


@dataclass(frozen=True)
class Smooth(TransformStep):
    """Move difficulty from inputs to weights.

    Attributes
    ----------
    alpha
        0 to 1: the share that moves.
    """

    alpha: float = 0.5

    spellings: ClassVar[tuple[str, ...]] = ("smooth",)
    kind: ClassVar[str] = "scale per input channel"

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``smooth`` or ``smooth=ALPHA``."""
        return cls(number(value, float, 0, 1, "0.5"))

    @property
    def needs_inputs(self) -> bool:
        """It needs their greatest magnitudes."""
        return True

    def find(self, shared: SharedInput) -> InputTransform | None:
        """SmoothQuant's scale."""
        from studentfloat.quantize.parts import InputScale
        from studentfloat.quantize.smoothing import smoothquant_scale

        assert shared.inputs is not None
        scale = smoothquant_scale(shared.weights, shared.inputs, self.alpha)
        return None if bool((scale == 1).all()) else InputScale(scale)
