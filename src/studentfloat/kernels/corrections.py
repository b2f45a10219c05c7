"""What a method adds to a packed matrix, multiplied beside it: numbers here and there, low rank."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from studentfloat.errors import DataError
from studentfloat.kernels import reference
from studentfloat.kernels.arrays import Array, address, default_threads, dtype_name, is_torch
from studentfloat.kernels.dispatch import native

if TYPE_CHECKING:
    from studentfloat.kernels import _native

__all__ = ["BlockOffsets", "Corrections", "LowRankMatrix", "MatrixCorrection", "SparseMatrix"]

_FACTOR_TYPES = {"bfloat16": 0, "int8": 1}
# From this many columns on, the library's product is worth what widening the factors costs it.
_FACTORS_DENSE_FROM = 4
# Numbers multiplied that are worth waking a thread for.
_PRODUCTS_PER_THREAD = 1 << 16


class SparseMatrix:
    """A matrix of shape ``(out_features, in_features)`` that is zero but at some positions.

    Positions and values are not copied; beside them it holds where each row begins.

    Parameters
    ----------
    positions
        int32 or int64, of shape ``(n,)``, strictly ascending: flat row-major positions.
    values
        float32, of shape ``(n,)``.
    shape
        ``(out_features, in_features)``.

    Raises
    ------
    DataError
        If types or shapes do not fit, or positions do not ascend or lie outside.

    Examples
    --------
    >>> matrix = SparseMatrix(np.array([1, 3, 4]), np.float32([10, 20, 30]), (2, 3))
    >>> out = np.zeros((1, 2), dtype=np.float32)
    >>> matrix.add_product(np.float32([[1, 2, 3]]), out)
    >>> out
    array([[20., 80.]], dtype=float32)
    """

    def __init__(self, positions: Array, values: Array, shape: tuple[int, int]) -> None:
        if dtype_name(positions) not in ("int32", "int64") or dtype_name(values) != "float32":
            raise DataError(
                f"positions are {dtype_name(positions)} and values {dtype_name(values)}: int32 or "
                "int64, and float32, are right"
            )
        if positions.ndim != 1 or tuple(positions.shape) != tuple(values.shape):
            raise DataError(
                f"positions of shape {tuple(positions.shape)} and values of shape "
                f"{tuple(values.shape)}: one line of each, equally long, is right"
            )
        address(positions, "the positions")
        address(values, "the values")
        numbers = _numpy(positions)
        size = shape[0] * shape[1]
        if numbers.size and not (
            numbers[0] >= 0 and numbers[-1] < size and (numbers[1:] > numbers[:-1]).all()
        ):
            raise DataError(f"positions must ascend from 0 to at most {size - 1}")
        self.shape = shape
        self.positions, self.values = _kept(positions), _kept(values)
        # Of the positions' type: searching would else make a copy of them.
        ends = np.arange(1, shape[0] + 1, dtype=np.int64) * shape[1] - 1
        counts = np.searchsorted(numbers, ends.astype(numbers.dtype), side="right")
        self._starts = np.concatenate([[0], counts]).astype(np.int64)
        self._native: _native.Sparse | None = None

    def add_product(self, x: Array, out: Array, *, threads: int | None = None) -> None:
        """Add ``x @ D.T`` to an output, in float32.

        Parameters
        ----------
        x
            float32, contiguous, of shape ``(n, in_features)``: torch's or NumPy's.
        out
            float32, contiguous, of shape ``(n, out_features)``.
        """
        self._add(x, out, transposed=False, threads=threads)

    def add_product_transposed(self, x: Array, out: Array, *, threads: int | None = None) -> None:
        """Add ``x @ D`` to an output, in float32: `x` of ``(n, out_features)``."""
        self._add(x, out, transposed=True, threads=threads)

    def _add(self, x: Array, out: Array, *, transposed: bool, threads: int | None) -> None:
        rows, columns = self.shape
        _check_product(x, out, (rows, columns) if transposed else (columns, rows))
        compiled = self.compiled()
        if compiled is None:
            positions, values = _numpy(self.positions), _numpy(self.values)
            product = reference.sparse_product(
                _numpy(x), positions, values, self.shape, transposed=transposed
            )
            _numpy(out)[...] += product
            return
        compiled.add(
            transposed,
            address(x, "the activations"),
            len(x),
            address(out, "the output"),
            _useful_threads(threads, len(self.positions) * len(x)),
        )

    def compiled(self) -> _native.Sparse | None:
        """For the kernels; None where there are none."""
        module = native()
        if module is None:
            return None
        if self._native is None:
            self._native = module.Sparse(
                *self.shape,
                self._starts.ctypes.data,
                address(self.positions, "the positions"),
                dtype_name(self.positions) == "int64",
                address(self.values, "the values"),
            )
        return self._native

    def __getstate__(self) -> dict[str, Any]:
        """All but addresses, which are another's elsewhere."""
        return {**vars(self), "_native": None}


