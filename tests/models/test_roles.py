"""What a name says of a weight, and that every room reads the same off it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

from studentfloat.models import find_model, quantize_checkpoint, quantize_model, walk_weights
from studentfloat.models.roles import layer_of, orientation_of, role_of
from studentfloat.models.stream import list_sound_tensors
from studentfloat.quantize import Scheme
from tests import families, tiny
from tests.models.test_driver import loaded


@pytest.mark.parametrize(
    ("name", "layer", "role"),
    [
        ("model.layers.3.self_attn.q_proj", 3, "q_proj"),
        ("encoder.layer.0.attention.output.dense", 0, "attention.output.dense"),
        ("encoder.layer.11.output.dense", 11, "output.dense"),
        ("layer1.0.conv1", 0, "conv1"),
        ("pooler.dense", None, "pooler.dense"),
        ("encoder.layer.0.intermediate.dense.weight", 0, "intermediate.dense"),
        ("model.layers.1.mlp.experts.gate_up_proj", 1, "gate_up_proj"),
        ("lm_head.weight", None, "lm_head"),
        ("model.layers.3.mlp.experts.7.w1", 3, "w1"),
    ],
)
def test_layer_and_role_from_a_name(name, layer, role) -> None:
    assert (layer_of(name), role_of(name)) == (layer, role)


def test_one_role_in_the_walk_the_checkpoint_and_the_records(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.bert, tmp_path / "dense")))
    model = loaded(tiny.bert)
    walked = {site.name: (site.layer, site.role) for site in walk_weights(model.module)[0]}
    name = "encoder.layer.0.intermediate.dense.weight"
    assert walked[name] == (0, "intermediate.dense")
    stored = {t.name: (t.layer, t.role) for t in list_sound_tensors(source.weight_files)}
    assert walked.items() <= stored.items()
    scheme = Scheme("nf4", 16)
    for records in (
        quantize_model(model, scheme, "rtn").records,
        quantize_checkpoint(source, scheme, tmp_path / "packed").tensors,
    ):
        assert {r.name: (r.layer, r.kind) for r in records} == walked


@pytest.mark.parametrize(
    "family",
    [
        *("gpt2", "openai-gpt", "imagegpt", "gpt_oss", "aria"),
        *("llama", "mixtral", "bert", "convbert", "mamba", "whisper", "resnet"),
    ],
)
def test_names_tell_the_orientation_that_modules_have(family: str) -> None:
    model = families.build(family).model
    sites, _ = walk_weights(model)
    for site in sites:
        by_name = orientation_of(site.name, site.parameter.dim(), model.config.model_type)
        assert by_name is site.kind.orientation, site.name


def test_transformers_has_no_other_model_with_transposed_weights() -> None:
    """What the table of names is made of: a family that is new there must be entered here."""
    place = Path(transformers.__file__).parent / "models"
    conv1d, experts = set(), set()
    for file in place.glob("*/modeling_*.py"):
        text = file.read_text(encoding="utf-8")
        if "import Conv1D" in text or re.search(r"pytorch_utils import .*\bConv1D\b", text):
            conv1d.add(file.parent.name)
        if "is_transposed=True" in text:
            experts.add(file.parent.name)
    assert conv1d == {"clvp", "decision_transformer", "gpt2", "imagegpt", "openai"}
    assert experts == {"aria", "gpt_oss", "openai_privacy_filter"}
