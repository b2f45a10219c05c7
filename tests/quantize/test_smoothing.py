"""Scales per input channel: the published formulas, and never worse under their own measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studentfloat.quantize import InputScale, Scheme, fake_quantize, parse_method
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.pipeline import quantize_weight
from studentfloat.quantize.smoothing import awq_scale, clip_to_outputs, smoothquant_scale


def layer(seed: int = 0, width: int = 64):
    generator = torch.Generator().manual_seed(seed)
    loud = torch.exp(1.5 * torch.randn(width, generator=generator))
    x = torch.randn(400, width, generator=generator) * loud
    weights = [torch.randn(n, width, generator=generator) for n in (24, 40)]
    inputs = InputStatistics.empty_for(x)
    for part in x.reshape(4, 10, 10, width):
        inputs.add(part)
    return x, weights, inputs


def test_statistics_are_over_tokens_not_over_the_sequence() -> None:
    x, _, inputs = layer()
    torch.testing.assert_close(inputs.hessian, x.T @ x, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(inputs.greatest, x.abs().amax(dim=0))
    torch.testing.assert_close(inputs.magnitude, x.abs().sum(dim=0))
    assert inputs.count == 400
    weight = torch.randn(8, 64)
    assert inputs.output_energy(weight) == pytest.approx(float((x @ weight.T).square().sum()), 1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_smoothquant_is_its_formula(alpha) -> None:
    x, weights, inputs = layer()
    got = smoothquant_scale(weights, inputs, alpha).double().numpy()
    activations = np.abs(x.double().numpy()).max(axis=0)
    reach = np.abs(np.concatenate([w.double().numpy() for w in weights])).max(axis=0)
    np.testing.assert_allclose(got, activations**alpha / reach ** (1 - alpha), rtol=1e-5)


def test_channels_without_inputs_or_weights_are_left_alone() -> None:
    x, weights, _ = layer()
    x[:, 3] = 0
    for weight in weights:
        weight[:, 5] = 0
    inputs = InputStatistics.empty_for(x)
    inputs.add(x)
    scale = smoothquant_scale(weights, inputs, 0.5)
    assert scale[3] == scale[5] == 1
    assert torch.isfinite(awq_scale(weights, Scheme("nf4", 16), inputs)).all()


@pytest.mark.parametrize("names", ["int4", "nf4", "e2m1+sp|e2m1+sr", "int3"])
def test_awq_is_never_worse_and_searches_under_the_format(names) -> None:
    x, weights, inputs = layer()
    scheme = Scheme(names, 16)

    def error(scale: torch.Tensor) -> float:
        return sum(
            float(((fake_quantize(w * scale, scheme)[0] / scale - w) @ x.T).square().sum())
            for w in weights
        )

    found = awq_scale(weights, scheme, inputs)
    mean = x.abs().mean(dim=0)
    grid = []
    for k in range(20):
        scale = mean ** (k / 20)
        grid.append(error(scale / (scale.max() * scale.min()).sqrt()))
    assert error(found) == pytest.approx(min(grid), rel=1e-4)
    assert error(found) < error(torch.ones(64))


def test_clipping_leaves_less_output_error() -> None:
    x, weights, inputs = layer()
    scheme = Scheme("int3", 16)
    clipped = clip_to_outputs(weights[1], scheme, inputs)
    before = (fake_quantize(weights[1], scheme)[0] - weights[1]).reshape(40, 4, 16)
    after = (fake_quantize(clipped, scheme)[0] - weights[1]).reshape(40, 4, 16)
    blocks = x.reshape(400, 4, 16)
    of = lambda e: torch.einsum("rnb,tnb->rnt", e, blocks).square().sum(dim=-1)  # noqa: E731
    assert (of(after) <= of(before) * (1 + 1e-3) + 1e-3).all()
    assert of(after).sum() < 0.95 * of(before).sum()


def test_each_expert_is_clipped_by_its_own_inputs() -> None:
    _, (weight, _), first = layer()
    _, _, second = layer(seed=1)
    hessian = torch.stack([first.hessian, second.hessian, torch.zeros(64, 64)])
    experts = InputStatistics(hessian, *(torch.zeros(3, 64),) * 2, torch.tensor([400, 400, 0]))
    scheme = Scheme("int3", 16)
    clipped = clip_to_outputs(torch.stack([weight] * 3), scheme, experts)
    assert torch.equal(clipped[0], clip_to_outputs(weight, scheme, first))
    assert torch.equal(clipped[1], clip_to_outputs(weight, scheme, second))
    assert torch.equal(clipped[2], weight)
    assert not torch.equal(clipped[0], clipped[1])


@pytest.mark.parametrize("method", ["awq", "smooth=0.5", "awq+gptq", "smooth=0.5+gptq"])
def test_an_explicit_scale_keeps_the_product(method) -> None:
    """At eight bits the layer must compute what it did: weights and inputs scaled together."""
    x, (weight, _), inputs = layer()
    scale = smoothquant_scale([weight], inputs, 0.5)
    got = quantize_weight(
        weight,
        Scheme("int8", 16),
        parse_method(method),
        inputs,
        transforms=(InputScale(scale),),
    ).weight
    wanted = x @ weight.T
    torch.testing.assert_close(
        (x / scale) @ got.product_matrix().T, wanted, atol=0.02 * float(wanted.std()), rtol=0.02
    )
    torch.testing.assert_close(
        x @ got.dequantize().T, wanted, atol=0.02 * float(wanted.std()), rtol=0.02
    )
