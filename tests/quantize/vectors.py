"""A codebook of vectors for tests: k-means of normal numbers, every choice by brute force."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from studentfloat.quantize.codebook import Codebook


class Vectors(Codebook):
    """Points of shape ``(count, dimension)``; an index is a code."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    @property
    def dimension(self) -> int:
        return self.points.shape[1]

    @property
    def bits(self) -> Fraction:
        return Fraction(int(math.log2(len(self.points))), self.dimension)

    @property
    def maximum(self) -> float:
        return float(self.points.max())

    @property
    def minimum(self) -> float:
        return float(self.points.min())

    @property
    def is_symmetric(self) -> bool:
        return False

    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        weights = torch.ones_like(numbers) if weights is None else weights.expand_as(numbers)
        # What lies beyond a row's or a block's end weighs nothing.
        missing = -numbers.shape[-1] % self.dimension
        vectors, masses = (
            torch.nn.functional.pad(part, (0, missing)).unflatten(-1, (-1, self.dimension))
            for part in (numbers, weights.to(numbers.dtype))
        )
        differences = vectors[..., None, :] - self.points.to(numbers.dtype)
        return (differences.square() * masses[..., None, :]).sum(dim=-1).argmin(dim=-1)

    def values(self, indices: Tensor, size: int) -> Tensor:
        return self.points[indices].flatten(-2)[..., :size]

    def codes(self, indices: Tensor) -> Tensor:
        return indices

    def decode(self, codes: Tensor, size: int) -> Tensor:
        return self.values(codes, size)


class Sequences(Vectors):
    """Numbers in sequences, each rounded with regard to the one before: one with memory.

    A number takes one of four levels, which are shifted by a quarter of the code before it.
    Sequences of `length` numbers are rounded by trying all paths (Viterbi's algorithm).
    """

    def __init__(self, length: int, dtype: torch.dtype = torch.float64) -> None:
        self.length = length
        super().__init__(torch.linspace(-1.5, 1.5, 4, dtype=dtype)[:, None])

    @property
    def memoryless(self) -> bool:
        return False

    @property
    def run(self) -> int:
        return self.length

    def nearest(self, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
        weights = torch.ones_like(numbers) if weights is None else weights.expand_as(numbers)
        return torch.cat(
            [
                self._best_path(n, w)
                for n, w in zip(
                    numbers.split(self.length, dim=-1),
                    weights.to(numbers.dtype).split(self.length, dim=-1),
                    strict=True,
                )
            ],
            dim=-1,
        )

    def _best_path(self, numbers: Tensor, weights: Tensor) -> Tensor:
        cost = torch.full((*numbers.shape[:-1], 4), torch.inf, dtype=numbers.dtype)
        cost[..., 0] = 0
        came_from = []
        for number, weight in zip(numbers.unbind(-1), weights.unbind(-1), strict=True):
            miss = weight[..., None, None] * (number[..., None, None] - self._table()).square()
            best = (cost[..., :, None] + miss).min(dim=-2)
            cost = best.values
            came_from.append(best.indices)
        path = [cost.argmin(dim=-1)]
        for before in reversed(came_from[1:]):
            path.append(before.gather(-1, path[-1][..., None])[..., 0])
        return torch.stack(path[::-1], dim=-1)

    def values(self, indices: Tensor, size: int) -> Tensor:
        parts = []
        for codes in indices.split(self.length, dim=-1):
            before = torch.nn.functional.pad(codes[..., :-1], (1, 0))
            parts.append(self._table()[before, codes])
        return torch.cat(parts, dim=-1)

    def _table(self) -> Tensor:
        """The level of each code (second axis) after each (first axis)."""
        return self.points[:, 0] + (torch.arange(4)[:, None] - 1.5) / 4


@cache
def normal_points(dimension: int, count: int) -> Tensor:
    """K-means of normal numbers, float64, of shape ``(count, dimension)``."""
    source = torch.randn(4000, dimension, generator=torch.Generator().manual_seed(0)).double()
    points = source[:count].clone()
    for _ in range(15):
        nearest = torch.cdist(source, points).argmin(dim=1)
        sums = torch.zeros_like(points).index_add_(0, nearest, source)
        counts = torch.bincount(nearest, minlength=count)[:, None]
        points = torch.where(counts > 0, sums / counts.clamp(min=1), points)
    return points
