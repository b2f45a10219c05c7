"""Codebooks learned from the numbers themselves: Lloyd's algorithm under a scale rule."""

from __future__ import annotations

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.blocks import block_parts, part_view
from studentfloat.quantize.codebook.levels import format_levels, row_levels
from studentfloat.quantize.scales import error_weights, normalize, scale_blocks
from studentfloat.quantize.scheme import Scheme, replace_scheme

__all__ = ["learn_codebooks", "learn_row_tables"]

_ROUNDS = 6
_STEPS_PER_ROUND = 4
# Numbers that each codebook is learned from; more change it by less than one rounding does.
_SAMPLE = 1 << 16
_SIGNIFICANT_BITS = 12


def learn_codebooks(
    weight: Tensor, scheme: Scheme, count: int = 1, *, weights: Tensor | None = None
) -> Scheme:
    """The scheme with codebooks learned for one tensor in place of its formats.

    Each round scales every block, lets it choose its codebook, and moves every level to the
    weighted mean of the numbers that chose it; the weights are those of the scale rule times
    the block's scale squared, so that what falls is the error that the rule counts. The
    rounds begin with the scheme's formats, and where more are wanted with copies of the
    first that reach less or more far between the extremes.

    Parameters
    ----------
    weight
        Floating point, of shape ``(..., in_features)``.
    scheme
        With blocks along the last axis.
    count
        How many codebooks a block chooses among.
    weights
        For a weighted scale rule: not negative, broadcastable to `weight`.

    Returns
    -------
    Scheme
        Its formats are symmetric in nothing: they hold what the tensor taught. The
        extreme of largest magnitude is 1.

    References
    ----------
    Lloyd, IEEE Trans. Inf. Theory 28(2), 1982. Several codebooks and a selector per block:
    Elangovan et al., "LO-BCQ", arXiv 2502.05376.
    """
    blocks, spread = _sample(weight, scheme, weights, count)
    formats = _starts(scheme, count)
    best, least = formats, float("inf")
    for _ in range(_ROUNDS):
        trial = replace_scheme(scheme, format=formats[0], alternatives=tuple(formats[1:]))
        scaled = scale_blocks(blocks, trial, weights=spread)
        error, moved = _move(blocks, scaled.scales, scaled.selectors, trial, spread)
        if error < least:
            best, least = formats, error
        formats = moved
    return replace_scheme(scheme, format=best[0], alternatives=tuple(best[1:]))


def learn_row_tables(weight: Tensor, scheme: Scheme, *, weights: Tensor | None = None) -> Tensor:
    """One codebook per row of a matrix: bfloat16, of shape ``(rows, 2**bits)``, ascending.

    As any4 does (arXiv 2507.04610): k-means of each row's scaled numbers, begun from the
    scheme's format.

    Parameters
    ----------
    weight
        Floating point, of shape ``(..., in_features)``.
    scheme
        Its format is where the rows begin, its rule scales their blocks.
    weights
        Not negative, broadcastable to `weight`; ones where None.
    """
    if scheme.has_choice:
        raise SchemeError(f"tables per row take one format, not {scheme.format_name}")
    rows = weight.reshape(-1, weight.shape[-1]).float().contiguous()
    rule_weights = None
    if weights is not None:
        weights = weights.expand(weight.shape).reshape(rows.shape).float().contiguous()
        rule_weights = weights if scheme.scale_rule.weighted else None
    scaled = torch.empty_like(rows)
    scales = torch.empty_like(rows)
    for part in block_parts(rows.shape[1], scheme):
        view = part_view(rows, part)
        its_weights = None if rule_weights is None else part_view(rule_weights, part)
        its_scales = scale_blocks(view, scheme, weights=its_weights).scales
        part_view(scaled, part).copy_(normalize(view, its_scales))
        part_view(scales, part).copy_(its_scales[..., None].expand_as(view))
    importance = (scales / _power_of_two(scales.abs().amax(dim=1, keepdim=True))).square_()
    if weights is not None:
        importance = importance * weights
    like = format_levels(scheme.format, rows.dtype, rows.device)
    padded = like.levels[torch.arange(2**scheme.format.bits).clamp(max=len(like.levels) - 1)]
    tables = padded.expand(len(rows), -1).contiguous()
    for _ in range(_ROUNDS * _STEPS_PER_ROUND):
        index = row_levels(tables, like, len(rows)).nearest(scaled)
        mass = torch.zeros_like(tables).scatter_add_(1, index, importance)
        moment = torch.zeros_like(tables).scatter_add_(1, index, importance * scaled)
        means = moment / torch.where(mass > 0, mass, 1.0)
        tables = torch.where(mass > 0, means, tables).sort(dim=1).values
    return tables.bfloat16().float().sort(dim=1).values.bfloat16()


