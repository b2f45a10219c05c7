"""Which files a model is, which go along, and what of them is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studentfloat.errors import ConfigError, FailureError, ModelError
from studentfloat.models import (
    PackedCheckpoint,
    dequantize_checkpoint,
    find_model,
    quantize_checkpoint,
    verify_checkpoint,
)
from studentfloat.models.side_files import side_files
from studentfloat.quantize import Scheme
from studentfloat.records import temporary
from tests import tiny

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")


@pytest.fixture
def directory(tmp_path) -> Path:
    return tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m")


def test_a_stray_file_is_not_part_of_the_model(directory: Path, tmp_path: Path) -> None:
    """Neither one with other names nor one that holds the model's names again."""
    state = load_file(directory / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({name: torch.zeros_like(state[name])}, directory / "zz.safetensors")
    save_file({"layers.0.ffn": state[name]}, directory / "consolidated.safetensors")
    source = find_model(str(directory))
    assert [file.name for file in source.weight_files] == ["model.safetensors"]
    quantize_checkpoint(source, SCHEME, tmp_path / "out")
    checkpoint = PackedCheckpoint.open(tmp_path / "out")
    assert checkpoint.weight(name).dequantize().abs().max() > 0
    assert "layers.0.ffn" not in checkpoint.files


def test_the_shards_are_those_that_the_index_names(tmp_path: Path) -> None:
    directory = tiny.save(tiny.llama, tmp_path / "m", max_shard_size="100KB")
    shards = sorted(file.name for file in directory.glob("*.safetensors"))
    save_file({"stray": torch.ones(2, 2)}, directory / "a.safetensors")
    assert [file.name for file in find_model(str(directory)).weight_files] == shards
    (directory / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.ind"):
        find_model(str(directory))


def test_two_shards_with_one_tensor_are_refused(tmp_path: Path) -> None:
    directory = tiny.save(tiny.llama, tmp_path / "m", max_shard_size="100KB")
    first, second, *_ = sorted(directory.glob("*.safetensors"))
    twice = load_file(first) | load_file(second)
    save_file(twice, second, {"format": "pt"})
    source = find_model(str(directory))
    with pytest.raises(ModelError, match="is in two shards"):
        quantize_checkpoint(source, SCHEME, tmp_path / "out")


COMPANIONS = [
    *("additional_chat_templates/tool_use.jinja", "1_Pooling/config.json", "source.spm"),
    *("2_Dense/model.safetensors", "modules.json", "vocab.bpe", "merges.tiktoken", "LICENSE"),
]
OTHERS = [
    *("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", ".cache/x.json", "code.py"),
    *("checkpoint-5/config.json", "checkpoint-5/trainer_state.json", "big.spm"),
]


def test_whatever_belongs_to_a_model_goes_along(directory: Path, tmp_path: Path) -> None:
    for name in (*COMPANIONS, *OTHERS):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text('{"model_type": "llama"}' if "checkpoint" in name else "{}")
    os.truncate(directory / "big.spm", (256 << 20) + 1)
    # Inside of the source, where it must not be taken for part of it.
    out = directory / "packed"
    quantize_checkpoint(find_model(str(directory)), SCHEME, out)
    dense = dequantize_checkpoint(out, tmp_path / "dense")
    for place in (out, dense):
        assert all((place / name).is_file() for name in COMPANIONS)
        assert not any((place / name).exists() for name in OTHERS)
        assert (place / "tokenizer.json").read_bytes() == (
            directory / "tokenizer.json"
        ).read_bytes()
    assert Path("code.py") in side_files(directory, code=True)
    assert not list(out.rglob("packed"))


def change_a_byte(file: Path) -> None:
    """In the middle of the data, where nothing but a hash of all of it looks."""
    stamp = file.stat()
    with file.open("r+b") as stream:
        stream.seek(stamp.st_size // 2 + 333)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_one_changed_byte_is_another_model(directory: Path, tmp_path: Path) -> None:
    quantize_checkpoint(find_model(str(directory)), SCHEME, tmp_path / "out")
    before = find_model(str(directory)).sha256
    change_a_byte(directory / "model.safetensors")
    assert find_model(str(directory)).sha256 != before
    with pytest.raises(ConfigError, match="another packed model"):
        quantize_checkpoint(find_model(str(directory)), SCHEME, tmp_path / "out")
    with pytest.raises(ConfigError, match="another"):
        dequantize_twice(tmp_path / "out", tmp_path / "dense")


def dequantize_twice(packed: Path, out: Path) -> None:
    dequantize_checkpoint(packed, out)
    before = (out / "config.json").stat().st_mtime_ns
    dequantize_checkpoint(packed, out)
    assert (out / "config.json").stat().st_mtime_ns == before
    change_a_byte(next(packed.glob("*.safetensors")))
    dequantize_checkpoint(packed, out)


def test_a_source_that_changes_meanwhile_is_noticed(directory: Path, tmp_path: Path) -> None:
    source = find_model(str(directory))

    def change(share: float, what: str) -> None:
        if share == 1.0:
            change_a_byte(directory / "model.safetensors")

    with pytest.raises(FailureError, match=r"model\.safetensors changed while"):
        quantize_checkpoint(source, SCHEME, tmp_path / "out", progress=change)
    assert not (tmp_path / "out" / "config.json").exists()


def _quantization(config):
    return config["quantization_config"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("quantization_config.formats", lambda c: _quantization(c)["formats"]["sf4"]["values"]),
        ("quantization_config.schemes", lambda c: _quantization(c)["schemes"][0]),
        ("quantization_config.activations", _quantization),
        ("quantization_config.kv_cache", _quantization),
        ("hidden_act", lambda c: c),
        ("rms_norm_eps", lambda c: c),
    ],
)
def test_verify_sees_a_changed_configuration(key, change, directory: Path, tmp_path: Path) -> None:
    from studentfloat.models.packed_files import Companions

    out = tmp_path / "out"
    companions = Companions(Scheme.per_token("int8"), Scheme.per_token("int8"))
    quantize_checkpoint(find_model(str(directory)), SCHEME, out, companions=companions)
    assert not verify_checkpoint(out).problems
    config = json.loads((out / "config.json").read_text())
    part = change(config)
    match key.rpartition(".")[2]:
        case "formats":
            part[3] -= 1e-3
        case "schemes":
            part["scale_rule"] = "mse"
        case "hidden_act":
            part["hidden_act"] = "gelu"
        case "rms_norm_eps":
            part["rms_norm_eps"] = 1e-3
        case name:
            del part[name]
    (out / "config.json").write_text(json.dumps(config))
    assert verify_checkpoint(out).problems == (f"config.json: {key} is not what was written",)


def test_verify_sees_a_changed_tokenizer(directory: Path, tmp_path: Path) -> None:
    quantize_checkpoint(find_model(str(directory)), SCHEME, tmp_path / "out")
    file = tmp_path / "out" / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    found = verify_checkpoint(tmp_path / "out").problems
    assert found == ("tokenizer_config.json is not what was written",)


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from studentfloat.records.temporary import temporary_beside\n"
        "temporary_beside(Path(sys.argv[1]) / 'a').write_text('half')\n"
        "temporary_beside(Path(sys.argv[1]) / 'b').mkdir()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    mine = temporary.temporary_beside(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []  # by the first call for this directory
    mine.touch()
    alive = tmp_path / f".x.{temporary._HOST}-{os.getppid()}-01234567.tmp"
    elsewhere = tmp_path / ".x.00000000-1-01234567.tmp"
    old = tmp_path / ".y.00000000-1-01234567.tmp"
    namesake = tmp_path / f".z.{temporary._HOST}-{os.getpid()}-01234567.tmp"
    for file in (alive, elsewhere, old, namesake):
        file.touch()
    os.utime(old, (0, 0))
    temporary.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, alive, elsewhere])
