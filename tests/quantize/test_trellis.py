"""Weights in a trellis: rounded, fed back, packed, read again."""

from __future__ import annotations

import json

import pytest
import torch

from studentfloat.errors import ModelError, SchemeError
from studentfloat.formats import get_code
from studentfloat.quantize import Scheme, fake_quantize, gptq, quantize
from studentfloat.quantize.codebook import codebook_of
from studentfloat.quantize.scheme import replace_scheme
from studentfloat.quantize.scheme_json import lone_scheme_from_json, lone_scheme_to_json

# Whole tiles; rests of rows and columns, also of blocks; a ring of fewer bits than a state.
SHAPES = [(128, 32), (83, 29), (3, 7), (1, 1)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    rows = 0.1 + torch.rand(*shape[:-1], 1, generator=random)
    return torch.randn(*shape, generator=random) * rows


def relative_error(weight: torch.Tensor, other: torch.Tensor) -> float:
    return float((weight - other).double().square().sum() / weight.double().square().sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "block"), [("trellis2", "row"), ("trellis3", 10), ("trellis1", 16)]
)
def test_what_is_measured_is_what_is_packed(shape, name: str, block) -> None:
    weight = drawn(*shape)
    scheme = Scheme(name, block, scale_dtype="bfloat16")
    tensor = quantize(weight, scheme)
    values, bits = fake_quantize(weight, scheme)
    assert torch.equal(tensor.dequantize(), values)
    assert bits == tensor.bits_per_weight
    assert tensor.packed.shape == (shape[0], -(-shape[1] * scheme.code_bits // 8))
    # One ring after the other, as the definition has it.
    code = get_code(name)
    size = shape[1] if block == "row" else block
    scales = tensor.block_scales()
    for row in range(0, shape[0], 64):
        for start in range(0, shape[1], size):
            for column in range(start, min(start + size, shape[1]), 4):
                at = (slice(row, row + 64), slice(column, min(column + 4, start + size)))
                ring = [
                    int(c) >> b & 1 for c in tensor.codes[at].flatten() for b in range(code.bits)
                ]
                ends = range(code.bits, len(ring) + 1, code.bits)
                states = [
                    sum(ring[(end - code.state_bits + i) % len(ring)] << i for i in range(12))
                    for end in ends
                ]
                expected = torch.from_numpy(code.values[states]).float() / code.unit
                tile = expected.reshape(values[at].shape) * scales[at[0], start // size, None]
                torch.testing.assert_close(values[at], tile, rtol=1e-6, atol=0)


def test_error_is_that_of_the_code() -> None:
    weight = drawn(64, 256)
    for bits, most in ((1, 0.29), (2, 0.072), (3, 0.0185), (4, 0.0049)):
        scheme = Scheme(f"trellis{bits}", "row", scale_dtype="bfloat16")
        tensor = quantize(weight, scheme)
        assert tensor.bits_per_weight == bits + 16 / 256
        assert relative_error(weight, tensor.dequantize()) < most
    tails = torch.distributions.StudentT(3.0).sample((64, 256))
    plain, searched = (
        quantize(tails, Scheme("trellis3", "row", scale_rule=rule)) for rule in ("absmax", "mse")
    )
    assert relative_error(tails, searched.dequantize()) < 0.9 * relative_error(
        tails, plain.dequantize()
    )


def test_feedback_between_runs_lowers_the_error_of_the_product() -> None:
    weight = drawn(48, 72)
    mixing = torch.randn(72, 72, generator=torch.Generator().manual_seed(1))
    inputs = mixing @ torch.randn(72, 500, generator=torch.Generator().manual_seed(2))
    inputs[5] = 0
    scheme = Scheme("trellis2", "row", scale_dtype="bfloat16")
    nearest = quantize(weight, scheme).dequantize()
    fed = gptq(weight, inputs @ inputs.T, scheme)
    assert any("always zero" in note for note in fed.notes)
    lost = [
        float(((weight - w) @ inputs).square().sum()) for w in (nearest, fed.tensor.dequantize())
    ]
    assert lost[1] < 0.6 * lost[0]


def test_experts_are_encoded_each_for_itself() -> None:
    weight = drawn(3, 64, 32)
    scheme = Scheme("trellis3", "row")
    hessian = torch.eye(32)
    together = gptq(weight, hessian, scheme).tensor
    for i, expert in enumerate(weight):
        alone = gptq(expert, hessian, scheme).tensor
        assert torch.equal(together.dequantize()[i], alone.dequantize())
        rows = torch.arange(i * 64, i * 64 + 64)
        assert torch.equal(together.select_rows(rows).dequantize(), alone.dequantize())
    assert torch.equal(
        together.rows(torch.tensor([170, 3])), together.dequantize().reshape(192, 32)[[170, 3]]
    )
    with pytest.raises(SchemeError, match="encodes rows together"):
        together.select_rows(torch.tensor([3]))
    with pytest.raises(SchemeError, match="experts of 8 rows"):
        gptq(drawn(3, 8, 32), hessian, scheme)


def test_zeros_stay_zeros_and_types_are_kept() -> None:
    weight = drawn(20, 40)
    weight[7] = 0
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        values = quantize(weight.to(dtype), Scheme("trellis4", "row")).dequantize()
        assert values.dtype == dtype
        assert not values[7].any()
        assert relative_error(weight.to(dtype), values) < 0.006
    turned = quantize(weight.T.contiguous(), Scheme("trellis4", "row", axis=0)).dequantize()
    assert torch.equal(turned.T, quantize(weight, Scheme("trellis4", "row")).dequantize())


def test_schemes_are_read_again_from_json() -> None:
    for name in ("trellis2", "trellis4-nu5", "trellis3-s16"):
        scheme = Scheme(name, "row", scale_dtype="bfloat16")
        data = json.loads(json.dumps(lone_scheme_to_json(scheme)))
        assert lone_scheme_from_json(data, "here") == scheme
    for change, message in (
        ({"state_bits": 40}, "states of 40 bits"),
        ({"generator": {"kind": "convolution", "taps": [1, "2"]}}, "whole numbers only"),
        ({"generator": 7}, "a table with a 'kind'"),
        ({"kind": "tree"}, "the kind 'tree'"),
        ({"units": 7}, "unknown key 'units'"),
        ({"unit": float("nan")}, "unit nan"),
    ):
        bad = json.loads(json.dumps(data))
        bad["formats"]["trellis3-s16"] |= change
        with pytest.raises(ModelError, match=message):
            lone_scheme_from_json(bad, "here")


def test_what_needs_single_numbers_says_so() -> None:
    scheme = Scheme("trellis4")
    with pytest.raises(SchemeError, match="'trellis4' encodes several numbers together"):
        _ = scheme.format
    with pytest.raises(SchemeError, match="a block chooses among formats of single numbers"):
        Scheme("nf4|trellis4")
    with pytest.raises(SchemeError, match="a block chooses among formats of single numbers"):
        Scheme("trellis4", alternatives=("nf4",))
    with pytest.raises(SchemeError, match="'e8p' is a code for vectors"):
        Scheme("e8p")
    with pytest.raises(SchemeError, match="blocks of 18 do not hold whole runs of 4 columns"):
        gptq(drawn(16, 48), torch.eye(48), Scheme("trellis4", 18))
    assert replace_scheme(scheme, block_size=64).code is scheme.code
    codebook = codebook_of(scheme, torch.float32)
    assert (codebook.run, codebook.dimension, codebook.memoryless) == (4, 1, False)
