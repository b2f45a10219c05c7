"""What a step is: a value that declares what it needs, and one function from state to state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

if TYPE_CHECKING:
    from studentfloat.quantize.parts import InputTransform
    from studentfloat.quantize.scheme import Scheme
    from studentfloat.quantize.steps.state import SharedInput, WeightState

__all__ = ["Stage", "Step", "TransformStep", "no_value", "number"]

Number = TypeVar("Number", int, float)


class Stage(IntEnum):
    """When a step is taken: methods sort their steps by stage, however they were spelled."""

    SCALE = 0
    TRANSFORM = 1
    KEEP = 2
    CODEBOOK = 3
    ROUND = 4
    CORRECT = 5
    TUNE = 6


@dataclass(frozen=True)
class Step(ABC):
    """One thing that a method does to a weight. Subclasses are frozen values.

    A step loads without torch; what it computes with is imported when it is applied.

    Attributes
    ----------
    spellings
        What it is called in a method: ``rank``, ``rank8``.
    kind
        A method holds at most one step of each kind.
    stage
        When it is taken.
    learns_codebook
        Whether the weight's values are no longer those of the scheme's formats.
    """

    spellings: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]
    stage: ClassVar[Stage]
    learns_codebook: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """The step from what it was called and what stood behind ``=`` ("" for nothing).

        Raises
        ------
        ValueError
            If the value cannot be; the message says what can.
        """

    @property
    def spelling(self) -> str:
        """What this one is called."""
        return self.spellings[0]

    @property
    def needs_inputs(self) -> bool:
        """Whether it must see what the layers are fed with."""
        return False

    @property
    def needs_gradients(self) -> bool:
        """Whether it must see the loss's gradients."""
        return False

    def refuses(self, other: Step) -> str | None:
        """Why it cannot stand beside another step; None where it can."""
        if other.kind != self.kind:
            return None
        if other.spelling == self.spelling:
            return f"{self.spelling!r} is given twice"
        return f"{self.spelling!r} and {other.spelling!r} are both a {self.kind}: choose one"

    def refuses_scheme(self, scheme: Scheme) -> str | None:
        """Why it cannot be taken under a scheme; None where it can."""
        return None

    def on_scheme(self, scheme: Scheme) -> Scheme:
        """The scheme that the whole method works under."""
        return scheme

    @abstractmethod
    def apply(self, state: WeightState) -> WeightState:
        """Take the step."""

    def to_json(self) -> dict[str, Any]:
        """All that decides what it does, as plain data."""
        return {"step": self.spelling, **asdict(self)}


class TransformStep(Step):
    """A step that changes what a layer's input looks like, and its weight to match.

    All weights that share an input share the transform, so it is found for all of them at
    once, before any is quantized; :meth:`apply` then does what is left to do on each.
    """

    stage = Stage.TRANSFORM

    @abstractmethod
    def find(self, shared: SharedInput) -> InputTransform | None:
        """The transform of an input; None where none is better than any."""

    def note(self, found: InputTransform | None, folded: str | None = None) -> str:
        """What a reader of the result must know of a transform.

        Parameters
        ----------
        found
            From :meth:`find`.
        folded
            The module that the transform was folded into; None where the layer applies it.
        """
        if found is None:
            return "no input scale was better than none"
        return (
            "input scale kept explicit" if folded is None else f"input scale folded into {folded}"
        )

    def apply(self, state: WeightState) -> WeightState:
        """Nothing: the state's weight and inputs are transformed already."""
        return state


def no_value(value: str) -> None:
    """Refuse a value where none can be.

    Raises
    ------
    ValueError
        If there is one.
    """
    if value:
        raise ValueError("this step takes no value")


def number(value: str, kind: type[Number], least: float, most: float, default: str = "") -> Number:
    """A number of a range from its spelling.

    Raises
    ------
    ValueError
        If it is none, or lies outside.
    """
    try:
        found = kind(value or default)
    except ValueError:
        raise ValueError(f"a number from {least:g} to {most:g}") from None
    if not least <= found <= most:
        raise ValueError(f"a number from {least:g} to {most:g}")
    return found
