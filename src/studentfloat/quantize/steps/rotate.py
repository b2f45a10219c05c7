"""``rotate`` and ``rotate=BLOCK``: a random orthogonal matrix between inputs and weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from studentfloat.errors import ConfigError
from studentfloat.quantize.steps.step import Step, TransformStep

if TYPE_CHECKING:
    from studentfloat.kernels.hadamard import Rotation
    from studentfloat.quantize.parts import InputTransform
    from studentfloat.quantize.steps.state import SharedInput

__all__ = ["Rotate"]

_BLOCKS = tuple(2**k for k in range(4, 13))


@dataclass(frozen=True)
class Rotate(TransformStep):
    """Spread every input channel over all others, or over those of its block.

    Attributes
    ----------
    block
        How many channels are mixed with each other; None for all.
    seed
        Of the random signs.
    """

    block: int | None = None
    seed: int = 0

    spellings: ClassVar[tuple[str, ...]] = ("rotate",)
    kind: ClassVar[str] = "rotation"

    @classmethod
    def parse(cls, spelling: str, value: str) -> Self:
        """``rotate`` or ``rotate=BLOCK``."""
        if not value:
            return cls()
        if not value.isdecimal() or int(value) not in _BLOCKS:
            raise ValueError(f"a power of two from {_BLOCKS[0]} to {_BLOCKS[-1]}")
        return cls(int(value))

    def refuses(self, other: Step) -> str | None:
        """AWQ, whose scale and clipping are searched for the weight's own channels and blocks."""
        if other.spelling == "awq":
            return "'awq' searches scales for channels, which 'rotate' mixes: use 'smooth'"
        return super().refuses(other)

    def find(self, shared: SharedInput) -> InputTransform | None:
        """The rotation of the inputs' width; None where that is odd."""
        from studentfloat.quantize.parts import InputRotation

        rotation = self._rotation(shared.weights[0].shape[-1])
        return None if rotation.block == 1 else InputRotation(rotation)

    def note(self, found: InputTransform | None, folded: str | None = None) -> str:
        """In what blocks, if that was not asked for, and by what matrix."""
        from studentfloat.quantize.parts import InputRotation

        if found is None:
            return "not rotated: its odd width has no block that is a power of two"
        assert isinstance(found, InputRotation)
        rotation = found.rotation
        asked = self.block or rotation.width
        said = "inputs rotated"
        if rotation.block != asked:
            said += f" in blocks of {rotation.block}, not {asked}, for a width of {rotation.width}"
        if not rotation.is_hadamard:
            said += f" by Hartley's matrix of order {rotation.order}: Paley has none"
        return said

    def _rotation(self, width: int) -> Rotation:
        """What was asked for, or where the width has none the largest block below."""
        from studentfloat.kernels.hadamard import Rotation

        power = width & -width
        if self.block is not None:
            return Rotation(width, min(self.block, power), self.seed)
        try:
            return Rotation(width, width, self.seed)
        except ConfigError:
            return Rotation(width, power, self.seed)
