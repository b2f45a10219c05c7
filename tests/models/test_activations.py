"""Activations rounded as they come: per token, per block, static, and as integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studentfloat.errors import ConfigError
from studentfloat.models import quantize_model, walk_weights
from studentfloat.models.activations import (
    ActivationScheme,
    calibrate_ranges,
    integer_linear,
    quantized_activations,
    true_quantile,
)
from studentfloat.quantize import Scheme, fake_quantize, quantize
from tests import tiny

from .test_driver import inputs_of, loaded, windows


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi"])
@pytest.mark.parametrize("scheme", [Scheme("int8", "row"), Scheme("sf4", 16)])
def test_each_layer_sees_rounded_inputs(family, scheme) -> None:
    model = loaded(tiny.FAMILIES[family])
    sites, _ = walk_weights(model.module)
    tokens = windows().tokens
    first = sites[0]
    raw = torch.cat(inputs_of(model.module, [first], tokens)[first.name])
    with torch.no_grad():
        before = model.module(input_ids=tokens).logits
        with quantized_activations(model.module, [first], ActivationScheme(scheme)) as left:
            assert left == []
            heard = torch.cat(inputs_of(model.module, [first], tokens)[first.name])
            after = model.module(input_ids=tokens).logits
        again = model.module(input_ids=tokens).logits
    torch.testing.assert_close(heard, fake_quantize(raw, scheme)[0])
    assert not torch.equal(before, after)
    assert torch.equal(before, again)


def test_a_scale_per_token_is_not_a_scale_per_channel() -> None:
    """A loud channel takes its token's scale with it, a loud token only its own."""
    x = torch.ones(1, 4, 8)
    x[0, 2] *= 100
    got = ActivationScheme(Scheme("int4", "row")).apply(x)
    torch.testing.assert_close(got, x)
    x = torch.ones(1, 4, 8)
    x[..., 2] *= 100
    got = ActivationScheme(Scheme("int4", "row")).apply(x)
    assert (got[..., :2] == 0).all()


def test_no_token_depends_on_later_ones() -> None:
    model = loaded(tiny.llama)
    sites, _ = walk_weights(model.module)
    tokens = windows(1).tokens
    with (
        quantized_activations(model.module, sites, ActivationScheme(Scheme("int4", "row"))),
        torch.no_grad(),
    ):
        whole = model.module(input_ids=tokens).logits
        part = model.module(input_ids=tokens[:, :10]).logits
    torch.testing.assert_close(whole[:, :10], part)
    with pytest.raises(ConfigError, match="depend on later ones"):
        ActivationScheme(Scheme("int4", "tensor"))


def test_smoothed_weights_meet_smoothed_inputs() -> None:
    """An outlier channel ruins int8 activations; smoothed, weights and inputs together, not."""

    def make():
        model = loaded(tiny.llama)
        with torch.no_grad():
            for layer in model.module.model.layers:
                layer.input_layernorm.weight[5] *= 60
                layer.post_attention_layernorm.weight[7] *= 60
                for linear in (
                    layer.self_attn.q_proj,
                    layer.self_attn.k_proj,
                    layer.self_attn.v_proj,
                ):
                    linear.weight[:, 5] /= 60
                layer.mlp.gate_proj.weight[:, 7] /= 60
                layer.mlp.up_proj.weight[:, 7] /= 60
        return model

    tokens, how = windows().tokens, ActivationScheme(Scheme("int6", "row"))
    with torch.no_grad():
        reference = make().module(input_ids=tokens).logits
    off = {}
    for method in ("rtn", "smooth=0.5", "rotate"):
        model = make()
        result = quantize_model(model, Scheme("int8", 16), method, windows())
        sites, _ = walk_weights(model.module)
        with quantized_activations(model.module, sites, how, quantized=result), torch.no_grad():
            off[method] = float((model.module(input_ids=tokens).logits - reference).norm())
    assert off["smooth=0.5"] < 0.5 * off["rtn"]
    # A rotation spreads what smoothing takes away.
    assert off["smooth=0.5"] < off["rotate"] < 0.7 * off["rtn"]


def test_a_quantile_is_a_quantile() -> None:
    values = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float() + 1
    for share in (0.001, 0.5, 0.999, 0.9991, 1.0):
        wanted = np.quantile(values.numpy(), share, method="inverted_cdf")
        assert float(true_quantile(values, share)) == wanted
    how = ActivationScheme(Scheme("int8", "row"), quantile=0.9)
    got = how.apply(torch.arange(1.0, 11)[None])
    assert float(got.max()) == pytest.approx(9.0)


def test_static_ranges_are_those_of_rotated_inputs() -> None:
    model = loaded(tiny.llama)
    sites, _ = walk_weights(model.module)
    tokens = windows().tokens
    result = quantize_model(model, Scheme("int8", 16), "rotate=16")
    heard = inputs_of(model.module, sites, tokens)
    ranges = calibrate_ranges(sites, model.module, [tokens], quantized=result)
    for site in sites:
        rotated = result.weights[site.name].transform_inputs(torch.cat(heard[site.name]))
        assert ranges[site.name] == pytest.approx(float(rotated.abs().max()), rel=1e-5)


def test_static_ranges_are_the_calibrated_ones() -> None:
    model = loaded(tiny.llama)
    sites, _ = walk_weights(model.module)
    tokens = windows().tokens
    heard = inputs_of(model.module, sites, tokens)
    how = ActivationScheme(Scheme("int8", "row"), ranges="static", quantile=0.99)
    ranges = calibrate_ranges(sites, model.module, [tokens], 0.99)
    site = sites[6]
    magnitudes = torch.cat(heard[site.name]).abs().numpy()
    wanted = np.quantile(magnitudes, 0.99, method="inverted_cdf")
    assert ranges[site.name] == pytest.approx(wanted, rel=1e-4)
    with quantized_activations(model.module, sites, how, ranges=ranges), torch.no_grad():
        got = torch.cat(inputs_of(model.module, [sites[0]], tokens)[sites[0].name])
    limit = ranges[sites[0].name]
    assert float(got.abs().max()) <= limit * 128 / 127 * (1 + 1e-6)
    assert len(got.unique()) <= 256
    with (
        pytest.raises(ConfigError, match="no calibrated range"),
        quantized_activations(model.module, sites, how),
    ):
        pass


@pytest.mark.parametrize("names", [("int4", "int8"), ("e2m1+sp", "e2m1+sp"), ("apot4", "e4m3")])
@pytest.mark.parametrize("size", [16, "row"])
def test_integer_sums_are_the_models_numbers(names, size) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 40, generator=generator) for n in (7, 9))
    weight = quantize(w, Scheme(names[0], size))
    scheme = Scheme(names[1], size)
    exact = fake_quantize(x, scheme)[0].double() @ weight.dequantize().double().T
    torch.testing.assert_close(integer_linear(x, weight, scheme), exact, rtol=1e-5, atol=1e-5)
    narrow = integer_linear(x, weight, scheme, bits=8, overflow="saturate")
    wrapped = integer_linear(x, weight, scheme, bits=8, overflow="wrap")
    assert not torch.equal(narrow, wrapped)
    wide = integer_linear(x, weight, scheme, bits=40)
    torch.testing.assert_close(wide, exact, rtol=1e-5, atol=1e-5)


def test_integer_sums_need_equal_blocks() -> None:
    weight = quantize(torch.ones(2, 32), Scheme("int4", 16))
    with pytest.raises(ConfigError, match="need equal blocks"):
        integer_linear(torch.ones(1, 32), weight, Scheme("int8", "row"))
