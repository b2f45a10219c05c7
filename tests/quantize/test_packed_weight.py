"""Products with weights that bear outliers and low-rank corrections, against float64."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from studentfloat.kernels import PackedMatrix, instruction_set, use_instruction_set
from studentfloat.quantize import (
    LowRank,
    Outliers,
    QuantizedWeight,
    Scheme,
    parse_method,
    quantize,
)
from studentfloat.quantize.packed_weight import PackedWeight, pack_weight
from studentfloat.quantize.pipeline import quantize_weight

# Rows, columns, block size: tails everywhere, and none.
SHAPES = [(32, 64, 32), (33, 100, 16), (5, 77, 20), (1, 9, 4), (1100, 48, 16)]
METHODS = ["outliers=0.02", "rank=3", "rank8=3", "rank=2+outliers=0.02", "rank8=2+outliers=0.05"]


@pytest.fixture(params=["compiled", "none"])
def instructions(request):
    if request.param == "compiled":
        yield
        return
    before = instruction_set()
    use_instruction_set("none")
    yield
    use_instruction_set(before)


def weight_of(shape: tuple[int, int, int], method: str, name: str = "sf4") -> QuantizedWeight:
    rows, columns, block = shape
    numbers = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    scheme = Scheme(name, block_size=block, scale_dtype="bfloat16")
    return quantize_weight(numbers, scheme, parse_method(method)).weight


def assert_near(got: torch.Tensor, x: torch.Tensor, matrix: torch.Tensor, relative: float) -> None:
    """Within a share of the sum of the magnitudes: what rounding can do to ``x @ matrix``."""
    assert got.dtype == x.dtype
    exact, bound = x.double() @ matrix, x.double().abs() @ matrix.abs()
    assert ((got.double() - exact).abs() <= relative * bound + 1e-30).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_those_of_the_dense_weight(instructions, shape, method) -> None:
    weight = weight_of(shape, method)
    packed, dense = pack_weight(weight), weight.product_matrix().double()
    assert isinstance(packed, PackedWeight)
    # The extras are what the base's product alone lacks.
    assert not torch.allclose(dense, weight.base.dequantize().double(), atol=1e-4)
    for count in (1, 7, 50):
        x = torch.randn(count, shape[1], generator=torch.Generator().manual_seed(1))
        g = torch.randn(count, shape[0], generator=torch.Generator().manual_seed(2))
        # A low-rank product cancels where the correction is small: hence not 1e-6.
        assert_near(packed.matmul(x), x, dense.T, 5e-6)
        assert_near(packed.matmul_transposed(g), g, dense, 5e-6)
        assert_near(packed.matmul(x.bfloat16()), x.bfloat16(), dense.T, 4 * 2**-9)
        assert_near(packed.matmul_transposed(g.bfloat16()), g.bfloat16(), dense, 6 * 2**-9)
        exact = x.double() @ dense.T
        off = (packed.matmul(x, compute="int8").double() - exact).norm() / exact.norm()
        assert off < 0.03


@pytest.mark.parametrize("name", ["int4", "nf4", "e2m1+sp", "int3", "apot4+sp"])
def test_formats(name) -> None:
    weight = weight_of((24, 80, 16), "rank=2+outliers=0.02", name)
    x = torch.randn(2, 3, 80, generator=torch.Generator().manual_seed(1))
    got = pack_weight(weight).matmul(x)
    assert got.shape == (2, 3, 24)
    assert_near(got, x, weight.product_matrix().double().T, 5e-6)


def test_factors_in_other_formats_and_types() -> None:
    base = quantize(torch.randn(20, 32), Scheme("sf4", 16))
    left, right = torch.randn(20, 4), torch.randn(4, 32)
    kinds = [
        (left, right),
        (left.half(), right.half()),
        *(
            (quantize(left, scheme), quantize(right, scheme))
            for scheme in (
                Scheme("int8", block_size="row", scale_dtype="bfloat16"),
                Scheme("int8", block_size=2),
                Scheme("e4m3", block_size="row"),
                Scheme("sf4", block_size="row"),
                Scheme("int8", block_size="row", axis=0),
            )
        ),
    ]
    x = torch.randn(3, 32)
    for low_rank in (LowRank(*kind) for kind in kinds):
        weight = QuantizedWeight(base, (low_rank,))
        dense = weight.product_matrix().double()
        assert_near(pack_weight(weight).matmul(x), x, dense.T, 1e-5)


def test_nothing_is_held_twice() -> None:
    made = weight_of((64, 256, 32), "rank=4+outliers=0.02")
    # In files all tensors are contiguous.
    given, outliers = made.parts
    low_rank = LowRank(given.left.contiguous(), given.right.contiguous())
    factors, sparse = pack_weight(replace(made, parts=(low_rank, outliers))).corrections.parts
    assert sparse.positions.data_ptr() == outliers.positions.data_ptr()
    assert factors.left.data_ptr() == low_rank.left.data_ptr()
    assert factors.right.data_ptr() == low_rank.right.data_ptr()
    int8 = weight_of((64, 256, 32), "rank8=4")
    (held,), (narrow,) = pack_weight(int8).corrections.parts, int8.parts
    assert held.left.data_ptr() == narrow.left.packed.data_ptr()
    assert held.right.data_ptr() == narrow.right.packed.data_ptr()


def test_a_weight_without_extras_is_its_base() -> None:
    assert isinstance(pack_weight(weight_of((8, 32, 16), "rtn")), PackedMatrix)


def test_no_outlier_at_all() -> None:
    base = quantize(torch.randn(20, 32), Scheme("sf4", 16))
    none = Outliers(torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.bfloat16))
    x = torch.randn(3, 32)
    got = pack_weight(QuantizedWeight(base, (none,))).matmul(x)
    assert torch.equal(got, base.packed_matrix().matmul(x))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies(again) -> None:
    packed = pack_weight(weight_of((33, 100, 16), "rank=2+outliers=0.02"))
    x = torch.randn(3, 100)
    assert torch.equal(again(packed).matmul(x), packed.matmul(x))
