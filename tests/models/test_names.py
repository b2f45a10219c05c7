"""The same weights by every route: in memory, one tensor at a time, on load; and their names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from studentfloat.errors import ConfigError, ModelError
from studentfloat.models import (
    Calibration,
    PackedCheckpoint,
    calibrate_checkpoint,
    find_model,
    load_model,
    quantize_checkpoint,
    verify_checkpoint,
    walk_weights,
)
from studentfloat.models.skeleton import pieces_of_checkpoint
from studentfloat.models.stream import list_sound_tensors
from studentfloat.quantize import Scheme, fake_quantize, parse_method
from studentfloat.transformers import StudentFloatConfig
from tests import families, tiny

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Renamed, joined, split, stacked or shared on the way from the checkpoint to the model.
REARRANGED = [
    *("gemma3", "llava", "qwen2_vl", "paligemma", "granitemoe", "zamba2", "mixtral", "molmo2_text"),
    *("qwen3_moe", "gpt2", "t5", "deepseek_v3"),
]


def walked(name: str) -> set[str]:
    """What the walk finds; a family with nothing to quantize has none."""
    try:
        return {site.name for site in walk_weights(families.build(name).model)[0]}
    except ModelError:
        return set()


def numbers(checkpoint: PackedCheckpoint) -> int:
    return sum(math.prod(stored.shape) for stored in checkpoint.weights.values())


def wanted_numbers(name: str) -> int:
    parameters = dict(families.build(name).model.named_parameters())
    return sum(parameters[site].numel() for site in walked(name))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", families.names())
def test_a_checkpoints_weights_are_the_walks(name: str) -> None:
    """As `save_pretrained` writes it, every family is quantized in the same numbers."""
    source = find_model(str(families.saved(name)))
    if not walked(name):
        with pytest.raises(ModelError, match="has no weight to quantize"):
            pieces_of_checkpoint(source, list_sound_tensors(source.weight_files))
        return
    pieces, _ = pieces_of_checkpoint(source, list_sound_tensors(source.weight_files))
    assert sum(p.read().numel() for p in pieces if p.kind is not None) == wanted_numbers(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REARRANGED)
def test_every_route_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    family = families.build(name)
    kind = type(family.model)
    source = find_model(str(families.saved(name)))
    quantize_checkpoint(source, SCHEME, tmp_path / "packed")
    assert numbers(PackedCheckpoint.open(tmp_path / "packed")) == wanted_numbers(name)
    assert not verify_checkpoint(tmp_path / "packed", source=source).problems
    packed = kind.from_pretrained(tmp_path / "packed")
    settings = StudentFloatConfig("sf4", block_size=16, scale_dtype="bfloat16")
    on_load = kind.from_pretrained(source.directory, quantization_config=settings)
    for model in (packed, on_load):
        assert set(model.config.quantization_config.layout["tensors"]) == walked(name)
    expected = {}
    for site in walk_weights(family.model)[0]:
        value = site.matrix(site.parameter.detach())
        expected[site.name] = fake_quantize(value.contiguous(), SCHEME)[0]
    for model in (packed.dequantize(), on_load.dequantize()):
        for site in walk_weights(model)[0]:
            assert torch.equal(site.matrix(site.parameter.detach()), expected[site.name]), site.name


def test_calibrated_and_nearest_pack_the_same(tmp_path: Path) -> None:
    """Granite's experts are renamed, and in the checkpoint they are no linear layer's."""
    source = find_model(str(families.saved("granitemoe")))
    few = Calibration(text=text_file(tmp_path), windows=2, window_length=16)
    tiny.byte_tokenizer().save_pretrained(source.directory)
    quantize_checkpoint(source, SCHEME, tmp_path / "rtn")
    recipe = parse_method("x2-mse")
    calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "x2", calibration=few)
    checkpoints = [PackedCheckpoint.open(tmp_path / place) for place in ("rtn", "x2")]
    assert checkpoints[0].weights.keys() == checkpoints[1].weights.keys()
    assert numbers(checkpoints[0]) == wanted_numbers("granitemoe")
    assert not verify_checkpoint(tmp_path / "x2", source=source).problems


def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("a b c d e f g h " * 40)
    return file


def dbrx() -> torch.nn.Module:
    return transformers.DbrxForCausalLM(
        transformers.DbrxConfig(
            d_model=32,
            n_heads=4,
            n_layers=1,
            vocab_size=120,
            attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "hidden_size": 32},
        )
    )


def test_experts_stacked_in_two_dimensions_are_weights(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(dbrx, tmp_path / "m", tokenizer=False)))
    quantize_checkpoint(source, SCHEME, tmp_path / "out")
    checkpoint = PackedCheckpoint.open(tmp_path / "out")
    state = load_file(source.directory / "model.safetensors")
    for name in ("w1", "v1", "w2"):
        full = f"transformer.blocks.0.ffn.experts.mlp.{name}"
        # Inputs of the last product are the rows: scales lie along what is summed up.
        matrix = state[full].T.contiguous() if name == "w2" else state[full]
        assert torch.equal(checkpoint.weight(full).dequantize(), fake_quantize(matrix, SCHEME)[0])
    assert not verify_checkpoint(tmp_path / "out", source=source).problems


def zamba2() -> torch.nn.Module:
    config = families.small_config("zamba2")
    config.vocab_size = tiny.VOCABULARY
    return transformers.Zamba2ForCausalLM(config)


@pytest.mark.parametrize("method", ["rtn", "x2-mse"])
def test_blocks_that_share_weights_hold_them_once(method: str, tmp_path: Path) -> None:
    source = find_model(str(tiny.save(zamba2, tmp_path / "m", spread=1.0)))
    loaded = load_model(source).module
    shared = [site for site in walk_weights(loaded)[0] if site.tied]
    assert shared
    out = tmp_path / "out"
    if method == "rtn":
        report = quantize_checkpoint(source, SCHEME, out)
    else:
        few = Calibration(text=text_file(tmp_path), windows=2, window_length=16)
        report = calibrate_checkpoint(source, SCHEME, parse_method(method), out, calibration=few)
    assert len({record.name for record in report.tensors}) == len(report.tensors)
    assert report.quantized_weights == sum(s.parameter.numel() for s in walk_weights(loaded)[0])
    assert not verify_checkpoint(out, source=source).problems
    packed = transformers.AutoModelForCausalLM.from_pretrained(out).dequantize()
    checkpoint = PackedCheckpoint.open(out)
    for site in shared:
        for name in (site.name, *site.tied):
            expected = checkpoint.weight(site.name).dequantize()
            assert torch.equal(packed.get_parameter(name).detach(), expected)


def two_tables(tmp_path: Path, *, head: torch.Tensor | None = None) -> Path:
    """A model whose configuration ties what its checkpoint holds twice."""
    place = tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m")
    state = load_file(place / "model.safetensors")
    state[HEAD] = state[EMBEDDING].clone() if head is None else head
    save_file(state, place / "model.safetensors", {"format": "pt"})
    return place


@pytest.mark.parametrize("wanted", [{}, {"head": True}, {"embeddings": True, "head": True}])
def test_two_tables_are_two_whatever_the_configuration_says(wanted, tmp_path: Path) -> None:
    head = torch.randn(tiny.VOCABULARY, 48)
    source = find_model(str(two_tables(tmp_path, head=head)))
    out = tmp_path / "out"
    quantize_checkpoint(source, SCHEME, out, **wanted)
    checkpoint = PackedCheckpoint.open(out)
    assert {EMBEDDING, HEAD} <= checkpoint.files.keys()
    assert {EMBEDDING, HEAD} & checkpoint.weights.keys() == (
        {HEAD if key == "head" else EMBEDDING for key in wanted}
    )
    assert checkpoint.config["tie_word_embeddings"] is False
    assert not verify_checkpoint(out, source=source).problems
    model = transformers.AutoModelForCausalLM.from_pretrained(out).dequantize()
    expected = fake_quantize(head, SCHEME)[0] if wanted else head
    assert torch.equal(model.lm_head.weight.detach(), expected)
    assert not torch.equal(model.model.embed_tokens.weight, model.lm_head.weight)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("stored", ["both, equal", "as the head"])
def test_a_tied_table_is_stored_as_the_embedding(
    stored: str, quantized: bool, tmp_path: Path
) -> None:
    """vLLM and llama.cpp look for it there, and take zeros for what they do not find."""
    place = two_tables(tmp_path)
    state = load_file(place / "model.safetensors")
    if stored == "as the head":
        del state[EMBEDDING]
        save_file(state, place / "model.safetensors", {"format": "pt"})
    source = find_model(str(place))
    quantize_checkpoint(source, SCHEME, tmp_path / "rtn", head=quantized)
    few = Calibration(text=text_file(tmp_path), windows=1, window_length=16)
    recipe = parse_method("x2-mse")
    calibrate_checkpoint(source, SCHEME, recipe, tmp_path / "x2", calibration=few, head=quantized)
    for out in (tmp_path / "rtn", tmp_path / "x2"):
        checkpoint = PackedCheckpoint.open(out)
        assert EMBEDDING in checkpoint.files
        assert HEAD not in checkpoint.files
        assert (EMBEDDING in checkpoint.weights) == quantized
        assert not verify_checkpoint(out, source=source).problems


def test_a_table_stored_as_the_head_is_quantized_on_load(tmp_path: Path) -> None:
    place = two_tables(tmp_path)
    state = load_file(place / "model.safetensors")
    del state[EMBEDDING]
    save_file(state, place / "model.safetensors", {"format": "pt"})
    settings = StudentFloatConfig("sf4", block_size=16, scale_dtype="bfloat16", head=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(place, quantization_config=settings)
    expected, _ = fake_quantize(state[HEAD], SCHEME)
    assert torch.equal(model.dequantize().model.embed_tokens.weight.detach(), expected)


def test_what_is_missing_is_not_drawn_at_random(tmp_path: Path) -> None:
    place = tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m")
    state = load_file(place / "model.safetensors")
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, the first is model\.layers\.0\."):
        quantize_checkpoint(find_model(str(place)), SCHEME, tmp_path / "out")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    save_file(
        {**state, "model.layers.0.mlp.up_proj.weight": torch.ones(80, 48)},
        place / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"the first is lm_head\.weight"):
        quantize_checkpoint(find_model(str(place)), SCHEME, tmp_path / "out")


SPARED = {
    "model.layers.0": 7,
    r"model\.layers\.\d+\.mlp": 6,
    "down_proj": 2,
    "model.layers.1.self_attn.q_proj": 1,
    "mlp": 0,
    "layers.0": 0,
    "model.layers.11": 0,
    "model.layers.0.self_atn": 0,
}


@pytest.mark.parametrize("name", SPARED)
def test_modules_are_spared_by_transformers_rule(name: str, tmp_path: Path) -> None:
    place = tiny.save(tiny.llama, tmp_path / "m")
    settings = StudentFloatConfig("sf4", block_size=16, modules_to_not_convert=[name])
    load = transformers.AutoModelForCausalLM.from_pretrained
    if SPARED[name]:
        model = load(place, quantization_config=settings)
        assert len(model.config.quantization_config.layout["tensors"]) == 14 - SPARED[name]
        return
    near = r"did you mean 'model\.layers\.\d+(\.mlp|\.self_attn)?'" if name != "layers.0" else ""
    with pytest.raises(ConfigError, match=f"{name}' is no module of LlamaForCausalLM.*{near}"):
        load(place, quantization_config=settings)
