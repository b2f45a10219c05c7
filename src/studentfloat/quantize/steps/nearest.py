"""``rtn``: every number to the nearest level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.steps.step import Stage, Step, no_value

if TYPE_CHECKING:
    from studentfloat.quantize.steps.state import WeightState

__all__ = ["Nearest"]


@dataclass(frozen=True)
class Nearest(Step):
    """Round to nearest under the scheme's scale rule."""

    spellings: ClassVar[tuple[str, ...]] = ("rtn",)
    kind: ClassVar[str] = "rounding"
    stage: ClassVar[Stage] = Stage.ROUND

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``rtn``."""
        no_value(value)
        return cls()

    def apply(self, state: WeightState) -> WeightState:
        """Codes of the weight, and what is kept aside of it."""
        from studentfloat.quantize.corrections import set_aside
        from studentfloat.quantize.rounding.nearest import quantize, quantize_to_tables

        weights = state.rule_weights
        if state.row_tables is not None:
            base = quantize_to_tables(
                state.rest, state.scheme, state.row_tables, weights=weights, name=state.name
            )
        else:
            base = quantize(state.rest, state.scheme, weights=weights, name=state.name)
        kept = () if state.keep is None else (set_aside(state.weight, state.keep),)
        return replace(state, base=base, parts=(*state.parts, *kept))