class LowRankMatrix:
    """A matrix ``left @ right`` held as its factors, which are not copied.

    Parameters
    ----------
    left
        Of shape ``(out_features, rank)``: contiguous, of a floating-point type, or int8.
    right
        Of shape ``(rank, in_features)`` and the same type.
    left_scales, right_scales
        float32, contiguous, one number per row of each factor that the row is multiplied by;
        both or neither.

    Raises
    ------
    DataError
        If types or shapes do not fit.
    """

    def __init__(
        self,
        left: Array,
        right: Array,
        left_scales: Array | None = None,
        right_scales: Array | None = None,
    ) -> None:
        if dtype_name(left) != dtype_name(right) or left.shape[-1] != right.shape[0]:
            raise DataError(
                f"a left factor of {dtype_name(left)} and shape {tuple(left.shape)} does not fit "
                f"a right one of {dtype_name(right)} and shape {tuple(right.shape)}"
            )
        for factor, scales in ((left, left_scales), (right, right_scales)):
            address(factor, "a factor")
            if scales is not None and tuple(scales.shape) != (len(factor),):
                raise DataError(f"{tuple(scales.shape)} scales for {len(factor)} rows of a factor")
        self.left, self.right = _kept(left), _kept(right)
        self.left_scales = None if left_scales is None else _kept(left_scales)
        self.right_scales = None if right_scales is None else _kept(right_scales)
        self.shape = int(left.shape[0]), int(right.shape[1])
        self._kind = _FACTOR_TYPES.get(dtype_name(left))
        self._native: _native.LowRank | None = None

    def add_product(self, x: Array, out: Array, *, threads: int | None = None) -> None:
        """Add ``x @ right.T @ left.T`` to an output, in float32; as for :class:`SparseMatrix`."""
        rows, columns = self.shape
        _check_product(x, out, (columns, rows))
        compiled = self.compiled(len(x))
        if compiled is None:
            left, right = self.factors()
            _add_matmul(out, x @ right.T, left.T)
            return
        compiled.add(
            address(x, "the activations"),
            len(x),
            address(out, "the output"),
            _useful_threads(threads, len(x) * len(self.right) * (rows + columns)),
        )

    def compiled(self, count: int) -> _native.LowRank | None:
        """For the kernels; None where there are none, or a library is faster at `count` columns."""
        module = native()
        if module is None or self._kind is None or count >= _FACTORS_DENSE_FROM:
            return None
        if self._native is None:
            scales = [
                0 if its is None else address(its, "the scales")
                for its in (self.left_scales, self.right_scales)
            ]
            factors = [address(factor, "a factor") for factor in (self.left, self.right)]
            self._native = module.LowRank(
                *self.shape, len(self.right), self._kind, *factors, *scales
            )
        return self._native

    def __getstate__(self) -> dict[str, Any]:
        """All but addresses, which are another's elsewhere."""
        return {**vars(self), "_native": None}

    def add_product_transposed(self, x: Array, out: Array) -> None:
        """Add ``x @ left @ right`` to an output, in float32: `x` of ``(n, out_features)``."""
        _check_product(x, out, self.shape)
        left, right = self.factors()
        _add_matmul(out, x @ left, right)

    def factors(self) -> tuple[Array, Array]:
        """Both in float32, scales multiplied in."""
        return _wide(self.left, self.left_scales), _wide(self.right, self.right_scales)


