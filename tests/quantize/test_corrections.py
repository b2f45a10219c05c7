"""Low-rank corrections and outliers: best of their kind, and counted."""

from __future__ import annotations

import pytest
import torch

from studentfloat.quantize import LowRank, Outliers, Scheme, parse_method, quantize
from studentfloat.quantize.corrections import choose_outliers, low_rank_correction
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.pipeline import quantize_weight


def layer():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 64, generator=generator)
    weight[3, 5], weight[7, 60] = 30.0, -25.0
    x = torch.randn(500, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    inputs = InputStatistics.empty_for(x)
    inputs.add(x)
    return weight, x, inputs


@pytest.mark.parametrize("bits", [16, 8])
def test_low_rank_is_the_best_of_its_rank(bits) -> None:
    weight, x, inputs = layer()
    residual = weight - quantize(weight, Scheme("int3", 16)).dequantize()
    plain = low_rank_correction(residual, 4, bits=bits)
    singular = torch.linalg.svdvals(residual.double())
    left = float((residual - plain.product()).square().sum())
    assert left == pytest.approx(float(singular[4:].square().sum()), rel=0.02)
    weighted = low_rank_correction(residual, 4, inputs, bits=bits)
    outputs = torch.linalg.svdvals(residual.double() @ x.T.double())
    off = float(((residual - weighted.product()) @ x.T).square().sum())
    assert off == pytest.approx(float(outputs[4:].square().sum()), rel=0.05)
    assert off < float(((residual - plain.product()) @ x.T).square().sum())
    width = {16: 16 * 4 * (40 + 64), 8: 8 * 4 * (40 + 64) + 16 * (40 + 4)}[bits]
    assert plain.bits == width


def test_outliers_are_the_largest_and_stay() -> None:
    weight, _, _ = layer()
    keep = choose_outliers(weight, 2 / weight.numel())
    assert keep.nonzero().tolist() == [[3, 5], [7, 60]]
    scheme = Scheme("int4", 32)
    plain = quantize(weight, scheme).dequantize()
    got = quantize_weight(weight, scheme, parse_method(f"outliers={2 / 2560}")).weight
    assert got.dequantize()[3, 5] == 30.0
    assert got.part(Outliers).positions.tolist() == [3 * 64 + 5, 7 * 64 + 60]
    # Without them their blocks' scales are small again.
    assert (got.dequantize() - weight).square().sum() < 0.7 * (plain - weight).square().sum()
    assert got.bits == quantize(weight, scheme).bits + 2 * 48


@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_corrections_compose(method) -> None:
    weight, _, inputs = layer()
    scheme = Scheme("int3", 16)

    def off(spelled: str) -> float:
        result = quantize_weight(weight, scheme, parse_method(spelled), inputs).weight
        return inputs.output_energy(weight - result.dequantize())

    plain = off(method)
    assert off(f"{method}+rank=8") < 0.8 * plain
    assert off(f"{method}+rank8=8") < 0.8 * plain
    assert off(f"{method}+outliers=0.01") < 0.8 * plain
    assert off(f"{method}+outliers=0.01+rank=8") < off(f"{method}+outliers=0.01")


def test_experts_have_factors_of_their_own() -> None:
    weight, _, _ = layer()
    stacked = torch.stack([weight, weight.flip(0)])
    result = quantize_weight(stacked, Scheme("int3", 16), parse_method("rank=4")).weight
    alone = quantize_weight(weight, Scheme("int3", 16), parse_method("rank=4")).weight
    torch.testing.assert_close(result.dequantize()[0], alone.dequantize(), rtol=1e-2, atol=1e-2)
    assert result.part(LowRank).left.shape == (2, 40, 4)
