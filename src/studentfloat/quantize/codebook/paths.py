"""Trellises over matrices: sequences of 64 rows and 4 columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Trellis
from studentfloat.kernels.trellis import decode_paths, encode_paths
from studentfloat.quantize.codebook.base import Codebook

__all__ = ["TILE_COLUMNS", "TILE_ROWS", "TrellisPaths", "are_whole_tiles", "trellis_paths"]

# 256 numbers. Few columns, so that feedback to later ones comes soon; no fewer than a product of
# 8-bit numbers sums up at once.
TILE_ROWS = 64
TILE_COLUMNS = 4
_WINDOW = 128


@dataclass(frozen=True, eq=False)
class TrellisPaths(Codebook):
    """A trellis, its sequences laid over the matrix in tiles.

    A block is cut into runs of 4 columns (the last may have fewer), the rows into groups of 64
    (the last may have fewer). Run and group share a ring of codes, row by row; where a ring has
    fewer bits than a state, the window goes around it more than once. An index is the code
    itself.
    """

    trellis: Trellis

    @property
    def bits(self) -> Fraction:
        return Fraction(self.trellis.bits)

    @property
    def memoryless(self) -> bool:
        return False

    @property
    def run(self) -> int:
        return TILE_COLUMNS

    @property
    def is_normalized(self) -> bool:
        return True

    @property
    def maximum(self) -> float:
        return float(self.trellis.values.max()) / self.trellis.unit

    @property
    def minimum(self) -> float:
        return float(self.trellis.values.min()) / self.trellis.unit

    @property
    def is_symmetric(self) -> bool:
        return True  # nearly, and a negative scale would be searched for in vain

    def of_rows(self, rows: slice) -> Codebook:
        if rows.start % TILE_ROWS:
            raise SchemeError(
                f"experts of {rows.start} rows: {self.trellis.name!r} encodes {TILE_ROWS} rows "
                "together, and each expert must have a multiple of that"
            )
        return self

    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        flat = (numbers.float() * self.trellis.unit).reshape(len(numbers), -1)
        codes = torch.empty(flat.shape, dtype=torch.uint8)
        for tiles, its_codes in _tiles(flat, codes, numbers.shape[-1]):
            found = encode_paths(
                tiles.numpy(), self.trellis.values, self.trellis.bits, window=_WINDOW
            )
            its_codes.copy_(torch.from_numpy(found).view(its_codes.shape))
        return codes.reshape(numbers.shape).to(numbers.device)

    def values(self, indices: Tensor, size: int) -> Tensor:
        return self.decode(indices, size)

    def codes(self, indices: Tensor) -> Tensor:
        return indices

    def decode(self, codes: Tensor, size: int) -> Tensor:
        flat = codes.reshape(len(codes), -1)
        out = torch.empty(flat.shape, dtype=torch.float32)
        for tiles, its_out in _tiles(flat, out, size):
            found = decode_paths(tiles.numpy(), self.trellis.values, self.trellis.bits)
            its_out.copy_(torch.from_numpy(found).view(its_out.shape))
        return out.div_(self.trellis.unit).reshape(codes.shape).to(codes.device)


def are_whole_tiles(rows: Tensor) -> bool:
    """Whether these rows, int64 of shape ``(n,)``, are those of whole tiles, in order."""
    if len(rows) % TILE_ROWS:
        return False
    tiles = rows.reshape(-1, TILE_ROWS)
    within = torch.arange(TILE_ROWS, device=rows.device)
    return bool(
        (tiles % TILE_ROWS == within).all()
        and (tiles // TILE_ROWS == tiles[:, :1] // TILE_ROWS).all()
    )


def _tiles(source: Tensor, target: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles of one matrix as rows, and the same tiles of another where they stand in it.

    Parameters
    ----------
    source, target
        Of shape ``(rows, blocks * size)``.

    Yields
    ------
    source tiles
        Of shape ``(tiles, numbers of a tile)``, contiguous.
    target tiles
        A view of shape ``(groups, blocks, runs, rows of a tile, columns of a tile)``.
    """
    for first_row, groups, height in _cut(len(source), TILE_ROWS):
        for first_column, runs, width in _cut(size, TILE_COLUMNS):
            views = (
                _view(
                    matrix[first_row : first_row + groups * height].view(groups, height, -1, size),
                    first_column,
                    (runs, width),
                )
                for matrix in (source, target)
            )
            one, other = views
            yield one.reshape(-1, height * width).contiguous(), other


def _view(blocks: Tensor, first_column: int, shape: tuple[int, int]) -> Tensor:
    """Columns of blocks of shape ``(groups, height, blocks, size)`` by runs, tiles together."""
    runs, width = shape
    columns = blocks[..., first_column : first_column + runs * width]
    return columns.view(*columns.shape[:3], runs, width).permute(0, 2, 3, 1, 4)


def _cut(length: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Where whole steps begin, how many, how long; and what is left, if anything is."""
    whole, left = divmod(length, step)
    if whole:
        yield 0, whole, step
    if left:
        yield whole * step, 1, left


@lru_cache(maxsize=16)
def trellis_paths(trellis: Trellis) -> TrellisPaths:
    """The codebook of a trellis."""
    return TrellisPaths(trellis)
