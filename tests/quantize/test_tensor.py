from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from studentfloat.errors import DataError, SchemeError
from studentfloat.formats import CATALOG, Format, get_format
from studentfloat.quantize import (
    Scheme,
    block_scales,
    fake_quantize,
    gptq,
    quantize,
    reference,
)
from studentfloat.quantize.scheme import ScaleRule
from studentfloat.quantize.tensor import QuantizedTensor

from .strategies import DIRECT_RULES, UNWEIGHTED_RULES, matrices, schemes


def fits_float16(matrix: torch.Tensor, scheme: Scheme) -> bool:
    largest = float(matrix.abs().max()) / min(
        abs(v) for v in (scheme.format.maximum, scheme.format.minimum) if v
    )
    return scheme.scale_dtype_name != "float16" or largest < 6e4


@settings(max_examples=250)
@given(matrices(rows=2, columns=24), schemes())
def test_equals_the_reference_bit_for_bit(matrix: torch.Tensor, scheme: Scheme) -> None:
    assume(fits_float16(matrix, scheme))
    got = quantize(matrix, scheme)
    rows = matrix.numpy()
    if scheme.block_size == "tensor":
        rows = rows.reshape(1, -1)
    expected = [reference.quantize_row(row, scheme) for row in rows]
    codes = np.array([codes for codes, _, _ in expected]).reshape(matrix.shape)
    values = np.array([values for _, _, values in expected]).reshape(matrix.shape)
    np.testing.assert_array_equal(got.block_scales().numpy(), [scales for _, scales, _ in expected])
    np.testing.assert_array_equal(got.codes.numpy(), codes)
    np.testing.assert_array_equal(got.dequantize().numpy(), values)


@given(matrices(), schemes(rules=UNWEIGHTED_RULES))
def test_every_output_is_a_level_times_its_scale(matrix: torch.Tensor, scheme: Scheme) -> None:
    assume(fits_float16(matrix, scheme))
    got = quantize(matrix, scheme)
    out, scales = got.dequantize(), got.block_scales()
    levels = torch.tensor(scheme.format.levels, dtype=torch.float32)
    rows = out.reshape(scales.shape[0], -1)
    size = rows.shape[1] if scheme.block_size in ("row", "tensor") else scheme.block_size
    for block, scale in (
        (b, s)
        for r, ss in zip(rows, scales, strict=True)
        for b, s in zip(r.split(size), ss, strict=True)
    ):
        assert torch.isin(block, levels * scale).all()


@given(matrices(), schemes())
def test_fake_quantize_is_quantize_then_dequantize(matrix: torch.Tensor, scheme: Scheme) -> None:
    assume(fits_float16(matrix, scheme))
    packed = quantize(matrix, scheme)
    values, bits = fake_quantize(matrix, scheme)
    assert torch.equal(values, packed.dequantize())
    assert bits == packed.bits_per_weight


@given(matrices(), schemes(rules=["absmax"], dtypes=["float32"]))
def test_idempotent(matrix: torch.Tensor, scheme: Scheme) -> None:
    """A block that is quantized already stays as it is.

    If its extreme is a level times the scale, the scale is found again up to rounding of the
    quotient; the levels then are the same.
    """
    assume(float(matrix.abs().max()) == 0 or float(matrix[matrix != 0].abs().min()) > 1e-20)
    extremes = [v for v in (scheme.format.minimum, scheme.format.maximum) if v]
    assume(scheme.format.has_zero and scheme.format.minimum < 0 < scheme.format.maximum)
    assume(len(extremes) == 2)
    once = quantize(matrix, scheme)
    twice = quantize(once.dequantize(), scheme)
    torch.testing.assert_close(twice.dequantize(), once.dequantize(), rtol=3e-6, atol=0)


