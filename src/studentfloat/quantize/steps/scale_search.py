"""``mse``, ``x2-mse`` and every other scale rule, in place of the scheme's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from studentfloat.quantize.scheme import SCALE_RULES, ScaleRule, Scheme, replace_scheme
from studentfloat.quantize.steps.step import Stage, Step, no_value

if TYPE_CHECKING:
    from studentfloat.quantize.steps.state import WeightState

__all__ = ["ScaleSearch"]


@dataclass(frozen=True)
class ScaleSearch(Step):
    """Find block scales by a rule.

    Attributes
    ----------
    rule
        One of :data:`~studentfloat.quantize.SCALE_RULES`.
    """

    rule: ScaleRule

    spellings: ClassVar[tuple[str, ...]] = tuple(SCALE_RULES)
    kind: ClassVar[str] = "scale rule"
    stage: ClassVar[Stage] = Stage.SCALE

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """The rule's name."""
        no_value(value)
        return cls(SCALE_RULES[spelling])

    @property
    def spelling(self) -> str:
        """The rule's name."""
        return self.rule.name

    @property
    def needs_inputs(self) -> bool:
        """Whether the rule weighs errors by the energy of inputs."""
        return self.rule.weighted

    def on_scheme(self, scheme: Scheme) -> Scheme:
        """The scheme with this rule."""
        return replace_scheme(scheme, scale_rule=self.rule)

    def apply(self, state: WeightState) -> WeightState:
        """The scheme with this rule."""
        return replace(state, scheme=self.on_scheme(state.scheme))

    def to_json(self) -> dict[str, Any]:
        """The rule's name says it all."""
        return {"step": self.rule.name}
