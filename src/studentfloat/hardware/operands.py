"""What a multiplier sees of a format: an integer for every code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from studentfloat.errors import FormatError
from studentfloat.formats import Format, resolve_format
from studentfloat.formats.rounded import rounded_grid

__all__ = [
    "LOOKUP_BITS",
    "MAX_GRID_BITS",
    "MAX_SIGNIFICAND_BITS",
    "Operand",
    "needs_lookup",
    "operand_from_format",
    "resolve_operand",
]

LOOKUP_BITS = (8, 12)
"""Default widths of the fixed-point numbers behind a lookup table."""

MAX_GRID_BITS = 36
"""Widest integer grid of a format that is built exactly (E5M2 needs 33)."""

MAX_SIGNIFICAND_BITS = 12
"""Widest odd part of a grid integer that is built exactly; wider ones are looked up."""


@dataclass(frozen=True)
class Operand:
    """A code that goes into a multiplier, and the integer that each code stands for.

    Attributes
    ----------
    name
        Of the format.
    bits
        Width of the code.
    integers
        By code; None where the code is unused or not a number (NaN, infinity).
        Units promise nothing for those, and proofs leave them out.
    step
        The real number that one unit of the integers stands for.
    lookup_bits
        Width of the fixed-point numbers that the levels were rounded to, or None
        where the integers are exact.
    definition
        The integer as a Verilog expression of ``code``, for codes too wide to tabulate.
    """

    name: str
    bits: int
    integers: tuple[int | None, ...]
    step: Fraction
    lookup_bits: int | None = None
    definition: tuple[str, ...] = ()

    @cached_property
    def valid(self) -> tuple[int, ...]:
        """The codes that stand for a number."""
        return tuple(code for code, value in enumerate(self.integers) if value is not None)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The integers of the valid codes."""
        return tuple(value for value in self.integers if value is not None)

    @property
    def collapsed(self) -> int:
        """How many levels stand for the same integer as another, since the lookup is narrow."""
        return 0 if self.lookup_bits is None else len(self.numbers) - len(set(self.numbers))

    @property
    def minimum(self) -> int:
        """Least integer."""
        return min(self.numbers)

    @property
    def maximum(self) -> int:
        """Greatest integer."""
        return max(self.numbers)

    @cached_property
    def signed_bits(self) -> int:
        """Width of the two's complement number that holds every integer."""
        return signed_width(self.minimum, self.maximum)

    @cached_property
    def magnitude_bits(self) -> int:
        """Width of the greatest magnitude."""
        return max(abs(value) for value in self.numbers).bit_length()

    @property
    def identifier(self) -> str:
        """The name as Verilog can spell it."""
        return identifier(self.name)


def identifier(name: str) -> str:
    """Spell any name as a Verilog identifier."""
    spelled = re.sub(r"\W", "_", name.replace("+", "_").replace(".", "p"), flags=re.ASCII)
    return spelled if spelled[0].isalpha() else f"f_{spelled}"


def signed_width(low: int, high: int) -> int:
    """Width of the two's complement number that holds everything from `low` to `high`."""
    below = (-low - 1).bit_length() if low < 0 else 0
    return max(below, high.bit_length() if high > 0 else 0) + 1


def needs_lookup(number_format: Format) -> bool:
    """Whether the format has no integer grid that a multiplier can use exactly.

    That is so if its levels share no grid of 53 bits, or if a level's odd
    part on that grid is wider than `MAX_SIGNIFICAND_BITS`: codebooks learned from data.
    """
    grid = number_format.integer_grid
    return grid is None or any(
        odd_part(value).bit_length() > MAX_SIGNIFICAND_BITS for value in grid.integers
    )


def odd_part(value: int) -> int:
    """Magnitude without its factors of two; 0 for 0."""
    magnitude = abs(value)
    return magnitude >> ((magnitude & -magnitude).bit_length() - 1) if magnitude else 0


def operand_from_format(number_format: Format, lookup_bits: int | None = None) -> Operand:
    """See a format as a multiplier's operand.

    Parameters
    ----------
    lookup_bits
        Round the levels to fixed point of this width; None keeps them exact.

    Raises
    ------
    FormatError
        If the format has no exact grid that can be built, and no width was given.
    """
    if lookup_bits is not None:
        grid = rounded_grid(number_format, lookup_bits)
    elif number_format.integer_grid is None or needs_lookup(number_format):
        raise FormatError(
            f"format {number_format.name!r} has no exact integer grid: give the lookup a width, "
            f"such as {LOOKUP_BITS[0]} bits"
        )
    else:
        grid = number_format.integer_grid
        if grid.bits > MAX_GRID_BITS:
            raise FormatError(
                f"format {number_format.name!r} needs a {grid.bits}-bit integer grid to be exact; "
                f"units are built up to {MAX_GRID_BITS} bits: narrow the range of its values, "
                "or round them with rounded_format"
            )
    of_level = dict(zip(number_format.levels, grid.integers, strict=True))
    integers: list[int | None] = [None] * 2**number_format.bits
    for value, code in zip(number_format.values, number_format.codes, strict=True):
        integers[code] = of_level[value]
    return Operand(
        name=number_format.name,
        bits=number_format.bits,
        integers=tuple(integers),
        step=grid.step,
        lookup_bits=lookup_bits,
    )


def _int16() -> Operand:
    codes = range(2**16)
    integers = tuple(c - 2**16 if c >= 2**15 else c for c in codes)
    return Operand("int16", 16, integers, Fraction(1), definition=("$signed(code)",))


def _fp16() -> Operand:
    """IEEE 754 binary16 on the grid of its smallest subnormal, 2**-24."""

    def integer(code: int) -> int | None:
        exponent, fraction = code >> 10 & 31, code & 1023
        if exponent == 31:
            return None
        magnitude = fraction if exponent == 0 else (1024 + fraction) << (exponent - 1)
        return -magnitude if code >> 15 else magnitude

    magnitude = "{30'b0, |code[14:10], code[9:0]} << (|code[14:10] ? code[14:10] - 5'd1 : 5'd0)"
    return Operand(
        "fp16",
        16,
        tuple(map(integer, range(2**16))),
        Fraction(1, 2**24),
        definition=(f"code[15] ? -({magnitude}) : ({magnitude})",),
    )


_WIDE = {"int16": _int16, "fp16": _fp16}


def resolve_operand(name: str | Format, lookup_bits: Sequence[int] = LOOKUP_BITS) -> Operand:
    """Turn a name into an operand: ``int16``, ``fp16``, ``fp8`` (E4M3), or any format.

    A format without an exact grid takes the first of `lookup_bits`.
    """
    if isinstance(name, str) and name.lower() in _WIDE:
        return _WIDE[name.lower()]()
    spelled = "e4m3" if isinstance(name, str) and name.lower() == "fp8" else name
    number_format = resolve_format(spelled)
    return operand_from_format(
        number_format, lookup_bits[0] if needs_lookup(number_format) else None
    )
