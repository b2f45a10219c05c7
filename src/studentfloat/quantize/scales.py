"""Block scales: each rule once, for symmetric and asymmetric formats alike.

Everything that scales a block (rounding to nearest, scale searches, calibrated methods,
activations, packing) calls :func:`block_scales`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from studentfloat.errors import DataError, SchemeError
from studentfloat.quantize.codebook import Codebook, codebook_of
from studentfloat.quantize.scheme import ScaleDtype, Scheme

__all__ = [
    "ScaledBlocks",
    "block_scales",
    "error_weights",
    "normalize",
    "round_scales",
    "scale_blocks",
]

# A search tries these shares of the absmax scale. Below a half the clipped numbers always
# cost more; above one a coarse format may still find its levels better placed.
_SEARCH_FACTORS = tuple(0.5 + 0.04 * k for k in range(19))
_REFITS = 2
# For codes made for unit variance, of the root mean square: tails want a larger scale.
_SHARES_OF_DEVIATION = (0.94, 1.0, 1.06, 1.14)
# Numbers a search holds at a time, so that its temporaries stay small.
_SEARCH_CHUNK = 1 << 17
# Squares of magnitudes between these and of their errors neither overflow nor vanish.
_SAFE_MAGNITUDES = 2.0**-40, 2.0**40

_E8M0_LEAST, _E8M0_GREATEST = -127, 127


def block_scales(blocks: Tensor, scheme: Scheme, *, weights: Tensor | None = None) -> Tensor:
    """Scale of each block: those of :func:`scale_blocks`.

    Parameters
    ----------
    blocks
        float32 or float64, of shape ``(..., block)``, finite.
    scheme
        Its format, scale rule and scale type count.
    weights
        For a weighted rule: not negative, broadcastable to `blocks`.

    Returns
    -------
    Tensor
        Of shape ``(...)`` and the type of `blocks`, holding numbers that the scale type
        can represent (a scale that is itself quantized stays exact here). Zero for a
        block of zeros.

    Raises
    ------
    SchemeError
        If a weighted rule has no weights, or weights come without a weighted rule.
    DataError
        If a block's scale does not fit its type.
    """
    return scale_blocks(blocks, scheme, weights=weights).scales


class ScaledBlocks(NamedTuple):
    """Scales of blocks, and what each chose.

    Attributes
    ----------
    scales
        Of shape ``(...)``.
    selectors
        uint8, of shape ``(...)``: index into :attr:`Codebook.choices`; zeros where there is
        one only.
    """

    scales: Tensor
    selectors: Tensor


def scale_blocks(
    blocks: Tensor,
    scheme: Scheme,
    codebook: Codebook | None = None,
    *,
    weights: Tensor | None = None,
    name: str = "a tensor",
) -> ScaledBlocks:
    """Scale each block, and choose its codebook where there are several.

    The choice is by least squared error under the scale rule, weighted as the rule says;
    of equal errors the first has it. Parameters and errors as for :func:`block_scales`,
    besides:

    Parameters
    ----------
    codebook
        What blocks are scaled for; by default that of the scheme.
    name
        What to call the tensor in an error.
    """
    codebook = codebook or codebook_of(scheme, blocks.dtype, blocks.device)
    first, *others = codebook.choices
    best = _scale(blocks, scheme, first, weights)
    selectors = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    if others:
        spread = error_weights(blocks, scheme, weights)
        # Relative to the block's largest, so that squares of small numbers do not vanish.
        largest = blocks.abs().amax(dim=-1)
        unit = torch.where(largest == 0, 1.0, largest)
        relative = blocks / unit[..., None]
        error, _ = _block_error(relative, best / unit, first, spread)
    for i, other in enumerate(others, start=1):
        scales = _scale(blocks, scheme, other, weights)
        its_error, _ = _block_error(relative, scales / unit, other, spread)
        better = its_error < error
        best = torch.where(better, scales, best)
        error = torch.where(better, its_error, error)
        selectors = torch.where(better, i, selectors)
    if not torch.isfinite(best).all():
        raise DataError(
            f"{name} reaches {float(blocks.abs().max()):g}: the scale of such a block does not "
            f"fit {scheme.scale_dtype_name}: use scales of a wider range (bfloat16, float32), or "
            "scale the tensor down"
        )
    return ScaledBlocks(best, selectors)


def _scale(blocks: Tensor, scheme: Scheme, codebook: Codebook, weights: Tensor | None) -> Tensor:
    rule = scheme.scale_rule
    if rule.weighted and weights is None:
        raise SchemeError(f"scale rule {rule.name!r} needs one weight per element: none were given")
    if weights is not None and not rule.weighted:
        raise SchemeError(f"weights were given, but scale rule {rule.name!r} takes none")
    if codebook.is_normalized:
        return _by_deviation(blocks, scheme, codebook, error_weights(blocks, scheme, weights))
    if rule.searches:
        return _searched(blocks, scheme, codebook, error_weights(blocks, scheme, weights))
    return round_scales(
        # A zero becomes positive: which sign it had depends on how torch went through memory.
        _DIRECT_RULES[rule.name](_Extremes.of(blocks), codebook) + 0.0,
        scheme.scale_dtype,
        away=rule.rounds_away,
    )


def error_weights(
    blocks: Tensor, scheme: Scheme, weights: Tensor | None, *, relative: bool = True
) -> Tensor | None:
    """What each squared error weighs: the given weights times the rule's power of magnitude.

    Relative to the block's largest magnitude, unless blocks are to be weighed against each
    other. None means ones.
    """
    power = scheme.scale_rule.magnitude_power
    if not power:
        return weights
    if not relative:
        own = blocks.abs().pow(power)
        return own if weights is None else own * weights
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    own = (blocks / torch.where(largest == 0, 1.0, largest)).abs_().pow_(power)
    return own if weights is None else own * weights


def normalize(blocks: Tensor, scales: Tensor) -> Tensor:
    """Divide blocks of shape ``(..., block)`` by scales of shape ``(...)``; by zero gives zero."""
    divisor = torch.where(scales == 0, torch.inf, scales)
    return blocks / divisor[..., None]


def round_scales(scales: Tensor, dtype: ScaleDtype | Scheme, *, away: bool) -> Tensor:
    """Round scales to what their type can hold, to nearest or away from zero.

    Beyond its range a scale becomes infinite. A nested scheme rounds a whole tensor's scales
    together; that happens when they are stored, so here they pass.
    """
    if isinstance(dtype, Scheme):
        return scales
    return _DTYPE_ROUNDING[dtype.name](scales, away)


class _Extremes(NamedTuple):
    """Per block: the greatest number and the least, but no less or greater than zero."""

    greatest: Tensor
    least: Tensor

    @classmethod
    def of(cls, blocks: Tensor) -> _Extremes:
        least, greatest = torch.aminmax(blocks, dim=-1)
        return cls(greatest.clamp_(min=0), least.clamp_(max=0))

    @property
    def magnitude(self) -> Tensor:
        return torch.maximum(self.greatest, -self.least)


def _divide(peak: Tensor, extreme: float) -> Tensor:
    """The scale that takes a block's peak to a format's extreme, and not too small.

    Among subnormal numbers a quotient rounds so coarsely that the peak would clip, or the
    block vanish: there the quotient is rounded away from zero.
    """
    scale = peak / extreme
    tiny = torch.finfo(scale.dtype).tiny
    too_small = (scale.abs() < tiny) & ((scale * extreme).abs() < peak.abs())
    if not too_small.any():
        return scale
    outward = torch.copysign(torch.full_like(scale, torch.inf), peak * extreme)
    return torch.where(too_small, torch.nextafter(scale, outward), scale)


def _absmax(extremes: _Extremes, codebook: Codebook) -> Tensor:
    # A side on which the codebook has no level puts no bound on the scale.
    sides = []
    if codebook.maximum > 0:
        sides.append(_divide(extremes.greatest, codebook.maximum))
    if codebook.minimum < 0:
        sides.append(_divide(extremes.least, codebook.minimum))
    return sides[0] if len(sides) == 1 else torch.maximum(*sides)


def _published(extremes: _Extremes, codebook: Codebook) -> Tensor:
    return extremes.magnitude / codebook.maximum


def _signed_absmax(extremes: _Extremes, codebook: Codebook) -> Tensor:
    if codebook.is_symmetric:
        return _absmax(extremes, codebook)
    positive_wins = extremes.greatest >= -extremes.least
    peak = torch.where(positive_wins, extremes.greatest, extremes.least)
    return _divide(peak, codebook.long_side_extreme)


# The rules of SCALE_RULES that do not search: a scheme takes no others.
_DIRECT_RULES: dict[str, Callable[[_Extremes, Codebook], Tensor]] = {
    "absmax": _absmax,
    "published": _published,
    "signed-absmax": _signed_absmax,
}


def _by_deviation(
    blocks: Tensor, scheme: Scheme, codebook: Codebook, weights: Tensor | None
) -> Tensor:
    """Scales of codes made for unit variance: root mean squares; a search tries some about them.

    Each trial is followed by the least squares scale of its values.
    """
    unit = _safe_unit(blocks)
    relative = blocks / unit[..., None]
    deviation = relative.square().mean(dim=-1).sqrt()

    def rounded(scales: Tensor) -> Tensor:
        return round_scales(scales * unit, scheme.scale_dtype, away=False)

    best = rounded(deviation)
    if not scheme.scale_rule.searches:
        return best
    error, _ = _block_error(relative, best / unit, codebook, weights)
    for share in _SHARES_OF_DEVIATION:
        values = codebook.round(normalize(relative, deviation * share), weights)
        weighted = values if weights is None else values * weights
        below = torch.linalg.vecdot(weighted, values)
        refitted = torch.linalg.vecdot(weighted, relative) / torch.where(
            below == 0, torch.inf, below
        )
        trial = rounded(refitted.clamp(min=0))
        its_error, _ = _block_error(relative, trial / unit, codebook, weights)
        better = its_error < error
        best = torch.where(better, trial, best)
        error = torch.where(better, its_error, error)
    return best


def _searched(blocks: Tensor, scheme: Scheme, codebook: Codebook, weights: Tensor | None) -> Tensor:
    flat = blocks.reshape(-1, blocks.shape[-1])
    spread = None if weights is None else weights.expand_as(blocks).reshape_as(flat)
    step = max(1, _SEARCH_CHUNK // max(1, flat.shape[-1]))
    parts = [
        _search(
            flat[start : start + step],
            scheme,
            codebook,
            None if spread is None else spread[start : start + step],
        )
        for start in range(0, len(flat), step)
    ]
    return torch.cat(parts).reshape(blocks.shape[:-1])


def _search(blocks: Tensor, scheme: Scheme, codebook: Codebook, weights: Tensor | None) -> Tensor:
    """Best of the direct rules' scales, the best trial scale, and refits of the best.

    Refit: for given values v, the least squares scale is Σ w x v / Σ w v².
    """
    unit = _safe_unit(blocks)
    blocks = blocks / unit[..., None]
    extremes = _Extremes.of(blocks)
    may_be_negative = scheme.scales_have_sign_for(codebook.is_symmetric)

    def rounded(candidate: Tensor, *, away: bool) -> Tensor:
        return round_scales(candidate * unit, scheme.scale_dtype, away=away) / unit

    best = rounded(_absmax(extremes, codebook), away=True)
    # No search among the scales of a type that cannot hold the block.
    is_beyond = torch.isinf(best)
    error, values = _block_error(blocks, best, codebook, weights)

    def consider(candidate: Tensor, *, away: bool = False) -> None:
        nonlocal best, error, values
        if not may_be_negative:
            candidate = candidate.clamp(min=0)
        scales = rounded(candidate, away=away)
        its_error, its_values = _block_error(blocks, scales, codebook, weights)
        better = its_error < error
        best = torch.where(better, scales, best)
        error = torch.where(better, its_error, error)
        values = torch.where(better[..., None], its_values, values)

    if codebook.maximum > 0:
        consider(_published(extremes, codebook))
    if may_be_negative:
        consider(_signed_absmax(extremes, codebook), away=True)
    consider(_best_trial(blocks, extremes, codebook, weights, both_signs=may_be_negative))
    for _ in range(_REFITS):
        weighted = values if weights is None else values * weights
        below = (weighted * values).sum(dim=-1)
        consider((weighted * blocks).sum(dim=-1) / torch.where(below == 0, torch.inf, below))
    return (best * unit).masked_fill_(is_beyond, torch.inf)


def _safe_unit(blocks: Tensor) -> Tensor:
    """Powers of two by which blocks are divided so that squares can be summed up.

    One, but for blocks of very large or small numbers; dividing by them is exact.
    """
    largest = blocks.abs().amax(dim=-1)
    low, high = _SAFE_MAGNITUDES
    is_safe = (largest == 0) | ((largest >= low) & (largest <= high))
    _, exponent = torch.frexp(largest)
    return torch.where(is_safe, 1.0, torch.ldexp(torch.ones_like(largest), exponent - 1))


def _best_trial(
    blocks: Tensor,
    extremes: _Extremes,
    codebook: Codebook,
    weights: Tensor | None,
    *,
    both_signs: bool,
) -> Tensor:
    """Least squares scale of the values that suit a block best, of those its trial scales give.

    With values v the least error over all scales is Σ w x² - (Σ w x v)² / Σ w v², so that
    the trial of the greatest last term is best.
    """
    unit = torch.where(extremes.magnitude == 0, 1.0, extremes.magnitude)
    relative = blocks / unit[..., None]
    # With a negative scale the block's positive side meets the codebook's negative one.
    mirrored = _Extremes(-extremes.least, -extremes.greatest)
    bases = [_absmax(extremes, codebook) / unit]
    if both_signs:
        bases.append(-_absmax(mirrored, codebook) / unit)
    best_gain = torch.full_like(unit, -1.0)
    best = torch.zeros_like(unit)
    for base in bases:
        for values in codebook.trials(relative, base, _SEARCH_FACTORS, weights):
            weighted = values if weights is None else values * weights
            below = torch.linalg.vecdot(weighted, values)
            product = torch.linalg.vecdot(weighted, relative)
            scale = product / torch.where(below == 0, torch.inf, below)
            gain = product * scale
            better = gain > best_gain
            best = torch.where(better, scale, best)
            best_gain = torch.where(better, gain, best_gain)
    return best * unit


def _block_error(
    blocks: Tensor, scales: Tensor, codebook: Codebook, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Squared error of each block under a scale, and the values it takes."""
    values = codebook.round(normalize(blocks, scales), weights)
    squared = (blocks - values * scales[..., None]).square_()
    if weights is not None:
        squared.mul_(weights)
    # A scale beyond its type's range is no candidate.
    return squared.sum(dim=-1).nan_to_num_(nan=torch.inf, posinf=torch.inf), values


