"""Codes with memory: a bitshift trellis over sequences of numbers.

A scalar format rounds each number by itself. A trellis code rounds a sequence as a whole: each
number is read from a window of many bits over the sequence's stream, of which only a few are new,
so that at 2 bits a number may take any of thousands of values, and the encoder finds the stream
whose values lie closest (Viterbi's algorithm). On a normal source that comes within 12 % of the
least error that any code of the rate can have, where the best scalar format is at 1.9 times it.

Values are whole numbers of 8 bits, so that products may use 8-bit arithmetic as they stand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError
from studentfloat.formats.format import check_name
from studentfloat.kernels.reference import pack, unpack
from studentfloat.kernels.trellis import (
    LEAST_PATH_BITS,
    MOST_STATE_BITS,
    decode_paths,
    encode_paths,
)

__all__ = ["ByteSum", "Convolution", "DrawnTable", "Generator", "Table", "Trellis"]

Floats: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[np.uint8]
Values: TypeAlias = npt.NDArray[np.int8]

MOST_BITS = 4
_LARGEST_VALUE = 127
_MOST_LEVEL_BITS = 8
_LONGEST = 1 << 16


@dataclass(frozen=True)
class Convolution:
    """A state's bits, added modulo 2 as each tap says, are the rank of its level.

    That is a convolutional code over 2**len(taps) levels: XOR gates and one small table in
    silicon, three vector instructions for 64 numbers in software. The levels lie at the quantiles
    ``(i + 1/2) / 2**len(taps)`` of a Student t, scaled to ±127.

    Attributes
    ----------
    taps
        Bit b of the rank is the parity of ``state & taps[b]``; 2 to 8 of them.
    degrees_of_freedom
        ν of the Student t; infinite for a normal.
    """

    taps: tuple[int, ...]
    degrees_of_freedom: float = math.inf
    kind: ClassVar[Literal["convolution"]] = "convolution"

    def __post_init__(self) -> None:
        if not 2 <= len(self.taps) <= _MOST_LEVEL_BITS:
            raise FormatError(f"{len(self.taps)} taps: a convolution has 2 to {_MOST_LEVEL_BITS}")
        for tap in self.taps:
            if not 0 < tap < 1 << MOST_STATE_BITS:
                raise FormatError(f"tap {tap}: taps are 1 to {(1 << MOST_STATE_BITS) - 1}")
        _check_degrees(self.degrees_of_freedom)

    @property
    def levels(self) -> Values:
        """int8, ascending, of shape ``(2**len(taps),)``."""
        levels: Values = _levels(1 << len(self.taps), self.degrees_of_freedom)
        return levels

    def values(self, state_bits: int) -> Values:
        """What each state stands for: int8, of shape ``(2**state_bits,)``."""
        states = np.arange(1 << state_bits)
        ranks = np.zeros_like(states)
        for place, tap in enumerate(self.taps):
            if tap >> state_bits:
                raise FormatError(f"tap {tap:#x} needs more than {state_bits} bits of state")
            ranks |= _parity(states & tap) << place
        values: Values = self.levels[ranks]
        return values

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold beside the codes: none, for all is computed."""
        return 0