class BlockOffsets:
    """A matrix whose numbers are equal within each block of a row.

    Parameters
    ----------
    values
        float32, contiguous, of shape ``(out_features, blocks)``: one number per block.
    block_size
        Columns of a block; a last block may be shorter.
    in_features
        Columns of the matrix.

    Raises
    ------
    DataError
        If types or shapes do not fit.
    """

    def __init__(self, values: Array, block_size: int, in_features: int) -> None:
        blocks = -(-in_features // block_size)
        if dtype_name(values) != "float32" or tuple(values.shape[1:]) != (blocks,):
            raise DataError(
                f"offsets of {dtype_name(values)} and shape {tuple(values.shape)}: float32 of "
                f"{blocks} blocks in each row is right"
            )
        self.values, self.block_size = _kept(values), block_size
        self.shape = int(values.shape[0]), in_features

    def add_product(self, x: Array, out: Array, *, threads: int | None = None) -> None:
        """Add each offset times the sum of its block's activations, in float32."""
        rows, columns = self.shape
        _check_product(x, out, (columns, rows))
        _add_matmul(out, self._block_sums(x), self.values.T)

    def add_product_transposed(self, x: Array, out: Array) -> None:
        """Add ``x @ C`` to an output, in float32: `x` of ``(n, out_features)``."""
        _check_product(x, out, self.shape)
        sums, size = x @ self.values, self.block_size
        spread = sums.repeat_interleave(size, -1) if is_torch(x) else np.repeat(sums, size, -1)
        out += spread[:, : self.shape[1]]

    def _block_sums(self, x: Array) -> Array:
        """Of shape ``(n, blocks)``."""
        count, columns = x.shape
        full = columns // self.block_size
        whole = x[:, : full * self.block_size].reshape(count, full, self.block_size).sum(-1)
        if full * self.block_size == columns:
            return whole
        tail = x[:, full * self.block_size :].sum(-1)[:, None]
        stack = sys.modules["torch"].cat if is_torch(x) else np.concatenate
        return stack([whole, tail], 1)


class MatrixCorrection(Protocol):
    """A matrix that is added to a packed one, held in a form of its own."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)``."""

    def add_product(self, x: Array, out: Array, *, threads: int | None = None) -> None:
        """Add ``x @ C.T`` to an output, in float32."""

    def add_product_transposed(self, x: Array, out: Array) -> None:
        """Add ``x @ C`` to an output, in float32: `x` of ``(n, out_features)``."""


class Corrections:
    """What is added to a product with a packed matrix, of one or several kinds.

    Raises
    ------
    DataError
        If there are none, or of different shapes.
    """

    def __init__(self, *parts: MatrixCorrection) -> None:
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise DataError(f"corrections of shapes {sorted(shapes)}: of one shape is right")
        self.parts = parts
        (self.shape,) = shapes

    def add_product(self, x: Array, out: Array, *, threads: int | None = None) -> None:
        """Add ``x @ C.T`` to an output, in float32; as for :class:`SparseMatrix`."""
        for part in self.parts:
            part.add_product(x, out, threads=threads)

    def add_product_transposed(self, x: Array, out: Array) -> None:
        """Add ``x @ C`` to an output, in float32: `x` of ``(n, out_features)``."""
        for part in self.parts:
            part.add_product_transposed(x, out)

    def compiled(self, count: int) -> tuple[_native.Sparse | None, _native.LowRank | None] | None:
        """For the kernels to add, for `count` columns; None where they cannot add all of it."""
        sparse: _native.Sparse | None = None
        low_rank: _native.LowRank | None = None
        for part in self.parts:
            if isinstance(part, SparseMatrix) and sparse is None:
                sparse = part.compiled()
                taken = sparse is not None
            elif isinstance(part, LowRankMatrix) and low_rank is None:
                low_rank = part.compiled(count)
                taken = low_rank is not None
            else:
                taken = False
            if not taken:
                return None
        return sparse, low_rank


def _useful_threads(threads: int | None, products: int) -> int:
    given = default_threads() if threads is None else threads
    return max(1, min(given, products // _PRODUCTS_PER_THREAD))


def _kept(array: Array) -> Array:
    """The same numbers, which stay where they are if the caller's tensor gets others."""
    return array.detach() if is_torch(array) else array


def _check_product(x: Array, out: Array, widths: tuple[int, int]) -> None:
    count = len(x)
    fits = x.shape == (count, widths[0]) and out.shape == (count, widths[1])
    if fits and dtype_name(x) == dtype_name(out) == "float32":
        return
    for array, what, width in ((x, "activations", widths[0]), (out, "an output", widths[1])):
        if dtype_name(array) != "float32" or tuple(array.shape) != (count, width):
            raise DataError(
                f"{what} of {dtype_name(array)} and shape {tuple(array.shape)}: float32 of "
                f"shape {(count, width)} is right"
            )


def _wide(factor: Array, scales: Array | None) -> Array:
    numbers = factor.float() if is_torch(factor) else factor.astype(np.float32)
    return numbers if scales is None else numbers * scales[:, None]


def _add_matmul(out: Array, left: Array, right: Array) -> None:
    if is_torch(out):
        out.addmm_(left, right)
    else:
        out += left @ right


def _numpy(array: Array) -> npt.NDArray[Any]:
    """A view, also where gradients are recorded."""
    result: npt.NDArray[Any] = array.detach().numpy() if is_torch(array) else array
    return result
