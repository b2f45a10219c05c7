"""Packed checkpoints: written, resumed, shared out, verified, dequantized; hostile files."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studentfloat.errors import ConfigError, DataError, FailureError, StudentFloatError
from studentfloat.models import (
    PackedCheckpoint,
    dequantize_checkpoint,
    find_model,
    merge_parts,
    quantize_checkpoint,
    verify_checkpoint,
)
from studentfloat.quantize import Scheme, fake_quantize
from tests import tiny

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
SHARD = 30_000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("source") / "llama"
    return find_model(str(tiny.save(tiny.llama, place, max_shard_size="40KB")))


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "llama"
    quantize_checkpoint(source, SCHEME, out, shard_bytes=SHARD)
    return out


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def weights_of(directory: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(directory.glob("*.safetensors"))}


def state_of(source) -> dict[str, torch.Tensor]:
    return {k: v for file in source.weight_files for k, v in load_file(file).items()}


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.mixtral, tiny.gpt_oss, tiny.bert])
def test_every_weight_is_what_the_quantizer_makes(make, tmp_path: Path) -> None:
    source = find_model(str(tiny.save(make, tmp_path / "source")))
    report = quantize_checkpoint(source, SCHEME, tmp_path / "out")
    checkpoint = PackedCheckpoint.open(tmp_path / "out")
    state = state_of(source)
    for name, stored in checkpoint.weights.items():
        matrix = stored.orientation.to_matrix(state[name])
        expected, _ = fake_quantize(matrix, SCHEME)
        assert torch.equal(checkpoint.weight(name).dequantize(), expected), name
    # Every tensor of the source is quantized or stored as it was.
    assert {*checkpoint.weights, *checkpoint.plain_names()} == set(state)
    assert {t.name for t in report.tensors} == set(checkpoint.weights)
    assert {s.name for s in report.skipped} == set(checkpoint.plain_names())
    assert not verify_checkpoint(tmp_path / "out", source=source).problems


def test_transposed_weights_are_scaled_along_what_is_summed_up(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.gpt2, tmp_path / "source")))
    quantize_checkpoint(source, SCHEME, tmp_path / "out")
    checkpoint = PackedCheckpoint.open(tmp_path / "out")
    name = next(n for n in checkpoint.weights if n.endswith("c_attn.weight"))
    assert checkpoint.weights[name].shape == (48, 144)
    assert checkpoint.files[f"{name}_scale"].shape == (144, 3)


def test_report_counts_bits(packed: Path, source) -> None:
    report = json.loads((packed / "quantization-report.json").read_text())
    assert report["bits_per_weight"] == pytest.approx(4 + 16 / 16)
    assert report["bytes"] == sum(f.stat().st_size for f in packed.glob("*.safetensors"))
    assert all(entry["method"] == "rtn" for entry in report["tensors"])
    assert all(0 < entry["weight_nmse"] < 0.05 for entry in report["tensors"])
    assert report["quantized_weights"] + report["plain_weights"] == sum(
        tensor.numel() for tensor in state_of(source).values()
    )


def test_the_same_bytes_again(packed: Path, source, tmp_path: Path) -> None:
    quantize_checkpoint(source, SCHEME, tmp_path / "out", shard_bytes=SHARD)
    assert weights_of(tmp_path / "out") == weights_of(packed)
    for name in ("config.json", "studentfloat.json", "model.safetensors.index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (packed / name).read_bytes()


def test_done_is_done(packed: Path, source) -> None:
    before = {f.name: f.stat().st_mtime_ns for f in packed.iterdir()}
    assert quantize_checkpoint(source, SCHEME, packed, shard_bytes=SHARD) is not None
    assert {f.name: f.stat().st_mtime_ns for f in packed.iterdir()} == before


def test_a_plain_loader_fails_loudly(copy: Path) -> None:
    """Without the plug-in a packed weight has a shape that no layer takes."""
    import transformers

    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="mismatch"):
        transformers.AutoModelForCausalLM.from_pretrained(copy)


def test_killed_and_resumed(packed: Path, source, tmp_path: Path) -> None:
    """SIGKILL after the first shard; the same call then ends with the same bytes."""
    out = tmp_path / "out"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from studentfloat.models import find_model, quantize_checkpoint\n"
        "from studentfloat.quantize import Scheme\n"
        "scheme = Scheme('sf4', block_size=16, scale_dtype='bfloat16')\n"
        "slow = lambda share, what: (print(share, flush=True), time.sleep(share > 0.5 and 60))\n"
        f"quantize_checkpoint(find_model({source.name!r}), scheme, Path({str(out)!r}),\n"
        f"    shard_bytes={SHARD}, progress=slow)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if float(line) > 0.5:
                process.send_signal(signal.SIGKILL)
                break
    assert not (out / "config.json").exists()
    done = {f.name: f.stat().st_mtime_ns for f in out.glob("*.safetensors")}
    assert 0 < len(done) < len(weights_of(packed))
    quantize_checkpoint(source, SCHEME, out, shard_bytes=SHARD)
    assert weights_of(out) == weights_of(packed)
    assert {n: (out / n).stat().st_mtime_ns for n in done} == done
    assert not (out / ".studentfloat").exists()


def test_shares_merged(packed: Path, source, tmp_path: Path) -> None:
    places = [tmp_path / f"part{i}" for i in (1, 2, 3)]
    for i, place in enumerate(places, 1):
        share = (i, 3)
        assert quantize_checkpoint(source, SCHEME, place, shard_bytes=SHARD, share=share) is None
    with pytest.raises(FailureError, match="lacks"):
        merge_parts(tmp_path / "early", places[:2])
    again = merge_parts(tmp_path / "early", [places[2]])
    assert weights_of(tmp_path / "early") == weights_of(packed)
    assert again.bits_per_weight == pytest.approx(5.0)
    with pytest.raises(ConfigError, match="no unfinished part"):
        merge_parts(tmp_path / "nothing", [tmp_path])


def test_parts_of_different_runs(source, tmp_path: Path) -> None:
    for i, name in ((1, "sf4"), (2, "nf4")):
        scheme = Scheme(name, block_size=16)
        quantize_checkpoint(source, scheme, tmp_path / name, shard_bytes=SHARD, share=(i, 2))
    with pytest.raises(ConfigError, match="another run"):
        merge_parts(tmp_path / "sf4", [tmp_path / "nf4"])


def test_directories_that_are_taken(packed: Path, source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another packed model"):
        quantize_checkpoint(source, Scheme("nf4"), packed)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        quantize_checkpoint(source, SCHEME, tmp_path)
    with pytest.raises(ConfigError, match="not empty"):
        dequantize_checkpoint(packed, tmp_path)
    with pytest.raises(ConfigError, match="--shard 3/2"):
        quantize_checkpoint(source, SCHEME, tmp_path / "x", share=(3, 2))
    with pytest.raises(ConfigError, match="calibration"):
        quantize_checkpoint(source, Scheme("sf4", scale_rule="weighted-mse"), tmp_path / "x")


def test_a_nan_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    place = tiny.save(tiny.llama, tmp_path / "source")
    state = load_file(place / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(state, place / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        quantize_checkpoint(find_model(str(place)), SCHEME, out, shard_bytes=SHARD)
    assert list(out.glob("model-00001*"))
    assert not (out / "config.json").exists()
    assert not list(out.glob(".*.tmp"))


def test_a_full_disk_leaves_nothing_half_written(source, tmp_path: Path, monkeypatch) -> None:
    import safetensors.torch

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(FailureError, match="No space left"):
            quantize_checkpoint(source, SCHEME, tmp_path / "out", shard_bytes=SHARD)
    assert not [f for f in (tmp_path / "out").iterdir() if f.name != ".studentfloat"]
    assert quantize_checkpoint(source, SCHEME, tmp_path / "out", shard_bytes=SHARD) is not None


def test_dequantize(packed: Path, source, tmp_path: Path) -> None:
    dequantize_checkpoint(packed, tmp_path / "dense")
    checkpoint, dense = PackedCheckpoint.open(packed), find_model(str(tmp_path / "dense"))
    state = state_of(dense)
    assert state.keys() == state_of(source).keys()
    for name in checkpoint.weights:
        assert torch.equal(state[name], checkpoint.weight(name).dequantize())
    half = dequantize_checkpoint(packed, tmp_path / "half", dtype="bfloat16")
    assert all(t.dtype == torch.bfloat16 for t in state_of(find_model(str(half))).values())
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="int4"):
        dequantize_checkpoint(packed, tmp_path / "other", dtype="int4")


def test_verify_finds_what_changed(copy: Path, source) -> None:
    checkpoint = PackedCheckpoint.open(copy)
    norm = next(name for name in checkpoint.plain_names() if name.endswith("norm.weight"))
    shard = checkpoint.files[norm].shard
    state = load_file(shard)
    state[norm][0] += 1
    save_file(state, shard, {"format": "pt"})
    found = verify_checkpoint(copy, source=source)
    assert len(found.problems) == 2
    assert all(norm in problem for problem in found.problems)


def test_verify_without_a_manifest_says_so(copy: Path) -> None:
    (copy / "studentfloat.json").unlink()
    found = verify_checkpoint(copy)
    assert found.hashed == 0
    assert "no hashes" in found.problems[0]


def rewrite_config(directory: Path, change) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text())
    change(config["quantization_config"])
    file.write_text(json.dumps(config))


def truncate(directory: Path) -> None:
    shard = sorted(directory.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-40])


def lie_in_header(directory: Path, change) -> None:
    shard = sorted(directory.glob("*.safetensors"))[0]
    raw = shard.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(next(v for k, v in header.items() if k != "__metadata__"))
    text = json.dumps(header).encode()
    shard.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def point_outside(directory: Path) -> None:
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../../etc/passwd.safetensors")
    file.write_text(json.dumps(index))


FAULTS = {
    "truncated": truncate,
    "no shard": lambda d: sorted(d.glob("*.safetensors"))[0].unlink(),
    "offsets beyond the file": lambda d: lie_in_header(
        d, lambda e: e.update(data_offsets=[0, 1 << 50])
    ),
    "10^12 elements": lambda d: lie_in_header(
        d, lambda e: e.update(shape=[10**12], data_offsets=[0, 4 * 10**12])
    ),
    "a negative offset": lambda d: lie_in_header(d, lambda e: e.update(data_offsets=[-8, 8])),
    "an odd type": lambda d: lie_in_header(d, lambda e: e.update(dtype="F31")),
    "a header of 2^60 bytes": lambda d: sorted(d.glob("*.safetensors"))[0].write_bytes(
        struct.pack("<Q", 1 << 60) + b"{}"
    ),
    "an empty shard": lambda d: sorted(d.glob("*.safetensors"))[0].write_bytes(b""),
    "a path outside": point_outside,
    "another version": lambda d: rewrite_config(d, lambda c: c.update(version=3)),
    "another method": lambda d: rewrite_config(d, lambda c: c.update(quant_method="other")),
    "scheme 7": lambda d: rewrite_config(
        d, lambda c: next(iter(c["tensors"].values())).update(scheme=7)
    ),
    "a huge shape": lambda d: rewrite_config(
        d, lambda c: next(iter(c["tensors"].values())).update(shape=[10**6, 10**6])
    ),
    "another block size": lambda d: rewrite_config(
        d, lambda c: c["schemes"][0].update(block_size=8)
    ),
    "a weight that is not there": lambda d: rewrite_config(
        d, lambda c: c["tensors"].update(ghost=next(iter(c["tensors"].values())))
    ),
    "config that is no JSON": lambda d: (d / "config.json").write_text("{"),
    "deep JSON": lambda d: (d / "config.json").write_text("[" * 200_000),
    "index that is a list": lambda d: (d / "model.safetensors.index.json").write_text("[]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_hostile_files(fault: str, copy: Path) -> None:
    FAULTS[fault](copy)
    try:
        problems = verify_checkpoint(copy).problems
    except StudentFloatError as error:
        problems = (str(error),)
    assert problems
    assert not any("\n" in problem for problem in problems)


def test_memory_is_flat(tmp_path: Path) -> None:
    """A checkpoint several times larger than the memory that quantizing it adds."""
    place = tmp_path / "source"
    tiny.save(lambda: tiny.llama(num_hidden_layers=1), place)
    config = json.loads((place / "config.json").read_text())
    layers = 24
    config.update(num_hidden_layers=layers, hidden_size=1024, intermediate_size=2048)
    config.update(num_attention_heads=8, num_key_value_heads=8, head_dim=128, layer_types=None)
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").unlink()
    shapes = {
        "self_attn.q_proj": (1024, 1024),
        "self_attn.k_proj": (1024, 1024),
        "self_attn.v_proj": (1024, 1024),
        "self_attn.o_proj": (1024, 1024),
        "mlp.gate_proj": (2048, 1024),
        "mlp.up_proj": (2048, 1024),
        "mlp.down_proj": (1024, 2048),
    }
    weight_map = {}
    for layer in range(layers):
        tensors = {
            f"model.layers.{layer}.{name}.weight": torch.randn(shape).bfloat16()
            for name, shape in shapes.items()
        }
        tensors |= {
            f"model.layers.{layer}.{name}.weight": torch.ones(1024)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        file = f"model-{layer:02}.safetensors"
        save_file(tensors, place / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    rest = {
        "model.embed_tokens.weight": torch.randn(260, 1024).bfloat16(),
        "model.norm.weight": torch.ones(1024),
    }
    save_file(rest, place / "model-rest.safetensors", {"format": "pt"})
    weight_map |= dict.fromkeys(rest, "model-rest.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    size = sum(f.stat().st_size for f in place.glob("*.safetensors"))
    script = (
        "import resource; from pathlib import Path\n"
        "from studentfloat.models import find_model, quantize_checkpoint\n"
        "from studentfloat.quantize import Scheme\n"
        "import torch, transformers, studentfloat.models.skeleton as s\n"
        f"source = find_model({str(place)!r}); s.skeleton(source)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        f"quantize_checkpoint(source, Scheme('sf4', scale_dtype='bfloat16'), "
        f"Path({str(tmp_path / 'out')!r}), shard_bytes=1 << 26)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < size / 2


def test_no_time_passes_unseen(source, tmp_path: Path) -> None:
    seen = []
    quantize_checkpoint(
        source, SCHEME, tmp_path / "out", progress=lambda share, what: seen.append((share, what))
    )
    assert [share for share, _ in seen] == sorted(share for share, _ in seen)
    assert seen[-1][0] == pytest.approx(1.0)
    assert len(seen) == len(state_of(source))


@pytest.mark.parametrize("both", [False, True], ids=["head alone", "both"])
def test_a_tied_head_under_its_own_name(both: bool, tmp_path: Path) -> None:
    """Checkpoints may hold a tied weight as the head's; it is packed once, as the model's first."""
    import transformers

    import studentfloat.transformers

    assert studentfloat.transformers.StudentFloatConfig
    place = tiny.save(tiny.llama, tmp_path / "source")
    state = load_file(place / "model.safetensors")
    table = state["model.embed_tokens.weight"] if both else state.pop("model.embed_tokens.weight")
    state["lm_head.weight"] = table.clone()
    save_file(state, place / "model.safetensors", {"format": "pt"})
    source = find_model(str(place))
    quantize_checkpoint(source, SCHEME, tmp_path / "out", head=True)
    checkpoint = PackedCheckpoint.open(tmp_path / "out")
    assert "model.embed_tokens.weight" in checkpoint.weights
    assert "lm_head.weight" not in checkpoint.files
    assert not verify_checkpoint(tmp_path / "out", source=source).problems
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected, _ = fake_quantize(table, SCHEME)
    assert torch.equal(model.get_input_embeddings()(torch.arange(260)), expected)
    assert torch.equal(model.get_output_embeddings().weight.dequantize(), expected)


def test_a_trellis_is_packed_verified_and_loaded(source, tmp_path) -> None:
    scheme = Scheme("trellis3", block_size="row", scale_dtype="bfloat16")
    packed = tmp_path / "packed"
    quantize_checkpoint(source, scheme, packed, shard_bytes=SHARD)
    verify_checkpoint(packed)
    config = json.loads((packed / "config.json").read_text())["quantization_config"]
    assert config["formats"]["trellis3"]["kind"] == "trellis"
    dequantize_checkpoint(packed, tmp_path / "dense")
    dense = state_of(find_model(str(tmp_path / "dense")))
    original = state_of(source)
    stored = {k: v for file in packed.glob("*.safetensors") for k, v in load_file(file).items()}
    for name in config["tensors"]:
        expected, _ = fake_quantize(original[name], scheme)
        assert torch.equal(dense[name], expected.to(dense[name].dtype))
        rows, columns = original[name].shape
        assert stored[name].shape == (rows, columns * 3 // 8)
    # Whole bytes hold any codes, so a changed one is found by its hash alone; a torn shape is not
    # read at all.
    name = next(iter(config["tensors"]))
    (file,) = [f for f in packed.glob("*.safetensors") if name in load_file(f)]
    torn = load_file(file)
    save_file({**torn, name: torn[name][:, 1:].contiguous()}, file, metadata={"format": "pt"})
    with pytest.raises(StudentFloatError, match=name):
        verify_checkpoint(packed)
