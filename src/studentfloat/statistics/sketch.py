"""A one-pass, mergeable sketch of a stream of numbers.

A histogram over sign and magnitude whose cells are the leading bits of the floating point
number itself: sign, exponent, and the first nine bits of the mantissa, so 512 cells an
octave, each narrower than 0.2 % of its values. Beside the count, a cell keeps where within
it its values lie on average. Both are integers: sketches of parts add up to exactly the
sketch of the whole, in any order.
"""

from __future__ import annotations

import base64
import binascii
import threading
import zlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.errors import DataError
from studentfloat.kernels.dispatch import native

__all__ = ["Cells", "Sketch"]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

_MANTISSA_BITS = 9
_CELLS_PER_OCTAVE = 1 << _MANTISSA_BITS
_FRACTION_BITS = 23 - _MANTISSA_BITS  # what float32 has below a cell: kept to the last bit
_FRACTION_MASK = (1 << _FRACTION_BITS) - 1
_BIAS = 1023
_KEY_OF_FLOAT32 = (_BIAS - 127) << _MANTISSA_BITS  # float32 keys count on from here
_LEAST_NORMAL32 = 0x00800000
_INFINITY32 = 0x7F800000
# Long enough to pay for going over the table of cells; and short enough that the packed
# sums of `_tally` stay under 2**53, where float64 is exact: 2**18 * (2**32 + 2**14).
_CHUNK = 1 << 18
_PACK_SHIFT = 32
_PACK_BITS = (_BIAS + _PACK_SHIFT) << 52
_PACK_LOW = 52 - _PACK_SHIFT


_TEXT_ARRAYS = ("special", "sign", "key", "count", "fraction")

_kept = threading.local()


def _scratch(size: int) -> tuple[npt.NDArray[np.uint32], Integers, Integers]:
    """Arrays for one chunk, kept by each thread: fresh ones cost more than the work itself."""
    if not hasattr(_kept, "scratch"):
        _kept.scratch = (
            np.empty(_CHUNK, np.uint32),
            np.empty(_CHUNK, np.int64),
            np.empty(_CHUNK, np.int64),
        )
    narrow, index, weight = _kept.scratch
    return narrow[:size], index[:size], weight[:size]


@dataclass(frozen=True)
class Cells:
    """A distribution as ascending cells, each of shape ``(n,)``.

    Attributes
    ----------
    low, high
        Edges; the cell of the exact zeros has both at 0.
    count
        How many numbers.
    mean, square
        Mean of the numbers in the cell, and of their squares.
    """

    low: Floats
    high: Floats
    count: Floats
    mean: Floats
    square: Floats

    @property
    def total(self) -> float:
        """How many numbers in all."""
        return float(self.count.sum())

    def pooled(self, center: float, spread: float, per_unit: int = 512) -> Cells:
        """Neighbors joined until cells are even in ``asinh((x - center) / spread)``.

        Near the center a cell is ``spread / per_unit`` wide, in the tails it keeps a
        constant relative width. The means stay exact; the cell of the zeros stays alone.
        """
        scaled = np.arcsinh((self.mean - center) / spread) * per_unit
        slot = np.floor(scaled).astype(np.int64)
        # Where the slot changes a new cell begins; zero makes one of its own.
        fresh = np.ones(slot.size, dtype=bool)
        fresh[1:] = slot[1:] != slot[:-1]
        at_zero = np.flatnonzero(self.low == self.high)
        fresh[at_zero] = True
        fresh[at_zero[at_zero + 1 < slot.size] + 1] = True
        starts = np.flatnonzero(fresh)
        ends = np.append(starts[1:], slot.size) - 1
        count = np.add.reduceat(self.count, starts)
        return Cells(
            low=self.low[starts],
            high=self.high[ends],
            count=count,
            mean=np.add.reduceat(self.count * self.mean, starts) / count,
            square=np.add.reduceat(self.count * self.square, starts) / count,
        )

    def without_zeros(self) -> Cells:
        """The same without the cell of the exact zeros."""
        keep = self.low != self.high
        return Cells(
            self.low[keep], self.high[keep], self.count[keep], self.mean[keep], self.square[keep]
        )

    def folded(self) -> Cells:
        """The distribution of the magnitudes; cells of opposite sign need not match up."""
        magnitude = np.where(self.high <= 0, -self.mean, self.mean)
        order = np.argsort(magnitude, kind="stable")
        low = np.where(self.high <= 0, -self.high, self.low)
        high = np.where(self.high <= 0, -self.low, self.high)
        return Cells(
            low[order], high[order], self.count[order], magnitude[order], self.square[order]
        )

    def quantile(self, probabilities: npt.ArrayLike) -> Floats:
        """Where the given shares of the numbers are reached, even within a cell."""
        below = np.concatenate([[0.0], np.cumsum(self.count)])
        target = np.asarray(probabilities, dtype=np.float64) * below[-1]
        at = np.clip(np.searchsorted(below, target, side="left") - 1, 0, self.count.size - 1)
        share = (target - below[at]) / self.count[at]
        return np.asarray(self.low[at] + share * (self.high[at] - self.low[at]))


