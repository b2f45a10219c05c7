"""Rounding one column of a matrix at a time, each row with its own grid.

What GPTQ and its kin do inside: the fast functions of
:mod:`~studentfloat.quantize.rounding` round whole tensors to one format; here each row of a
column may have chosen another, or have a table of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from studentfloat.formats import Format
from studentfloat.quantize.rounding import level_values

__all__ = ["ColumnGrid", "format_grid", "table_grid"]


@dataclass(frozen=True)
class ColumnGrid:
    """Levels, thresholds between them and their codes.

    Attributes
    ----------
    thresholds, levels, codes
        Of shape ``(levels - 1,)`` and ``(levels,)`` where all rows share them; with one
        more axis in front, one entry per format or per row, where not.
    per_row
        Whether that axis is rows already, so that no selector is needed.
    """

    thresholds: Tensor
    levels: Tensor
    codes: Tensor
    per_row: bool = False

    def select(self, selectors: Tensor | None) -> ColumnGrid:
        """The grid of each row, where rows chose among formats by index."""
        if selectors is None:
            return self
        chosen = selectors.long()
        return ColumnGrid(
            self.thresholds[chosen], self.levels[chosen], self.codes[chosen], per_row=True
        )

    def nearest(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the nearest level of each row's number, and that level: of shape (rows,)."""
        if not self.per_row:
            index = torch.bucketize(numbers, self.thresholds)
            return index, torch.index_select(self.levels, 0, index)
        index = torch.searchsorted(self.thresholds, numbers[:, None])
        return index[:, 0], self.levels.gather(1, index)[:, 0]

    def codes_of(self, indices: Tensor) -> Tensor:
        """Codes of level indices of shape ``(columns, rows)``, as uint8."""
        if not self.per_row:
            return self.codes[indices]
        return self.codes.gather(1, indices.T).T


def format_grid(
    formats: tuple[Format, ...], dtype: torch.dtype, device: torch.device
) -> ColumnGrid:
    """The grid of one format, or of several to select among (shorter ones padded)."""
    kind = "float64" if dtype == torch.float64 else "float32"
    longest = max(len(f.levels) for f in formats)
    thresholds = [
        _padded(torch.from_numpy(f.rounding_thresholds(kind)), longest - 1, math.inf)
        for f in formats
    ]
    levels = [_padded(level_values(f, dtype, device).cpu(), longest, f.maximum) for f in formats]
    codes = [
        _padded(torch.tensor(f.level_codes, dtype=torch.uint8), longest, f.level_codes[-1])
        for f in formats
    ]
    if len(formats) == 1:
        return ColumnGrid(thresholds[0].to(device), levels[0].to(device), codes[0].to(device))
    return ColumnGrid(
        torch.stack(thresholds).to(device),
        torch.stack(levels).to(device),
        torch.stack(codes).to(device),
    )


def table_grid(tables: Tensor) -> ColumnGrid:
    """The grid of tables of the rows' own, ascending, of shape ``(rows or 1, levels)``."""
    middles = tables[:, :-1] + (tables[:, 1:] - tables[:, :-1]) / 2
    codes = torch.arange(tables.shape[1], dtype=torch.uint8, device=tables.device)
    if len(tables) == 1:
        return ColumnGrid(middles[0].contiguous(), tables[0].contiguous(), codes)
    return ColumnGrid(
        middles.contiguous(), tables.contiguous(), codes.expand(len(tables), -1), per_row=True
    )


def _padded(values: Tensor, length: int, fill: float) -> Tensor:
    missing = length - len(values)
    return torch.nn.functional.pad(values, (0, missing), value=fill) if missing else values
