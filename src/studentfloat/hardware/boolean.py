"""Functions of a code's bits, brought down to the bits that they depend on.

This is what turns the list of a format's values into a decoder: a sign that is one bit of
the code becomes a wire, an exponent becomes a small table over the exponent bits, and only a
codebook without structure becomes a full table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BitFunction", "reduce_bit", "reduce_word"]

_ANY = -1


@dataclass(frozen=True)
class BitFunction:
    """One output bit as a function of some of the input bits.

    Attributes
    ----------
    support
        Input bits that matter, most significant first.
    outputs
        0 or 1 for each value of the number that the support's bits spell.
    """

    support: tuple[int, ...]
    outputs: tuple[int, ...]


def reduce_word(values: Sequence[int | None], input_bits: int, width: int) -> list[BitFunction]:
    """Reduce each bit of a word that is tabulated over an input.

    Parameters
    ----------
    values
        The word for each input, of length ``2**input_bits``; None where it does not matter.
    width
        Number of output bits; the result has bit 0 first.
    """
    known = np.array([value is not None for value in values])
    words = np.array([value or 0 for value in values], dtype=np.int64)
    functions = []
    for bit in range(width):
        column = np.where(known, words >> bit & 1, _ANY).astype(np.int8)
        functions.append(reduce_bit(column, input_bits))
    return functions


def reduce_bit(column: npt.NDArray[np.int8], input_bits: int) -> BitFunction:
    """Drop every input bit that one output bit need not look at.

    Parameters
    ----------
    column
        0, 1 or -1 (does not matter) for each input, of shape ``(2**input_bits,)``.
    """
    orders = (range(input_bits), range(input_bits - 1, -1, -1))
    return min((_drop(column, input_bits, order) for order in orders), key=lambda f: len(f.support))


def _drop(column: npt.NDArray[np.int8], input_bits: int, order: Sequence[int]) -> BitFunction:
    # Axis k of the cube is input bit `input_bits - 1 - k`.
    cube = column.reshape((2,) * input_bits)
    support = list(range(input_bits - 1, -1, -1))
    for bit in order:
        axis = support.index(bit)
        low, high = np.take(cube, 0, axis), np.take(cube, 1, axis)
        if not np.any((low != high) & (low != _ANY) & (high != _ANY)):
            cube = np.maximum(low, high)
            support.pop(axis)
    return BitFunction(tuple(support), tuple(map(int, _settle(cube).ravel())))


def _settle(cube: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Give the entries that do not matter the value that most of their neighbors have."""
    if not np.any(cube == _ANY):
        return cube
    votes = np.zeros(cube.shape, dtype=np.int64)
    for axis in range(cube.ndim):
        neighbor = np.flip(cube, axis)
        votes += np.where(neighbor == 1, 1, np.where(neighbor == 0, -1, 0))
    return np.where(cube == _ANY, (votes > 0).astype(np.int8), cube).astype(np.int8)
