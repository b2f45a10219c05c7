"""``rank=R`` and ``rank8=R``: a low-rank correction of what rounding left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.quantize.steps.step import Stage, Step, number

if TYPE_CHECKING:
    from studentfloat.quantize.steps.state import WeightState

__all__ = ["CorrectLowRank"]

_BITS = {"rank": 16, "rank8": 8}


@dataclass(frozen=True)
class CorrectLowRank(Step):
    """Add the product of two thin matrices.

    Attributes
    ----------
    rank
        Columns of the first.
    bits
        16 or 8: how each number of both is stored.
    """

    rank: int
    bits: int = 16

    spellings: ClassVar[tuple[str, ...]] = tuple(_BITS)
    kind: ClassVar[str] = "low-rank correction"
    stage: ClassVar[Stage] = Stage.CORRECT

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``rank=R`` or ``rank8=R``."""
        return cls(number(value, int, 1, 4096), _BITS[spelling])

    @property
    def spelling(self) -> str:
        """By the bits."""
        return next(name for name, bits in _BITS.items() if bits == self.bits)

    def apply(self, state: WeightState) -> WeightState:
        """The correction that leaves least of the error."""
        from studentfloat.quantize.corrections import low_rank_correction

        assert state.base is not None
        residual = state.weight - state.base.dequantize()
        if state.keep is not None:
            residual = residual.masked_fill(state.keep, 0)
        found = low_rank_correction(residual, self.rank, state.inputs, bits=self.bits)
        return replace(state, parts=(*state.parts, found))
