"""GPTQ on integers against the independent implementation in llm-compressor."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import pytest
import torch

from studentfloat.quantize import GPTQOptions, Scheme, fake_quantize, gptq, quantize
from studentfloat.quantize.inputs import InputStatistics


@pytest.fixture(scope="module")
def theirs():
    """Its GPTQ alone: importing the package as a whole would want all of its dependencies."""
    found = importlib.util.find_spec("llmcompressor")
    if found is None:
        pytest.skip("llmcompressor is not installed: scripts/test installs it")
    names = ("llmcompressor", "llmcompressor.modifiers", "llmcompressor.modifiers.gptq")
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        package = types.ModuleType(name)
        inside = name.split(".")[1:]
        package.__path__ = [
            "/".join((place, *inside)) for place in found.submodule_search_locations
        ]
        sys.modules[name] = package
    yield importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize")
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def layer(seed: int, rows: int = 48, width: int = 256, tokens: int = 600):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.exp(
        torch.randn(width, generator=generator)
    )
    inputs = torch.randn(tokens, width, generator=generator) @ mixing
    weight = torch.randn(rows, width, generator=generator)
    weight *= 1 + torch.rand(rows, 1, generator=generator)
    return weight, inputs


def output_error(weight, other, inputs) -> float:
    exact = inputs.double() @ weight.double().T
    return float((inputs.double() @ other.double().T - exact).square().sum())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [64, 128])
def test_the_same_hessian_gives_the_same_output_error(theirs, seed: int, block: int) -> None:
    from compressed_tensors.quantization import QuantizationArgs

    weight, inputs = layer(seed)
    statistics = InputStatistics.empty_for(inputs)
    statistics.add(inputs)
    hessian = statistics.hessian / len(inputs)
    scheme = Scheme("int4", block_size=block)
    options = GPTQOptions(order="none", static_scales=True, damping=0.01)
    ours = gptq(weight, hessian, scheme, options=options).tensor.dequantize()
    scales = quantize(weight, scheme).block_scales()
    quantized, *_ = theirs.quantize_weight(
        weights=weight[None].clone(),
        hessians=hessian[None].clone(),
        scale=scales[None].clone(),
        zero_point=torch.zeros_like(scales, dtype=torch.int8)[None],
        global_scale=None,
        quant_args=QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=block),
        percdamp=0.01,
    )
    nearest, _ = fake_quantize(weight, scheme)
    mine, other = (output_error(weight, w, inputs) for w in (ours, quantized[0]))
    assert mine == pytest.approx(other, rel=0.01)
    # Both must be far from what rounding to nearest gives, or agreeing would mean little.
    assert mine < 0.7 * output_error(weight, nearest, inputs)
