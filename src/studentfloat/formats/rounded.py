"""Formats rounded to fixed point, for levels that no small integer grid holds."""

from __future__ import annotations

from fractions import Fraction

from studentfloat.errors import FormatError
from studentfloat.formats.format import Format, IntegerGrid

__all__ = ["rounded_format", "rounded_grid"]

_NARROWEST, _WIDEST = 2, 24


def rounded_grid(number_format: Format, bits: int) -> IntegerGrid:
    """Round a format's levels to two's complement integers of a given width.

    The unit is chosen so that the greatest magnitude becomes ``2**(bits - 1) - 1``,
    exactly: the extreme, on which block scales rest, does not move.

    Parameters
    ----------
    bits
        Width of the integers, 2 to 24.

    Returns
    -------
    IntegerGrid
        One integer per level; each level is within half a step of its multiple.
        Neighboring levels may round to the same integer.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not _NARROWEST <= bits <= _WIDEST:
        raise FormatError(
            f"{bits!r} bits of fixed point for format {number_format.name!r}: "
            f"a whole number from {_NARROWEST} to {_WIDEST}"
        )
    levels = [Fraction(level) for level in number_format.levels]
    step = max(abs(level) for level in levels) / (2 ** (bits - 1) - 1)
    grid = IntegerGrid(step, tuple(round(level / step) for level in levels))
    if len(set(grid.integers)) < 2:
        raise FormatError(
            f"format {number_format.name!r} has one value only when rounded to {bits} bits: "
            "take more"
        )
    return grid


def rounded_format(number_format: Format, bits: int, *, name: str | None = None) -> Format:
    """Return the format whose levels are those that `bits`-bit hardware multiplies by.

    Quantize with this one where the silicon holds the format in a lookup table
    of fixed-point numbers, so that quality and cost describe the same thing.

    Parameters
    ----------
    bits
        Width of the fixed-point numbers, 2 to 24.
    name
        By default the format's name and ``-fixed<bits>``.

    Examples
    --------
    >>> from studentfloat.formats import get_format
    >>> rounded_format(get_format("nf4"), 8).levels[1] * 127
    -88.0
    """
    grid = rounded_grid(number_format, bits)
    of_level = dict(zip(number_format.levels, grid.integers, strict=True))
    return Format(
        name=name or f"{number_format.name}-fixed{bits}",
        bits=number_format.bits,
        values=tuple(float(grid.step * of_level[value]) for value in number_format.values),
        codes=number_format.codes,
        special_codes=number_format.special_codes,
        description=f"{number_format.description}, rounded to {bits}-bit fixed point",
        source=number_format.source,
    )
