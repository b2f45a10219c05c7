"""Codes with memory: the best path through a bitshift trellis, and the way back to numbers.

A sequence of numbers becomes a stream of `bits` bits a number. Number t is read from a window of
`state_bits` bits over that stream, the newest on top::

    state(t) = state(t - 1) >> bits | code(t) << (state_bits - bits)

The stream is a ring: the first windows reach back into the last codes, so that no bit is spent on
a first state (*tail-biting*). What a state stands for is a table of int8; how it was made is the
business of :mod:`studentfloat.formats.trellis`.

References
----------
Viterbi, IEEE Trans. Inf. Theory 13 (1967); Tseng et al., "QTIP", arXiv 2406.11235, section 3
(bitshift trellis) and algorithm 4 (tail-biting in two passes).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.kernels.arrays import default_threads
from studentfloat.kernels.dispatch import native

__all__ = [
    "LEAST_PATH_BITS",
    "MOST_STATE_BITS",
    "decode_paths",
    "encode_paths",
    "reference_decode_paths",
    "reference_encode_paths",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Values: TypeAlias = npt.NDArray[np.int8]
Floats: TypeAlias = npt.NDArray[np.float32]

LEAST_PATH_BITS = 5
"""A state has at least that many bits more than a code, and at least twice a code's."""
MOST_STATE_BITS = 16
_FRACTION = 128
_HIGHEST_COST = 65535


def encode_paths(
    numbers: Floats, values: Values, bits: int, *, window: int = 128, threads: int | None = None
) -> Bytes:
    """The codes whose values lie closest to the numbers, in the sum of squares of each sequence.

    Costs are whole numbers of 16 bits, so every instruction set and the reference agree.

    Parameters
    ----------
    numbers
        float32, contiguous, of shape ``(sequences, length)``, in units of `values`; what is
        beyond 255.99 counts as that. A ring of fewer bits than a state has is gone around more
        than once, and its encoding is far from the best.
    values
        int8, contiguous, of shape ``(2**state_bits,)``: what each state stands for.
    bits
        Of a code: 1 to 4.
    window
        Numbers about the seam of the ring from which its state there is found, before the
        whole sequence is encoded from that state and back to it. More cost time; from 128 on
        the error is within .2 % of the least (2**12 states of 2 bits).

    Returns
    -------
    ndarray
        uint8, of shape ``(sequences, length)``, each below ``2**bits``.
    """
    module = native()
    if module is None:
        return reference_encode_paths(numbers, values, bits, window=window)
    count, length = numbers.shape
    codes = np.empty((count, length), dtype=np.uint8)
    module.trellis_encode(
        values.ctypes.data,
        bits,
        _state_bits(values),
        numbers.ctypes.data,
        count,
        length,
        window,
        codes.ctypes.data,
        _threads(threads, count),
    )
    return codes


def decode_paths(codes: Bytes, values: Values, bits: int, *, threads: int | None = None) -> Values:
    """What codes stand for.

    Parameters
    ----------
    codes
        uint8, contiguous, of shape ``(sequences, length)``, each below ``2**bits``.
    values, bits
        As in :func:`encode_paths`.

    Returns
    -------
    ndarray
        int8, of shape ``(sequences, length)``.
    """
    module = native()
    if module is None:
        return reference_decode_paths(codes, values, bits)
    out = np.empty(codes.shape, dtype=np.int8)
    module.trellis_decode(
        values.ctypes.data,
        bits,
        _state_bits(values),
        codes.ctypes.data,
        *codes.shape,
        out.ctypes.data,
        _threads(threads, len(codes)),
    )
    return out


def reference_decode_paths(codes: Bytes, values: Values, bits: int) -> Values:
    """:func:`decode_paths` in NumPy."""
    return values[states_of(codes.astype(np.int64), bits, _state_bits(values))]


def states_of(codes: npt.NDArray[np.int64], bits: int, state_bits: int) -> npt.NDArray[np.int64]:
    """The state at each number, of the shape of `codes`."""
    states = np.zeros_like(codes)
    for age in range(-(-state_bits // bits)):
        place = state_bits - bits * (age + 1)  # of the code that came `age` numbers before
        old = np.roll(codes, age, axis=1)
        states |= old << place if place >= 0 else old >> -place
    return states


def reference_encode_paths(
    numbers: Floats, values: Values, bits: int, *, window: int = 128
) -> Bytes:
    """:func:`encode_paths` in NumPy."""
    scaled = np.rint(numbers * np.float32(_FRACTION))
    fixed = np.clip(scaled, -32767, 32767).astype(np.int64)
    if not len(fixed):
        return np.empty(fixed.shape, dtype=np.uint8)
    return np.stack([_encode_sequence(row, values, bits, window) for row in fixed])


def _encode_sequence(
    numbers: npt.NDArray[np.int64], values: Values, bits: int, window: int
) -> Bytes:
    # With its bits in reverse order a state has its newest code at the bottom, and what the next
    # state keeps of it, its path, is its remainder by `paths`.
    state_bits = _state_bits(values)
    paths = 1 << (state_bits - bits)
    table = np.empty(1 << state_bits, dtype=np.int64)
    table[_reversed(np.arange(1 << state_bits), state_bits)] = values.astype(np.int64) * _FRACTION
    window = min(window, len(numbers))
    about_seam = np.roll(numbers, window // 2)[:window]
    costs, oldest = _forward(np.zeros(paths, dtype=np.int64), about_seam, table, bits)
    steps = window - window // 2
    seam, _ = _backward(int(costs.argmin()), oldest[-steps:], bits, paths)
    start = np.full(paths, _HIGHEST_COST)
    start[seam] = 0
    _, oldest = _forward(start, numbers, table, bits)
    _, newest = _backward(seam, oldest, bits, paths)
    return _reversed(np.array(newest), bits).astype(np.uint8)


def _forward(
    costs: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    bits: int,
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
    """Costs of all paths after the last number, and each path's oldest code, by number."""
    paths = len(costs)
    states = np.arange(len(table))
    base, chosen = 0, []
    for number in numbers:
        apart = np.clip(number - table, -32768, 32767)
        added = (apart * apart + (1 << 14)) >> 15
        total = np.minimum(costs[states >> bits] + added, _HIGHEST_COST).reshape(-1, paths)
        chosen.append(total.argmin(axis=0))
        costs = (total.min(axis=0) - base) & 0xFFFF
        base = int(costs.min())
    return costs, chosen


def _backward(
    path: int, chosen: list[npt.NDArray[np.int64]], bits: int, paths: int
) -> tuple[int, list[int]]:
    """The path that one came along, and its codes, their bits in reverse order."""
    newest = []
    for oldest in reversed(chosen):
        newest.append(path & ((1 << bits) - 1))
        path = (path | int(oldest[path]) * paths) >> bits
    return path, newest[::-1]


def _reversed(numbers: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    turned = np.zeros_like(numbers)
    for bit in range(bits):
        turned |= (numbers >> bit & 1) << (bits - 1 - bit)
    return turned


def _state_bits(values: Values) -> int:
    return len(values).bit_length() - 1


def _threads(asked: int | None, count: int) -> int:
    return max(1, min(default_threads() if asked is None else asked, count))
