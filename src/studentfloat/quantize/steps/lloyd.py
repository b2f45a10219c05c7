"""``lloyd``, ``lloyd=N`` and ``lloyd-row``: codebooks learned from the weight itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.steps.step import Stage, Step, no_value, number

if TYPE_CHECKING:
    from studentfloat.quantize.steps.state import WeightState

__all__ = ["Lloyd", "LloydRow"]


@dataclass(frozen=True)
class Lloyd(Step):
    """Learn codebooks for the whole tensor.

    Attributes
    ----------
    count
        How many a block chooses among.
    """

    count: int = 1

    spellings: ClassVar[tuple[str, ...]] = ("lloyd",)
    kind: ClassVar[str] = "codebook"
    stage: ClassVar[Stage] = Stage.CODEBOOK
    learns_codebook: ClassVar[bool] = True

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``lloyd`` or ``lloyd=N``."""
        return cls(number(value, int, 1, 16, "1"))

    def apply(self, state: WeightState) -> WeightState:
        """The scheme with what was learned in place of its formats."""
        from studentfloat.quantize.learning import learn_codebooks

        weights = state.rule_weights
        scheme = learn_codebooks(state.rest, state.scheme, self.count, weights=weights)
        return replace(state, scheme=scheme)


@dataclass(frozen=True)
class LloydRow(Step):
    """Learn one codebook per row."""

    spellings: ClassVar[tuple[str, ...]] = ("lloyd-row",)
    kind: ClassVar[str] = "codebook"
    stage: ClassVar[Stage] = Stage.CODEBOOK
    learns_codebook: ClassVar[bool] = True

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``lloyd-row``."""
        no_value(value)
        return cls()

    def refuses_scheme(self, scheme: Scheme) -> str | None:
        """A row has one codebook, so nothing to choose among."""
        if not scheme.has_choice:
            return None
        return f"one codebook per row: the scheme must have one format, not {scheme.format_name}"

    def apply(self, state: WeightState) -> WeightState:
        """Tables for the rows."""
        from studentfloat.quantize.learning import learn_row_tables

        tables = learn_row_tables(state.rest, state.scheme, weights=state.energy)
        return replace(state, row_tables=tables)
