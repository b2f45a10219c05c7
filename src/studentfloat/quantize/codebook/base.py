"""What a codebook is: numbers in units of their block's scale, and the codes they become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction

from torch import Tensor

__all__ = ["Codebook"]


class Codebook(ABC):
    """Rounds numbers, of one floating-point type and on one device, to what codes stand for.

    Numbers come divided by their block's scale, finite, of shape ``(rows, size)`` or ``(rows,
    blocks, size)``: rows and blocks are those of the matrix, the last axis is what codes run
    along. Where :attr:`run` is 1, ``(rows,)`` is one column. Rounding has two halves, so that
    nothing is looked up that is not wanted: :meth:`nearest` finds indices, whose meaning is the
    codebook's own, and :meth:`values` and :meth:`codes` say what they stand for.
    """

    @property
    @abstractmethod
    def bits(self) -> Fraction:
        """Bits of code per number; scales, selectors and tables are not counted."""

    @property
    def dimension(self) -> int:
        """How many consecutive numbers share a code."""
        return 1

    @property
    def memoryless(self) -> bool:
        """Whether a code is chosen and read without regard to the codes beside it."""
        return True

    @property
    def run(self) -> int:
        """How many consecutive columns of a matrix are rounded together.

        A codebook without memory needs those that share a code; one with memory says how
        many columns its sequences span. The last run of a row, or of a block that is shorter
        than others, may be shorter.
        """
        return self.dimension

    @property
    def is_normalized(self) -> bool:
        """Whether it is made for numbers of unit variance, rather than for a range."""
        return False

    @property
    @abstractmethod
    def maximum(self) -> float:
        """The greatest number that a code stands for."""

    @property
    @abstractmethod
    def minimum(self) -> float:
        """The least number that a code stands for."""

    @property
    @abstractmethod
    def is_symmetric(self) -> bool:
        """Whether the negated codebook is the same, so that negative scales gain nothing."""

    @property
    def long_side_extreme(self) -> float:
        """The extreme on the side that reaches farther from zero, with its sign."""
        return self.maximum if self.maximum >= -self.minimum else self.minimum

    @property
    def decodes_all(self) -> bool:
        """Whether every code of so many bits stands for a number."""
        return True

    @property
    def choices(self) -> Sequence[Codebook]:
        """The codebooks that a block is scaled for, and chooses among."""
        return (self,)

    def choosing(self, selectors: Tensor) -> Codebook:
        """The codebook of blocks that have chosen.

        Parameters
        ----------
        selectors
            uint8, index into :attr:`choices`: of shape ``(rows,)`` for one block in each row,
            whose numbers then are of shape ``(rows, size)``; or ``(rows, blocks)``.
        """
        return self

    def of_rows(self, rows: slice) -> Codebook:
        """The codebook of some rows of the matrix."""
        return self

    @abstractmethod
    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        """Indices of what is nearest to each number, or to each group that shares a code.

        Parameters
        ----------
        numbers
            Of shape ``(rows, size)`` or ``(rows, blocks, size)``.
        weights
            What each squared error weighs, not negative, broadcastable to `numbers`; None
            for ones. Where a code stands for one number it changes nothing.

        Returns
        -------
        Tensor
            Integers: ``size`` becomes the number of codes, ``ceil(size / dimension)``.
        """

    @abstractmethod
    def values(self, indices: Tensor, size: int) -> Tensor:
        """The numbers that indices stand for; the last axis has `size` of them."""

    @abstractmethod
    def codes(self, indices: Tensor) -> Tensor:
        """The codes that indices are stored as: unsigned integers of the shape of `indices`."""

    @abstractmethod
    def decode(self, codes: Tensor, size: int) -> Tensor:
        """The numbers that codes stand for; NaN (or infinity) for a code that has no number."""

    def round(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        """The nearest that codes can stand for, of the shape of `numbers`."""
        return self.values(self.nearest(numbers, weights), numbers.shape[-1])

    def trials(
        self, numbers: Tensor, scales: Tensor, shares: Sequence[float], weights: Tensor | None
    ) -> Iterator[Tensor]:
        """What numbers would be rounded to under trial scales, one after the other.

        A search only compares them: a codebook may give what is next to nearest.

        Parameters
        ----------
        numbers
            Not divided by any scale, of shape ``(blocks, size)``.
        scales
            Of shape ``(blocks,)``; the trials are these times each of `shares`. A scale of
            zero gives values of zero, or the nearest to it.
        weights
            As for :meth:`nearest`.
        """
        for share in shares:
            trial = scales * share
            yield self.round(numbers / trial.where(trial != 0, float("inf"))[..., None], weights)
