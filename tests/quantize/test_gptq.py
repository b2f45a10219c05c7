"""GPTQ against a textbook in float64: one column, one inverse at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studentfloat.errors import DataError, SchemeError
from studentfloat.formats import get_format
from studentfloat.quantize import GPTQOptions, Scheme, fake_quantize, gptq, quantize
from studentfloat.quantize.gptq_options import GPTQ_ORDERS

WIDTH, ROWS = 40, 12


def layer(seed: int = 0, *, width: int = WIDTH, rows: int = ROWS, tokens: int = 200):
    """A weight, correlated inputs with a few loud channels, and their Hessian, in float64."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.exp(rng.standard_normal(width))
    inputs = rng.standard_normal((tokens, width)) @ mixing
    weight = rng.standard_t(5, (rows, width))
    hessian = inputs.T @ inputs / tokens
    return torch.from_numpy(weight), torch.from_numpy(inputs), torch.from_numpy(hessian)


def textbook(weight, hessian, scheme: Scheme, order, damping: float, *, static: bool):
    """Optimal brain quantization with a fixed order of columns, by explicit inverses.

    After each column the inverse Hessian of those left is computed anew, so that nothing is
    shared with the factorization under test.
    """
    left, width = weight.numpy().copy(), weight.shape[1]
    damped = hessian.numpy() + damping * np.diag(hessian.numpy()).mean() * np.eye(width)
    size = scheme.block_size
    levels = np.array(scheme.format.levels)
    original = quantize(weight, scheme).block_scales().double().numpy() if static else None
    result, scale, block = np.empty_like(left), None, -1
    order = list(order)
    for position, column in enumerate(order):
        if column // size != block:
            block = column // size
            columns = range(block * size, min((block + 1) * size, width))
            if static:
                scale = original[:, block]
            else:
                now = torch.from_numpy(left[:, columns]).contiguous()
                scale = quantize(now, scheme).block_scales().double().numpy()[:, 0]
        remaining = order[position:]
        inverse = np.linalg.inv(damped[np.ix_(remaining, remaining)])
        nearest = np.abs(left[:, column, None] - levels * scale[:, None]).argmin(axis=1)
        result[:, column] = levels[nearest] * scale
        error = (left[:, column] - result[:, column]) / inverse[0, 0]
        left[:, remaining[1:]] -= np.outer(error, inverse[0, 1:])
    return torch.from_numpy(result)


def output_error(weight, quantized, inputs) -> float:
    return float(((weight - quantized.to(weight.dtype)) @ inputs.T.to(weight.dtype)).square().sum())


@pytest.mark.parametrize("name", ["int4", "nf4", "e2m1+sp", "e2m1+sr", "apot4+sp", "int3", "e3m2"])
@pytest.mark.parametrize("size", [8, 16, 40])
def test_equals_the_textbook(name: str, size: int) -> None:
    weight, _, hessian = layer()
    scheme = Scheme(name, size)
    static = size == WIDTH
    for options, order in (
        (GPTQOptions(order="none"), range(WIDTH)),
        (GPTQOptions(order="none", static_scales=True), range(WIDTH)),
        (GPTQOptions(order="columns"), np.argsort(-hessian.diagonal().numpy(), kind="stable")),
    ):
        got = gptq(weight, hessian, scheme, options=options).tensor.dequantize()
        its_static = static or options.static_scales or options.order == "columns"
        expected = textbook(weight, hessian, scheme, order, 0.01, static=its_static)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_order_by_blocks_keeps_blocks_together() -> None:
    weight, _, hessian = layer()
    energy = hessian.diagonal().numpy()
    blocks = sorted(range(5), key=lambda b: -energy[b * 8 : b * 8 + 8].mean())
    order = [b * 8 + i for b in blocks for i in np.argsort(-energy[b * 8 : b * 8 + 8])]
    expected = textbook(weight, hessian, Scheme("nf4", 8), order, 0.01, static=False)
    got = gptq(weight, hessian, Scheme("nf4", 8)).tensor.dequantize()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


