from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from studentfloat.errors import ConfigError, DataError, SchemeError
from studentfloat.formats import CATALOG, get_format
from studentfloat.kernels import PackedMatrix, instruction_sets, reference, use_instruction_set
from studentfloat.kernels.packed_matrix import _DENSE_FROM, COMPUTE
from studentfloat.kernels.tables import int8_table
from studentfloat.quantize import Scheme, quantize
from studentfloat.quantize.rounding.nearest import quantize_to_tables

NARROW = sorted(name for name in CATALOG if get_format(name).bits <= 4)
# Rows, columns, block size, columns of activations: tails everywhere, and none.
SHAPES = [
    (16, 64, 16, 1),
    (32, 256, 32, 8),
    (33, 100, 16, 3),
    (5, 77, 20, 8),
    (40, 576, 576, 9),
    (17, 300, 128, 17),
    (19, 1000, 300, 4),
    (1, 1, 1, 1),
    (15, 7, 16, 2),
    (48, 512, 64, 5),
    (31, 129, 64, 6),
    (16, 40, 8, 7),
]


def make(rows, columns, block_size, *, bits=4, seed=0, short_scales=None):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    scales = rng.standard_normal((rows, -(-columns // block_size))).astype(np.float32)
    if short_scales is not None:
        scales = torch.from_numpy(scales).to(short_scales).float().numpy()
    table = np.sort(rng.standard_normal(2**bits)).astype(np.float32)
    packed = reference.pack(codes, bits)
    matrix = PackedMatrix(
        packed, scales, table, in_features=columns, block_size=block_size, bits=bits
    )
    return matrix, packed, scales, table, codes


def dense(matrix: PackedMatrix) -> np.ndarray:
    """The weights in float64, from the originals by the reference."""
    return reference.dequantize(
        matrix.packed(),
        matrix.scales(),
        matrix.table,
        bits=matrix.bits,
        columns=matrix.in_features,
        block_size=matrix.block_size,
    ).astype(np.float64)


def assert_near(got, x, weights, relative: float) -> None:
    """Within a share of the sum of the magnitudes of the products: what rounding can do."""
    exact = np.asarray(x, dtype=np.float64) @ weights.T
    bound = np.abs(np.asarray(x, dtype=np.float64)) @ np.abs(weights).T
    assert (np.abs(np.asarray(got, dtype=np.float64) - exact) <= relative * bound + 1e-30).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_originals_come_back(instructions, shape, bits) -> None:
    matrix, packed, scales, table, codes = make(*shape[:3], bits=bits)
    np.testing.assert_array_equal(matrix.packed(), packed)
    np.testing.assert_array_equal(matrix.scales(), scales)
    values = reference.dequantize(
        packed, scales, table, bits=bits, columns=shape[1], block_size=matrix.block_size
    )
    per_column = np.repeat(scales, matrix.block_size, axis=1)[:, : shape[1]]
    np.testing.assert_array_equal(values, table[codes] * per_column)
    np.testing.assert_array_equal(matrix.dequantize(), values)
    for kind in (torch.bfloat16, torch.float16, torch.float32):
        out = matrix.dequantize(torch.empty(shape[:2], dtype=kind))
        assert torch.equal(out, torch.from_numpy(values).to(kind))


@pytest.mark.parametrize("short_scales", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_the_reference(instructions, shape, short_scales) -> None:
    matrix, *_ = make(*shape[:3], short_scales=short_scales)
    weights = dense(matrix)
    x = np.random.default_rng(1).standard_normal((shape[3], shape[1])).astype(np.float32)
    assert_near(matrix.matmul(x, threads=2), x, weights, 1e-6)
    # Two roundings to bfloat16, of a value and of an activation; a third of a dense weight.
    assert_near(matrix.matmul(x, compute="bfloat16"), x, weights, 3.1 * 2**-9)
    short = torch.from_numpy(x).bfloat16()
    got = matrix.matmul(short)
    assert got.dtype == torch.bfloat16
    assert_near(got.double(), short.double(), weights, 3.1 * 2**-9)
    wide = matrix.matmul(short, compute="float32")
    assert_near(wide.double(), short.double(), weights, 2**-8)
    table, step = int8_table(matrix.table)
    integers = reference.matmul_int8(
        x,
        reference.unpack(matrix.packed(), 4, shape[1]),
        matrix.scales(),
        table,
        step=step,
        block_size=matrix.block_size,
    )
    bound = np.abs(x).astype(np.float64) @ np.abs(weights).T
    got = matrix.matmul(x, compute="int8", threads=2)
    assert (np.abs(got - integers) <= 1e-6 * bound).all()


@pytest.mark.parametrize("name", NARROW)
def test_every_format(instructions, name) -> None:
    rng = np.random.default_rng(7)
    weight = torch.from_numpy(rng.standard_t(5, (20, 144)).astype(np.float32))
    quantized = quantize(weight, Scheme(name, block_size=32, scale_rule="absmax"))
    matrix = quantized.packed_matrix()
    np.testing.assert_array_equal(matrix.dequantize(), quantized.dequantize().numpy())
    np.testing.assert_array_equal(matrix.packed(), quantized.packed.numpy())
    x = torch.from_numpy(rng.standard_normal((3, 144)).astype(np.float32))
    assert_near(matrix.matmul(x), x, quantized.dequantize().double().numpy(), 1e-6)


def test_many_columns_take_the_dense_way(instructions) -> None:
    matrix, *_ = make(1050, 64, 32)
    weights = dense(matrix)
    count = max(n for n in _DENSE_FROM.values() if n < 1000) + 3
    x = np.random.default_rng(1).standard_normal((count, 64)).astype(np.float32)
    assert_near(matrix.matmul(x), x, weights, 1e-6)
    assert_near(matrix.matmul(torch.from_numpy(x)), x, weights, 1e-6)
    short = torch.from_numpy(x).bfloat16()
    assert_near(matrix.matmul(short).double(), short.double(), weights, 3.1 * 2**-9)


def test_a_product_goes_where_it_is_wanted(instructions) -> None:
    matrix, *_ = make(40, 96, 32)
    dense_from = [n for n in _DENSE_FROM.values() if n < 1000]
    for count in (1, 3, max(dense_from)):
        x = torch.randn(count, 2, 96, generator=torch.Generator().manual_seed(count))
        for kind in (torch.float32, torch.bfloat16):
            out = torch.empty(count, 2, 40, dtype=kind)
            assert matrix.matmul(x.to(kind), out=out) is out
            assert torch.equal(out, matrix.matmul(x.to(kind)))
        numbers = np.empty((count, 2, 40), dtype=np.float32)
        matrix.matmul(x.numpy(), out=numbers)
        np.testing.assert_array_equal(numbers, matrix.matmul(x.numpy()))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(2, 40, dtype=torch.bfloat16), "bfloat16 of shape"),
        (torch.empty(1, 40), r"shape \(1, 40\) cannot take"),
        (np.empty((2, 40), dtype=np.float32), "cannot take"),
        (torch.empty(40, 2).T, "the product is not contiguous"),
    ],
)
def test_an_output_that_does_not_fit(instructions, out, message) -> None:
    matrix, *_ = make(40, 96, 32)
    with pytest.raises(DataError, match=message):
        matrix.matmul(torch.zeros(2, 96), out=out)


def test_the_number_of_threads_changes_nothing(instructions) -> None:
    matrix, *_ = make(400, 512, 32)
    x = np.random.default_rng(1).standard_normal((9, 512)).astype(np.float32)
    for compute in COMPUTE:
        one = matrix.matmul(x, compute=compute, threads=1)
        for threads in (2, 3, 7):
            np.testing.assert_array_equal(matrix.matmul(x, compute=compute, threads=threads), one)


def test_one_column_equals_many(instructions) -> None:
    """A token decoded alone and in a batch differ by rounding at most."""
    matrix, *_ = make(64, 256, 64)
    x = np.random.default_rng(1).standard_normal((8, 256)).astype(np.float32)
    for compute in COMPUTE:
        together = matrix.matmul(x, compute=compute)
        alone = np.concatenate([matrix.matmul(row, compute=compute)[None] for row in x])
        np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


def test_int8_errs_by_about_a_percent() -> None:
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((256, 1024)).astype(np.float32))
    x = torch.from_numpy(rng.standard_normal((16, 1024)).astype(np.float32))
    for name in ("sf4", "nf4", "e2m1", "int4"):
        matrix = quantize(weight, Scheme(name, block_size=64)).packed_matrix()
        exact = matrix.matmul(x, compute="float32").double()
        error = matrix.matmul(x, compute="int8").double() - exact
        assert 1e-3 < float(error.norm() / exact.norm()) < 0.012


