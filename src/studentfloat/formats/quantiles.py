"""Formats from the quantiles of a distribution: normal float, Student float."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError
from studentfloat.formats.format import Format

__all__ = ["normal_float", "quantile_format", "student_float"]

QuantileFunction = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def tail_probability(bits: int) -> float:
    """Probability beyond the outermost level: the mean of 1/(2n) and 1/(2(n-1)), n = 2**bits.

    arXiv 2405.03103 (there for 4 bits: ``(1/32 + 1/30) / 2``).
    """
    n = 1 << bits
    return (1 / (2 * n) + 1 / (2 * (n - 1))) / 2


def quantile_format(
    quantile: QuantileFunction,
    bits: int,
    *,
    name: str,
    zero: bool = True,
    tail: float | None = None,
    description: str = "",
    source: str = "",
) -> Format:
    """Levels at evenly spaced probabilities, scaled so that the greatest magnitude is 1.

    Parameters
    ----------
    quantile
        Quantile function of a distribution with median zero, on arrays.
    bits
        2 to 8.
    zero
        True: half of the levels evenly spaced in probability from the tail to
        1/2, half plus one from 1/2 to the other tail, 1/2 counted once; so zero
        is a level and the positive side has one level more (NF4's layout).
        False: all evenly spaced from tail to tail, symmetric, without zero.
    tail
        Probability beyond the outermost level, between 0 and 1/2; by default
        :func:`tail_probability` of `bits`.

    References
    ----------
    Dettmers et al., QLoRA, arXiv 2305.14314 (NF4); Dotzel et al.,
    arXiv 2405.03103 (SF4).
    """
    delta = tail_probability(bits) if tail is None else float(tail)
    if not 0 < delta < 0.5:
        raise FormatError(f"tail probability {delta} of format {name!r} is not between 0 and 1/2")
    half = 2 ** (bits - 1)
    if zero:
        lower = np.linspace(delta, 0.5, half)
        upper = np.linspace(0.5, 1 - delta, half + 1)[1:]
        probabilities = np.concatenate([lower, upper])
    else:
        probabilities = np.linspace(delta, 1 - delta, 2 * half)
    levels = np.asarray(quantile(probabilities), dtype=np.float64)
    if zero:
        levels[half - 1] = 0.0  # the quantile function may miss its median by a rounding error
    else:
        levels = (levels - levels[::-1]) / 2
    levels = levels / np.abs(levels).max()
    at_extreme = np.isclose(np.abs(levels), 1.0, rtol=0, atol=1e-12)  # 1 - delta is rounded
    levels[at_extreme] = np.sign(levels[at_extreme])
    return Format.from_values(
        levels.tolist(), name=name, bits=bits, description=description, source=source
    )


def student_float(
    bits: int = 4,
    degrees_of_freedom: float = 5.0,
    *,
    zero: bool = True,
    tail: float | None = None,
    name: str | None = None,
) -> Format:
    """Student Float: quantiles of Student's t-distribution (SF4 has ν = 5).

    Parameters
    ----------
    bits
        2 to 8.
    degrees_of_freedom
        ν > 0; infinity is the normal distribution.
    zero, tail
        As in :func:`quantile_format`.
    """
    from scipy.special import ndtri, stdtrit

    nu = float(degrees_of_freedom)
    if not nu > 0:
        raise FormatError(f"degrees of freedom {nu:g}: a number above 0 (or infinity)")

    def quantile(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(ndtri(p) if math.isinf(nu) else stdtrit(nu, p))

    return quantile_format(
        quantile,
        bits,
        zero=zero,
        tail=tail,
        name=name or f"sf{bits}-nu{nu:g}" + ("" if zero else "-nozero"),
        description=f"quantiles of Student's t with {nu:g} degrees of freedom"
        + ("" if zero else ", symmetric without zero"),
        source="Dotzel et al., ICML 2024, arXiv 2405.03103",
    )


def normal_float(
    bits: int = 4, *, zero: bool = True, tail: float | None = None, name: str | None = None
) -> Format:
    """Normal Float: quantiles of the normal distribution (NF4)."""
    from scipy.special import ndtri

    return quantile_format(
        lambda p: np.asarray(ndtri(p)),
        bits,
        zero=zero,
        tail=tail,
        name=name or f"nf{bits}" + ("" if zero else "-nozero"),
        description="quantiles of the normal distribution"
        + ("" if zero else ", symmetric without zero"),
        source="Dettmers et al., NeurIPS 2023, arXiv 2305.14314",
    )
