"""A tensor as rows of blocks: where blocks begin and end, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.quantize.scheme import ROW, TENSOR, Scheme

__all__ = [
    "BlockPart",
    "axis_of",
    "block_length",
    "block_parts",
    "compute_dtype",
    "from_rows",
    "part_view",
    "row_length",
    "to_rows",
]


class BlockPart(NamedTuple):
    """Blocks of equal size within rows: columns [start, stop), blocks [first, last)."""

    start: int
    stop: int
    first: int
    last: int
    size: int


def block_parts(columns: int, scheme: Scheme) -> Iterator[BlockPart]:
    """The full blocks of a row, then the shorter last one, if any."""
    size = block_length(columns, scheme)
    full, tail = divmod(columns, size)
    if full:
        yield BlockPart(0, full * size, 0, full, size)
    if tail:
        yield BlockPart(full * size, columns, full, full + 1, tail)


def block_length(columns: int, scheme: Scheme) -> int:
    """Numbers in each full block of a row with so many columns."""
    if scheme.block_size in (ROW, TENSOR):
        return columns
    assert isinstance(scheme.block_size, int)
    return scheme.block_size


def part_view(rows: Tensor, part: BlockPart) -> Tensor:
    """A part of the rows as blocks, of shape ``(rows, blocks, size)``, sharing memory."""
    columns = rows[:, part.start : part.stop]
    # Rows are contiguous, so this is a view.
    return columns.view(len(rows), part.last - part.first, part.size)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that numbers of a type are scaled and rounded in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_length(shape: tuple[int, ...], scheme: Scheme) -> int:
    """Numbers in each row of a tensor of that shape."""
    size = torch.Size(shape)
    if scheme.block_size == TENSOR or not shape:
        return size.numel()
    return size[axis_of(shape, scheme)]


def axis_of(shape: tuple[int, ...], scheme: Scheme) -> int:
    """The axis that blocks run along, counted from the first."""
    if not -len(shape) <= scheme.axis < len(shape):
        raise SchemeError(f"axis {scheme.axis} is out of range for a tensor of shape {shape}")
    return scheme.axis % len(shape)


def to_rows(tensor: Tensor, scheme: Scheme) -> Tensor:
    """The tensor as a contiguous matrix, blocks running along its rows."""
    length = row_length(tuple(tensor.shape), scheme)
    if tensor.dim() > 1 and scheme.block_size != TENSOR:
        tensor = tensor.movedim(axis_of(tuple(tensor.shape), scheme), -1)
    return tensor.reshape(-1, length).contiguous()


def from_rows(rows: Tensor, shape: tuple[int, ...], scheme: Scheme) -> Tensor:
    """Undo :func:`to_rows` for a tensor of that shape."""
    if len(shape) <= 1 or scheme.block_size == TENSOR:
        return rows.reshape(shape)
    axis = axis_of(shape, scheme)
    moved = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
    return rows.reshape(moved).movedim(-1, axis).contiguous()