def test_integer_grids_are_exact_in_int8() -> None:
    for name in NARROW:
        grid = get_format(name).integer_grid
        levels = np.asarray(get_format(name).levels, dtype=np.float32)
        integers, step = int8_table(levels)
        if grid is not None and max(abs(k) for k in grid.integers) <= 127:
            np.testing.assert_allclose(integers * step, levels, rtol=1e-6)
        else:
            assert np.abs(integers * step - levels).max() <= 0.51 * step


def test_values_that_are_not_finite_spread(instructions) -> None:
    matrix, *_ = make(16, 64, 16)
    for bad in (np.inf, np.nan):
        x = np.ones((1, 64), dtype=np.float32)
        x[0, 5] = bad
        for compute in COMPUTE:
            assert not np.isfinite(matrix.matmul(x, compute=compute)).any()


def test_subnormal_and_zero_activations(instructions) -> None:
    matrix, *_ = make(16, 64, 16)
    for x in (np.zeros((2, 64), np.float32), np.full((2, 64), 1e-42, np.float32)):
        for compute in COMPUTE:
            assert np.abs(matrix.matmul(x, compute=compute)).max() < 1e-38


def test_leading_shapes_and_gradients() -> None:
    matrix, *_ = make(24, 40, 8)
    x = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    assert matrix.matmul(x).shape == (2, 3, 24)
    assert matrix.matmul(x[0, 0]).shape == (24,)
    assert matrix.matmul(x[:, :0]).shape == (2, 0, 24)
    assert torch.equal(matrix.matmul(x.transpose(0, 1)), matrix.matmul(x).transpose(0, 1))
    back = matrix.matmul_transposed(matrix.matmul(x))
    expected = matrix.matmul(x).double() @ torch.from_numpy(dense(matrix))
    torch.testing.assert_close(back.double(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="require a gradient"):
        matrix.matmul(x.requires_grad_())
    with torch.no_grad():
        assert matrix.matmul(x).requires_grad is False


def test_copies_and_pickles() -> None:
    matrix, *_ = make(24, 40, 8)
    x = np.ones((1, 40), dtype=np.float32)
    for twin in (copy.deepcopy(matrix), pickle.loads(pickle.dumps(matrix))):
        np.testing.assert_array_equal(twin.matmul(x), matrix.matmul(x))
        np.testing.assert_array_equal(twin.packed(), matrix.packed())


def test_memory_is_that_of_the_codes_and_scales() -> None:
    matrix, packed, scales, *_ = make(64, 256, 32)
    assert matrix.nbytes == packed.nbytes + scales.nbytes
    short, packed, scales, *_ = make(64, 256, 32, short_scales=torch.bfloat16)
    if instruction_sets()[0] != "none":
        assert short.nbytes == packed.nbytes + scales.nbytes // 2


CODES = np.zeros((2, 8), dtype=np.uint8)
SCALES = np.ones((2, 1), dtype=np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"packed": CODES[:, :7]}, r"uint8 of shape \(rows, 8\) is right"),
        ({"packed": CODES.astype(np.int32)}, "packed codes are int32"),
        ({"scales": SCALES[:1]}, "2 rows of codes, but 1 rows of scales"),
        ({"scales": SCALES * np.nan}, "2 scales are not finite"),
        ({"scales": SCALES.astype(np.float64)}, "scales are float64"),
        ({"table": [0.0, np.inf]}, "holds infinity"),
        ({"table": [0.0] * 17}, "1 to 16 values"),
        ({"table": [np.nan, 1.0]}, "code 0 occurs"),
        ({"bits": 5}, "codes of 5 bits"),
        ({"block_size": 0}, "both must be positive"),
    ],
)
def test_bad_parts_are_named(changed, message) -> None:
    parts = {"packed": CODES, "scales": SCALES, "table": [0.0, 1.0], "block_size": 16, "bits": 4}
    parts |= changed
    with pytest.raises(DataError, match=message):
        PackedMatrix(
            parts["packed"],
            parts["scales"],
            parts["table"],
            in_features=16,
            block_size=parts["block_size"],
            bits=parts["bits"],
        )


