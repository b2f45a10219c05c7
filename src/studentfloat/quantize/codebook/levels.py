"""One number, one code: levels on a line, the same for all rows, a row's own, a block's choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.codebook.base import Codebook

__all__ = ["BlockChoice", "Levels", "RowLevels", "block_choice", "format_levels", "row_levels"]

# Up to this many thresholds, adding up comparisons beats a binary search per element, where
# there are numbers enough to repay one pass for each.
_MOST_COMPARISONS = 16
_FEWEST_NUMBERS = 1 << 13
# Elements a pass, so that its intermediate results stay in the second-level cache.
_CHUNK = 1 << 17
_TABLE_CELLS = 4096


@dataclass(frozen=True, eq=False)
class Levels(Codebook):
    """A format, for numbers of one type.

    Attributes
    ----------
    thresholds
        Of shape ``(levels - 1,)``: see :meth:`Format.rounding_thresholds`.
    levels
        Of shape ``(levels,)``, ascending.
    level_codes
        uint8, the code of each level.
    table
        The value of every code, of shape ``(2**bits,)``; NaN where it has none.
    """

    format: Format
    thresholds: Tensor
    levels: Tensor
    level_codes: Tensor
    table: Tensor

    @property
    def bits(self) -> Fraction:
        return Fraction(self.format.bits)

    @property
    def maximum(self) -> float:
        return self.format.maximum

    @property
    def minimum(self) -> float:
        return self.format.minimum

    @property
    def is_symmetric(self) -> bool:
        return self.format.is_symmetric

    @property
    def long_side_extreme(self) -> float:
        return self.format.long_side_extreme

    @property
    def decodes_all(self) -> bool:
        return bool(torch.isfinite(self.table).all())

    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        if len(self._cuts) > _MOST_COMPARISONS or numbers.numel() < _FEWEST_NUMBERS:
            short = numbers.dim() > 1
            return torch.bucketize(numbers.contiguous(), self.thresholds, out_int32=short)
        return _count_below(numbers, self._cuts)

    def values(self, indices: Tensor, size: int) -> Tensor:
        return _look_up(self.levels, indices)

    def codes(self, indices: Tensor) -> Tensor:
        if self._codes_are_ranks:
            return indices.to(torch.uint8)
        return _look_up(self.level_codes, indices)

    def decode(self, codes: Tensor, size: int) -> Tensor:
        return _look_up(self.table, codes)

    def next_away(self, numbers: Tensor) -> Tensor:
        """Indices of the nearest level among those at least as far from zero.

        Where there is none, the extreme on that side. For scales that must not shrink.
        """
        up = torch.searchsorted(self.levels, numbers.contiguous(), side="left", out_int32=True)
        down = torch.searchsorted(self.levels, numbers.contiguous(), side="right", out_int32=True)
        index = torch.where(numbers >= 0, up, down - 1)
        return index.clamp_(0, len(self.levels) - 1)

    def trials(
        self, numbers: Tensor, scales: Tensor, shares: Sequence[float], weights: Tensor | None
    ) -> Iterator[Tensor]:
        """Levels are looked up in a fine table: near a threshold they may be second to nearest."""
        table, offset, per_unit = self._fine_table
        cells = torch.empty(numbers.numel(), dtype=torch.int32, device=numbers.device)
        by_cell = per_unit / torch.where(scales == 0, torch.inf, scales)
        for share in shares:
            place = numbers * (by_cell / share)[..., None]
            cells.copy_(place.add_(offset).clamp_(0, len(table) - 1).reshape(-1))
            yield torch.index_select(table, 0, cells).reshape(numbers.shape)

    @cached_property
    def _cuts(self) -> list[float]:
        cuts: list[float] = self.thresholds.tolist()
        return cuts

    @cached_property
    def _codes_are_ranks(self) -> bool:
        return self.format.level_codes == tuple(range(len(self.format.levels)))

    @cached_property
    def _fine_table(self) -> tuple[Tensor, float, float]:
        """Nearest level of each cell of an even grid over the thresholds; cell = x · b + a."""
        boundaries = self.format.decision_boundaries
        span = boundaries[-1] - boundaries[0] or 1.0
        least = boundaries[0] - 0.01 * span
        per_unit = (_TABLE_CELLS - 1) / (1.02 * span)
        middles = least + (torch.arange(_TABLE_CELLS, dtype=torch.float64) + 0.5) / per_unit
        index = torch.bucketize(middles, torch.tensor(boundaries, dtype=torch.float64))
        levels = torch.tensor(self.format.levels, dtype=torch.float64)[index]
        return levels.to(self.levels), -least * per_unit, per_unit


@lru_cache(maxsize=512)
def format_levels(number_format: Format, dtype: torch.dtype, device: torch.device) -> Levels:
    """A format for numbers of a type (float32 or float64) on a device."""
    kind = "float64" if dtype == torch.float64 else "float32"
    return Levels(
        format=number_format,
        thresholds=torch.from_numpy(number_format.rounding_thresholds(kind)).to(device),
        levels=torch.tensor(number_format.levels, dtype=dtype, device=device),
        level_codes=torch.tensor(number_format.level_codes, dtype=torch.uint8, device=device),
        table=torch.tensor(number_format.decode_table, dtype=dtype, device=device),
    )


class _Composite(Codebook):
    """What is scaled for one format or several, and stands for their numbers or its own."""

    table: Tensor

    @property
    def decodes_all(self) -> bool:
        return bool(torch.isfinite(self.table).all())

    @property
    def bits(self) -> Fraction:
        return self.choices[0].bits

    @property
    def maximum(self) -> float:
        return max(choice.maximum for choice in self.choices)

    @property
    def minimum(self) -> float:
        return min(choice.minimum for choice in self.choices)

    @property
    def is_symmetric(self) -> bool:
        return all(choice.is_symmetric for choice in self.choices)


@dataclass(frozen=True, eq=False)
class RowLevels(_Composite):
    """Levels of each row's own, in the place of a format's.

    Attributes
    ----------
    scaled_for
        The format that blocks are scaled for, or those that they chose among.
    thresholds, levels, level_codes
        As in :class:`Levels`, of shape ``(rows, ...)``.
    table
        The value of every code, of shape ``(rows, 2**bits)``.
    """

    scaled_for: tuple[Levels, ...]
    thresholds: Tensor
    levels: Tensor
    level_codes: Tensor
    table: Tensor

    @property
    def choices(self) -> Sequence[Codebook]:
        return self.scaled_for

    @property
    def maximum(self) -> float:
        return float(self.levels.max())

    @property
    def minimum(self) -> float:
        return float(self.levels.min())

    def of_rows(self, rows: slice) -> Codebook:
        return RowLevels(
            scaled_for=self.scaled_for,
            thresholds=self.thresholds[rows],
            levels=self.levels[rows],
            level_codes=self.level_codes[rows],
            table=self.table[rows],
        )

    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        if numbers.dim() == 1:
            return torch.searchsorted(self.thresholds, numbers[:, None])[:, 0]
        flat = numbers.reshape(len(numbers), -1).contiguous()
        return torch.searchsorted(self.thresholds, flat).reshape(numbers.shape)

    def values(self, indices: Tensor, size: int) -> Tensor:
        return _look_up_in_rows(self.levels, indices)

    def codes(self, indices: Tensor) -> Tensor:
        return _look_up_in_rows(self.level_codes, indices)

    def decode(self, codes: Tensor, size: int) -> Tensor:
        return _look_up_in_rows(self.table, codes)


def row_levels(tables: Tensor, like: Levels, rows: int) -> RowLevels:
    """Tables of the rows' own, where codes are ranks.

    Ties fall as in a format (:attr:`Format.tie_goes_up`); of equal levels the least code is
    used.

    Parameters
    ----------
    tables
        Of the type of the numbers to be rounded, of shape ``(rows, 2**bits)``, or ``(1,
        2**bits)`` where all rows share one, ascending.
    like
        The format whose place they take: blocks are scaled as for that.
    rows
        How many rows the matrix has.
    """
    ranks = torch.arange(tables.shape[1], device=tables.device).expand_as(tables)
    is_same = torch.nn.functional.pad(tables[:, 1:] == tables[:, :-1], (1, 0))
    codes = torch.where(is_same, 0, ranks).cummax(dim=1).values.to(torch.uint8)
    return RowLevels(
        scaled_for=(like,),
        thresholds=_thresholds_between(tables, codes).expand(rows, -1).contiguous(),
        levels=tables.expand(rows, -1),
        level_codes=codes.expand(rows, -1),
        table=tables.expand(rows, -1),
    )


@dataclass(frozen=True, eq=False)
class BlockChoice(_Composite):
    """Several formats of as many bits, among which each block chooses.

    Attributes
    ----------
    formats
        One entry per format.
    thresholds, levels, level_codes, table
        Those of all formats, of shape ``(formats, ...)``, shorter ones padded.
    selectors
        uint8, of shape ``(rows, blocks)``: what each block chose; None before they have.
    """

    formats: tuple[Levels, ...]
    thresholds: Tensor
    levels: Tensor
    level_codes: Tensor
    table: Tensor
    selectors: Tensor | None = None

    @property
    def choices(self) -> Sequence[Codebook]:
        return self.formats

    def choosing(self, selectors: Tensor) -> Codebook:
        if selectors.dim() > 1:
            return replace(self, selectors=selectors)
        chosen = selectors.long()
        return RowLevels(
            scaled_for=self.formats,
            thresholds=self.thresholds[chosen],
            levels=self.levels[chosen],
            level_codes=self.level_codes[chosen],
            table=self.table[chosen],
        )

    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        chosen = self._chosen[..., None]
        indices = torch.zeros(numbers.shape, dtype=torch.uint8, device=numbers.device)
        for i, choice in enumerate(self.choices):
            torch.where(chosen == i, choice.nearest(numbers).to(torch.uint8), indices, out=indices)
        return indices

    def values(self, indices: Tensor, size: int) -> Tensor:
        return self._in_blocks(self.levels, indices)

    def codes(self, indices: Tensor) -> Tensor:
        return self._in_blocks(self.level_codes, indices)

    def decode(self, codes: Tensor, size: int) -> Tensor:
        return self._in_blocks(self.table, codes)

    @property
    def _chosen(self) -> Tensor:
        if self.selectors is None:
            raise SchemeError("a choice of formats rounds nothing before its blocks have chosen")
        return self.selectors

    def _in_blocks(self, tables: Tensor, indices: Tensor) -> Tensor:
        """Entries of each block's table, for indices of shape ``(rows, blocks, size)``."""
        first = self._chosen.int() * tables.shape[1]
        return _look_up(tables.reshape(-1), indices.int() + first[..., None])


