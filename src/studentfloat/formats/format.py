"""A number format as a value.

A :class:`Format` declares which real number each code stands for. Everything
else (levels, zero, symmetry, decision boundaries, integer grid) is derived
from that, so no other module ever asks what a format is called.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError

__all__ = ["MAX_BITS", "MIN_BITS", "Format", "IntegerGrid", "SpecialValue"]

MIN_BITS = 2
MAX_BITS = 8

SpecialValue = Literal["nan", "inf", "-inf"]

_LARGEST_GRID_INTEGER = 2**53
_LARGEST_SIMPLE_DENOMINATOR = 4096


class IntegerGrid(NamedTuple):
    """The smallest integers that hold a format's levels exactly.

    Attributes
    ----------
    step
        The real number that one unit of the grid stands for.
    integers
        One integer per level, in the order of :attr:`Format.levels`;
        ``float(step * integer)`` is the level, to the last bit.
    """

    step: Fraction
    integers: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Width of the two's complement integer that holds every grid value."""
        return max((k.bit_length() if k >= 0 else (-k - 1).bit_length()) + 1 for k in self.integers)


@dataclass(frozen=True)
class Format:
    """A number format of 2 to 8 bits.

    Parameters
    ----------
    name
        What people call it. Takes part in nothing but display and look-up:
        two formats with the same numbers under different names are not equal,
        but behave the same everywhere.
    bits
        Width of a code, 2 to 8.
    values
        The finite value of each code, ascending. Duplicates are allowed: two
        codes that mean the same number (the two zeros of E2M1).
    codes
        ``codes[i]`` is the code of ``values[i]``. All different, each below
        ``2**bits``. Codes that appear neither here nor in `special_codes` are
        unused and do not decode.
    special_codes
        Pairs ``(code, "nan" | "inf" | "-inf")`` of codes that are not numbers.
        The quantizer never produces them.
    description
        One line for people.
    source
        Where the numbers come from: a paper, a specification, a derivation.

    Raises
    ------
    FormatError
        If the parts do not make a format; the message names the offending one.

    Examples
    --------
    >>> ternary = Format.from_values([-1, 0, 1], name="ternary", bits=2)
    >>> ternary.decision_boundaries
    (-0.5, 0.5)
    >>> ternary.codes
    (0, 1, 2)
    """

    name: str
    bits: int
    values: tuple[float, ...]
    codes: tuple[int, ...]
    special_codes: tuple[tuple[int, SpecialValue], ...] = ()
    description: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_bits(self.bits, self.name)
        if len(self.values) != len(self.codes):
            raise FormatError(
                f"format {self.name!r} has {len(self.values)} values but {len(self.codes)} codes: "
                "give one code per value"
            )
        _check_values(self.values, self.bits, self.name)
        _check_codes((*self.codes, *(code for code, _ in self.special_codes)), self.bits, self.name)
        if list(self.values) != sorted(self.values):
            raise FormatError(
                f"format {self.name!r}: values must ascend (Format.from_values sorts them)"
            )
        for _, special in self.special_codes:
            if special not in ("nan", "inf", "-inf"):
                raise FormatError(
                    f"format {self.name!r}: special code value {special!r} is none of "
                    "'nan', 'inf', '-inf'"
                )
        if len(self.levels) < 2:
            raise FormatError(
                f"format {self.name!r} has one value only ({self.values[0]:g}): "
                "a format needs two or more"
            )

    @classmethod
    def from_values(
        cls,
        values: Iterable[float],
        *,
        name: str = "custom",
        bits: int | None = None,
        codes: Iterable[int] | None = None,
        description: str = "",
        source: str = "",
    ) -> Format:
        """Make a format from its values, in any order.

        Parameters
        ----------
        values
            2 to 256 finite numbers.
        bits
            Width of a code; by default the least that holds all values.
        codes
            One code per value, in the order of `values`; by default the rank
            of each value.
        """
        given = [float(v) for v in values]
        if bits is None:
            bits = max(MIN_BITS, math.ceil(math.log2(max(len(given), 2))))
            if bits > MAX_BITS:
                raise FormatError(
                    f"format {name!r} has {len(given)} values: at most 2**{MAX_BITS} = "
                    f"{2**MAX_BITS} fit in {MAX_BITS} bits"
                )
        _check_bits(bits, name)
        _check_values(given, bits, name)
        if codes is None:
            pairs = [(value, code) for code, value in enumerate(sorted(given))]
        else:
            numbers = list(codes)
            if len(numbers) != len(given):
                raise FormatError(
                    f"format {name!r} has {len(given)} values but {len(numbers)} codes: "
                    "give one code per value"
                )
            pairs = sorted(zip(given, numbers, strict=True))
        return cls(
            name=name,
            bits=bits,
            values=tuple(v for v, _ in pairs),
            codes=tuple(c for _, c in pairs),
            description=description,
            source=source,
        )

    @classmethod
    def from_code_table(
        cls,
        table: Mapping[int, float],
        *,
        name: str,
        bits: int,
        special_codes: Mapping[int, SpecialValue] | None = None,
        description: str = "",
        source: str = "",
    ) -> Format:
        """Make a format from what each code decodes to."""
        pairs = sorted((float(value), code) for code, value in table.items())
        return cls(
            name=name,
            bits=bits,
            # `+ 0.0` turns a negative zero into the plain one: as a number it is the same.
            values=tuple(v + 0.0 for v, _ in pairs),
            codes=tuple(c for _, c in pairs),
            special_codes=tuple(sorted((special_codes or {}).items())),
            description=description,
            source=source,
        )

    def renamed(self, name: str, *, description: str = "", source: str = "") -> Format:
        """Return the same numbers under another name."""
        return Format(
            name=name,
            bits=self.bits,
            values=self.values,
            codes=self.codes,
            special_codes=self.special_codes,
            description=description or self.description,
            source=source or self.source,
        )

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The distinct values, ascending."""
        return tuple(dict.fromkeys(self.values))

    @cached_property
    def level_codes(self) -> tuple[int, ...]:
        """The code that encoding gives to each level: the least of its codes."""
        least: dict[float, int] = {}
        for value, code in zip(self.values, self.codes, strict=True):
            least[value] = min(code, least.get(value, code))
        return tuple(least[level] for level in self.levels)

    @cached_property
    def decode_table(self) -> npt.NDArray[np.float64]:
        """Value of every code, of shape ``(2**bits,)``; NaN where a code is unused."""
        table = np.full(2**self.bits, np.nan)
        table[list(self.codes)] = self.values
        for code, special in self.special_codes:
            table[code] = float(special)
        table.flags.writeable = False
        return table

    @property
    def has_zero(self) -> bool:
        """Whether zero is one of the levels."""
        return 0.0 in self.levels

    @property
    def is_symmetric(self) -> bool:
        """Whether the levels are those of the negated format."""
        return self.levels == tuple(-v + 0.0 for v in reversed(self.levels))

    @property
    def minimum(self) -> float:
        """The least value."""
        return self.values[0]

    @property
    def maximum(self) -> float:
        """The greatest value."""
        return self.values[-1]

    @property
    def long_side_extreme(self) -> float:
        """The extreme on the side that reaches farther from zero, with its sign.

        Where both sides reach equally far, the side that has more levels;
        where that is equal too, the positive one.
        """
        if self.maximum != -self.minimum:
            return self.maximum if self.maximum > -self.minimum else self.minimum
        positive = sum(level > 0 for level in self.levels)
        negative = sum(level < 0 for level in self.levels)
        return self.maximum if positive >= negative else self.minimum

    @cached_property
    def decision_boundaries(self) -> tuple[float, ...]:
        """Midpoints between neighbouring levels: one fewer than there are levels."""
        levels = self.levels
        return tuple(lower + (upper - lower) / 2 for lower, upper in itertools.pairwise(levels))

    @cached_property
    def tie_goes_up(self) -> tuple[bool, ...]:
        """For each decision boundary, whether a number exactly on it takes the upper level.

        The level with the even code wins, which for integers and minifloats is
        IEEE 754's round-half-to-even; where both codes or neither are even, the
        level nearer to zero; where that is equal too, the lower one.
        """

        def upper_wins(i: int) -> bool:
            lower_even, upper_even = (self.level_codes[j] % 2 == 0 for j in (i, i + 1))
            if lower_even != upper_even:
                return upper_even
            return abs(self.levels[i + 1]) < abs(self.levels[i])

        return tuple(upper_wins(i) for i in range(len(self.levels) - 1))

    @cached_property
    def integer_grid(self) -> IntegerGrid | None:
        """The smallest integer grid that holds all levels exactly, or None.

        A level such as 0.1 stands for the simplest fraction that rounds to it,
        so additive powers of two given as decimals have their grid of tenths.
        None where the grid would need integers of more than 53 bits.
        """
        candidates = (
            [_simple_fraction(level) for level in self.levels],
            [Fraction(repr(level)) for level in self.levels],
            [Fraction(level) for level in self.levels],
        )
        for fractions in candidates:
            if any(fraction is None for fraction in fractions):
                continue
            grid = _grid_of([fraction for fraction in fractions if fraction is not None])
            exact = all(
                float(grid.step * k) == level
                for k, level in zip(grid.integers, self.levels, strict=True)
            )
            if exact and max(abs(k) for k in grid.integers) < _LARGEST_GRID_INTEGER:
                return grid
        return None

    def encode(self, numbers: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Code of the nearest level of each number, of the shape of `numbers`.

        Numbers beyond an extreme take the extreme. Ties as in
        :attr:`tie_goes_up`. The numbers must be finite.
        """
        array = np.asarray(numbers, dtype=np.float64)
        if not np.isfinite(array).all():
            raise FormatError(
                f"cannot encode {np.count_nonzero(~np.isfinite(array))} values that are NaN or "
                f"infinite in format {self.name!r}"
            )
        index = np.searchsorted(self.rounding_thresholds(np.float64), array, side="left")
        return np.asarray(self.level_codes, dtype=np.uint8)[index]

    def decode(self, codes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Value of each code, of the shape of `codes`; NaN for an unused code."""
        array = np.asarray(codes)
        if array.size and (array.min() < 0 or array.max() >= 2**self.bits):
            raise FormatError(
                f"code {int(array.max() if array.max() >= 2**self.bits else array.min())} is not "
                f"a {self.bits}-bit code (format {self.name!r})"
            )
        return np.asarray(self.decode_table[array])

    def rounding_thresholds(self, dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
        """Thresholds that make nearest-level rounding exact in a floating-point type.

        Returns
        -------
        ndarray of shape ``(len(levels) - 1,)`` and type `dtype`
            The greatest number of that type that still takes the lower level:
            ``x`` takes level ``searchsorted(thresholds, x, side="left")``, ties
            included. (A boundary itself need not be a number of that type.)
        """
        kind = np.dtype(dtype)
        thresholds = np.empty(len(self.levels) - 1, dtype=kind)
        for i, goes_up in enumerate(self.tie_goes_up):
            boundary = (Fraction(self.levels[i]) + Fraction(self.levels[i + 1])) / 2
            rounded = np.asarray(float(boundary), dtype=kind)
            exact = Fraction(float(rounded))
            if exact > boundary or (exact == boundary and goes_up):
                rounded = np.nextafter(rounded, np.asarray(-np.inf, dtype=kind))
            thresholds[i] = rounded
        return thresholds


def _simple_fraction(value: float) -> Fraction | None:
    fraction = Fraction(value).limit_denominator(_LARGEST_SIMPLE_DENOMINATOR)
    return fraction if float(fraction) == value else None


def _grid_of(fractions: list[Fraction]) -> IntegerGrid:
    denominator = math.lcm(*(f.denominator for f in fractions))
    integers = [int(f * denominator) for f in fractions]
    divisor = math.gcd(*integers)
    return IntegerGrid(Fraction(divisor, denominator), tuple(k // divisor for k in integers))


def check_name(name: str) -> None:
    if not isinstance(name, str) or not name or any(c.isspace() or c in ",@" for c in name):
        raise FormatError(
            f"{name!r} is no name for a format: one or more characters, no spaces, commas or '@'"
        )


def _check_bits(bits: int, name: str) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise FormatError(
            f"format {name!r} has {bits!r} bits: a whole number from {MIN_BITS} to {MAX_BITS}"
        )


def _check_values(values: Iterable[float], bits: int, name: str) -> None:
    numbers = list(values)
    if not numbers:
        raise FormatError(f"format {name!r} has no values")
    if len(numbers) > 2**bits:
        raise FormatError(
            f"format {name!r} has {len(numbers)} values: at most {2**bits} fit in {bits} bits"
        )
    for value in numbers:
        if not math.isfinite(value):
            raise FormatError(f"format {name!r} has the value {value}: values must be finite")
        if abs(value) > float(np.finfo(np.float32).max) or (
            value != 0 and abs(value) < float(np.finfo(np.float32).tiny)
        ):
            raise FormatError(
                f"format {name!r} has the value {value:g}: out of the range of float32"
            )


def _check_codes(codes: tuple[int, ...], bits: int, name: str) -> None:
    seen: set[int] = set()
    for code in codes:
        if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code < 2**bits:
            raise FormatError(
                f"format {name!r} has the code {code!r}: "
                f"codes of {bits} bits are 0 to {2**bits - 1}"
            )
        if code in seen:
            raise FormatError(f"format {name!r} gives the code {code} twice")
        seen.add(code)
