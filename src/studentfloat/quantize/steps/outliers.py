"""``outliers=SHARE``: some weights stay in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.steps.step import Stage, Step, number

if TYPE_CHECKING:
    from studentfloat.quantize.steps.state import WeightState

__all__ = ["KeepOutliers"]


@dataclass(frozen=True)
class KeepOutliers(Step):
    """Keep the weights of the largest magnitude, times their input's where that is known.

    Attributes
    ----------
    share
        Of all weights.
    """

    share: float

    spellings: ClassVar[tuple[str, ...]] = ("outliers",)
    kind: ClassVar[str] = "choice of outliers"
    stage: ClassVar[Stage] = Stage.KEEP

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``outliers=SHARE``."""
        return cls(number(value, float, 0, 0.5))

    def apply(self, state: WeightState) -> WeightState:
        """Choose which; whoever rounds sets them aside."""
        from studentfloat.quantize.corrections import choose_outliers

        if not self.share:
            return state
        return replace(state, keep=choose_outliers(state.weight, self.share, state.inputs))