def block_choice(choices: Sequence[Levels]) -> BlockChoice:
    """Several formats as one codebook, before blocks have chosen."""
    longest = max(len(c.levels) for c in choices)
    return BlockChoice(
        formats=tuple(choices),
        thresholds=torch.stack([_padded(c.thresholds, longest - 1, math.inf) for c in choices]),
        levels=torch.stack([_padded(c.levels, longest, c.maximum) for c in choices]),
        level_codes=torch.stack(
            [_padded(c.level_codes, longest, int(c.level_codes[-1])) for c in choices]
        ),
        table=torch.stack([c.table for c in choices]),
    )


def _padded(values: Tensor, length: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=fill)


def _look_up(table: Tensor, indices: Tensor) -> Tensor:
    if indices.dtype == torch.uint8:
        indices = indices.int()
    if indices.dim() == 1:
        return torch.index_select(table, 0, indices)
    return torch.index_select(table, 0, indices.reshape(-1)).reshape(indices.shape)


def _look_up_in_rows(tables: Tensor, indices: Tensor) -> Tensor:
    if indices.dim() == 1:
        return tables.gather(1, indices[:, None])[:, 0]
    flat = indices.reshape(len(indices), -1).long()
    return tables.gather(1, flat).reshape(indices.shape)


def _count_below(numbers: Tensor, cuts: Sequence[float]) -> Tensor:
    """How many thresholds each number exceeds, as uint8."""
    flat = numbers.reshape(-1)
    index = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
    exceeds = torch.empty(min(_CHUNK, flat.numel()), dtype=torch.bool, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        chunk, out = flat[start : start + _CHUNK], index[start : start + _CHUNK]
        mask = exceeds[: chunk.numel()]
        torch.gt(chunk, cuts[0], out=mask)
        out.copy_(mask.view(torch.uint8))
        for cut in cuts[1:]:
            torch.gt(chunk, cut, out=mask)
            out.add_(mask.view(torch.uint8))
    return index.reshape(numbers.shape)


def _thresholds_between(tables: Tensor, codes: Tensor) -> Tensor:
    """The greatest number that still takes the lower of two levels, as a format has it.

    The midpoint is found without error as a sum of two float64 numbers (Knuth's TwoSum), so
    that a number of the tables' type is compared with the midpoint itself.
    """
    lower, upper = tables[:, :-1], tables[:, 1:]
    half_lower, half_upper = lower.double() / 2, upper.double() / 2
    middle = half_lower + half_upper
    part = middle - half_lower
    rest = (half_lower - (middle - part)) + (half_upper - part)
    threshold = middle.to(tables.dtype)
    # The midpoint is middle + rest.
    beyond = threshold.double() - middle
    lower_even, upper_even = codes[:, :-1] % 2 == 0, codes[:, 1:] % 2 == 0
    goes_up = torch.where(lower_even != upper_even, upper_even, upper.abs() < lower.abs())
    too_far = (beyond > rest) | ((beyond == rest) & goes_up)
    down = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
    return torch.where(too_far, down, threshold)
