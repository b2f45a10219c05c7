"""GPTQ on integers against the independent implementation in llm-compressor."""

from __future__ import annotations

import pytest
import torch

from studentfloat.quantize import GPTQOptions, Scheme, fake_quantize, gptq, quantize
from studentfloat.quantize.inputs import InputStatistics
from tests.quantize.others import layer, module_of, output_error


@pytest.fixture(scope="module")
def theirs():
    """Its GPTQ alone: importing the package as a whole would want all of its dependencies."""
    packages = ("llmcompressor", "llmcompressor.modifiers", "llmcompressor.modifiers.gptq")
    with module_of("llmcompressor.modifiers.gptq.gptq_quantize", packages=packages) as module:
        yield module


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
