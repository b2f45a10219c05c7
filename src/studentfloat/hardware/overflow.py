"""How often an accumulator of some width overflows, by drawing dot products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from studentfloat.hardware.energy import CodePairs
from studentfloat.hardware.operands import Operand

__all__ = ["DotProducts", "draw_dot_products"]

_MOST_DRAWS = 1 << 16
_MOST_PRODUCTS = 1 << 23


@dataclass(frozen=True)
class DotProducts:
    """Dot products drawn at random: their sums, and how far the partial sums went.

    Each of shape ``(draws,)``, in units of the accumulator.
    """

    total: npt.NDArray[np.int64]
    highest: npt.NDArray[np.int64]
    lowest: npt.NDArray[np.int64]

    @property
    def draws(self) -> int:
        """How many."""
        return int(self.total.size)

    def overflow_share(self, bits: int, overflow: str) -> float:
        """Share of them that an accumulator of a width gets wrong.

        Wrapping around and back does no harm: there the sum itself must fit. What saturates
        once is wrong from there on (unless luck brings it back), so every partial sum must.
        """
        reach = 1 << (bits - 1)
        high, low = (self.total, self.total) if overflow == "wrap" else (self.highest, self.lowest)
        return float(np.mean((high >= reach) | (low < -reach)))

    def least_bits(self, overflow: str) -> int:
        """Least width at which none of them overflows."""
        bits = 1
        while self.overflow_share(bits, overflow):
            bits += 1
        return bits


def draw_dot_products(
    a: Operand, b: Operand, length: int, pairs: CodePairs | None = None, seed: int = 0
) -> DotProducts:
    """Draw dot products of independent pairs of codes.

    Parameters
    ----------
    pairs
        Weight of each pair of codes, of shape ``(2**a.bits, 2**b.bits)``; by default uniform
        over the codes that stand for numbers.
    """
    rng = np.random.default_rng(seed)
    values = [np.array([v or 0 for v in operand.integers], dtype=np.int64) for operand in (a, b)]
    if pairs is None:
        valid = [np.array([v is not None for v in o.integers], dtype=float) for o in (a, b)]
        pairs = np.outer(*valid)
    products = np.outer(*values).ravel()
    chance = np.cumsum(pairs.ravel() / pairs.sum())
    count = max(1, min(_MOST_DRAWS, _MOST_PRODUCTS // length))
    total = np.zeros(count, dtype=np.int64)
    highest, lowest = total.copy(), total.copy()
    for _ in range(length):
        at = np.minimum(np.searchsorted(chance, rng.random(count), side="right"), chance.size - 1)
        total += products[at]
        np.maximum(highest, total, out=highest)
        np.minimum(lowest, total, out=lowest)
    return DotProducts(total, highest, lowest)