@given(matrices(), schemes(rules=["absmax"]))
def test_absmax_clips_nothing(matrix: torch.Tensor, scheme: Scheme) -> None:
    assume(fits_float16(matrix, scheme))
    assume(scheme.format.minimum < 0 < scheme.format.maximum)
    scales = quantize(matrix, scheme).block_scales()
    rows = matrix.reshape(scales.shape[0], -1)
    size = rows.shape[1] if scheme.block_size in ("row", "tensor") else scheme.block_size
    wide = 1 + 1e-6
    for row, its_scales in zip(rows, scales, strict=True):
        for block, scale in zip(row.split(size), its_scales, strict=True):
            assert float(block.max()) <= scheme.format.maximum * float(scale) * wide
            assert float(block.min()) >= scheme.format.minimum * float(scale) * wide


def block_errors(matrix: torch.Tensor, scheme: Scheme, weights=None) -> torch.Tensor:
    values, _ = fake_quantize(matrix, scheme, weights=weights)
    error = (matrix.double() - values.double()) ** 2
    if weights is not None:
        error = error * weights
    size = scheme.block_size
    return torch.stack([part.sum(dim=1) for part in error.split(size, dim=1)], dim=1)


@settings(max_examples=40)
@given(
    matrices(columns=40),
    st.sampled_from(sorted(CATALOG)),
    st.integers(1, 20),
    st.sampled_from(["float32", "bfloat16", "e8m0"]),
)
def test_search_is_never_worse_than_a_direct_rule(matrix, name, size, dtype) -> None:
    found = block_errors(matrix, Scheme(name, size, scale_rule="mse", scale_dtype=dtype))
    for rule in DIRECT_RULES:
        if rule == "signed-absmax" and dtype == "e8m0" and not get_format(name).is_symmetric:
            continue
        direct = block_errors(matrix, Scheme(name, size, scale_rule=rule, scale_dtype=dtype))
        # Squares below the smallest float cannot be told apart.
        assert (found <= direct * (1 + 1e-4) + 1e-44).all()


def test_search_is_near_the_best_of_a_brute_force(rng) -> None:
    matrix = torch.from_numpy(rng.standard_t(4, (40, 32)).astype(np.float32))
    scheme = Scheme("sf4", 32, scale_rule="mse")
    found = block_errors(matrix, scheme).squeeze(1)
    levels = torch.tensor(scheme.format.levels, dtype=torch.float64)
    best = torch.full((40,), math.inf, dtype=torch.float64)
    peak = matrix.double().abs().amax(dim=1, keepdim=True)
    for factor in np.concatenate([np.linspace(0.4, 1.3, 901), -np.linspace(0.4, 1.3, 901)]):
        scale = peak * factor
        error = ((matrix.double() / scale)[..., None] - levels).abs().amin(dim=-1) * scale.abs()
        best = torch.minimum(best, (error**2).sum(dim=1))
    assert (found <= best * 1.05).all()
    assert found.sum() <= best.sum() * 1.01


def test_weighted_search_weighs(rng) -> None:
    matrix = torch.from_numpy(rng.standard_normal((30, 64)).astype(np.float32))
    weights = torch.from_numpy(rng.exponential(size=(1, 64)).astype(np.float32)) ** 2
    weighted = Scheme("e2m1", 64, scale_rule="weighted-mse")
    plain = Scheme("e2m1", 64, scale_rule="mse")
    with_weights = block_errors(matrix, weighted, weights).sum()
    values, _ = fake_quantize(matrix, plain)
    without = (((matrix - values) ** 2) * weights).sum()
    assert with_weights < 0.97 * without
    even = Scheme("e2m1", 64, scale_rule="weighted-mse")
    ones = fake_quantize(matrix, even, weights=torch.ones(()))[0]
    assert torch.equal(ones, values)


