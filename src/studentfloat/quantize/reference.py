"""The codec written to be read: one number at a time, NumPy scalars, no torch.

The fast codec (:func:`studentfloat.quantize.quantize`) must equal this one bit for bit under
the direct scale rules; the tests hold them against each other. Where the two disagree, this
one says what was meant.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from studentfloat.errors import SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.scheme import ROW, TENSOR, ScaleDtype, Scheme

__all__ = ["block_scale", "nearest_level", "quantize_row"]

Row = npt.NDArray[np.float32]


def quantize_row(row: Row, scheme: Scheme) -> tuple[list[int], Row, Row]:
    """Quantize one row of float32 numbers with a direct scale rule and plain scales.

    Parameters
    ----------
    row
        float32, of shape ``(n,)``, finite.
    scheme
        With a scale rule that does not search, and scales that are not quantized themselves.

    Returns
    -------
    codes, scales, values
        n codes, one scale per block, and the n numbers they stand for.
    """
    size = len(row) if scheme.block_size in (ROW, TENSOR) else int(scheme.block_size)
    codes: list[int] = []
    scales: list[np.float32] = []
    values: list[np.float32] = []
    for start in range(0, len(row), size):
        block = row[start : start + size]
        scale = block_scale(block, scheme)
        scales.append(scale)
        for number in block:
            quotient = np.float32(0) if scale == 0 else np.float32(number / scale)
            level = nearest_level(float(quotient), scheme.format)
            codes.append(scheme.format.level_codes[level])
            values.append(np.float32(np.float32(scheme.format.levels[level]) * scale))
    return codes, np.array(scales, np.float32), np.array(values, np.float32)


def nearest_level(number: float, number_format: Format) -> int:
    """Index of the nearest level, found by looking at all of them, exactly."""
    exact = Fraction(number)
    distances = [abs(exact - Fraction(level)) for level in number_format.levels]
    least = min(distances)
    nearest = [i for i, distance in enumerate(distances) if distance == least]
    if len(nearest) == 1:
        return nearest[0]
    lower, upper = nearest
    return upper if number_format.tie_goes_up[lower] else lower


def block_scale(block: Row, scheme: Scheme) -> np.float32:
    """Scale of one block under a rule that does not search."""
    fmt = scheme.format
    greatest = max(np.float32(0), block.max())
    least = min(np.float32(0), block.min())
    rule = scheme.scale_rule.name
    if rule == "absmax" or (rule == "signed-absmax" and fmt.is_symmetric):
        bounds = []
        if fmt.maximum > 0:
            bounds.append(_quotient(greatest, fmt.maximum))
        if fmt.minimum < 0:
            bounds.append(_quotient(least, fmt.minimum))
        scale = max(bounds)
    elif rule == "published":
        scale = np.float32(max(greatest, -least) / np.float32(fmt.maximum))
    elif rule == "signed-absmax":
        peak = greatest if greatest >= -least else least
        scale = _quotient(peak, fmt.long_side_extreme)
    else:
        raise SchemeError(f"the reference has no scale rule {rule!r}: it searches")
    return _stored(scale, scheme)


def _quotient(peak: np.float32, extreme: float) -> np.float32:
    scale = np.float32(peak / np.float32(extreme))
    subnormal = abs(scale) < np.finfo(np.float32).tiny
    if subnormal and abs(np.float32(scale * np.float32(extreme))) < abs(peak):
        outward = math.copysign(math.inf, float(peak) * extreme)
        return np.float32(np.nextafter(scale, np.float32(outward)))
    return scale


def _stored(scale: np.float32, scheme: Scheme) -> np.float32:
    """Round a scale to its type: away from zero where the rule says so, else to nearest."""
    dtype = scheme.scale_dtype
    if not isinstance(dtype, ScaleDtype):
        raise SchemeError("the reference has no scales that are quantized themselves")
    away = scheme.scale_rule.rounds_away
    if dtype.name == "float32":
        return scale
    if dtype.name == "e8m0":
        return _power_of_two(float(scale), away)
    keep = {"float16": 10, "bfloat16": 7}[dtype.name]
    least_exponent = {"float16": -14, "bfloat16": -126}[dtype.name]
    return _short_float(float(scale), keep, least_exponent, away)


def _short_float(scale: float, mantissa_bits: int, least_exponent: int, away: bool) -> np.float32:
    if scale == 0:
        return np.float32(0)
    exponent = max(math.frexp(scale)[1] - 1, least_exponent)
    step = Fraction(2) ** (exponent - mantissa_bits)
    steps = Fraction(abs(scale)) / step
    whole = math.ceil(steps) if away else round(steps)  # round() is half to even
    return np.float32(math.copysign(float(whole * step), scale))


def _power_of_two(scale: float, away: bool) -> np.float32:
    if scale == 0:
        return np.float32(2.0**-127)
    below = math.floor(math.log2(scale))
    below = below if 2.0**below <= scale else below - 1
    up = scale > 2.0**below if away else scale >= 1.5 * 2.0**below
    return np.float32(2.0 ** min(127, max(-127, below + up)))
