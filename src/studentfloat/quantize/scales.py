"""Block scales: each rule once, for symmetric and asymmetric formats alike.

Everything that scales a block (rounding to nearest, scale searches, calibrated methods,
activations, packing) calls :func:`block_scales`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from studentfloat.errors import DataError, SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.rounding import level_values, nearest_level
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
# Numbers a search holds at a time, so that its temporaries stay small.
_SEARCH_CHUNK = 1 << 17
_TABLE_CELLS = 4096

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
    """
    return scale_blocks(blocks, scheme, weights=weights).scales


class ScaledBlocks(NamedTuple):
    """Scales of blocks, and which of the scheme's formats each took.

    Attributes
    ----------
    scales
        Of shape ``(...)``.
    selectors
        uint8, of shape ``(...)``: index into :attr:`Scheme.formats`; None where there is
        one format only.
    """

    scales: Tensor
    selectors: Tensor | None


def scale_blocks(blocks: Tensor, scheme: Scheme, *, weights: Tensor | None = None) -> ScaledBlocks:
    """Scale each block, and choose its format where the scheme has several.

    The choice is by least squared error under the scale rule, weighted as the rule says;
    of equal errors the first format has it. Parameters and errors as for
    :func:`block_scales`.
    """
    best, *others = (_scale(blocks, single, weights) for single in scheme.by_format)
    if not others:
        return ScaledBlocks(best, None)
    spread = error_weights(blocks, scheme, weights)
    # Relative to the block's largest, so that squares of small numbers do not vanish.
    largest = blocks.abs().amax(dim=-1)
    unit = torch.where(largest == 0, 1.0, largest)
    relative = blocks / unit[..., None]
    error, _ = _block_error(relative, best / unit, scheme.format, spread)
    selectors = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for i, scales in enumerate(others, start=1):
        its_error, _ = _block_error(relative, scales / unit, scheme.formats[i], spread)
        better = its_error < error
        best = torch.where(better, scales, best)
        error = torch.where(better, its_error, error)
        selectors = torch.where(better, i, selectors)
    return ScaledBlocks(best, selectors)