def test_super_range_is_not_clipped_by_absmax_but_is_by_published() -> None:
    """What went wrong in the paper's code: a block whose largest magnitude is negative."""
    block = torch.tensor([[-8.0, 1.0, 2.0, 3.0]])
    published = quantize(block, Scheme("e2m1+sr", 4, scale_rule="published"))
    assert published.dequantize()[0, 0] == -6
    assert quantize(block, Scheme("e2m1+sr", 4)).dequantize()[0, 0] == -8
    signed = quantize(block, Scheme("e2m1+sr", 4, scale_rule="signed-absmax"))
    assert signed.dequantize()[0].tolist() == [-8, 1, 2, 3]
    assert signed.block_scales().item() == -1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (), (3, 5), (2, 3, 11), (1, 1)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_types_shapes_and_axes(dtype, shape, axis, rng) -> None:
    tensor = torch.from_numpy(np.asarray(rng.standard_normal(shape))).to(dtype)
    scheme = Scheme("nf4", block_size=4, axis=axis)
    if shape == ():
        scheme = Scheme("nf4", block_size="tensor")
    got = quantize(tensor, scheme)
    out = got.dequantize()
    assert out.dtype == dtype
    assert out.shape == tensor.shape
    assert got.codes.shape == tensor.shape
    moved = tensor.movedim(axis, -1) if shape else tensor
    plain = quantize(moved, Scheme("nf4", block_size=4)).dequantize() if shape else out
    assert torch.equal(out.movedim(axis, -1) if shape else out, plain)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 7, 8, 64, 65])
def test_bits_count_everything_stored(bits, columns) -> None:
    tensor = torch.ones(3, columns)
    got = quantize(tensor, Scheme(f"int{bits}", block_size=16, scale_dtype="bfloat16"))
    blocks = -(-columns // 16)
    expected = 3 * (8 * -(-columns * bits // 8) + 16 * blocks)
    assert got.bits == expected
    assert got.bits_per_weight == expected / (3 * columns)
    assert got.packed.shape == (3, -(-columns * bits // 8))


def test_two_level_scales(rng) -> None:
    tensor = torch.from_numpy(rng.standard_normal((8, 64)).astype(np.float32))
    nvfp4 = quantize(tensor, Scheme("e2m1", block_size=16, scale_dtype="e4m3"))
    assert isinstance(nvfp4.scales, QuantizedTensor)
    assert nvfp4.bits == 8 * 64 * 4 + 32 * 8 + 32
    inner = nvfp4.scales
    assert float(inner.block_scales()) == pytest.approx(float(tensor.abs().max()) / 6 / 448)
    exact = quantize(tensor, Scheme("e2m1", block_size=16))
    ratio = nvfp4.block_scales() / exact.block_scales()
    assert (ratio >= 1 - 1e-6).all()  # absmax promises that nothing clips
    assert (ratio <= 1.125).all()  # an E4M3 step
    values, bits = fake_quantize(tensor, Scheme("e2m1", block_size=16, scale_dtype="e4m3"))
    assert torch.equal(values, nvfp4.dequantize())
    assert bits == nvfp4.bits_per_weight


@pytest.mark.parametrize("rule", ["absmax", "signed-absmax", "mse", "published"])
def test_double_quantization(rule, rng) -> None:
    tensor = torch.from_numpy(rng.standard_t(5, (20, 100)).astype(np.float32))
    plain = Scheme("sf4", block_size=32, scale_rule=rule)
    double = plain.with_double_quantization(16)
    got = quantize(tensor, double)
    assert got.bits == 20 * 50 * 8 + 80 * 8 + 5 * 32
    fine = fake_quantize(tensor, plain)[0]
    coarse = got.dequantize()
    assert ((tensor - coarse) ** 2).sum() < 1.05 * ((tensor - fine) ** 2).sum()


def test_e8m0_scales_are_powers_of_two(rng) -> None:
    tensor = torch.from_numpy(rng.standard_normal((4, 64)).astype(np.float32)) * 1e-3
    got = quantize(tensor, Scheme("e2m1", block_size=32, scale_dtype="e8m0"))
    assert got.scales.dtype == torch.uint8
    logs = torch.log2(got.block_scales())
    assert torch.equal(logs, logs.round())
    assert got.bits_per_weight == 4.25


def test_tail_is_quantized_as_it_is(rng) -> None:
    """576 = 4 x 128 + 64: the tail's scale comes from its own 64 numbers."""
    tensor = torch.from_numpy(rng.standard_normal((2, 576)).astype(np.float32))
    tensor[:, :512] *= 100
    whole = quantize(tensor, Scheme("nf4")).dequantize()
    alone = quantize(tensor[:, 512:], Scheme("nf4")).dequantize()
    assert torch.equal(whole[:, 512:], alone)


def test_zero_blocks_are_exact_for_formats_without_zero() -> None:
    assert quantize(torch.zeros(1, 4), Scheme("sf3-nozero", 4)).dequantize().abs().max() == 0


def test_one_sided_formats() -> None:
    got = quantize(torch.tensor([[0.0, 5.0, 10.0, -3.0]]), Scheme("uint4", 4)).dequantize()
    assert got[0, 3] == 0  # no level below zero: the nearest one
    assert got[0, 2] == 10


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, math.nan, math.inf, -math.inf]), "w holds 1 NaN and 2 infinite"),
        (torch.tensor([1, 2]), "w is of type int64"),
        (torch.zeros(0, 4), "w has no elements"),
    ],
)
def test_bad_tensors_are_named(tensor, message) -> None:
    for call in (quantize, fake_quantize):
        with pytest.raises(DataError, match=message):
            call(tensor, Scheme("nf4"), name="w")


