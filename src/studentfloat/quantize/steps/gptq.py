"""``gptq``: column by column, later columns making up for the error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.gptq_options import GPTQOptions
from studentfloat.quantize.steps.step import Stage, Step, no_value

if TYPE_CHECKING:
    from studentfloat.quantize.steps.state import WeightState

__all__ = ["Gptq"]


@dataclass(frozen=True)
class Gptq(Step):
    """Round with feedback through the inputs' second moments.

    Attributes
    ----------
    options
        How it goes about it.
    """

    options: GPTQOptions = field(default_factory=GPTQOptions)

    spellings: ClassVar[tuple[str, ...]] = ("gptq",)
    kind: ClassVar[str] = "rounding"
    stage: ClassVar[Stage] = Stage.ROUND

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``gptq``."""
        no_value(value)
        return cls()

    @property
    def needs_inputs(self) -> bool:
        """It needs the Hessian."""
        return True

    def apply(self, state: WeightState) -> WeightState:
        """Codes of the weight, and what is kept aside as it was when its column's turn came."""
        from studentfloat.quantize.corrections import set_aside
        from studentfloat.quantize.rounding.gptq import gptq

        assert state.inputs is not None
        result = gptq(
            state.weight,
            state.inputs.hessian,
            state.scheme,
            options=self.options,
            row_tables=state.row_tables,
            keep=state.keep,
            name=state.name,
        )
        parts = state.parts
        if state.keep is not None:
            whole = state.weight if result.kept is None else result.kept
            parts = (*parts, set_aside(whole, state.keep))
        notes = (*state.notes, *result.notes)
        return replace(state, base=result.tensor, parts=parts, notes=notes)