def _scale(blocks: Tensor, scheme: Scheme, weights: Tensor | None) -> Tensor:
    rule = scheme.scale_rule
    if rule.weighted and weights is None:
        raise SchemeError(f"scale rule {rule.name!r} needs one weight per element: none were given")
    if weights is not None and not rule.weighted:
        raise SchemeError(f"weights were given, but scale rule {rule.name!r} takes none")
    if rule.searches:
        return _searched(blocks, scheme, error_weights(blocks, scheme, weights))
    return round_scales(
        # A zero becomes positive: which sign it had depends on how torch went through memory.
        _DIRECT_RULES[rule.name](_Extremes.of(blocks), scheme.format) + 0.0,
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

    A nested scheme rounds a whole tensor's scales together; that happens when they are
    stored, so here they pass.
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


def _absmax(extremes: _Extremes, number_format: Format) -> Tensor:
    # A side on which the format has no level puts no bound on the scale.
    sides = []
    if number_format.maximum > 0:
        sides.append(_divide(extremes.greatest, number_format.maximum))
    if number_format.minimum < 0:
        sides.append(_divide(extremes.least, number_format.minimum))
    return sides[0] if len(sides) == 1 else torch.maximum(*sides)


def _published(extremes: _Extremes, number_format: Format) -> Tensor:
    return extremes.magnitude / number_format.maximum


def _signed_absmax(extremes: _Extremes, number_format: Format) -> Tensor:
    if number_format.is_symmetric:
        return _absmax(extremes, number_format)
    positive_wins = extremes.greatest >= -extremes.least
    peak = torch.where(positive_wins, extremes.greatest, extremes.least)
    return _divide(peak, number_format.long_side_extreme)


_DIRECT_RULES: dict[str, Callable[[_Extremes, Format], Tensor]] = {
    "absmax": _absmax,
    "published": _published,
    "signed-absmax": _signed_absmax,
}


def _searched(blocks: Tensor, scheme: Scheme, weights: Tensor | None) -> Tensor:
    flat = blocks.reshape(-1, blocks.shape[-1])
    spread = None if weights is None else weights.expand_as(blocks).reshape_as(flat)
    step = max(1, _SEARCH_CHUNK // max(1, flat.shape[-1]))
    parts = [
        _search(
            flat[start : start + step],
            scheme,
            None if spread is None else spread[start : start + step],
        )
        for start in range(0, len(flat), step)
    ]
    return torch.cat(parts).reshape(blocks.shape[:-1])


def _search(blocks: Tensor, scheme: Scheme, weights: Tensor | None) -> Tensor:
    """Best of the direct rules' scales, the best trial scale, and refits of the best.

    Refit: for given levels v, the least squares scale is Σ w x v / Σ w v².
    """
    number_format, dtype = scheme.format, scheme.scale_dtype
    extremes = _Extremes.of(blocks)
    best = round_scales(_absmax(extremes, number_format), dtype, away=True)
    error, levels = _block_error(blocks, best, number_format, weights)

    def consider(candidate: Tensor, *, away: bool = False) -> None:
        nonlocal best, error, levels
        if not scheme.scales_have_sign:
            candidate = candidate.clamp(min=0)
        rounded = round_scales(candidate, dtype, away=away)
        its_error, its_levels = _block_error(blocks, rounded, number_format, weights)
        better = its_error < error
        best = torch.where(better, rounded, best)
        error = torch.where(better, its_error, error)
        levels = torch.where(better[..., None], its_levels, levels)

    if number_format.maximum > 0:
        consider(_published(extremes, number_format))
    if scheme.scales_have_sign:
        consider(_signed_absmax(extremes, number_format), away=True)
    consider(_best_trial(blocks, extremes, scheme, weights))
    for _ in range(_REFITS):
        weighted = levels if weights is None else levels * weights
        below = (weighted * levels).sum(dim=-1)
        consider((weighted * blocks).sum(dim=-1) / torch.where(below == 0, torch.inf, below))
    return best


def _best_trial(
    blocks: Tensor, extremes: _Extremes, scheme: Scheme, weights: Tensor | None
) -> Tensor:
    """Least squares scale of the levels that suit a block best, of those its trial scales give.

    With levels v the least error over all scales is Σ w x² - (Σ w x v)² / Σ w v², so that
    the trial of the greatest last term is best. Levels are looked up in a fine table: near
    a boundary they may be the second nearest, which costs next to nothing here.
    """
    unit = torch.where(extremes.magnitude == 0, 1.0, extremes.magnitude)
    relative = blocks / unit[..., None]
    table, offset, per_unit = _level_table(scheme.format, blocks.dtype, blocks.device)
    # With a negative scale the block's positive side meets the format's negative one.
    mirrored = _Extremes(-extremes.least, -extremes.greatest)
    bases = [_absmax(extremes, scheme.format) / unit]
    if scheme.scales_have_sign:
        bases.append(-_absmax(mirrored, scheme.format) / unit)
    best_gain = torch.full_like(unit, -1.0)
    best = torch.zeros_like(unit)
    cells = torch.empty(relative.numel(), dtype=torch.int32, device=relative.device)
    for base in bases:
        by_cell = per_unit / torch.where(base == 0, torch.inf, base)
        for factor in _SEARCH_FACTORS:
            place = relative * (by_cell / factor)[..., None]
            cells.copy_(place.add_(offset).clamp_(0, len(table) - 1).reshape(-1))
            levels = torch.index_select(table, 0, cells).reshape(relative.shape)
            weighted = levels if weights is None else levels * weights
            below = torch.linalg.vecdot(weighted, levels)
            product = torch.linalg.vecdot(weighted, relative)
            scale = product / torch.where(below == 0, torch.inf, below)
            gain = product * scale
            better = gain > best_gain
            best = torch.where(better, scale, best)
            best_gain = torch.where(better, gain, best_gain)
    return best * unit


@lru_cache(maxsize=64)
def _level_table(
    number_format: Format, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, float, float]:
    """Nearest level of each cell of an even grid over the thresholds; cell = x · b + a."""
    boundaries = number_format.decision_boundaries
    span = boundaries[-1] - boundaries[0] or 1.0
    least = boundaries[0] - 0.01 * span
    per_unit = (_TABLE_CELLS - 1) / (1.02 * span)
    middles = least + (torch.arange(_TABLE_CELLS, dtype=torch.float64) + 0.5) / per_unit
    index = torch.bucketize(middles, torch.tensor(boundaries, dtype=torch.float64))
    levels = torch.tensor(number_format.levels, dtype=torch.float64)[index]
    return levels.to(dtype=dtype, device=device), -least * per_unit, per_unit


def _block_error(
    blocks: Tensor, scales: Tensor, number_format: Format, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Squared error of each block under a scale, and the levels it takes."""
    index = nearest_level(normalize(blocks, scales), number_format)
    levels = level_values(number_format, blocks.dtype, blocks.device)[index.int()]
    squared = (blocks - levels * scales[..., None]).square_()
    if weights is not None:
        squared.mul_(weights)
    return squared.sum(dim=-1), levels


def _round_to_float(dtype: torch.dtype, bits: torch.dtype) -> Callable[[Tensor, bool], Tensor]:
    def rounded(scales: Tensor, away: bool) -> Tensor:
        short = scales.to(dtype)
        if away and dtype != scales.dtype:
            # The bits of a float, sign aside, ascend with its magnitude: one more is the next.
            shrunk = short.to(scales.dtype).abs() < scales.abs()
            short = (short.view(bits) + shrunk.to(bits)).view(dtype)
        if not torch.isfinite(short).all():
            worst = float(scales.abs().max())
            raise DataError(
                f"a block scale of {worst:g} does not fit {str(dtype).removeprefix('torch.')}: "
                "use a scale type of wider range (float32, bfloat16)"
            )
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
