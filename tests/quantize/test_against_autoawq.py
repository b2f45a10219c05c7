"""AWQ on integers against the independent implementation in AutoAWQ."""

from __future__ import annotations

import pytest
import torch

from studentfloat.formats import Format
from studentfloat.quantize import Scheme, fake_quantize, parse_method
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.pipeline import quantize_weight
from studentfloat.quantize.smoothing import awq_scale
from tests.quantize.others import layer, module_of, output_error

# Its symmetric integers divide the largest magnitude by 7 and so never use -8.
SYMMETRIC = Format.from_values(list(range(-7, 8)), name="symmetric-int4")


@pytest.fixture(scope="module")
def quantizer():
    """Its search alone, on one linear layer, as the paper has it (no weights in the scale)."""
    linears = "WQLinear_GEMM WQLinear_GEMV WQLinear_Marlin WQLinear_GEMVFast"
    with module_of(
        "awq.quantize.quantizer",
        packages=("awq", "awq.quantize", "awq.utils", "awq.modules"),
        without=[
            ("awq.utils.calib_data", "get_calib_dataset"),
            ("awq.quantize.scale", "apply_scale apply_clip"),
            ("awq.modules.linear", linears),
        ],
    ) as module:
        made = module.AwqQuantizer.__new__(module.AwqQuantizer)
        made.w_bit, made.zero_point, made.duo_scaling = 4, False, False
        made.max_chunk_memory, made.n_parallel_calib_samples = 1 << 30, None
        yield made


def their_awq(quantizer, weight, inputs, block: int):
    """Its scale per input channel, and the effective weight after scaling and clipping."""
    quantizer.group_size = block
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data.copy_(weight)
    *_, scale = quantizer._search_best_scale(linear, linear, [linear], inputs[None])
    scaled = weight * scale
    clip = quantizer._compute_best_clip(scaled, inputs / scale)
    blocks = scaled.reshape(*clip.shape[:2], -1)
    clipped = blocks.clamp(-clip, clip).reshape(weight.shape)
    return scale, quantizer.pseudo_quantize_tensor(clipped)[0] / scale


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [64, 128])
def test_the_same_inputs_give_the_same_output_error(quantizer, seed: int, block: int) -> None:
    weight, inputs = layer(seed, rows=64, tokens=512)  # its clipping takes 512 of them
    statistics = InputStatistics.empty_for(inputs)
    statistics.add(inputs)
    scheme = Scheme(SYMMETRIC, block_size=block)
    scale = awq_scale([weight], scheme, statistics)
    result = quantize_weight(weight, scheme, parse_method("awq"), statistics)
    ours = result.weight.dequantize()
    their_scale, theirs = their_awq(quantizer, weight, inputs, block)
    torch.testing.assert_close(scale, their_scale, rtol=1e-4, atol=0)
    mine, other = (output_error(weight, w, inputs) for w in (ours, theirs))
    assert mine == pytest.approx(other, rel=0.01)
    # Both must be far from what rounding to nearest gives, or agreeing would mean little.
    nearest, _ = fake_quantize(weight, scheme)
    assert mine < 0.8 * output_error(weight, nearest, inputs)
