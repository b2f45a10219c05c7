"""Codes of several dimensions: groups of 2 to 16 numbers that share an index.

A vector is the sum of one point from each *stage*; a stage takes the point nearest to what the
ones before it have left (residual quantization). A stage's points are a table of their own
(k-means, VPTQ's and AQLM's way), or follow from a rule: a lattice's (QuIP#'s E8P).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FormatError
from studentfloat.formats.format import check_name
from studentfloat.kernels.vectors import nearest_points

__all__ = ["E8Lattice", "Points", "Stage", "VectorFormat", "fit_points"]

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

MOST_DIMENSIONS = 16
_MOST_INDEX_BITS = 16
_TABLE_NUMBER_BITS = 16
_DRAWN_FROM = 16


@dataclass(frozen=True)
class Points:
    """A table of points, each of the same number of coordinates.

    Attributes
    ----------
    points
        2 to 2**16 of them; coordinates are rounded to bfloat16, as files hold them.
    """

    points: tuple[tuple[float, ...], ...]
    kind: ClassVar[Literal["points"]] = "points"

    def __post_init__(self) -> None:
        if not 2 <= len(self.points) <= 1 << _MOST_INDEX_BITS:
            raise FormatError(
                f"{len(self.points)} points: a table has 2 to {1 << _MOST_INDEX_BITS}"
            )
        dimension = len(self.points[0])
        if not 1 < dimension <= MOST_DIMENSIONS:
            raise FormatError(f"points of {dimension} coordinates: 2 to {MOST_DIMENSIONS}")
        for point in self.points:
            if len(point) != dimension:
                raise FormatError(
                    f"points of {dimension} and of {len(point)} coordinates in one table"
                )
            if not all(map(math.isfinite, point)):
                raise FormatError(f"the point {point} has a coordinate that is not finite")

    @property
    def dimension(self) -> int:
        """Coordinates of a point."""
        return len(self.points[0])

    @property
    def index_bits(self) -> int:
        """Bits of an index."""
        return (len(self.points) - 1).bit_length()

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold beside the indices: 16 a coordinate."""
        return _TABLE_NUMBER_BITS * len(self.points) * self.dimension

    @cached_property
    def array(self) -> Floats:
        """float32, of shape ``(points, dimension)``, read-only, every number a bfloat16."""
        return _read_only(_as_bfloat16(np.array(self.points, dtype=np.float32)))

    def nearest(self, vectors: Floats) -> Indices:
        """Index of the nearest point of each vector: of shape ``(vectors,)``."""
        return nearest_points(vectors, self.array)

    def look_up(self, indices: Indices) -> Floats:
        """The points of these indices: of shape ``(indices, dimension)``."""
        found: Floats = self.array[indices]
        return found


@dataclass(frozen=True)
class E8Lattice:
    """2**16 points of the lattice E8 + 1/4, from a table of 256 magnitudes: QuIP#'s E8P.

    A point is one of 256 vectors of half-odd magnitudes with signs of its own, an even number of
    units in its sum, and 1/4 added to or taken from all coordinates. Of an index, the upper 8
    bits choose the magnitudes, then 7 the signs (the eighth follows from the sum), the last
    the quarter. The magnitudes are the 227 of squared length up to 10, and the first 29 in
    order of those of 12 (which 29 the paper leaves open).

    References
    ----------
    Tseng et al., "QuIP#", arXiv 2402.04396, section 4.2.
    """

    kind: ClassVar[Literal["e8"]] = "e8"
    dimension: ClassVar[int] = 8
    index_bits: ClassVar[int] = 16
    table_bits: ClassVar[int] = 0

    def nearest(self, vectors: Floats) -> Indices:
        """Index of the nearest point of each vector: of shape ``(vectors,)``."""
        return nearest_points(vectors, _e8_points())

    def look_up(self, indices: Indices) -> Floats:
        """The points of these indices: of shape ``(indices, 8)``."""
        magnitudes, odd = _e8_magnitudes()
        row = indices >> 8
        negative = (indices[:, None] >> 1 + np.arange(7)) & 1
        last = (negative.sum(axis=1) + odd[row]) & 1
        signs = 1 - 2 * np.concatenate([negative, last[:, None]], axis=1)
        quarter = np.where(indices & 1, -0.25, 0.25)[:, None]
        points: Floats = (magnitudes[row] * signs + quarter).astype(np.float32)
        return points


