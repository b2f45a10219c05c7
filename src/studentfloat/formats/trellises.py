"""The trellis codes that have names, and where their taps come from."""

from __future__ import annotations

import math
import re
from functools import lru_cache

import numpy as np

from studentfloat.errors import FormatError
from studentfloat.formats.trellis import Convolution, Floats, Trellis

__all__ = ["TRELLISES", "TRELLIS_PATTERN", "find_taps", "get_trellis"]

_LEVEL_BITS = 8

# Found by find_taps(bits, state_bits, rounds=400) for 12 bits of state, rounds=60 for 16.
_TAPS: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 12): (0x7B1, 0x56E, 0x376, 0x2DE, 0x17E, 0x3BC, 0x702, 0x82D),
    (2, 12): (0x260, 0x524, 0x1D4, 0x28, 0x230, 0x2B4, 0x67D, 0x9EA),
    (3, 12): (0x68, 0xC0, 0x60, 0x140, 0x1F8, 0x239, 0x462, 0x8EC),
    (4, 12): (0xA2, 0xE0, 0xC0, 0x30, 0x171, 0x2A2, 0x4F4, 0x878),
    (1, 16): (0x777E, 0x4E2, 0x3924, 0xC74, 0x2E5A, 0x1CF2, 0x4702, 0x9519),
    (2, 16): (0x22C6, 0x3734, 0x296, 0x9E0, 0x22B4, 0x1C3C, 0x6905, 0x8C4E),
    (3, 16): (0x5488, 0x1AC0, 0x430, 0x388, 0x15E8, 0x3B81, 0x4E5A, 0x9564),
    (4, 16): (0x8C60, 0xF10, 0x650, 0x390, 0x1481, 0x2C3B, 0x4A26, 0x8348),
}

# Numbers of unit variance times this, in root mean squares of the levels: where the error of a
# normal source is least. More bits want levels that reach further out.
_GAIN = {1: 1.13, 2: 0.985, 3: 0.94, 4: 0.88}
_NORMAL_LEVELS = {1: math.inf, 2: math.inf, 3: math.inf, 4: 10.0}

TRELLISES = ("trellis1", "trellis2", "trellis3", "trellis4")
"""The names that ``studentfloat formats`` lists."""

TRELLIS_PATTERN = "trellisB[-nuV][-sL]"
_NAME = re.compile(r"trellis([1-4])(?:-nu(\d+(?:\.\d+)?|inf))?(?:-s(\d+))?")


@lru_cache(maxsize=64)
def get_trellis(name: str) -> Trellis | None:
    """Return the trellis code of that name, or None if the name is not like one.

    Parameters
    ----------
    name
        ``trellisB``: B bits a number for a normal source, 2**12 states. ``-nuV``: with levels
        made for a Student t of ν = V. ``-s16``: 2**16 states.

    Raises
    ------
    FormatError
        If the name is like a trellis' and no taps are known for its states.
    """
    match = _NAME.fullmatch(name.strip().lower())
    if not match:
        return None
    bits, degrees, state_bits = int(match[1]), match[2], int(match[3] or 12)
    taps = _TAPS.get((bits, state_bits))
    if taps is None:
        known = sorted({states for _, states in _TAPS})
        raise FormatError(
            f"no taps are known for {name!r}: states have "
            f"{' or '.join(f'{states} (-s{states})' for states in known)} bits"
        )
    nu = float(degrees) if degrees else _NORMAL_LEVELS[bits]
    law = f"t of ν = {degrees}" if degrees and not math.isinf(nu) else "normal"
    return Trellis(
        name.strip().lower(),
        bits,
        state_bits,
        Convolution(taps, nu),
        _unit(bits, nu),
        description=f"2**{state_bits} states, {1 << len(taps)} levels; {law} source",
        source="bitshift trellis: QTIP, arXiv 2406.11235; levels and taps our own",
    )


def find_taps(bits: int, state_bits: int, *, rounds: int, seed: int = 0) -> tuple[int, ...]:
    """Search for the taps of a :class:`Convolution` with a small error on a normal source.

    Begins with the best of random taps of this kind: of the rank's upper `bits` bits, each adds
    up one bit of the newest code, one of the oldest, and some of those between; the lower bits
    are made of those between alone. So the branches that leave a path, and those that meet in
    one, choose among equal parts of the levels, one each (as in Ungerboeck's codes, IEEE Trans.
    Inf. Theory 28, 1982), at the same place within the part. Then `rounds` times one or two
    random bits change, and what lowers the error stays.

    Returns
    -------
    tuple of int
        Eight taps.
    """
    random = np.random.default_rng([bits, state_bits, seed])
    numbers = random.standard_normal((200, 256), dtype=np.float32)
    nu = _NORMAL_LEVELS[bits]

    def error(taps: tuple[int, ...]) -> float:
        trial = Trellis("trial", bits, state_bits, Convolution(taps, nu), _unit(bits, nu))
        decoded: Floats = trial.decode(trial.pack(trial.encode(numbers)))
        return float(np.mean((numbers - decoded) ** 2))

    starts = [_random_taps(random, bits, state_bits) for _ in range(20 + rounds // 10)]
    least, best = min((error(taps), taps) for taps in starts)
    for _ in range(rounds):
        taps = list(best)
        for _ in range(random.integers(1, 3)):
            taps[random.integers(_LEVEL_BITS)] ^= 1 << int(random.integers(state_bits))
        if all(taps):
            least, best = min((least, best), (error(tuple(taps)), tuple(taps)))
    return best


def _random_taps(random: np.random.Generator, bits: int, state_bits: int) -> tuple[int, ...]:
    codes = (1 << bits) - 1
    between = ((1 << state_bits) - 1) & ~codes & ~(codes << state_bits - bits)
    taps: list[int] = []
    while len(taps) < _LEVEL_BITS:
        tap = int(random.integers(1 << state_bits)) & between
        place = len(taps) - (_LEVEL_BITS - bits)
        if place >= 0:
            tap |= 1 << (state_bits - bits + place) | 1 << place
        if tap:
            taps.append(tap)
    return tuple(taps)


def _unit(bits: int, degrees_of_freedom: float) -> float:
    levels = Convolution((1,) * _LEVEL_BITS, degrees_of_freedom).levels.astype(np.float64)
    return round(_GAIN[bits] * float(np.sqrt(np.mean(levels**2))), 3)
