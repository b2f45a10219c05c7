"""A part that only this file knows, once it is in the list of parts, goes through everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import studentfloat.transformers  # noqa: F401
from studentfloat.errors import ModelError, SchemeError
from studentfloat.kernels.corrections import LowRankMatrix
from studentfloat.models import PackedCheckpoint, dequantize_checkpoint
from studentfloat.models.exchange.blocks import refuse_extras
from studentfloat.models.packed_files import read_raw, write_layout
from studentfloat.quantize.fields import read_table
from studentfloat.quantize.parts import registry
from studentfloat.quantize.parts.part import (
    Correction,
    MatrixSpec,
    PartOfWeightSpec,
    RowReader,
    TensorSpec,
)
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.stored import StoredWeight

PACKED = Path(__file__).parents[2] / "data" / "layout1" / "plain"


@dataclass(frozen=True)
class RowShiftSpec(PartOfWeightSpec):
    kind: ClassVar[str] = "row_shift"

    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        return {"_row_shift": TensorSpec(torch.float32, (*matrix.shape[:-1], 1))}

    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> RowShift:
        return RowShift(tensors["_row_shift"])

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> RowShiftSpec:
        read_table(data, (), where)
        return cls()

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        return "shifts its rows"


@dataclass(frozen=True, eq=False)
class RowShift(Correction):
    """A number per row that is added to all of it."""

    values: Tensor

    kind: ClassVar[str] = RowShiftSpec.kind

    @property
    def spec(self) -> RowShiftSpec:
        return RowShiftSpec()

    def tensors(self) -> dict[str, Tensor]:
        return {"_row_shift": self.values}

    def fit(self, shape: tuple[int, ...]) -> None:
        assert self.values.shape == (*shape[:-1], 1)

    def check(self, shape: tuple[int, ...], name: str) -> None:
        if bool((self.values > 100).any()):
            raise ModelError(f"{name}_row_shift is more than 100")

    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> RowShift:
        return RowShift(self.values[indices])

    def member(self, number: int, shape: tuple[int, ...]) -> RowShift:
        return RowShift(self.values[number])

    def apply(self, weight: Tensor) -> Tensor:
        return weight + self.values.to(weight.dtype)

    def kernel(self, before: RowReader, shape: tuple[int, int]) -> LowRankMatrix:
        return LowRankMatrix(self.values, torch.ones(1, shape[1]))


@pytest.fixture
def directory(monkeypatch, tmp_path: Path) -> Path:
    """A packed checkpoint whose weights have the part."""
    monkeypatch.setitem(registry.PARTS, RowShiftSpec.kind, RowShiftSpec)
    old = PackedCheckpoint.open(PACKED)
    tensors = {name: read_raw(old.files[name]) for name in old.plain_names()}
    described = {}
    for number, (name, stored) in enumerate(old.weights.items()):
        weight = old.weight(name)
        shift = torch.linspace(-1, 1, weight.shape[0])[:, None] * (number + 1)
        weight = replace(weight, parts=(RowShift(shift.contiguous()),))
        described[name] = StoredWeight.of(weight, stored.shape, stored.orientation, method="rtn")
        tensors |= {name + suffix: tensor for suffix, tensor in weight.tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = {**old.config, "quantization_config": write_layout(described)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_it_is_stored_read_and_counted(directory: Path) -> None:
    old, new = PackedCheckpoint.open(PACKED), PackedCheckpoint.open(directory)
    for number, name in enumerate(old.weights):
        before, after = old.weight(name), new.weight(name)
        shift = torch.linspace(-1, 1, before.shape[0])[:, None] * (number + 1)
        expected = before.dequantize().float() + shift
        assert torch.equal(after.dequantize(torch.float32), expected)
        assert after.bits == before.bits + 32 * before.shape[0]
        assert new.weights[name].method == "rtn"
        with pytest.raises(SchemeError, match=f"ONNX cannot carry {name}: it shifts its rows"):
            refuse_extras(name, new.weights[name], "ONNX")


def test_models_multiply_by_it_and_save_it(directory: Path, tmp_path: Path) -> None:
    load = transformers.AutoModelForCausalLM.from_pretrained
    model, dense = (load(directory, dtype=torch.float32) for _ in range(2))
    dense.dequantize()
    tokens = torch.arange(2, 14).reshape(2, 6)
    with torch.no_grad():
        expected = dense(tokens).logits
        # The dense weight is rounded to bfloat16, the checkpoint's type, before the shift.
        torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=2e-3)
        without = load(PACKED, dtype=torch.float32)(tokens).logits
        assert not torch.allclose(without, expected, atol=0.1)
    model.save_pretrained(tmp_path / "again")
    again, first = PackedCheckpoint.open(tmp_path / "again"), PackedCheckpoint.open(directory)
    for name in first.weights:
        assert torch.equal(again.weight(name).dequantize(), first.weight(name).dequantize())


def test_its_numbers_are_checked(directory: Path) -> None:
    checkpoint = PackedCheckpoint.open(directory)
    name, stored = next(iter(checkpoint.weights.items()))
    tensors = checkpoint.weight(name).tensors()
    tensors["_row_shift"] = tensors["_row_shift"] + 200
    with pytest.raises(ModelError, match="is more than 100"):
        stored.check(tensors, name)


def test_without_it_in_the_list_its_files_are_refused(directory: Path, monkeypatch) -> None:
    monkeypatch.delitem(registry.PARTS, RowShiftSpec.kind)
    with pytest.raises(ModelError, match="has a part 'row_shift'; this studentfloat reads codes, "):
        PackedCheckpoint.open(directory)


def test_it_is_dequantized(directory: Path, tmp_path: Path) -> None:
    dequantize_checkpoint(directory, tmp_path / "dense")
    checkpoint, dense = PackedCheckpoint.open(directory), {}
    for file in (tmp_path / "dense").glob("*.safetensors"):
        dense |= load_file(file)
    for name in checkpoint.weights:
        assert torch.equal(dense[name], checkpoint.weight(name).dequantize())
