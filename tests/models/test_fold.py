"""Input scales fold into what comes before, or stay with the layer; the model stays the same."""

from __future__ import annotations

import pytest
import torch

from studentfloat.models import quantize_model
from studentfloat.quantize import Scheme
from tests import tiny

from .test_driver import loaded, windows

FINE = Scheme("int8", 16)

# Where the scale of each kind of weight goes; None: kept explicit.
EXPECTED = {
    "llama": {"q_proj": "input_layernorm", "gate_proj": "post_attention_layernorm",
              "down_proj": "up_proj", "o_proj": None},
    "gemma2": {"q_proj": "input_layernorm", "gate_proj": "pre_feedforward_layernorm",
               "down_proj": "up_proj"},
    "opt": {"q_proj": "self_attn_layer_norm", "fc1": "final_layer_norm", "fc2": "fc1",
            "out_proj": "v_proj"},
    "gpt2": {"c_attn": "ln_1", "c_fc": "ln_2"},
    "phi": {"fc2": None},
    "gpt-neox": {"query_key_value": "input_layernorm"},
    "mixtral": {"q_proj": "input_layernorm"},
}  # fmt: skip


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("method", ["smooth=0.5", "awq"])
def test_a_smoothed_model_at_eight_bits_says_what_the_original_said(family, method) -> None:
    original, smoothed = loaded(tiny.FAMILIES[family]), loaded(tiny.FAMILIES[family])
    result = quantize_model(smoothed, FINE, method, windows())
    tokens = windows().tokens
    with torch.no_grad():
        before = original.module(input_ids=tokens).logits
        after = smoothed.module(input_ids=tokens).logits
    plain = loaded(tiny.FAMILIES[family])
    quantize_model(plain, FINE, "rtn")
    with torch.no_grad():
        nearest = plain.module(input_ids=tokens).logits
    # No farther from the original than rounding alone is, give or take a token that goes to
    # another expert.
    assert float((after - before).norm()) < 5 * float((nearest - before).norm())
    for kind, into in EXPECTED.get(family, {}).items():
        for record in (r for r in result.records if r.kind == kind):
            (note,) = (n for n in record.notes if "input scale" in n)
            right = note.endswith(into or "kept explicit")
            assert right or note.startswith("no input scale"), (record.name, note)
    changed = set(result.changed)
    weights = set(result.weights)
    now = dict(smoothed.module.named_parameters())
    for name, parameter in original.module.named_parameters():
        same = torch.equal(parameter, now[name])
        if not same:
            assert name in changed | weights, name


def test_a_smoothed_model_resumes() -> None:
    whole = loaded(tiny.llama)
    result = quantize_model(whole, Scheme("nf4", 16), "smooth=0.6+gptq", windows())
    again = loaded(tiny.llama)
    quantize_model(
        again, Scheme("nf4", 16), "smooth=0.6+gptq", windows(), finished=result.blocks[:1]
    )
    for one, two in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, two)