Stage: TypeAlias = Points | E8Lattice


@dataclass(frozen=True)
class VectorFormat:
    """A code for vectors of a few numbers.

    Parameters
    ----------
    name
        For display and look-up.
    stages
        All of the same dimension.
    scales
        One a stage: numbers of unit variance are divided by it before the stage looks for its
        point, and what it finds is multiplied by it.

    Examples
    --------
    >>> import numpy as np
    >>> square = Points(((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)))
    >>> code = VectorFormat("square", (square,), (0.8,))
    >>> code.encode(np.array([[0.3, -2.0]], dtype=np.float32)).tolist()
    [[2]]
    >>> code.bits
    1.0
    """

    name: str
    stages: tuple[Stage, ...]
    scales: tuple[float, ...]
    description: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    memoryless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.stages or len(self.stages) != len(self.scales):
            raise FormatError(
                f"vector format {self.name!r} has {len(self.stages)} stages and "
                f"{len(self.scales)} scales: one scale for each of one or more stages"
            )
        dimensions = {stage.dimension for stage in self.stages}
        if len(dimensions) > 1:
            raise FormatError(
                f"vector format {self.name!r} has stages of {sorted(dimensions)} dimensions: "
                "all must have the same"
            )
        for scale in self.scales:
            if not (math.isfinite(scale) and scale > 0):
                raise FormatError(
                    f"vector format {self.name!r} has the scale {scale!r}: a number above 0"
                )

    @property
    def dimension(self) -> int:
        """Numbers that are encoded together."""
        return self.stages[0].dimension

    @property
    def bits(self) -> float:
        """Bits a number: those of all indices, shared among the numbers of a vector."""
        return sum(stage.index_bits for stage in self.stages) / self.dimension

    @property
    def table_bits(self) -> int:
        """Bits that a file must hold once, beside the codes."""
        return sum(stage.table_bits for stage in self.stages)

    def encode(self, vectors: npt.ArrayLike) -> Indices:
        """An index a stage for vectors of a source of unit variance.

        Parameters
        ----------
        vectors
            Of shape ``(vectors, dimension)``.

        Returns
        -------
        ndarray
            int64, of shape ``(vectors, stages)``.
        """
        left = np.array(vectors, dtype=np.float32)
        if left.ndim != 2 or left.shape[1] != self.dimension:
            raise FormatError(
                f"vector format {self.name!r} encodes vectors of {self.dimension} numbers, "
                f"not an array of shape {left.shape}"
            )
        bad = np.count_nonzero(~np.isfinite(left))
        if bad:
            raise FormatError(f"{bad} of {left.size} numbers are NaN or infinite")
        indices = []
        for stage, scale in zip(self.stages, self.scales, strict=True):
            found = stage.nearest(left / np.float32(scale))
            left = left - stage.look_up(found) * np.float32(scale)
            indices.append(found)
        return np.stack(indices, axis=1)

    def decode(self, indices: Indices) -> Floats:
        """What the indices stand for: float32, of shape ``(vectors, dimension)``."""
        if indices.ndim != 2 or indices.shape[1] != len(self.stages):
            raise FormatError(
                f"vector format {self.name!r} decodes an index for each of {len(self.stages)} "
                f"stages, not an array of shape {indices.shape}"
            )
        total = np.zeros((len(indices), self.dimension), dtype=np.float32)
        for column, (stage, scale) in enumerate(zip(self.stages, self.scales, strict=True)):
            total += stage.look_up(indices[:, column]) * np.float32(scale)
        return total

    def renamed(self, name: str, *, description: str = "", source: str = "") -> VectorFormat:
        """Return the same code under another name."""
        return VectorFormat(
            name,
            self.stages,
            self.scales,
            description or self.description,
            source or self.source,
        )


