"""A weight matrix of packed codes that multiplies activations without being unpacked first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ConfigError, DataError
from studentfloat.kernels import reference
from studentfloat.kernels.arrays import (
    Array,
    address,
    default_threads,
    dtype_name,
    empty_like,
    is_contiguous,
    is_torch,
)
from studentfloat.kernels.corrections import Corrections
from studentfloat.kernels.dispatch import instruction_set, native, warn_slow
from studentfloat.kernels.tables import read_tables

if TYPE_CHECKING:
    from studentfloat.kernels import _native

__all__ = ["COMPUTE", "Compute", "PackedMatrix"]

Compute: TypeAlias = Literal["float32", "bfloat16", "int8"]
COMPUTE: tuple[Compute, ...] = ("float32", "bfloat16", "int8")

_OUT_TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
_MOST_BITS = 4
# From this many columns on, tiles of rows are dequantized for the library's own product.
_DENSE_FROM: dict[Compute, int] = {"float32": 48, "bfloat16": 256, "int8": 1 << 62}
# In float32 these sets' own products are faster for longer: AVX-512's at 1024 columns still.
_FLOAT32_DENSE_FROM = {"avx512": 1 << 62, "avx2": 128}
# The same where blocks choose among tables: what of it no table changes, and what tables share.
_CHOICE_DENSE_FROM, _CHOICE_DENSE_SHARED = 16, 64
_LEAST_DENSE = min(*_DENSE_FROM.values(), _CHOICE_DENSE_FROM)
_DENSE_ROWS = 1024
# Bytes of codes that are worth waking a thread for.
_BYTES_PER_THREAD = 1 << 15


class PackedMatrix:
    """A matrix of shape ``(out_features, in_features)`` held as codes of at most 4 bits.

    The codes are repacked once, into the order in which a processor multiplies them; nothing
    else is kept, and :meth:`packed` and :meth:`scales` give the originals back, bit for bit.
    (Codes of 2 and 3 bits are held in 4.) The signatures here are stable.

    Parameters
    ----------
    packed
        uint8, of shape ``(out_features, ceil(in_features * bits / 8))``: codes, low code
        first, rows padded to whole bytes, as ``QuantizedTensor.packed`` has them.
    scales
        float32, of shape ``(out_features, ceil(in_features / block_size))``, finite.
    table
        The value of each code, at most ``2**bits`` numbers; NaN for codes that are not used.
        Of shape ``(tables, 2**bits)`` where blocks choose among several.
    in_features
        Numbers per row.
    block_size
        Numbers of a row that share a scale; the last block may be shorter.
    bits
        Of a code: 2, 3 or 4.
    selectors
        Which of several tables each block takes: uint8, of the shape of `scales`. Held in a
        bit per block and table; a product takes its time once per table, but reads codes from
        memory once. (Activations that are infinite give NaN.)

    Raises
    ------
    DataError
        If shapes, types or values do not fit; the message names what does not.

    Examples
    --------
    >>> import numpy as np
    >>> matrix = PackedMatrix(
    ...     packed=np.array([[0x10, 0x32]], dtype=np.uint8),
    ...     scales=np.array([[0.5]], dtype=np.float32),
    ...     table=[0.0, 1.0, 2.0, 4.0],
    ...     in_features=4,
    ...     block_size=4,
    ... )
    >>> matrix.dequantize()
    array([[0. , 0.5, 1. , 2. ]], dtype=float32)
    >>> matrix.matmul(np.array([[1, 1, 1, 10]], dtype=np.float32))
    array([[21.5]], dtype=float32)
    """

    def __init__(
        self,
        packed: Array,
        scales: Array,
        table: Sequence[float] | npt.NDArray[np.floating],
        *,
        in_features: int,
        block_size: int,
        bits: int = 4,
        selectors: Array | None = None,
    ) -> None:
        if not 1 <= bits <= _MOST_BITS:
            raise DataError(f"codes of {bits} bits: a packed matrix takes 2, 3 or 4")
        if in_features < 1 or block_size < 1:
            raise DataError(
                f"{in_features} columns in blocks of {block_size}: both must be positive"
            )
        self.in_features = in_features
        self.out_features = len(packed)
        self.block_size = min(block_size, in_features)
        self.bits = bits
        codes = _contiguous(packed, "packed codes", "uint8", -(-in_features * bits // 8))
        factors = _contiguous(scales, "scales", "float32", -(-in_features // self.block_size))
        choices = None
        if selectors is not None:
            choices = _contiguous(selectors, "selectors", "uint8", factors.shape[1])
        for part, what in ((factors, "scales"), (choices, "selectors")):
            if part is not None and len(part) != len(codes):
                raise DataError(f"{len(codes)} rows of codes, but {len(part)} rows of {what}")
        if not np.isfinite(factors).all():
            raise DataError(f"{np.count_nonzero(~np.isfinite(factors))} scales are not finite")
        self._tables = read_tables(
            table, codes, bits, in_features, selectors=choices, block_size=self.block_size
        )
        self._passes = len(self._tables)
        if self._passes == 1:
            choices = None
        self._native: _native.Matrix | None = None
        self._plain: _Originals | None = None
        self._build(_Originals(codes, factors, choices))

    def _build(self, originals: _Originals) -> None:
        module, (codes, factors, selectors) = native(), originals
        if module is None:
            warn_slow()
            chosen = None if selectors is None else selectors.copy()
            self._plain = _Originals(codes.copy(), factors.copy(), chosen)
            return
        self._native = module.Matrix(
            codes.ctypes.data,
            factors.ctypes.data,
            self._tables.values.ctypes.data,
            self._tables.integers.ctypes.data,
            self._tables.steps.ctypes.data,
            self._passes,
            0 if selectors is None else selectors.ctypes.data,
            self.out_features,
            self.in_features,
            self.block_size,
            self.bits,
        )
        self._bytes = self._native.bytes

    @property
    def table(self) -> npt.NDArray[np.float32]:
        """Sixteen values, or a row of them per table."""
        return self._tables.values if self._passes > 1 else self._tables.values[0]

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)``."""
        return self.out_features, self.in_features

    @property
    def nbytes(self) -> int:
        """Bytes that codes, scales and selectors take."""
        if self._native is not None:
            return self._bytes
        return sum(part.nbytes for part in self._originals() if part is not None)

    def matmul(
        self,
        x: Array,
        *,
        compute: Compute | None = None,
        out: Array | None = None,
        threads: int | None = None,
        corrections: Corrections | None = None,
    ) -> Array:
        """Multiply: ``x @ W.T``.

        Parameters
        ----------
        x
            float32, or bfloat16 (torch), of shape ``(..., in_features)``, on the CPU. torch's or
            NumPy's.
        compute
            "float32": products and sums in float32. "bfloat16": activations and the format's
            values rounded to bfloat16 (an error of at most 2**-9 of each), sums and scales in
            float32; formats of short values, such as integers and E2M1, lose nothing there.
            "int8": W4A8, activations rounded to 8-bit integers per block (of at most 128), the
            values to multiples of 1/127 or so of the largest, unless they are integers anyway;
            see docs/kernels.md for its error. By default the type of `x`.
        out
            Where to put the product: contiguous, of the library and type of `x`. By default a
            new array.
        threads
            By default torch's number of threads. The result does not depend on it, except
            from many columns on, where the product is torch's or NumPy's.
        corrections
            Whose product is added, in float32 whatever `compute` says, before the sum is
            rounded to the type of `x`.

        Returns
        -------
        Array
            Of shape ``(..., out_features)`` and the type of `x`.

        Raises
        ------
        DataError
            If shapes, types or devices do not fit, or if `x` requires a gradient.
        ConfigError
            If there is no such arithmetic.
        """
        # A product takes less time than a few dozen careless lines whose code and data it has
        # driven out of the caches: nothing is looked up, viewed or cast that need not be.
        way = _WAYS.get((x.dtype, compute)) or _way(x, compute)
        shape = x.shape
        if not shape or shape[-1] != self.in_features:
            raise DataError(
                f"activations of shape {tuple(shape)} do not fit a matrix of {self.in_features} "
                "columns"
            )
        if way.torch and x.requires_grad:
            _refuse_gradient()
        count = prod(shape[:-1])
        if out is None:
            out = empty_like(x, (*shape[:-1], self.out_features), way.kind)
        elif out.dtype != x.dtype or out.shape != (*shape[:-1], self.out_features):
            raise DataError(
                f"{dtype_name(out)} of shape {tuple(out.shape)} cannot take a product of "
                f"activations of type {way.kind} and shape {tuple(shape)} with a matrix of "
                f"{self.out_features} rows"
            )
        if threads is None:
            threads = default_threads()
        if corrections is not None:
            self._matmul_and_add(x, way, count, out, threads, corrections=corrections)
            return out
        if self._native is None or (count >= _LEAST_DENSE and self._is_dense(way, count)):
            self._matmul_by_library(x, way, out, threads)
            return out
        if not is_contiguous(x):
            x = _rows(x, self.in_features)
        self._native.multiply(
            address(x, "the activations"),
            way.short,
            count,
            address(out, "the product"),
            way.code,
            threads if threads == 1 else self._useful(threads, count),
        )
        return out

    def _is_dense(self, way: _Way, count: int) -> bool:
        if self._passes > 1 and way.arithmetic != "int8":
            # Both a product and dequantizing take their time once per table.
            return count >= _CHOICE_DENSE_FROM + _CHOICE_DENSE_SHARED // self._passes
        if way.arithmetic == "float32":
            return count >= _FLOAT32_DENSE_FROM.get(instruction_set(), way.dense_from)
        return count >= way.dense_from

    def _useful(self, threads: int, count: int) -> int:
        return max(1, min(threads, self._bytes * max(1, count // 4) // _BYTES_PER_THREAD))

    def matmul_transposed(self, x: Array, *, threads: int | None = None) -> Array:
        """Multiply by the transpose: ``x @ W``, as the gradient of :meth:`matmul` needs it.

        Parameters
        ----------
        x
            float32, or bfloat16 (torch), of shape ``(..., out_features)``.

        Returns
        -------
        Array
            Of shape ``(..., in_features)`` and the type of `x`.
        """
        shape = tuple(x.shape)
        if not shape or shape[-1] != self.out_features:
            raise DataError(
                f"activations of shape {shape} do not fit a matrix of {self.out_features} rows"
            )
        _arithmetic(None, dtype_name(x))
        if is_torch(x) and x.requires_grad:
            _refuse_gradient()
        rows = _rows(x, self.out_features)
        out: Array = 0
        for first, tile in self._tiles(rows, dtype_name(rows), threads):
            out = out + rows[:, first : first + len(tile)] @ tile
        return out.reshape(*shape[:-1], self.in_features)

    def dequantize(self, out: Array | None = None, *, threads: int | None = None) -> Array:
        """The matrix as numbers: value times scale in float32, of shape :attr:`shape`.

        Parameters
        ----------
        out
            Where to put them: contiguous; float32, float16 or bfloat16, to which they are
            rounded to nearest even. By default a new float32 NumPy array.
        """
        if out is None:
            out = empty_like(self.table, self.shape, "float32")
        if tuple(out.shape) != self.shape or dtype_name(out) not in _OUT_TYPES:
            raise DataError(
                f"{dtype_name(out)} of shape {tuple(out.shape)} cannot take a matrix of shape "
                f"{self.shape}: float32, float16 or bfloat16 of that shape can"
            )
        self._dequantize_into(out, 0, self.out_features, threads)
        return out

    def packed(self) -> npt.NDArray[np.uint8]:
        """The packed codes that it was made of."""
        if self._native is None:
            return self._originals().codes.copy()
        codes = np.empty((self.out_features, -(-self.in_features * self.bits // 8)), dtype=np.uint8)
        self._native.unpack(codes.ctypes.data)
        return codes

    def scales(self) -> npt.NDArray[np.float32]:
        """The scales that it was made of."""
        if self._native is None:
            return self._originals().scales.copy()
        factors = np.empty(self._blocks, dtype=np.float32)
        self._native.unpack_scales(factors.ctypes.data)
        return factors

    def selectors(self) -> npt.NDArray[np.uint8] | None:
        """The selectors that it was made of; None where there is one table."""
        if self._passes == 1:
            return None
        if self._native is None:
            chosen = self._originals().selectors
            return None if chosen is None else chosen.copy()
        chosen = np.empty(self._blocks, dtype=np.uint8)
        self._native.unpack_selectors(chosen.ctypes.data)
        return chosen

    @property
    def _blocks(self) -> tuple[int, int]:
        return self.out_features, -(-self.in_features // self.block_size)

    def __getstate__(self) -> dict[str, Any]:
        """The originals: another machine may repack them otherwise."""
        kept = {k: v for k, v in vars(self).items() if k not in ("_native", "_plain", "_bytes")}
        return {**kept, "originals": (self.packed(), self.scales(), self.selectors())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        originals = _Originals(*state.pop("originals"))
        vars(self).update(state, _native=None, _plain=None)
        self._build(originals)

    def __repr__(self) -> str:
        return (
            f"PackedMatrix({self.out_features} x {self.in_features}, {self.bits} bits, "
            f"blocks of {self.block_size}"
            + (f", {len(self._tables)} tables)" if self._passes > 1 else ")")
        )

    def _originals(self) -> _Originals:
        assert self._plain is not None
        return self._plain

    def _tiles(self, like: Array, kind: str, threads: int | None) -> Iterator[tuple[int, Array]]:
        """The first row of each tile of rows, and its numbers, which the next one overwrites."""
        # Fresh memory for each would cost more than what is put there.
        rows = empty_like(like, (min(_DENSE_ROWS, self.out_features), self.in_features), kind)
        for first in range(0, self.out_features, _DENSE_ROWS):
            tile = rows[: min(_DENSE_ROWS, self.out_features - first)]
            self._dequantize_into(tile, first, first + len(tile), threads)
            yield first, tile

    def _dequantize_into(self, out: Array, first: int, last: int, threads: int | None) -> None:
        if self._native is not None:
            self._native.dequantize(
                first,
                last,
                _OUT_TYPES[dtype_name(out)],
                address(out, "the output"),
                default_threads() if threads is None else threads,
            )
            return
        codes, factors, selectors = self._originals()
        values = reference.dequantize(
            codes[first:last],
            factors[first:last],
            self.table,
            bits=self.bits,
            columns=self.in_features,
            block_size=self.block_size,
            selectors=None if selectors is None else selectors[first:last],
        )
        out[...] = sys.modules["torch"].from_numpy(values) if is_torch(out) else values

    def _matmul_and_add(
        self, x: Array, way: _Way, count: int, out: Array, threads: int, *, corrections: Corrections
    ) -> None:
        """The product with something added."""
        if corrections.shape != self.shape:
            raise DataError(
                f"corrections of shape {corrections.shape} do not fit a matrix of {self.shape}"
            )
        compiled = None if self._is_dense(way, count) else corrections.compiled(count)
        if self._native is None or compiled is None:
            rows = _rows(x, self.in_features)
            rows = rows.float() if way.short else rows
            product = self.matmul(rows, compute=way.arithmetic, threads=threads)
            corrections.add_product(rows, product, threads=threads)
            out[...] = product.reshape(out.shape)
            return
        if not is_contiguous(x):
            x = _rows(x, self.in_features)
        self._native.multiply_and_add(
            address(x, "the activations"),
            way.short,
            count,
            address(out, "the product"),
            way.code,
            self._useful(threads, count),
            *compiled,
        )

    def _matmul_by_library(self, x: Array, way: _Way, out: Array, threads: int) -> None:
        """The product where torch or NumPy makes it."""
        address(out, "the product")
        rows = _rows(x, self.in_features)
        product = out.reshape(-1, self.out_features)
        if self._native is None and way.arithmetic == "int8":
            product[...] = self._matmul_reference(rows)
        else:
            self._matmul_dense(rows, way.arithmetic, product, threads)

    def _matmul_dense(
        self, rows: Array, arithmetic: Compute, out: Array, threads: int | None
    ) -> None:
        """Tile after tile dequantized, and multiplied by the library that the arrays are of."""
        kind = arithmetic if is_torch(rows) else "float32"
        if dtype_name(rows) != kind:
            rows = rows.to(getattr(sys.modules["torch"], kind))
        multiply = sys.modules["torch"].mm if is_torch(rows) else np.matmul
        product = out if dtype_name(out) == kind else empty_like(rows, out.shape, kind)
        for first, tile in self._tiles(rows, kind, threads):
            multiply(rows, tile.T, out=product[:, first : first + len(tile)])
        if product is not out:
            out[...] = product

    def _matmul_reference(self, rows: Array) -> Array:
        """In int8, by NumPy."""
        codes, factors, selectors = self._originals()
        several = selectors is not None
        x = rows.float().numpy() if is_torch(rows) else rows
        product = reference.matmul_int8(
            x,
            reference.unpack(codes, self.bits, self.in_features),
            factors,
            self._tables.integers if several else self._tables.integers[0],
            step=self._tables.steps if several else float(self._tables.steps[0]),
            block_size=self.block_size,
            selectors=selectors,
        ).astype(np.float32)
        return sys.modules["torch"].from_numpy(product) if is_torch(rows) else product


class _Originals(NamedTuple):
    """What a matrix was made of."""

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    selectors: npt.NDArray[np.uint8] | None


class _Way(NamedTuple):
    """How activations of a type are multiplied in an arithmetic."""

    kind: str  # of the activations and of the product
    torch: bool
    short: bool  # bfloat16
    arithmetic: Compute
    code: int
    dense_from: int


# By the activations' type and the arithmetic that was asked for.
_WAYS: dict[tuple[Any, Compute | None], _Way] = {}


def _way(x: Array, compute: Compute | None) -> _Way:
    kind = dtype_name(x)
    arithmetic = _arithmetic(compute, kind)
    way = _Way(
        kind=kind,
        torch=is_torch(x),
        short=kind == "bfloat16",
        arithmetic=arithmetic,
        code=COMPUTE.index(arithmetic),
        dense_from=_DENSE_FROM[arithmetic],
    )
    _WAYS[x.dtype, compute] = way
    return way


def _arithmetic(compute: Compute | None, kind: str) -> Compute:
    if kind not in ("float32", "bfloat16"):
        raise DataError(f"activations of type {kind}: float32 or bfloat16 can be multiplied")
    if compute is None:
        return "float32" if kind == "float32" else "bfloat16"
    if compute not in COMPUTE:
        raise ConfigError(f"arithmetic {compute!r}: one of {', '.join(COMPUTE)}")
    return compute


def _refuse_gradient() -> None:
    if sys.modules["torch"].is_grad_enabled():
        raise DataError(
            "the activations require a gradient, which a packed product does not record: "
            "detach them, or wrap matmul and matmul_transposed in an autograd function"
        )


def _rows(x: Array, width: int) -> Array:
    """Activations as a contiguous matrix."""
    if is_torch(x):
        return x.detach().reshape(-1, width).contiguous()
    return np.ascontiguousarray(x).reshape(-1, width)


def _contiguous(array: Array, what: str, kind: str, width: int) -> npt.NDArray[Any]:
    """A NumPy view of an array of the caller's, checked."""
    if dtype_name(array) != kind or array.ndim != 2 or array.shape[1] != width:
        raise DataError(
            f"{what} are {dtype_name(array)} of shape {tuple(array.shape)}: "
            f"{kind} of shape (rows, {width}) is right"
        )
    if len(array) == 0:
        raise DataError(f"{what} have no rows")
    return np.ascontiguousarray(array.detach().cpu().numpy() if is_torch(array) else array)
