"""Every family of models: packed and loaded, it computes what its dequantized self computes."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import studentfloat.transformers  # noqa: F401
from studentfloat.errors import ModelError
from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.models.packed.modules import packed_tensors
from studentfloat.quantize import Scheme
from tests import families

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
# Sums so long that float32's own rounding, in another order, is more than elsewhere.
TOLERANCES = {"lightglue": 3e-5, "swin2sr": 1e-4}
# Refused, in a line, for how their files join or rename weights.
REFUSED = {
    **dict.fromkeys(
        ("inkling2", "inkling2_loop", "inkling2_loop_text", "inkling2_text"), "are joined to"
    ),
    "inkling_mm_model": "embed_audio_tokens.weight_scale was not loaded",
}


def numbers(output) -> list[Tensor]:
    """All floating-point tensors in a model's output."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        return [t for value in output.values() for t in numbers(value)]
    if isinstance(output, (list, tuple)):
        return [t for value in output for t in numbers(value)]
    return []


def run(model, inputs) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return numbers(model(**inputs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", families.names())
def test_packed_is_dequantized(name: str, tmp_path) -> None:
    family = families.build(name)
    source = find_model(str(families.saved(name)))
    try:
        quantize_checkpoint(source, SCHEME, tmp_path / "packed", embeddings=True, head=True)
        model = type(family.model).from_pretrained(tmp_path / "packed")
    except ModelError as error:
        if not re.search(REFUSED.get(name, "$^"), str(error)):
            raise
        pytest.xfail(str(error))
    packed = packed_tensors(model)
    assert packed
    got = run(model, family.inputs)
    for tensor in packed.values():
        assert tensor.is_floating_point()
    expected = run(model.dequantize(), family.inputs)
    assert not packed_tensors(model)
    assert len(got) == len(expected) > 0
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        error = (ours - theirs).abs().nan_to_num().max()
        assert error <= TOLERANCES.get(name, 1e-5) * theirs.abs().nan_to_num().max().clamp_min(1e-6)


def test_what_is_left_out_exists() -> None:
    """A name that transformers no longer has is to be taken off the list."""
    if transformers.__version__ == "5.0.0":
        pytest.skip("the oldest transformers has fewer families")
    assert set(families.LEFT_OUT) <= set(CONFIG_MAPPING_NAMES)
    assert all(families.LEFT_OUT.values())
