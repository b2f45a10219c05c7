"""Quantizing by the compiled kernels equals the torch path, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studentfloat.errors import DataError
from studentfloat.formats import CATALOG, get_format
from studentfloat.kernels import instruction_sets, use_instruction_set
from studentfloat.quantize import Scheme, fake_quantize, quantize
from studentfloat.quantize.compiled import can_encode
from tests.quantize.strategies import matrices, schemes

NARROW = sorted(name for name in CATALOG if get_format(name).bits <= 4)
COMPILED = [name for name in instruction_sets() if name != "none"]
needs_compiled = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")
BITS_OF = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def run(name: str, tensor, scheme):
    before = use_instruction_set(name)
    try:
        quantized = quantize(tensor, scheme)
        return quantized, quantized.dequantize(), fake_quantize(tensor, scheme)[0]
    finally:
        use_instruction_set(before)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(BITS_OF[tensor.element_size()])


def assert_equal(tensor, scheme) -> None:
    expected, values, faked = run("none", tensor, scheme)
    assert torch.equal(values, faked)
    for name in COMPILED:
        got, its_values, its_faked = run(name, tensor, scheme)
        assert torch.equal(got.packed, expected.packed)
        assert torch.equal(bits(got.scales), bits(expected.scales))
        assert torch.equal(bits(its_values), bits(values))
        assert torch.equal(bits(its_faked), bits(values))


@needs_compiled
@pytest.mark.parametrize("rule", ["absmax", "signed-absmax", "published"])
@pytest.mark.parametrize("name", NARROW)
def test_every_format_and_rule(name, rule, rng) -> None:
    if rule == "published" and get_format(name).maximum <= 0:
        return
    for dtype, size, columns in (
        ("float32", 16, 64),
        ("bfloat16", 64, 200),
        ("float16", "row", 37),
        ("bfloat16", 5, 33),
        ("float32", 32, 4200),  # longer than what is packed at a time
    ):
        tensor = torch.from_numpy(rng.standard_t(4, (3, columns)).astype(np.float32))
        scheme = Scheme(name, size, scale_rule=rule, scale_dtype=dtype)
        assert can_encode(tensor, scheme)
        assert_equal(tensor, scheme)


@needs_compiled
@settings(max_examples=200)
@given(matrices(columns=70), schemes(dtypes=["float32", "bfloat16"]))
def test_any_numbers_any_format(matrix, scheme) -> None:
    """Subnormal numbers, numbers on ties, zeros; formats of up to 8 bits, drawn at random."""
    if not scheme.alternatives:
        expected, values, _ = run("none", matrix, scheme)
        for name in COMPILED:
            got, its_values, its_faked = run(name, matrix, scheme)
            assert torch.equal(got.packed, expected.packed)
            assert torch.equal(bits(got.block_scales()), bits(expected.block_scales()))
            assert torch.equal(its_values, values)
            assert torch.equal(its_faked, values)


@needs_compiled
@given(st.sampled_from(NARROW), st.integers(0, 2**32 - 1))
def test_numbers_at_the_thresholds(name, seed) -> None:
    """Every threshold and its two neighbors, under scales that are no powers of two."""
    fmt = get_format(name)
    cuts = fmt.rounding_thresholds(np.float32).astype(np.float32)
    near = np.concatenate([np.nextafter(cuts, np.float32(s)) for s in (-99, 99)] + [cuts])
    scale = np.float32(np.random.default_rng(seed).uniform(0.5, 2))
    ends = np.array([fmt.minimum, fmt.maximum], dtype=np.float32)
    numbers = (np.concatenate([near, ends]) * scale).astype(np.float32)
    assert_equal(torch.from_numpy(numbers)[None], Scheme(name, "row"))


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("axis", [-1, 0])
def test_types_and_axes(dtype, axis, rng) -> None:
    tensor = torch.from_numpy(rng.standard_normal((6, 5, 44))).to(dtype)
    scheme = Scheme("sf4", 16, axis=axis, scale_dtype="bfloat16")
    expected, values, _ = run("none", tensor, scheme)
    for name in COMPILED:
        got, its_values, its_faked = run(name, tensor, scheme)
        assert torch.equal(got.packed, expected.packed)
        assert its_values.dtype == dtype
        assert torch.equal(its_values, values)
        assert torch.equal(its_faked, values)
        for other in (torch.float32, torch.bfloat16, torch.float16):
            assert torch.equal(got.dequantize(other), expected.dequantize(other))


@needs_compiled
def test_errors_are_those_of_the_torch_path(instructions) -> None:
    with pytest.raises(DataError, match="w holds 1 NaN and 1 infinite"):
        quantize(torch.tensor([[1.0, float("nan"), float("-inf")]]), Scheme("nf4"), name="w")
    with pytest.raises(DataError, match="does not fit float16"):
        quantize(torch.full((1, 16), 1e6), Scheme("nf4", scale_dtype="float16"))


@needs_compiled
def test_threads_change_nothing(rng) -> None:
    tensor = torch.from_numpy(rng.standard_normal((300, 512)).astype(np.float32))
    scheme = Scheme("e2m1", 32)
    one = quantize(tensor, scheme)
    torch.set_num_threads(3)
    try:
        three = quantize(tensor, scheme)
        assert torch.equal(one.packed, three.packed)
        assert torch.equal(one.dequantize(), three.dequantize())
    finally:
        torch.set_num_threads(1)