@dataclass(frozen=True)
class ByteSum:
    """A quarter of the sum of the four bytes of ``state * multiplier + increment``, centered.

    Four even bytes add up to nearly a normal. The idea is QTIP's (arXiv 2406.11235, algorithm
    1, "1MAD").
    """

    multiplier: int
    increment: int
    kind: ClassVar[Literal["byte-sum"]] = "byte-sum"

    def __post_init__(self) -> None:
        for what, number in (("multiplier", self.multiplier), ("increment", self.increment)):
            if not 0 <= number < 1 << 32:
                raise FormatError(f"{what} {number}: a number of 32 bits without sign")

    def values(self, state_bits: int) -> Values:
        """What each state stands for: int8, of shape ``(2**state_bits,)``."""
        states = np.arange(1 << state_bits, dtype=np.uint64)
        hashed = (states * np.uint64(self.multiplier) + np.uint64(self.increment)).astype("<u4")
        total = hashed.view(np.uint8).reshape(-1, 4).sum(axis=1, dtype=np.int64)
        values: Values = (total // 4 - 128).astype(np.int8)
        return values

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold beside the codes: none, for all is computed."""
        return 0


@dataclass(frozen=True)
class DrawnTable:
    """The quantiles of a Student t (or a normal: ν infinite), dealt to the states at random.

    Made again from its seed, so nothing is stored.
    """

    seed: int
    degrees_of_freedom: float = math.inf
    kind: ClassVar[Literal["drawn"]] = "drawn"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 32:
            raise FormatError(f"seed {self.seed}: a number of 32 bits without sign")
        _check_degrees(self.degrees_of_freedom)

    def values(self, state_bits: int) -> Values:
        """What each state stands for: int8, of shape ``(2**state_bits,)``."""
        count = 1 << state_bits
        dealt = np.empty(count, dtype=np.int8)
        dealt[np.argsort(_hashes(self.seed, count), kind="stable")] = _levels(
            count, self.degrees_of_freedom
        )
        return dealt

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold beside the codes: none, for the seed makes it."""
        return 0


@dataclass(frozen=True)
class Table:
    """A table of one's own.

    Attributes
    ----------
    entries
        The value of each state: whole numbers from -128 to 127, 2**state_bits of them.
    """

    entries: tuple[int, ...]
    kind: ClassVar[Literal["table"]] = "table"

    def __post_init__(self) -> None:
        for entry in self.entries:
            if not -128 <= entry <= 127:
                raise FormatError(f"table entry {entry}: whole numbers from -128 to 127")

    def values(self, state_bits: int) -> Values:
        """What each state stands for: int8, of shape ``(2**state_bits,)``."""
        if len(self.entries) != 1 << state_bits:
            raise FormatError(
                f"a table of {len(self.entries)} entries for {1 << state_bits} states: "
                "give one for each"
            )
        return np.array(self.entries, dtype=np.int8)

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold beside the codes: eight an entry."""
        return 8 * len(self.entries)


Generator: TypeAlias = Convolution | ByteSum | DrawnTable | Table


@dataclass(frozen=True)
class Trellis:
    """A bitshift trellis: a code of `bits` a number for sequences of `length` numbers.

    State t is ``state(t - 1) >> bits | code(t) << (state_bits - bits)``: a window over the stream
    of codes, the newest on top. The stream is a ring (tail-biting), so a sequence takes exactly
    ``bits * length`` bits.

    Parameters
    ----------
    name
        For display and look-up.
    bits
        Of a code, 1 to 4.
    state_bits
        Of a state: at least ``max(2 * bits, bits + 5)``, at most 16. Encoding takes time in
        proportion to the number of states, 2**state_bits; decoding does not.
    generator
        What a state stands for.
    unit
        Numbers of unit variance are multiplied by this to be in the units of the values: where
        the error is least.
    length
        Numbers of a sequence.

    Raises
    ------
    FormatError
        If the parts do not make a code; the message names the offending one.

    References
    ----------
    Marcellin and Fischer, "Trellis coded quantization", IEEE Trans. Commun. 38 (1990); Tseng et
    al., "QTIP", arXiv 2406.11235.

    Examples
    --------
    >>> import numpy as np
    >>> from studentfloat.formats import get_trellis
    >>> code = get_trellis("trellis2")
    >>> numbers = np.random.default_rng(0).standard_normal((4, 256), dtype=np.float32)
    >>> packed = code.pack(code.encode(numbers))
    >>> packed.shape                                  # 2 bits a number
    (4, 64)
    >>> bool(np.mean((numbers - code.decode(packed)) ** 2) < 0.075)
    True
    """

    name: str
    bits: int
    state_bits: int
    generator: Generator
    unit: float
    length: int = 256
    description: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    memoryless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _is_whole(self.bits) or not 1 <= self.bits <= MOST_BITS:
            raise FormatError(
                f"trellis {self.name!r} has {self.bits!r} bits: a whole number from 1 to "
                f"{MOST_BITS}"
            )
        least = max(2 * self.bits, self.bits + LEAST_PATH_BITS)
        if not _is_whole(self.state_bits) or not least <= self.state_bits <= MOST_STATE_BITS:
            raise FormatError(
                f"trellis {self.name!r} has states of {self.state_bits!r} bits: at {self.bits} "
                f"bits a number, {least} to {MOST_STATE_BITS}"
            )
        if not _is_whole(self.length) or not self.state_bits <= self.length * self.bits <= _LONGEST:
            raise FormatError(
                f"trellis {self.name!r} has sequences of {self.length!r} numbers: a sequence has "
                f"no fewer bits than a state, {self.state_bits}, and no more than {_LONGEST}"
            )
        if not (math.isfinite(self.unit) and self.unit > 0):
            raise FormatError(f"trellis {self.name!r} has the unit {self.unit!r}: a number above 0")
        if not self.values.any():
            raise FormatError(f"trellis {self.name!r}: all its values are zero")

    @property
    def states(self) -> int:
        """Number of states."""
        return 1 << self.state_bits

    @property
    def dimension(self) -> int:
        """Numbers that are encoded together."""
        return self.length

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold once, beside the codes."""
        return self.generator.table_bits

    @cached_property
    def values(self) -> Values:
        """What each state stands for, in units: int8, of shape ``(states,)``, read-only."""
        values = np.ascontiguousarray(self.generator.values(self.state_bits))
        values.flags.writeable = False
        return values

    def encode(self, numbers: npt.ArrayLike, *, threads: int | None = None) -> Codes:
        """The codes whose values lie closest to sequences of a source of unit variance.

        Parameters
        ----------
        numbers
            Of shape ``(sequences, length)``.

        Returns
        -------
        ndarray
            uint8, one code each, of the same shape.

        Raises
        ------
        FormatError
            If the shape is another, or a number is not finite.
        """
        given = np.asarray(numbers, dtype=np.float32)
        if given.ndim != 2 or given.shape[1] != self.length:
            raise FormatError(
                f"trellis {self.name!r} encodes sequences of {self.length} numbers, "
                f"not an array of shape {given.shape}"
            )
        bad = np.count_nonzero(~np.isfinite(given))
        if bad:
            raise FormatError(f"{bad} of {given.size} numbers are NaN or infinite")
        scaled = np.ascontiguousarray(given * np.float32(self.unit))
        return encode_paths(scaled, self.values, self.bits, threads=threads)

    def pack(self, codes: Codes) -> Codes:
        """Codes as bytes: uint8, of shape ``(sequences, ceil(length * bits / 8))``."""
        return pack(codes, self.bits)

    def decode(self, packed: Codes, *, threads: int | None = None) -> Floats:
        """What packed codes stand for: float32, of shape ``(sequences, length)``."""
        bytes_each = -(-self.length * self.bits // 8)
        if packed.ndim != 2 or packed.shape[1] != bytes_each or packed.dtype != np.uint8:
            raise FormatError(
                f"trellis {self.name!r} decodes uint8 of shape (sequences, {bytes_each}), "
                f"not {packed.dtype} of shape {packed.shape}"
            )
        codes = unpack(packed, self.bits, self.length)
        values = decode_paths(codes, self.values, self.bits, threads=threads)
        return values.astype(np.float32) / np.float32(self.unit)

    def renamed(self, name: str, *, description: str = "", source: str = "") -> Trellis:
        """Return the same code under another name."""
        return Trellis(
            name,
            self.bits,
            self.state_bits,
            self.generator,
            self.unit,
            self.length,
            description or self.description,
            source or self.source,
        )


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _check_degrees(degrees_of_freedom: float) -> None:
    if not degrees_of_freedom > 0:
        raise FormatError(f"{degrees_of_freedom} degrees of freedom: a number above 0, or inf")


def _levels(count: int, degrees_of_freedom: float) -> Values:
    from scipy.stats import norm, t

    law = norm() if math.isinf(degrees_of_freedom) else t(degrees_of_freedom)
    quantiles = np.asarray(law.isf((np.arange(count // 2) + 0.5) / count), dtype=np.float64)
    upper = np.rint(_LARGEST_VALUE * quantiles / quantiles[0]).astype(np.int8)
    return np.concatenate([-upper, upper[::-1]])


def _parity(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    folded = numbers
    for shift in (8, 4, 2, 1):
        folded = folded ^ folded >> shift
    return folded & 1


def _hashes(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same on every machine and version."""
    with np.errstate(over="ignore"):
        first = np.uint64(seed) << np.uint64(32)
        mixed = (np.arange(1, count + 1, dtype=np.uint64) + first) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return mixed ^ mixed >> np.uint64(31)
