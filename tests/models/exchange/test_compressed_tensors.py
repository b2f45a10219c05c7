"""compressed-tensors out, read back by the package and through transformers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import studentfloat.transformers  # noqa: F401  (registers the packed layers)
from studentfloat.errors import ConfigError, SchemeError
from studentfloat.models import PackedCheckpoint, find_model, quantize_checkpoint
from studentfloat.models.exchange import export_model
from studentfloat.quantize import ROW, Scheme
from tests import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

NVFP4 = Scheme("e2m1", 16, scale_dtype="e4m3")
MXFP4 = Scheme("e2m1", 32, scale_dtype="e8m0")
CASES = {
    "int4 groups": Scheme("int4", 16, scale_dtype="bfloat16"),
    "int4 rows": Scheme("int4", ROW, scale_dtype="bfloat16"),
    "int4 signed scales": Scheme("int4", 32, scale_rule="mse", scale_dtype="bfloat16"),
    "int3": Scheme("int3", 16, scale_dtype="bfloat16"),
    "int8": Scheme("int8", 32, scale_dtype="bfloat16"),
    "mxfp4": MXFP4,
    "mxfp4 of longer blocks": Scheme("e2m1", 64, scale_dtype="e8m0"),
    "nvfp4": NVFP4,
    "nvfp4 under a power of two": Scheme("e2m1", 16, scale_dtype="e4m3/e8m0"),
    "nvfp4 of longer blocks": Scheme("e2m1", 32, scale_dtype="e4m3"),
}


def llama(dtype: torch.dtype = torch.bfloat16, **changes) -> torch.nn.Module:
    return tiny.llama(**{"hidden_size": 64, "intermediate_size": 128, **changes}).to(dtype)


def pack(scheme: Scheme, place: Path, make=llama, **options) -> Path:
    source = find_model(str(tiny.save(make, place / "source", max_shard_size="60KB")))
    quantize_checkpoint(source, scheme, place / "packed", shard_bytes=60_000, **options)
    return place / "packed"


def own_decompression(place: Path) -> dict[str, torch.Tensor]:
    """What the package compressed-tensors makes of every packed weight."""
    state = {k: v for file in place.glob("*.safetensors") for k, v in load_file(file).items()}
    config = json.loads((place / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
    compressor = BaseCompressor.load_from_registry(config["format"])
    found = {}
    for name in state:
        stem, marker, _ = name.partition(".weight_packed")
        if marker:
            parts = {k.rpartition(".")[2]: v for k, v in state.items() if k.startswith(f"{stem}.")}
            found[f"{stem}.weight"] = compressor.decompress(parts, scheme)["weight"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_package_makes_the_same_numbers(case: str, tmp_path: Path) -> None:
    packed = pack(CASES[case], tmp_path)
    export_model(packed, "compressed-tensors", tmp_path / "out")
    checkpoint, made = PackedCheckpoint.open(packed), own_decompression(tmp_path / "out")
    assert len(made) == 14
    assert made.keys() == checkpoint.weights.keys()
    for name, values in made.items():
        assert values.dtype == torch.bfloat16
        assert torch.equal(values, checkpoint.weight(name).dequantize()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_types(dtype: torch.dtype, tmp_path: Path) -> None:
    """Integers come back in the weight's type; the four-bit floats in bfloat16 always."""
    for kind, scheme in {
        "int": Scheme("int4", 16, scale_dtype=str(dtype).removeprefix("torch.")),
        "mx": MXFP4,
        "nv": NVFP4,
    }.items():
        packed = pack(scheme, tmp_path / kind, lambda: llama(dtype))
        export_model(packed, "compressed-tensors", tmp_path / f"{kind}-out")
        checkpoint = PackedCheckpoint.open(packed)
        wanted = dtype if kind == "int" else torch.bfloat16
        for name, values in own_decompression(tmp_path / f"{kind}-out").items():
            made = checkpoint.weight(name).base.dequantize(wanted)
            assert torch.equal(values, made), name


@pytest.mark.parametrize("case", ["int4 groups", "int4 rows", "mxfp4", "nvfp4"])
@pytest.mark.filterwarnings("ignore")
def test_through_transformers(case: str, tmp_path: Path) -> None:
    packed = pack(CASES[case], tmp_path, lambda: llama(tie_word_embeddings=False))
    export_model(packed, "compressed-tensors", tmp_path / "out")
    tokens = torch.arange(4, 40)[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.bfloat16
    )
    dense = transformers.AutoModelForCausalLM.from_pretrained(packed, dtype=torch.bfloat16)
    dense.dequantize()
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, dense(tokens).logits)


REFUSED = {
    "a table": (Scheme("sf4", 16), llama, {}, "'sf4' is neither"),
    "scales of another type": (Scheme("int4", 16), llama, {}, "bfloat16 does not hold them"),
    "E2M1 under other scales": (Scheme("e2m1", 32), llama, {}, "E2M1 goes with"),
    "a tail": (Scheme("int4", 48, scale_dtype="bfloat16"), llama, {}, "no whole groups of 48"),
    "alternatives": (Scheme("e2m1+sp|e2m1+sr", 32), llama, {}, "chooses among"),
    "an embedding": (
        Scheme("int4", 16, scale_dtype="bfloat16"),
        llama,
        {"embeddings": True},
        "packs linear layers",
    ),
    "Conv1D": (Scheme("int4", 16), tiny.gpt2, {}, "packs linear layers"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_carried_is_refused(what: str, tmp_path: Path) -> None:
    scheme, make, options, said = REFUSED[what]
    packed = pack(scheme, tmp_path, make, **options)
    with pytest.raises(SchemeError, match=said):
        export_model(packed, "compressed-tensors", tmp_path / "out")
    assert {f.name for f in tmp_path.iterdir()} == {"source", "packed"}


def test_a_divisor_that_is_not_there(monkeypatch, tmp_path: Path) -> None:
    """Where no float32 gives the same weights the export says what does."""
    from studentfloat.models.exchange import compressed_tensors_out

    monkeypatch.setattr(compressed_tensors_out, "_neighbors", lambda value: [value * 1.01])
    packed = pack(NVFP4, tmp_path)
    with pytest.raises(SchemeError, match="e4m3/e8m0: a power of two"):
        export_model(packed, "compressed-tensors", tmp_path / "out")


def test_negative_two_level_scales(tmp_path: Path) -> None:
    scheme = Scheme("e2m1+sp", 16, scale_rule="signed-absmax", scale_dtype="e4m3")
    packed = pack(scheme, tmp_path)
    with pytest.raises(SchemeError, match=r"e2m1\+sp"):
        export_model(packed, "compressed-tensors", tmp_path / "out")


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    packed = pack(MXFP4, tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        export_model(packed, "compressed-tensors", tmp_path / "source")
