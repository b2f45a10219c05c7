"""Checkpoints that others quantized: 8-bit floats dequantized with their scales, others refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studentfloat.errors import ModelError
from studentfloat.models import find_model, load_model, quantize_checkpoint
from studentfloat.quantize import Scheme
from tests import tiny

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STUDENTFLOAT_CACHE", str(tmp_path / "cache"))


def blocks(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The greatest absolute value of each block over E4M3's, of the last ones too."""
    tall, wide = -(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns)
    padded = torch.zeros(tall * rows, wide * columns)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(tall, rows, wide, columns).abs().amax((1, 3)) / 448


def spread(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    whole = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return whole[: shape[0], : shape[1]]


# What a scale belongs to, its name beside the weight's, how it is stored.
KINDS = {
    "tensor": ("_scale", lambda scale: scale.reshape(())),
    "row": ("_scale", lambda scale: scale),
    "flat row": ("_scale", lambda scale: scale.flatten()),
    "block": ("_scale_inv", lambda scale: scale),
    "power of two": ("_scale_inv", lambda scale: scale.to(torch.float8_e8m0fnu)),
}


def write(tmp_path: Path, kind: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """A model in E4M3, and the numbers that it stands for."""
    directory = tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    suffix, store = KINDS[kind]
    stored, dense = {}, {}
    for name, value in state.items():
        if "_proj" not in name:
            stored[name] = dense[name] = value
            continue
        sizes = {"tensor": value.shape, "row": (1, value.shape[1]), "flat row": (1, value.shape[1])}
        block = tuple(sizes.get(kind, (32, 32)))
        scale = blocks(value, *block)
        if kind == "power of two":
            scale = torch.exp2(torch.log2(scale).ceil())
        wide = spread(scale, value.shape, block)
        codes = (value / wide).to(torch.float8_e4m3fn)
        stored[name], stored[name + suffix] = codes, store(scale)
        stored[name.replace("weight", "input_scale")] = torch.ones(())
        dense[name] = codes.float() * wide
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    settings = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    config["quantization_config"] = settings if suffix == "_scale_inv" else {"quant_method": "x"}
    (directory / "config.json").write_text(json.dumps(config))
    return directory, dense


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_multiplied_by_their_scales(kind: str, tmp_path: Path) -> None:
    directory, dense = write(tmp_path, kind)
    source = find_model(str(directory))
    found = {k: v for file in source.weight_files for k, v in load_file(file).items()}
    assert found.keys() == dense.keys()
    for name, value in dense.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0)
    assert any("8-bit floats" in caution for caution in source.cautions)
    loaded = load_model(source).module
    torch.testing.assert_close(loaded.get_parameter(NAME).data, dense[NAME], rtol=1e-6, atol=0)
    report = quantize_checkpoint(source, Scheme("sf4", block_size=16), tmp_path / "out")
    assert NAME in {tensor.name for tensor in report.tensors}


def test_codes_without_scales_are_refused(tmp_path: Path) -> None:
    """Their values alone would be hundreds of times too large."""
    directory, _ = write(tmp_path, "tensor")
    state = load_file(directory / "model.safetensors")
    del state[f"{NAME}_scale"]
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"{NAME} is F8_E4M3 and has neither _scale_inv nor"):
        find_model(str(directory))


def test_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    directory, _ = write(tmp_path, "block")
    state = load_file(directory / "model.safetensors")
    state[f"{NAME}_scale_inv"] = torch.ones(7, 2)
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"shape \[7, 2\], which is no scale per tensor, row or"):
        find_model(str(directory))


@pytest.mark.parametrize(
    ("tensor", "tool"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight_packed", "compressed-tensors"),
        ("SCB", "bitsandbytes"),
        ("weight_scale_2", "ModelOpt"),
    ],
)
def test_other_tools_codes_are_refused_by_name(tensor: str, tool: str, tmp_path: Path) -> None:
    """Also where the configuration does not say that the model is quantized."""
    directory = tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    state[NAME.replace("weight", tensor)] = torch.ones(4, 4, dtype=torch.int32)
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"quantized already.*{tool}"):
        find_model(str(directory))


def test_integers_in_a_weights_place_are_refused(tmp_path: Path) -> None:
    directory = tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    state[NAME] = state[NAME].to(torch.int8)
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"quantized already: {NAME} is of type I8"):
        find_model(str(directory))