def test_bad_activations_are_named() -> None:
    matrix, *_ = make(16, 64, 16)
    with pytest.raises(DataError, match=r"shape \(1, 63\) do not fit a matrix of 64 columns"):
        matrix.matmul(np.ones((1, 63), np.float32))
    with pytest.raises(DataError, match="type float64"):
        matrix.matmul(np.ones((1, 64)))
    with pytest.raises(ConfigError, match="int4"):
        matrix.matmul(np.ones((1, 64), np.float32), compute="int4")
    with pytest.raises(DataError, match="on meta"):
        matrix.matmul(torch.ones(1, 64, device="meta"))
    with pytest.raises(DataError, match="cannot take a matrix"):
        matrix.dequantize(np.empty((16, 63), np.float32))


def test_what_cannot_be_packed_is_named() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    for scheme in (Scheme("int8"), Scheme("nf4", axis=0), Scheme("nf4", block_size="tensor")):
        with pytest.raises(SchemeError, match="blocks along the rows"):
            quantize(weight, scheme).packed_matrix()
    tables = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).sort(dim=1).values
    with pytest.raises(SchemeError, match="tables that all rows share"):
        quantize_to_tables(weight, Scheme("nf4", block_size=16), tables).packed_matrix()


def test_unknown_instruction_sets_are_named() -> None:
    with pytest.raises(ConfigError, match="'sse9': here there are"):
        use_instruction_set("sse9")


def test_without_compiled_kernels_it_says_so_once() -> None:
    program = """
import sys, warnings
sys.modules["studentfloat.kernels._native"] = None  # as if it had not been compiled
import numpy as np
from studentfloat.kernels import PackedMatrix, instruction_sets
assert instruction_sets() == ("none",)
assert "torch" not in sys.modules
def make():
    return PackedMatrix(np.zeros((2, 8), np.uint8), np.ones((2, 1), np.float32), [1.0],
                        in_features=16, block_size=16)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first, second = make(), make()
assert [str(w.message).split(":")[0] for w in caught] == [
    "studentfloat was installed without its compiled kernels (no C++ compiler was "
    "found, or it failed)"]
assert first.matmul(np.ones((1, 16), np.float32)).tolist() == [[16.0, 16.0]]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