@given(
    st.integers(0, 10**6),
    st.sampled_from(["int4", "nf4", "e2m1+sp", "e2m1+sp|e2m1+sr", "int2", "e3m0", "uint4|nf4"]),
    st.sampled_from([7, 16, "row", "tensor", 300]),
    st.sampled_from(["absmax", "signed-absmax", "mse", "weighted-mse", "x2-mse"]),
    st.sampled_from(["float32", "bfloat16", "e4m3"]),
)
@settings(max_examples=60)
def test_any_scheme_stays_on_its_grid(seed, names, size, rule, dtype) -> None:
    """Every number is a level of its block's format times its block's stored scale."""
    order = GPTQ_ORDERS[seed % 3]
    weight, _, hessian = layer(seed)
    if dtype == "e4m3" and rule == "signed-absmax":
        dtype = "bfloat16"
    scheme = Scheme(names, size, scale_rule=rule, scale_dtype=dtype)
    got = gptq(weight.float(), hessian, scheme, options=GPTQOptions(order=order)).tensor
    scales, picks = got.block_scales(), got.block_formats
    flat = got.dequantize().reshape(len(scales), -1)
    width = flat.shape[1] if isinstance(size, str) else size
    for row, its_scales, its_picks in zip(flat, scales, picks, strict=True):
        for block, scale, pick in zip(row.split(width), its_scales, its_picks, strict=True):
            levels = torch.tensor(scheme.formats[int(pick)].levels) * scale
            assert torch.isin(block, levels).all()
    if dtype == "bfloat16":
        assert torch.equal(scales.bfloat16().float(), scales)


@pytest.mark.parametrize("name", ["int4", "nf4", "sf4", "e2m1", "e2m1+sp|e2m1+sr", "apot4+sp"])
@pytest.mark.parametrize("order", ["blocks", "columns", "none"])
def test_outputs_are_better_than_nearest(name: str, order) -> None:
    scheme = Scheme(name, 16)
    factor = 0.95 if order == "none" else 0.7
    for seed in range(3):
        weight, inputs, hessian = layer(seed)
        ours = gptq(weight, hessian, scheme, options=GPTQOptions(order=order)).tensor.dequantize()
        nearest, _ = fake_quantize(weight, scheme)
        assert output_error(weight, ours, inputs) < factor * output_error(weight, nearest, inputs)


def test_uncorrelated_inputs_change_nothing() -> None:
    """With a diagonal Hessian there is nothing to make up with: GPTQ is nearest."""
    weight, _, _ = layer()
    for names in ("nf4", "e2m1+sp|e2m1+sr"):
        scheme = Scheme(names, 16)
        got = gptq(weight, torch.diag(torch.rand(WIDTH) + 0.1), scheme).tensor
        assert torch.equal(got.dequantize(), quantize(weight, scheme).dequantize())
        assert torch.equal(got.codes, quantize(weight, scheme).codes)


def test_scales_are_not_stale() -> None:
    """A block's scale fits the weights as they are when the block begins."""
    weight, _, hessian = layer(3)
    scheme = Scheme("int4", 8)
    moving = gptq(weight, hessian, scheme, options=GPTQOptions(order="none")).tensor
    static = gptq(
        weight, hessian, scheme, options=GPTQOptions(order="none", static_scales=True)
    ).tensor
    assert torch.equal(moving.block_scales()[:, 0], static.block_scales()[:, 0])
    assert not torch.equal(moving.block_scales()[:, 1:], static.block_scales()[:, 1:])
    assert torch.equal(static.block_scales(), quantize(weight, scheme).block_scales())


def test_experts_are_quantized_one_by_one() -> None:
    parts = [layer(seed) for seed in range(3)]
    weight = torch.stack([w for w, _, _ in parts])
    hessian = torch.stack([h for _, _, h in parts])
    for scheme in (Scheme("nf4", 16), Scheme("e2m1+sp|e2m1+sr", "row", scale_dtype="bfloat16")):
        together = gptq(weight, hessian, scheme).tensor
        assert together.shape == (3, ROWS, WIDTH)
        for i in range(3):
            alone = gptq(weight[i], hessian[i], scheme).tensor
            assert torch.equal(together.dequantize()[i], alone.dequantize())
        shared = gptq(weight, hessian[0], scheme).tensor.dequantize()
        assert torch.equal(shared[2], gptq(weight[2], hessian[0], scheme).tensor.dequantize())


