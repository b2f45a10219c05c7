"""Matrices whose blocks choose among tables: against the tables looked up one by one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from studentfloat.errors import DataError
from studentfloat.kernels import PackedMatrix, reference
from studentfloat.kernels.packed_matrix import _CHOICE_DENSE_FROM, _CHOICE_DENSE_SHARED
from studentfloat.kernels.tables import int8_table
from studentfloat.quantize import Scheme, quantize

# Rows, columns, block size, columns of activations: tails everywhere, and none.
SHAPES = [
    (16, 64, 16, 1),
    (33, 100, 16, 3),
    (5, 77, 20, 8),
    (40, 576, 576, 9),
    (17, 300, 128, 2),
    (1, 1, 1, 1),
    (31, 129, 64, 1),
    (48, 512, 64, 17),
]
SCHEMES = ["e2m1+sp|e2m1+sr", "int4|nf4|e2m1", "int3|nf3", "sf4|nf4|int4|e2m1|apot4"]


class Made:
    """A matrix and all that it was made of."""

    def __init__(self, rows, columns, block_size, *, tables=3, bits=4, short_scales=None) -> None:
        rng = np.random.default_rng(rows)
        codes = rng.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
        blocks = -(-columns // block_size)
        scales = rng.standard_normal((rows, blocks)).astype(np.float32)
        if short_scales is not None:
            scales = torch.from_numpy(scales).to(short_scales).float().numpy()
        self.codes, self.scales, self.packed = codes, scales, reference.pack(codes, bits)
        self.tables = np.sort(rng.standard_normal((tables, 2**bits))).astype(np.float32)
        self.selectors = rng.integers(0, tables, (rows, blocks)).astype(np.uint8)
        # In the second group no block takes the last table.
        self.selectors[16:32] = np.minimum(self.selectors[16:32], tables - 2)
        self.block_size = block_size
        self.matrix = PackedMatrix(
            self.packed,
            scales,
            self.tables,
            in_features=columns,
            block_size=block_size,
            bits=bits,
            selectors=self.selectors,
        )

    def dense(self, tables: np.ndarray | None = None) -> np.ndarray:
        """Number by number, float32."""
        tables = self.tables if tables is None else tables
        out = np.empty(self.codes.shape, dtype=np.float32)
        for (r, k), code in np.ndenumerate(self.codes):
            b = k // self.block_size
            out[r, k] = tables[self.selectors[r, b], code] * self.scales[r, b]
        return out


def assert_near(got, x, weights, relative: float) -> None:
    exact = np.asarray(x, dtype=np.float64) @ weights.astype(np.float64).T
    bound = np.abs(np.asarray(x, dtype=np.float64)) @ np.abs(weights.astype(np.float64)).T
    assert (np.abs(np.asarray(got, dtype=np.float64) - exact) <= relative * bound + 1e-30).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_originals_come_back(instructions, shape, bits) -> None:
    made = Made(*shape[:3], bits=bits)
    np.testing.assert_array_equal(made.matrix.packed(), made.packed)
    np.testing.assert_array_equal(made.matrix.scales(), made.scales)
    np.testing.assert_array_equal(made.matrix.selectors(), made.selectors)
    dense = made.dense()
    np.testing.assert_array_equal(made.matrix.dequantize(), dense)
    for kind in (torch.bfloat16, torch.float16):
        out = made.matrix.dequantize(torch.empty(shape[:2], dtype=kind))
        assert torch.equal(out, torch.from_numpy(dense).to(kind))


@pytest.mark.parametrize("short_scales", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_products(instructions, shape, short_scales) -> None:
    made = Made(*shape[:3], short_scales=short_scales)
    weights = made.dense()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((shape[3], shape[1])).astype(np.float32)
    assert_near(made.matrix.matmul(x, threads=2), x, weights, 1e-6)
    assert_near(made.matrix.matmul(x, compute="bfloat16"), x, weights, 3.1 * 2**-9)
    short = torch.from_numpy(x).bfloat16()
    got = made.matrix.matmul(short)
    assert got.dtype == torch.bfloat16
    assert_near(got.double(), short.double(), weights, 3.1 * 2**-9)
    rounded = np.stack([(i * np.float32(s)) for i, s in map(int8_table, padded(made.tables))])
    integers, steps = reference.round_activations(x, made.block_size)
    got = made.matrix.matmul(x, compute="int8", threads=2)
    assert_near(got, integers * steps, made.dense(rounded), 1e-6)
    g = rng.standard_normal((shape[3], shape[0])).astype(np.float32)
    assert_near(made.matrix.matmul_transposed(g), g, weights.T, 1e-6)


def padded(tables: np.ndarray) -> np.ndarray:
    full = np.zeros((len(tables), 16), dtype=np.float32)
    full[:, : tables.shape[1]] = tables
    return full


@pytest.mark.parametrize("names", SCHEMES)
def test_schemes(instructions, names) -> None:
    weight = torch.randn(20, 144, generator=torch.Generator().manual_seed(0))
    scheme = Scheme(names, block_size=32, scale_rule="mse", scale_dtype="bfloat16")
    quantized = quantize(weight, scheme)
    assert len(quantized.block_formats.unique()) > 1
    matrix = quantized.packed_matrix()
    np.testing.assert_array_equal(matrix.dequantize(), quantized.dequantize().numpy())
    np.testing.assert_array_equal(matrix.packed(), quantized.packed.numpy())
    np.testing.assert_array_equal(matrix.selectors(), quantized.block_formats.numpy())
    for count in (1, 5, 60):
        x = torch.randn(count, 144, generator=torch.Generator().manual_seed(1))
        assert_near(matrix.matmul(x), x, quantized.dequantize().numpy(), 1e-6)


def test_threads_change_nothing(instructions) -> None:
    matrix = Made(300, 256, 32).matrix
    for count in (1, 6):
        x = np.random.default_rng(0).standard_normal((count, 256)).astype(np.float32)
        outs = [matrix.matmul(x, threads=threads) for threads in (1, 2, 3)]
        assert all(np.array_equal(outs[0], out) for out in outs[1:])


def test_many_columns_take_the_dense_way(instructions) -> None:
    made = Made(50, 64, 32)
    count = _CHOICE_DENSE_FROM + _CHOICE_DENSE_SHARED // 3
    x = np.random.default_rng(1).standard_normal((count, 64)).astype(np.float32)
    assert_near(made.matrix.matmul(x), x, made.dense(), 1e-6)
    short = torch.from_numpy(x).bfloat16()
    assert_near(made.matrix.matmul(short).double(), short.double(), made.dense(), 3.1 * 2**-9)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(instructions, again) -> None:
    made = Made(33, 100, 16)
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    np.testing.assert_array_equal(again(made.matrix).matmul(x), made.matrix.matmul(x))
    assert "3 tables" in repr(again(made.matrix))


def test_little_is_held_for_the_choice() -> None:
    plain = Made(64, 512, 64, tables=2, short_scales=torch.bfloat16)
    one = PackedMatrix(plain.packed, plain.scales, plain.tables[0], in_features=512, block_size=64)
    # Two bits a block, and nothing that compiled code holds beside.
    assert plain.matrix.nbytes - one.nbytes in (64 * 8 * 2 // 8, 64 * 8)


def test_what_does_not_fit_is_named() -> None:
    made = Made(8, 32, 16)
    shape = {"in_features": 32, "block_size": 16}
    packed, scales, tables = made.packed, made.scales, made.tables
    with pytest.raises(DataError, match=r"a table of shape \(3, 16\)"):
        PackedMatrix(packed, scales, tables, **shape)
    with pytest.raises(DataError, match=r"a table of shape \(16,\)"):
        PackedMatrix(packed, scales, tables[0], **shape, selectors=made.selectors)
    with pytest.raises(DataError, match="selector 2 among 2 tables"):
        PackedMatrix(packed, scales, tables[:2], **shape, selectors=made.selectors)
    with pytest.raises(DataError, match="8 rows of codes, but 5 rows of selectors"):
        PackedMatrix(packed, scales, tables, **shape, selectors=made.selectors[:5])
    with pytest.raises(DataError, match=r"uint8 of shape \(rows, 2\) is right"):
        PackedMatrix(packed, scales, tables, **shape, selectors=made.selectors[:, :1])
    code = made.codes[made.selectors[:, 0] == 1][0, 0]
    tables = tables.copy()
    tables[1, code] = np.nan
    with pytest.raises(DataError, match=f"code {code} occurs"):
        PackedMatrix(packed, scales, tables, **shape, selectors=made.selectors)


def test_a_code_may_lack_a_value_where_no_block_looks_it_up() -> None:
    made = Made(8, 32, 16)
    tables = np.concatenate([made.tables, np.full((1, 16), np.nan, dtype=np.float32)])
    matrix = PackedMatrix(
        made.packed,
        made.scales,
        tables,
        in_features=32,
        block_size=16,
        selectors=made.selectors,
    )
    np.testing.assert_array_equal(matrix.dequantize(), made.dense())