def _sample(
    weight: Tensor, scheme: Scheme, weights: Tensor | None, count: int
) -> tuple[Tensor, Tensor | None]:
    """Full blocks of the tensor, evenly thinned, and their weights."""
    rows = weight.reshape(-1, weight.shape[-1]).float().contiguous()
    part = next(block_parts(rows.shape[1], scheme))
    blocks = part_view(rows, part).reshape(-1, part.size)
    step = max(1, blocks.numel() // (_SAMPLE * count))
    if weights is None:
        return blocks[::step], None
    spread = weights.expand(weight.shape).reshape(rows.shape).float().contiguous()
    return blocks[::step], part_view(spread, part).reshape(-1, part.size)[::step]


def _starts(scheme: Scheme, count: int) -> list[Format]:
    """As many different formats as are wanted, the scheme's own first."""
    formats = [_normalized(torch.tensor(f.levels), scheme.format) for f in scheme.formats[:count]]
    bends = [1.25, 0.8, 1.55, 0.65, 1.9, 0.52, 2.3, 0.43]
    first = torch.tensor(scheme.format.levels, dtype=torch.float64)
    first = first / first.abs().max()
    for k in range(count - len(formats)):
        bend = bends[k % len(bends)] * (1 + k // len(bends) * 0.07)
        formats.append(_normalized(first.sign() * first.abs() ** bend, scheme.format))
    return formats


def _move(
    blocks: Tensor,
    scales: Tensor,
    selectors: Tensor,
    scheme: Scheme,
    weights: Tensor | None,
) -> tuple[float, list[Format]]:
    """Error as things are, and the formats moved to the means of what chose their levels."""
    # Powers of two change nothing but the range: squares of very large numbers overflow.
    unit = _power_of_two(blocks.abs().max())
    importance = error_weights(blocks / unit, scheme, weights, relative=False)
    importance = torch.ones_like(blocks) if importance is None else importance.expand_as(blocks)
    importance = importance * (scales / unit).square()[:, None]
    scaled = normalize(blocks, scales)
    total, moved = 0.0, []
    for i, number_format in enumerate(scheme.formats):
        among = selectors == i
        numbers, masses = scaled[among].reshape(-1), importance[among].reshape(-1).double()
        levels = torch.tensor(number_format.levels, dtype=torch.float64)
        for step in range(_STEPS_PER_ROUND):
            trial = _as_format(levels, number_format)
            index = format_levels(trial, numbers.dtype, numbers.device).nearest(numbers).long()
            if step == 0:
                total += float((masses * (numbers - levels[index]) ** 2).sum())
            mass = torch.bincount(index, masses, minlength=len(levels))
            moment = torch.bincount(index, masses * numbers, minlength=len(levels))
            centers = torch.where(mass > 0, moment / mass.clamp(min=1e-300), levels)
            levels = centers.sort().values
        moved.append(_normalized(levels, number_format))
    return total, moved


def _power_of_two(magnitudes: Tensor) -> Tensor:
    """The powers of two just below magnitudes; one for zero."""
    exponent = torch.frexp(magnitudes).exponent - 1
    power = torch.ldexp(torch.ones_like(magnitudes), exponent)
    return torch.where(magnitudes == 0, 1.0, power)


def _normalized(levels: Tensor, like: Format) -> Format:
    return _as_format(levels.double() / float(levels.abs().max()), like)


def _as_format(levels: Tensor, like: Format) -> Format:
    """A format of these levels, rounded so that its table is short."""
    step = 2.0**-_SIGNIFICANT_BITS
    values = dict.fromkeys(round(float(v) / step) * step for v in levels)
    return Format.from_values(
        values, name="learned", bits=like.bits, description="learned from one tensor"
    )
