"""Families of number formats, each by its parameters.

No table of values lives here: every format follows from how its codes decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

from studentfloat.errors import FormatError
from studentfloat.formats.format import Format, SpecialValue

__all__ = ["additive_powers_of_two", "e2m1_b", "e2m1_i", "integer", "minifloat"]

Specials = Literal["none", "ieee", "nan"]


def integer(
    bits: int, *, symmetric: bool = False, signed: bool = True, name: str | None = None
) -> Format:
    """Integers: two's complement, or unsigned.

    Parameters
    ----------
    bits
        2 to 8.
    symmetric
        Leave out the most negative integer, so that the range is
        ``±(2**(bits-1) - 1)``.
    signed
        If false: 0 to ``2**bits - 1``.
    """
    if symmetric and not signed:
        raise FormatError("an unsigned integer format cannot be symmetric")
    span = 2**bits
    if signed:
        lowest = -span // 2 + (1 if symmetric else 0)
        numbers = range(lowest, span // 2)
    else:
        numbers = range(span)
    label = name or f"{'' if signed else 'u'}int{bits}{'-symmetric' if symmetric else ''}"
    return Format.from_code_table(
        {number % span: float(number) for number in numbers},
        name=label,
        bits=bits,
        description=f"integers {numbers[0]} to {numbers[-1]}",
        source="two's complement" if signed else "unsigned binary",
    )


def minifloat(
    exponent_bits: int,
    mantissa_bits: int,
    *,
    bias: int | None = None,
    subnormals: bool | Sequence[float] = True,
    specials: Specials = "none",
    negative_zero: float | None = None,
    name: str | None = None,
) -> Format:
    """A sign bit, an exponent and a mantissa.

    The code is ``sign · 2**(E+M) + exponent · 2**M + mantissa``. With an
    exponent field ``e > 0`` the magnitude is ``2**(e - bias) · (1 + m / 2**M)``;
    with ``e = 0`` it is subnormal, ``2**(1 - bias) · m / 2**M`` (IEEE 754-2019,
    section 3.4).

    Parameters
    ----------
    exponent_bits, mantissa_bits
        Widths E ≥ 1 and M ≥ 0; 1 + E + M is the width of the format, 2 to 8.
    bias
        By default ``2**(E-1) - 1``.
    subnormals
        True: as above. False: ``e = 0`` is one more normal exponent, whose first
        magnitude gives way to zero. A sequence of ``2**M - 1`` numbers:
        those magnitudes in place of the subnormals (Intel's E2M1 has 1/16).
    specials
        What the highest codes stand for: "none" (all finite, as in the OCP
        4- and 6-bit formats), "ieee" (the highest exponent is infinity and
        NaN, as in E5M2), "nan" (only the code of all ones is NaN, as in OCP E4M3).
    negative_zero
        None: the code of −0 is a second zero. A number: that code stands for it
        instead (the *supernormal* of arXiv 2405.03103: 8 is super-range,
        5 super-precision for E2M1).

    Examples
    --------
    >>> minifloat(2, 1).levels[7:]
    (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """
    if exponent_bits < 1 or mantissa_bits < 0:
        raise FormatError(
            f"E{exponent_bits}M{mantissa_bits}: a minifloat has at least one exponent bit and "
            "no negative number of mantissa bits"
        )
    bits = 1 + exponent_bits + mantissa_bits
    the_bias = 2 ** (exponent_bits - 1) - 1 if bias is None else bias
    magnitudes = _minifloat_magnitudes(exponent_bits, mantissa_bits, the_bias, subnormals)
    special_magnitudes = _special_magnitudes(exponent_bits, mantissa_bits, specials)
    sign = 2 ** (bits - 1)
    table: dict[int, float] = {}
    special_codes: dict[int, SpecialValue] = {}
    for code, magnitude in enumerate(magnitudes):
        special = special_magnitudes.get(code)
        if special is None:
            table[code], table[sign + code] = magnitude, -magnitude
        else:
            special_codes[code] = special
            special_codes[sign + code] = "-inf" if special == "inf" else special
    if negative_zero is not None:
        table[sign] = _supernormal(negative_zero, table)
    label = name or f"e{exponent_bits}m{mantissa_bits}"
    return Format.from_code_table(
        table,
        name=label,
        bits=bits,
        special_codes=special_codes,
        description=f"1 sign, {exponent_bits} exponent, {mantissa_bits} mantissa bits, "
        f"bias {the_bias}"
        + ("" if negative_zero is None else f"; the code of -0 means {negative_zero:g}"),
        source="IEEE 754-2019 section 3.4; OCP Microscaling (MX) v1.0",
    )


def additive_powers_of_two(
    *term_exponents: Sequence[int],
    largest: float | None = None,
    negative_zero: float | None = None,
    name: str | None = None,
) -> Format:
    """Magnitudes that are sums of powers of two, one from each set.

    Each term is zero or ``2**k`` with ``k`` of its set, so a product is a few
    shifts and adds (Li, Dong and Wang, ICLR 2020, arXiv 1909.13144).

    Parameters
    ----------
    term_exponents
        One set of exponents per term; set ``i`` with zero has a size that is a
        power of two. 4-bit APoT is ``(-1, -2, -4), (-3,)``.
    largest
        Rescale so that this is the greatest magnitude.
    negative_zero
        A number for the code of −0 (after rescaling), or None for a second zero.
    """
    if not term_exponents:
        raise FormatError("additive powers of two need at least one set of exponents")
    terms = [(0.0, *(2.0**k for k in sorted(exponents))) for exponents in term_exponents]
    sums = sorted({sum(choice) for choice in product(*terms)})
    bits = (len(sums) - 1).bit_length() + 1
    factor = 1.0 if largest is None else sums[-1]
    target = 1.0 if largest is None else largest
    sign = 2 ** (bits - 1)
    table: dict[int, float] = {}
    for code, total in enumerate(sums):
        magnitude = total / factor * target
        table[code], table[sign + code] = magnitude, -magnitude
    if negative_zero is not None:
        table[sign] = _supernormal(negative_zero, table)
    return Format.from_code_table(
        table,
        name=name or f"apot{bits}",
        bits=bits,
        description="sums of powers of two"
        + ("" if negative_zero is None else f"; the code of -0 means {negative_zero:g}"),
        source="Li, Dong and Wang, ICLR 2020, arXiv 1909.13144",
    )


def e2m1_i(*, name: str = "e2m1-i") -> Format:
    """E2M1 as in Intel's neural-compressor: its one subnormal is 1/16, not 1/2."""
    return minifloat(2, 1, subnormals=(1 / 16,), name=name).renamed(
        name,
        description="E2M1 whose one subnormal is 1/16",
        source="intel/neural-compressor; arXiv 2405.03103",
    )


def e2m1_b(*, name: str = "e2m1-b") -> Format:
    """FP4 as in bitsandbytes: twice E2M1, its smallest magnitude 1/16, codes of its own.

    The exponent field is not monotonic: the magnitudes of codes 0 to 7 are
    0, 1/16, 8, 12, 4, 6, 2, 3 (twelfths of the largest in bitsandbytes).
    """
    doubled = [2.0 ** (e + 1) * (1 + m / 2) for e in (2, 1, 0) for m in (0, 1)]
    magnitudes = [0.0, 1 / 16, *doubled]
    table = dict(enumerate(magnitudes))
    table |= {8 + code: -magnitude for code, magnitude in enumerate(magnitudes)}
    return Format.from_code_table(
        table,
        name=name,
        bits=4,
        description="twice E2M1, smallest magnitude 1/16, bitsandbytes' own code order",
        source="bitsandbytes FP4; arXiv 2405.03103",
    )


def _minifloat_magnitudes(
    exponent_bits: int, mantissa_bits: int, bias: int, subnormals: bool | Sequence[float]
) -> list[float]:
    steps = 2**mantissa_bits
    lowest_is_normal = subnormals is False
    if lowest_is_normal:
        first = [0.0, *(2.0**-bias * (1 + m / steps) for m in range(1, steps))]
    elif subnormals is True:
        first = [2.0 ** (1 - bias) * m / steps for m in range(steps)]
    else:
        assert not isinstance(subnormals, bool)
        if len(subnormals) != steps - 1:
            raise FormatError(
                f"E{exponent_bits}M{mantissa_bits} has {steps - 1} subnormals, but "
                f"{len(subnormals)} were given"
            )
        first = [0.0, *map(float, subnormals)]
    normal = [
        2.0 ** (e - bias) * (1 + m / steps)
        for e in range(1, 2**exponent_bits)
        for m in range(steps)
    ]
    return first + normal


def _special_magnitudes(
    exponent_bits: int, mantissa_bits: int, specials: Specials
) -> dict[int, SpecialValue]:
    highest = 2 ** (exponent_bits + mantissa_bits) - 1
    if specials == "none":
        return {}
    if specials == "nan":
        return {highest: "nan"}
    if specials == "ieee":
        infinity = highest - (2**mantissa_bits - 1)
        nans: dict[int, SpecialValue] = dict.fromkeys(range(infinity + 1, highest + 1), "nan")
        return {infinity: "inf", **nans}
    raise FormatError(f"specials {specials!r} is none of 'none', 'ieee', 'nan'")


def _supernormal(value: float, table: dict[int, float]) -> float:
    if value in table.values():
        raise FormatError(
            f"negative_zero={value:g} gives nothing new: the format has that value already"
        )
    return float(value)
