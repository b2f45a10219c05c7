"""Nearest level of a format, on tensors: the one place where numbers become codes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from studentfloat.formats import Format

__all__ = ["codes_of_levels", "level_values", "nearest_level", "next_level_away"]

# Up to this many thresholds, adding up comparisons beats a binary search per element.
_MOST_COMPARISONS = 16
# Elements a pass, so that its intermediate results stay in the second-level cache.
_CHUNK = 1 << 17


@lru_cache(maxsize=512)
def _thresholds(number_format: Format, dtype: torch.dtype, device: torch.device) -> Tensor:
    kind = "float64" if dtype == torch.float64 else "float32"
    return torch.from_numpy(number_format.rounding_thresholds(kind)).to(device)


@lru_cache(maxsize=512)
def level_values(number_format: Format, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The format's levels, of shape ``(len(levels),)``, ascending."""
    return torch.tensor(number_format.levels, dtype=dtype, device=device)


@lru_cache(maxsize=512)
def _code_of_level(number_format: Format, device: torch.device) -> Tensor:
    """The code of each level, uint8, of shape ``(len(levels),)``."""
    return torch.tensor(number_format.level_codes, dtype=torch.uint8, device=device)


def codes_of_levels(index: Tensor, number_format: Format) -> Tensor:
    """Turn level indices (uint8, any shape) into codes of the same shape and type."""
    if number_format.level_codes == tuple(range(len(number_format.levels))):
        return index
    return _code_of_level(number_format, index.device)[index.int()]


def nearest_level(numbers: Tensor, number_format: Format) -> Tensor:
    """Index of the nearest level of each number.

    Parameters
    ----------
    numbers
        float32 or float64, any shape, finite.

    Returns
    -------
    Tensor
        uint8, of the shape of `numbers`: index into :attr:`Format.levels`. Ties as in
        :attr:`Format.tie_goes_up`; beyond an extreme, the extreme.
    """
    thresholds = _thresholds(number_format, numbers.dtype, numbers.device)
    return _count_below(numbers, thresholds)


def next_level_away(numbers: Tensor, number_format: Format) -> Tensor:
    """Index of the level nearest to each number among those at least as far from zero.

    Where there is none, the extreme on that side. For scales that must not shrink.
    """
    levels = level_values(number_format, numbers.dtype, numbers.device)
    up = torch.searchsorted(levels, numbers.contiguous(), side="left")
    down = torch.searchsorted(levels, numbers.contiguous(), side="right") - 1
    index = torch.where(numbers >= 0, up, down)
    return index.clamp_(0, len(levels) - 1).to(torch.uint8)


def _count_below(numbers: Tensor, thresholds: Tensor) -> Tensor:
    """How many thresholds each number exceeds, as uint8."""
    if len(thresholds) > _MOST_COMPARISONS:
        return torch.bucketize(numbers, thresholds, out_int32=True).to(torch.uint8)
    flat = numbers.reshape(-1)
    index = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
    exceeds = torch.empty(min(_CHUNK, flat.numel()), dtype=torch.bool, device=flat.device)
    cuts = thresholds.tolist()
    for start in range(0, flat.numel(), _CHUNK):
        chunk, out = flat[start : start + _CHUNK], index[start : start + _CHUNK]
        mask = exceeds[: chunk.numel()]
        torch.gt(chunk, cuts[0], out=mask)
        out.copy_(mask.view(torch.uint8))
        for cut in cuts[1:]:
            torch.gt(chunk, cut, out=mask)
            out.add_(mask.view(torch.uint8))
    return index.reshape(numbers.shape)