class Sketch:
    """Counts of a stream by sign and magnitude; constant memory, one pass, exact merge.

    Attributes
    ----------
    zeros, nans, infinities
        How many values were exactly zero (or below the smallest normal float64), NaN,
        or infinite. The last two are in no cell and in no other count.
    minimum, maximum
        Of the finite values; ``inf`` and ``-inf`` before the first one.

    Notes
    -----
    Memory is 32 bytes a cell: 16 kB an octave of dynamic range, so about 0.4 MB for a
    weight tensor and 34 MB at the very worst (float64 that spans all its exponents).
    Resolution is relative to zero: numbers that vary by less than 0.1 % of their mean
    fall into one cell.

    Examples
    --------
    >>> sketch = Sketch.of([1.0, -2.0, 0.0])
    >>> sketch.count, sketch.zeros, sketch.minimum, sketch.maximum
    (3, 1, -2.0, 1.0)
    >>> sketch.merge(Sketch.of([0.5]))
    >>> sketch.count
    4
    """

    def __init__(self) -> None:
        self.zeros = 0
        self.nans = 0
        self.infinities = 0
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self._first = 0  # key of the first column, a multiple of an octave
        # Rows: positive, negative. Counts, and sums of the positions within the cell.
        self._counts: Integers = np.zeros((2, 0), dtype=np.int64)
        self._fractions: Integers = np.zeros((2, 0), dtype=np.int64)

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Sketch:
        """The sketch of one array."""
        sketch = cls()
        sketch.update(values)
        return sketch

    @property
    def count(self) -> int:
        """How many finite values were seen."""
        return self.zeros + int(self._counts.sum())

    @property
    def memory_bytes(self) -> int:
        """What the cells take."""
        return int(self._counts.nbytes + self._fractions.nbytes)

    def update(self, values: npt.ArrayLike) -> None:
        """Count more values.

        Parameters
        ----------
        values
            Floating point of any shape and width (float16 and float32 are exact;
            float64 is cut to float32's mantissa, not to its exponents).

        Raises
        ------
        DataError
            If the values are not floating point: integers are codes or indices.
        """
        array = np.asarray(values)
        if array.dtype.kind != "f":
            raise DataError(
                f"values of dtype {array.dtype} are codes or indices, not real numbers: "
                "a sketch takes floating point"
            )
        if array.dtype.itemsize == 2:
            array = array.astype(np.float32)
        elif array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            if chunk.dtype != np.float32 or not self._update_normal(chunk):
                self._update_special(chunk.astype(np.float64))

    def merge(self, other: Sketch) -> None:
        """Add what another sketch has counted: exactly as if this one had seen it all."""
        self.zeros += other.zeros
        self.nans += other.nans
        self.infinities += other.infinities
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        width = other._counts.shape[1]
        if width:
            self._cover(other._first, other._first + width - 1)
            at = other._first - self._first
            self._counts[:, at : at + width] += other._counts
            self._fractions[:, at : at + width] += other._fractions

    def cells(self) -> Cells:
        """The occupied cells, from the most negative to the most positive."""
        sides = [self._side(1), self._zero_cell(), self._side(0)]
        return Cells(*(np.concatenate(parts) for parts in zip(*sides, strict=True)))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of the sketch as arrays that ``numpy.savez`` takes; occupied cells only."""
        sign, column = np.nonzero(self._counts)
        return {
            "special": np.array([self.zeros, self.nans, self.infinities], dtype=np.int64),
            "extremes": np.array([self.minimum, self.maximum], dtype=np.float64),
            "sign": sign.astype(np.int8),
            "key": (column + self._first).astype(np.int32),
            "count": self._counts[sign, column],
            "fraction": self._fractions[sign, column],
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Sketch:
        """The sketch that :meth:`to_arrays` gave."""
        sketch = cls()
        sketch.zeros, sketch.nans, sketch.infinities = (int(n) for n in arrays["special"])
        sketch.minimum, sketch.maximum = (float(x) for x in arrays["extremes"])
        key = arrays["key"].astype(np.int64)
        if key.size:
            sketch._cover(int(key.min()), int(key.max()))
            sketch._counts[arrays["sign"], key - sketch._first] = arrays["count"]
            sketch._fractions[arrays["sign"], key - sketch._first] = arrays["fraction"]
        return sketch

    def to_text(self) -> str:
        """All of the sketch as base64 of compressed arrays, for a JSON file."""
        arrays = self.to_arrays()
        wide = np.concatenate([arrays[name].astype("<i8") for name in _TEXT_ARRAYS])
        raw = arrays["extremes"].astype("<f8").tobytes() + wide.tobytes()
        return base64.b64encode(zlib.compress(raw, level=6)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Sketch:
        """The sketch that :meth:`to_text` gave.

        Raises
        ------
        DataError
            If the text is cut or is no sketch.
        """
        try:
            raw = zlib.decompress(base64.b64decode(text, validate=True))
            extremes = np.frombuffer(raw[:16], "<f8")
            wide = np.frombuffer(raw[16:], "<i8")
            special, rest = wide[:3], wide[3:].reshape(4, -1)
            arrays = dict(zip(_TEXT_ARRAYS[1:], rest, strict=True))
            return cls.from_arrays({"special": special, "extremes": extremes, **arrays})
        except (binascii.Error, zlib.error, ValueError, IndexError) as error:
            raise DataError(f"a sketch that cannot be read: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sketch):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]

    def _update_normal(self, chunk: npt.NDArray[np.float32]) -> bool:
        """Count float32 zeros and normal numbers; False, with nothing done, if any is neither."""
        module = native()
        if module is not None:
            return self._update_compiled(module, chunk)
        narrow, index, weight = _scratch(chunk.size)
        bits = chunk.view(np.uint32)
        np.bitwise_and(bits, np.uint32(0x7FFFFFFF), out=narrow)
        lowest, highest = int(narrow.min()), int(narrow.max())
        if lowest == 0 and highest >= _LEAST_NORMAL32:
            nonzero = chunk[narrow != 0]
            if not self._update_normal(nonzero):
                return False
            self.zeros += chunk.size - nonzero.size
            self._note_extremes(chunk)
            return True
        if lowest < _LEAST_NORMAL32 or highest >= _INFINITY32:
            return False
        self._note_extremes(chunk)
        first = self._cover(
            (lowest >> _FRACTION_BITS) + _KEY_OF_FLOAT32,
            (highest >> _FRACTION_BITS) + _KEY_OF_FLOAT32,
        )
        narrow >>= np.uint32(_FRACTION_BITS)
        narrow -= np.uint32(first - _KEY_OF_FLOAT32 & 0xFFFFFFFF)  # modulo 2**32
        row = weight.view(np.uint32)[: chunk.size]  # not in use yet
        np.right_shift(bits, np.uint32(31), out=row)
        row *= np.uint32(self._counts.shape[1])
        narrow += row
        np.copyto(index, narrow)
        np.bitwise_and(bits, np.uint32(_FRACTION_MASK), out=narrow)
        np.copyto(weight, narrow)
        self._tally(index, weight)
        return True

    def _update_compiled(self, module: ModuleType, chunk: npt.NDArray[np.float32]) -> bool:
        """The same by the compiled kernels: two passes over a chunk that stays in the cache."""
        where, size = chunk.ctypes.data, chunk.size
        zeros, lowest, highest, minimum, maximum = module.sketch_range(where, size)
        if zeros < size:
            if lowest < _LEAST_NORMAL32 or highest >= _INFINITY32:
                return False
            first = self._cover(
                (lowest >> _FRACTION_BITS) + _KEY_OF_FLOAT32,
                (highest >> _FRACTION_BITS) + _KEY_OF_FLOAT32,
            )
            module.sketch_tally(
                where,
                size,
                _FRACTION_BITS,
                first - _KEY_OF_FLOAT32,
                self._counts.shape[1],
                self._counts.ctypes.data,
                self._fractions.ctypes.data,
            )
        self.zeros += zeros
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        return True

    def _update_special(self, chunk: Floats) -> None:
        """Zeros, NaN, infinity, subnormal float32, and float64."""
        finite = chunk[np.isfinite(chunk)]
        if finite.size < chunk.size:
            nans = int(np.count_nonzero(np.isnan(chunk)))
            self.nans += nans
            self.infinities += chunk.size - finite.size - nans
        if finite.size:
            self._note_extremes(finite)
        nonzero = finite[np.abs(finite) >= np.finfo(np.float64).tiny]
        self.zeros += finite.size - nonzero.size
        if not nonzero.size:
            return
        bits = nonzero.view(np.uint64)
        key = ((bits & np.uint64(0x7FFFFFFFFFFFFFFF)) >> np.uint64(52 - _MANTISSA_BITS)).astype(
            np.int64
        )
        first = self._cover(int(key.min()), int(key.max()))
        fraction = (bits >> np.uint64(29)) & np.uint64(_FRACTION_MASK)
        index = key - first + (bits >> np.uint64(63)).astype(np.int64) * self._counts.shape[1]
        self._tally(index, fraction.astype(np.int64))

    def _note_extremes(self, finite: npt.NDArray[Any]) -> None:
        self.minimum = min(self.minimum, float(finite.min()))
        self.maximum = max(self.maximum, float(finite.max()))

    def _cover(self, least: int, greatest: int) -> int:
        """Widen the columns, by whole octaves, to hold the keys; gives the first column's key."""
        width = self._counts.shape[1]
        first = least // _CELLS_PER_OCTAVE * _CELLS_PER_OCTAVE
        last = (greatest // _CELLS_PER_OCTAVE + 1) * _CELLS_PER_OCTAVE
        if width:
            first, last = min(first, self._first), max(last, self._first + width)
        if last - first > width:
            padding = (
                (0, 0),
                (self._first - first if width else 0, last - self._first - width if width else 0),
            )
            if width:
                self._counts = np.pad(self._counts, padding)
                self._fractions = np.pad(self._fractions, padding)
            else:
                self._counts = np.zeros((2, last - first), dtype=np.int64)
                self._fractions = np.zeros((2, last - first), dtype=np.int64)
            self._first = first
        return self._first

    def _tally(self, index: Integers, fraction: Integers) -> None:
        """Add a chunk: counts and sums of fractions, both from one weighted ``bincount``.

        Its weight ``2**32 + fraction`` is written straight into the bits of a float64
        (over `fraction`); the sum of a chunk splits exactly into the count, above bit 32,
        and the sum of the fractions below.
        """
        width = self._counts.shape[1]
        fraction <<= _PACK_LOW
        fraction |= _PACK_BITS
        packed = np.bincount(index, weights=fraction.view(np.float64), minlength=2 * width)
        sums = packed.astype(np.int64).reshape(2, width)
        self._counts += sums >> _PACK_SHIFT
        sums &= (1 << _PACK_SHIFT) - 1
        self._fractions += sums

    def _side(self, row: int) -> tuple[Floats, ...]:
        """Cells of one sign, ascending: edges, counts, means, mean squares."""
        column = np.flatnonzero(self._counts[row])
        count = self._counts[row, column].astype(np.float64)
        fraction = self._fractions[row, column] / count / (1 << _FRACTION_BITS)
        key = column + self._first
        octave = (key >> _MANTISSA_BITS) - _BIAS
        place = (key & (_CELLS_PER_OCTAVE - 1)).astype(np.float64)
        with np.errstate(over="ignore"):  # at the far end of float64: infinity will do
            low = np.ldexp(1 + place / _CELLS_PER_OCTAVE, octave)
            high = low + np.ldexp(1.0 / _CELLS_PER_OCTAVE, octave)
            mean = np.ldexp(1 + (place + fraction) / _CELLS_PER_OCTAVE, octave)
            square = mean**2
        if row == 0:
            return low, high, count, mean, square
        return -high[::-1], -low[::-1], count[::-1], -mean[::-1], square[::-1]

    def _zero_cell(self) -> tuple[Floats, ...]:
        zero = np.zeros(1 if self.zeros else 0)
        return zero, zero, np.full(zero.shape, float(self.zeros)), zero, zero