def _round_to_float(dtype: torch.dtype, bits: torch.dtype) -> Callable[[Tensor, bool], Tensor]:
    def rounded(scales: Tensor, away: bool) -> Tensor:
        short = scales.to(dtype)
        if away and dtype != scales.dtype:
            # The bits of a float, sign aside, ascend with its magnitude: one more is the next.
            shrunk = short.to(scales.dtype).abs() < scales.abs()
            short = (short.view(bits) + shrunk.to(bits)).view(dtype)
        return short.to(scales.dtype)

    return rounded


def _round_to_power_of_two(scales: Tensor, away: bool) -> Tensor:
    mantissa, exponent = torch.frexp(scales)  # scale = mantissa * 2**exponent, mantissa in [.5, 1)
    up = mantissa > 0.5 if away else mantissa >= 0.75
    power = (exponent - 1 + up.to(exponent.dtype)).clamp(_E8M0_LEAST, _E8M0_GREATEST)
    power = torch.where(scales == 0, _E8M0_LEAST, power)
    return torch.ldexp(torch.ones_like(scales), power)


_DTYPE_ROUNDING: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "float32": _round_to_float(torch.float32, torch.int32),
    "float16": _round_to_float(torch.float16, torch.int16),
    "bfloat16": _round_to_float(torch.bfloat16, torch.int16),
    "e8m0": _round_to_power_of_two,
}