def fit_points(
    vectors: npt.ArrayLike,
    count: int,
    *,
    weights: npt.ArrayLike | None = None,
    rounds: int = 25,
    seed: int = 0,
) -> Points:
    """K-means: the points with a small (weighted) squared distance to vectors.

    Parameters
    ----------
    vectors
        Of shape ``(vectors, dimension)``; no fewer than `count`.
    count
        Of points.
    weights
        Of shape ``(vectors,)``: how much each counts; all alike by default.
    rounds
        Lloyd's iterations. Begins with vectors that lie far from each other (k-means++); a point
        that has lost all its vectors moves to the one with the greatest error.

    References
    ----------
    Lloyd, IEEE Trans. Inf. Theory 28 (1982); Arthur and Vassilvitskii, SODA 2007 (k-means++); Liu
    et al., "VPTQ", arXiv 2409.17066.
    """
    given = np.ascontiguousarray(vectors, dtype=np.float32)
    if given.ndim != 2 or len(given) < count:
        raise FormatError(f"{count} points need that many vectors, not {given.shape}")
    if not np.isfinite(given).all():
        raise FormatError("some numbers are NaN or infinite")
    weight = np.ones(len(given)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (len(given),) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise FormatError("one weight for each vector, none of them negative")
    points = _far_apart(given, weight, count, np.random.default_rng(seed))
    for _ in range(rounds):
        found = nearest_points(given, points)
        mass = np.bincount(found, weights=weight, minlength=count)
        sums = np.stack(
            [np.bincount(found, weights=weight * axis, minlength=count) for axis in given.T], axis=1
        )
        empty = mass == 0
        points = np.where(empty[:, None], points, sums / np.where(empty, 1, mass)[:, None]).astype(
            np.float32
        )
        if empty.any():
            lost = weight * ((given - points[found]) ** 2).sum(axis=1)
            points[empty] = given[np.argsort(-lost, kind="stable")[: int(empty.sum())]]
    return Points(tuple(map(tuple, _as_bfloat16(points).tolist())))


def _far_apart(
    vectors: Floats, weight: npt.NDArray[np.float64], count: int, random: np.random.Generator
) -> Floats:
    """Vectors drawn one after the other by their squared distance from those drawn before."""
    few = random.permutation(len(vectors))[: max(_DRAWN_FROM * count, _DRAWN_FROM)]
    vectors, weight = vectors[few], weight[few]
    if not weight.any():
        weight = np.ones(len(vectors))
    chances = weight.copy()
    drawn = np.empty((count, vectors.shape[1]), dtype=np.float32)
    apart = np.full(len(vectors), np.inf)
    for place in range(count):
        total = np.cumsum(chances)
        if total[-1] <= 0:  # fewer different vectors than points
            total = np.cumsum(np.ones(len(vectors)))
        drawn[place] = vectors[np.searchsorted(total, random.random() * total[-1], side="right")]
        apart = np.minimum(apart, ((vectors - drawn[place]) ** 2).sum(axis=1))
        chances = weight * apart
    return drawn


@cache
def _e8_magnitudes() -> tuple[Floats, npt.NDArray[np.int64]]:
    """256 vectors of half-odd magnitudes, and whether their sum is odd."""
    kinds = np.array(list(product((0.5, 1.5, 2.5), repeat=8)), dtype=np.float32)
    lengths = (kinds**2).sum(axis=1)
    short = kinds[lengths <= 10]
    rest = kinds[lengths == 12][: 256 - len(short)]
    magnitudes = np.concatenate([short, rest])
    odd = magnitudes.sum(axis=1).astype(np.int64) % 2
    return _read_only(magnitudes), odd


@cache
def _e8_points() -> Floats:
    return _read_only(E8Lattice().look_up(np.arange(1 << E8Lattice.index_bits)))


def _as_bfloat16(numbers: Floats) -> Floats:
    bits = numbers.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def _read_only(array: Floats) -> Floats:
    array.flags.writeable = False
    return array