def test_row_tables_are_rounded_to() -> None:
    weight, _, hessian = layer()
    spread = torch.linspace(0.7, 1.3, ROWS, dtype=torch.float64)[:, None]
    tables = torch.tensor(get_format("nf4").levels, dtype=torch.float64) * spread
    result = gptq(weight, hessian, Scheme("nf4", 16), row_tables=tables)
    got, scales = result.tensor.dequantize(), result.tensor.block_scales().double()
    for row in range(ROWS):
        for block in range(2):
            levels = tables[row] * scales[row, block]
            distance = (got[row, block * 16 : block * 16 + 16, None] - levels).abs().min(dim=1)
            assert distance.values.max() < 1e-6
    one = gptq(weight, hessian, Scheme("nf4", 16), row_tables=tables[:1] / 0.7).tensor
    plain = gptq(weight, hessian, Scheme("nf4", 16)).tensor
    torch.testing.assert_close(one.dequantize(), plain.dequantize())


def test_dead_channels_are_rounded_to_nearest_and_said() -> None:
    weight, inputs, _ = layer()
    inputs[:, [3, 30]] = 0
    hessian = inputs.T @ inputs
    result = gptq(weight, hessian, Scheme("int8", "row"))
    assert result.notes == ("2 of 40 inputs were always zero",)
    nearest, _ = fake_quantize(weight, Scheme("int8", "row"))
    got = result.tensor.dequantize()
    assert torch.equal(got[:, [3, 30]], nearest[:, [3, 30]])
    assert not torch.equal(got, nearest)


def test_inputs_that_never_fire_mean_nearest() -> None:
    weight, _, _ = layer()
    result = gptq(weight, torch.zeros(WIDTH, WIDTH), Scheme("nf4", 16))
    assert "all zero: rounded to nearest" in result.notes[0]
    assert torch.equal(result.tensor.dequantize(), quantize(weight, Scheme("nf4", 16)).dequantize())


def test_damping_is_raised_and_said() -> None:
    weight, _, _ = layer()
    # One for each pair of equal channels, and a little less than that: not quite positive.
    hessian = torch.ones(WIDTH, WIDTH) * 1.05 - 0.05 * torch.eye(WIDTH)
    result = gptq(weight, hessian, Scheme("nf4", 16))
    assert result.notes == ("damping raised to 0.1: the Hessian was not positive definite",)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hessian": torch.full((WIDTH, WIDTH), torch.nan)}, DataError, "Hessian of q holds NaN"),
        ({"hessian": -torch.ones(WIDTH, WIDTH) + 2 * torch.eye(WIDTH)}, DataError, "not positive"),
        ({"hessian": torch.eye(3)}, SchemeError, r"Hessian of shape \(3, 3\)"),
        ({"weight": torch.zeros(4)}, SchemeError, r"q has shape \(4,\)"),
        ({"weight": torch.full((2, WIDTH), torch.inf)}, DataError, "q holds 0 NaN"),
        ({"scheme": Scheme("nf4", axis=0)}, SchemeError, "axis 0"),
    ],
)
def test_misuse(change, error, message) -> None:
    weight, _, hessian = layer()
    given_ = {"weight": weight, "hessian": hessian, "scheme": Scheme("nf4", 16), **change}
    with pytest.raises(error, match=message):
        gptq(**given_, name="q")


@pytest.mark.parametrize("options", [{"damping": 0}, {"damping": 2}, {"order": "random"}])
def test_options_that_cannot_be(options) -> None:
    with pytest.raises(SchemeError, match=str(next(iter(options.values())))):
        GPTQOptions(**options)
