"""Calibrated models packed block by block: what is stored is what the method made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import studentfloat.transformers  # noqa: F401
from studentfloat.errors import ConfigError
from studentfloat.models import (
    Calibration,
    PackedCheckpoint,
    calibrate_checkpoint,
    find_model,
    load_model,
    quantize_model,
    verify_checkpoint,
)
from studentfloat.quantize import Scheme, parse_method
from tests import tiny

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
FEW = Calibration(windows=2, window_length=32)
MODELS = [tiny.llama, tiny.gpt2, tiny.mixtral]


def weights_of(directory: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(directory.glob("*.safetensors"))}


def logits(model) -> torch.Tensor:
    tokens = torch.randint(4, 200, (2, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("method", ["gptq", "x2-mse+gptq", "rotate+gptq", "rotate=16"])
def test_logits_are_those_of_the_method(make, method: str, tmp_path: Path) -> None:
    source = find_model(str(tiny.save(make, tmp_path / "dense")))
    report = calibrate_checkpoint(
        source, SCHEME, parse_method(method), tmp_path / "packed", calibration=FEW
    )
    assert {r.method for r in report.tensors} & {method, "gptq", "rtn"}
    model = load_model(source)
    quantize_model(model, SCHEME, method, FEW)
    packed = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    torch.testing.assert_close(logits(packed), logits(model.module), rtol=1e-4, atol=1e-4)
    found = verify_checkpoint(tmp_path / "packed", source=source)
    assert not found.problems


@pytest.mark.parametrize("method", ["awq", "smooth=0.5"])
def test_norms_that_scales_were_folded_into_are_on_record(method: str, tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    out = tmp_path / "out"
    calibrate_checkpoint(source, SCHEME, parse_method(method), out, calibration=FEW)
    manifest = json.loads((out / "studentfloat.json").read_text())
    assert any(name.endswith("layernorm.weight") for name in manifest["changed"])
    assert not verify_checkpoint(out, source=source).problems
    # A norm that nothing was folded into is still held against the source's.
    state = load_file(tmp_path / "dense" / "model.safetensors")
    state["model.norm.weight"] += 1
    state[manifest["changed"][0]] += 1
    save_file(state, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    other = find_model(str(tmp_path / "dense"))
    (problem,) = verify_checkpoint(out, source=other).problems
    assert problem.startswith("model.norm.weight is not quantized and yet not that of")


def test_interrupted_after_a_block_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    recipe = parse_method("gptq")
    calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "whole", calibration=FEW)

    def stop(share: float, what: str) -> None:
        if what.endswith("layers.1"):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        calibrate_checkpoint(source, SCHEME, recipe, out, calibration=FEW, progress=stop)
    done = [f.name for f in out.glob("*.safetensors")]
    assert done == ["model-00001-of-00003.safetensors"]
    before = (out / done[0]).stat().st_mtime_ns
    calibrate_checkpoint(source, SCHEME, recipe, out, calibration=FEW)
    assert (out / done[0]).stat().st_mtime_ns == before
    assert weights_of(out) == weights_of(tmp_path / "whole")


def test_other_calibration_is_another_run(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    recipe = parse_method("gptq")
    calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "out", calibration=FEW)
    other = Calibration(windows=3, window_length=32)
    with pytest.raises(ConfigError, match="otherwise"):
        calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "out", calibration=other)


def test_types_of_the_checkpoint_are_kept(tmp_path: Path) -> None:
    place = tiny.save(lambda: tiny.llama().bfloat16(), tmp_path / "dense")
    source = find_model(str(place))
    calibrate_checkpoint(source, SCHEME, parse_method("gptq"), tmp_path / "out", calibration=FEW)
    checkpoint = PackedCheckpoint.open(tmp_path / "out")
    assert {stored.dtype for stored in checkpoint.weights.values()} == {"bfloat16"}
    assert {checkpoint.files[name].dtype for name in checkpoint.plain_names()} == {"BF16"}


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "mixtral", "qwen3-moe", "gpt-oss", "phi3", "gemma3"]
)
@pytest.mark.parametrize("method", ["gptq", "smooth=0.5+gptq"])
def test_block_by_block_is_the_whole(family: str, method: str, tmp_path: Path, monkeypatch) -> None:
    """The same bytes whether the model is in memory whole or a block at a time."""
    from studentfloat.errors import ModelError
    from studentfloat.models import pack_calibrated

    source = find_model(str(tiny.save(tiny.FAMILIES[family], tmp_path / "dense")))
    recipe = parse_method(method)
    said: list[str] = []
    note = lambda share, what: said.append(what)  # noqa: E731
    calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "thin", calibration=FEW, progress=note)
    assert not [what for what in said if "as a whole" in what]

    def refuse(*_arguments):
        raise ModelError("whole")

    monkeypatch.setattr(pack_calibrated, "load_block_by_block", refuse)
    calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "whole", calibration=FEW, progress=note)
    assert [what for what in said if "as a whole" in what]
    assert weights_of(tmp_path / "thin") == weights_of(tmp_path / "whole")


def test_one_block_in_memory(tmp_path: Path) -> None:
    from studentfloat.models.pack_calibrated import _block_names
    from studentfloat.models.residency import load_block_by_block

    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    model, residency = load_block_by_block(source, _block_names)
    blocks = model.module.model.layers

    def resident(block) -> bool:
        return all(p.untyped_storage().nbytes() > 4 for p in block.parameters())

    assert not any(resident(block) for block in blocks)
    with residency.held("model.layers.1"):
        assert [resident(block) for block in blocks] == [False, True]
    assert not any(resident(block) for block in blocks)


def test_a_changed_expert_is_found(tmp_path: Path) -> None:
    """Fused experts are held against the single ones that they are made of."""
    from safetensors.torch import load_file, save_file

    place = tiny.save(tiny.mixtral, tmp_path / "dense")
    state = load_file(place / "model.safetensors")
    experts = [name for name in state if ".experts." in name]
    assert len(experts) == 2 * 4 * 3  # the checkpoint has one matrix for each
    source = find_model(str(place))
    calibrate_checkpoint(source, SCHEME, parse_method("gptq"), tmp_path / "out", calibration=FEW)
    assert not verify_checkpoint(tmp_path / "out", source=source).problems
    state[experts[0]] = state[experts[0]][:, :16].contiguous()
    save_file(state, place / "model.safetensors", {"format": "pt"})
    (problem,) = verify_checkpoint(tmp_path / "out", source=find_model(str(place))).problems
    assert "model.layers.0.mlp.experts." in problem
    assert "cannot be made of" in problem


def test_a_tied_head_under_its_own_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = tiny.save(tiny.llama, tmp_path / "dense")
    state = load_file(place / "model.safetensors")
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    save_file(state, place / "model.safetensors", {"format": "pt"})
    source = find_model(str(place))
    calibrate_checkpoint(source, SCHEME, parse_method("gptq"), tmp_path / "out", calibration=FEW)
    assert not verify_checkpoint(tmp_path / "out", source=source).problems
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.get_input_embeddings().weight, state["lm_head.weight"])
    assert torch.equal(model.get_output_embeddings().weight, state["lm_head.weight"])