@pytest.mark.parametrize(("inner", "ratio"), [("e4m3", 1.5e-6), ("uint8", 1e-3)])
def test_a_small_scale_never_vanishes_beside_a_large_one(inner, ratio) -> None:
    """A scale that rounds to zero would wipe its block out."""
    tensor = torch.ones(2, 16) * torch.tensor([[ratio], [1.0]])
    for rule in ("absmax", "mse", "published"):
        scheme = Scheme("e2m1", 16, scale_rule=rule, scale_dtype=Scheme(inner, "tensor"))
        assert (quantize(tensor, scheme).dequantize()[0] > 0).all()


def test_overflow_by_a_scale_rounded_up_is_named() -> None:
    with pytest.raises(DataError, match=r"w reaches .* beyond"):
        quantize(torch.tensor([3e38]), Scheme("e2m1", 4, scale_dtype="e8m0"), name="w")
    half = torch.tensor([65504.0], dtype=torch.float16)
    with pytest.raises(DataError, match="largest number of float16"):
        quantize(half, Scheme("nf4", 4, scale_dtype="bfloat16"))


@pytest.mark.parametrize("rule", ["absmax", "signed-absmax", "mse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_largest_numbers_are_near_or_refused(rule, dtype) -> None:
    """Never infinite, and not clipped to nothing by a scale that does not fit its type."""
    random = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessian, refused, sound = torch.eye(16) + 0.1, 0, 0

    def feed_back(numbers, scheme, name):
        return gptq(numbers, hessian, scheme, name=name).tensor

    for share, names, scale_dtype, call in product(
        (1.0, 1e-5),
        ("nf4", "int4-symmetric", "e2m1+sp|e2m1+sr"),
        ("float32", "bfloat16", "float16", "e8m0", "e4m3"),
        (quantize, feed_back),
    ):
        if rule == "signed-absmax" and scale_dtype in ("e8m0", "e4m3"):
            continue
        numbers = (random / random.abs().max() * torch.finfo(dtype).max * share).to(dtype)
        scheme = Scheme(names, 16, scale_rule=rule, scale_dtype=scale_dtype)
        try:
            got = call(numbers, scheme, name="w").dequantize()
        except DataError as error:
            assert "w reaches" in str(error) or "w: errors" in str(error)  # noqa: PT017
            refused += 1
            continue
        assert torch.isfinite(got).all()
        assert (got.double() - numbers).norm() < 0.3 * numbers.double().norm()
        sound += 1
    assert refused
    assert sound


@pytest.mark.parametrize("power", [-110, -60, 60, 120])
@pytest.mark.parametrize("rule", ["mse", "x2-mse"])
def test_a_search_does_not_depend_on_the_unit(power, rule, rng) -> None:
    """Squares of very large and very small numbers neither overflow nor vanish."""
    matrix = torch.from_numpy(rng.standard_t(4, (8, 64)).astype(np.float32))
    for names in ("nf4", "e2m1+sp|e2m1+sr"):
        scheme = Scheme(names, 32, scale_rule=rule)
        plain, scaled = quantize(matrix, scheme), quantize(matrix * 2.0**power, scheme)
        assert torch.equal(scaled.codes, plain.codes)
        assert torch.equal(scaled.block_scales(), plain.block_scales() * 2.0**power)


def test_a_rule_of_ones_own_searches() -> None:
    with pytest.raises(SchemeError, match="scale rule 'mine' does not search"):
        Scheme("nf4", scale_rule=ScaleRule("mine", "half of the extreme"))
    with pytest.raises(SchemeError, match="scale rule 'mine' does not search"):
        Scheme("int4", scale_rule=ScaleRule("mine", "", signed=True))
    cubes = ScaleRule("x3", "", signed=True, searches=True, weighted=True, magnitude_power=3.0)
    scheme = Scheme("nf4", 4, scale_rule=cubes)
    numbers, ones = torch.tensor([[0.1, -0.6, 0.25, 1.1]]), torch.ones(4)
    assert torch.equal(
        quantize(numbers, scheme, weights=ones).dequantize(),
        quantize(numbers, scheme.unweighted).dequantize(),
    )


def test_zero_blocks_under_e8m0_are_next_to_zero() -> None:
    got = quantize(torch.zeros(1, 8), Scheme("iq4_nl", 8, scale_dtype="e8m0")).dequantize()
    assert got.abs().max() <= 2.0**-126


def test_scale_out_of_range_is_named() -> None:
    with pytest.raises(DataError, match="does not fit float16"):
        quantize(torch.tensor([1e6]), Scheme("sf4", scale_dtype="float16"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scheme("nf4", block_size=0), "block size 0"),
        (lambda: Scheme("nf4", block_size="rows"), "'rows'"),
        (lambda: Scheme("nf4", scale_rule="max"), "'max'"),
        (lambda: Scheme("nf4", scale_dtype="int3"), "'int3'"),
        (lambda: Scheme("nf4", scale_rule="signed-absmax", scale_dtype="e8m0"), "e8m0 cannot"),
        (
            lambda: Scheme(Format.from_values([-2, -1, 0]), scale_rule="published"),
            "divides by the greatest",
        ),
        (lambda: quantize(torch.ones(2, 2), Scheme("nf4", axis=2)), "axis 2"),
        (lambda: quantize(torch.ones(2), Scheme("nf4", scale_rule="weighted-mse")), "weight"),
        (lambda: quantize(torch.ones(2), Scheme("nf4"), weights=torch.ones(2)), "takes none"),
        (
            lambda: quantize(
                torch.ones(2), Scheme("nf4", scale_rule="weighted-mse"), weights=torch.ones(3)
            ),
            "do not broadcast",
        ),
    ],
)
def test_misuse(call, message) -> None:
    with pytest.raises(SchemeError, match=message):
        call()


def test_block_scales_of_a_view_agree_with_quantize(rng) -> None:
    tensor = torch.from_numpy(rng.standard_normal((4, 64)).astype(np.float32))
    scheme = Scheme("e2m1+sp", 16, scale_rule="signed-absmax")
    scales = block_scales(tensor.view(4, 4, 16), scheme)
    assert torch.equal(scales, quantize(tensor, scheme).block_scales())
