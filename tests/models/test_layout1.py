"""Checkpoints of layout 1, from the last version that wrote it, load with the same numbers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import studentfloat.transformers  # noqa: F401
from studentfloat.errors import ModelError
from studentfloat.models import PackedCheckpoint, verify_checkpoint
from studentfloat.models.packed_files import Companions, parse_layout, write_layout
from studentfloat.quantize import QuantizedWeight

DATA = Path(__file__).parents[1] / "data" / "layout1"
HASHES = json.loads((DATA / "hashes.json").read_text())
# Suffixes of the tensors that a kind is there for.
KINDS = {
    "double": "_scale_scale",
    "everything": "_input_scale",
    "input-scale": "_input_scale",
    "low-rank": "_low_rank_left",
    "low-rank-8": "_low_rank_right_scale",
    "outliers": "_outlier_value",
    "row-tables": "_table",
    "selectors": "_selector",
    "two-levels": "_scale_scale",
}


def hash_of(weight: QuantizedWeight) -> str:
    dense = weight.dequantize(torch.float32).contiguous()
    return hashlib.sha256(dense.numpy().tobytes()).hexdigest()[:16]


def test_the_data_is_of_layout_1_and_all_is_hashed() -> None:
    directories = sorted(place.name for place in DATA.iterdir() if place.is_dir())
    assert directories == sorted(HASHES)
    for name in directories:
        layout = json.loads((DATA / name / "config.json").read_text())["quantization_config"]
        assert layout["version"] == 1
        assert layout["tensors"].keys() == HASHES[name].keys()


@pytest.mark.parametrize("name", HASHES)
def test_the_numbers_are_the_same(name: str) -> None:
    checkpoint = PackedCheckpoint.open(DATA / name)
    found = {w: hash_of(checkpoint.weight(w)) for w in checkpoint.weights}
    assert found == HASHES[name]
    suffixes = {suffix for stored in checkpoint.weights.values() for suffix in stored.tensors}
    assert {"", "_scale"} <= suffixes
    assert KINDS.get(name, "") in suffixes
    # Written anew it is of layout 2, and says the same.
    layout = write_layout(checkpoint.weights)
    assert layout["version"] == 2
    assert parse_layout(json.loads(json.dumps(layout))) == checkpoint.weights


def test_run_time_formats_are_read() -> None:
    config = PackedCheckpoint.open(DATA / "tied").config["quantization_config"]
    companions = Companions.from_json(config)
    assert companions.activations.format.name == "int8"
    assert companions.kv_cache.format.name == "int4"


def test_hashes_of_the_files_are_verified() -> None:
    assert not verify_checkpoint(DATA / "everything").problems


@pytest.mark.parametrize("name", ["everything", "fused-experts", "tied"])
def test_transformers_loads_it_and_saves_layout_2(name: str, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(DATA / name)
    model.save_pretrained(tmp_path)
    again = PackedCheckpoint.open(tmp_path)
    assert again.config["quantization_config"]["version"] == 2
    by_end = {w.removeprefix("model."): h for w, h in HASHES[name].items()}
    found = {w: hash_of(again.weight(w)) for w in again.weights}
    # A tied table may bear either of its names.
    assert sorted(found.values()) == sorted(by_end.values())


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    place = Path(shutil.copytree(DATA / "plain", tmp_path / "plain"))
    config = json.loads((place / "config.json").read_text())
    for version in (0, 3, "1", True, None):
        config["quantization_config"]["version"] = version
        (place / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"version .*; this studentfloat reads 1 and 2$"):
            PackedCheckpoint.open(place)


def first(data) -> dict:
    return next(iter(data["tensors"].values()))


HOSTILE = {
    "an unknown key": lambda d: first(d).update(surprise=1),
    "a part of layout 2": lambda d: first(d).update(parts=[{"kind": "codes"}]),
    "an entry of text": lambda d: d["tensors"].update({next(iter(d["tensors"])): "codes"}),
    "schemes of text": lambda d: d.update(schemes="sf4"),
    "no tensors": lambda d: d.pop("tensors"),
    "scheme -1": lambda d: first(d).update(scheme=-1),
    "a scheme of text": lambda d: d.update(schemes=["sf4"]),
    "outliers of text": lambda d: first(d).update(outliers="3"),
    "outliers of another kind": lambda d: first(d).update(outliers={"kind": "codes"}),
    "a rank of text": lambda d: first(d).update(low_rank="3"),
    "a rank with more": lambda d: first(d).update(low_rank={"rank": 1, "type": "float16", "a": 1}),
    "a rank of no scheme": lambda d: first(d).update(low_rank={"rank": 1, "type": {}}),
    "a table of int8": lambda d: first(d).update(row_tables="int8"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_layouts_of_the_first_kind(case: str) -> None:
    layout = json.loads((DATA / "plain" / "config.json").read_text())["quantization_config"]
    parse_layout(layout)
    HOSTILE[case](layout)
    with pytest.raises(ModelError) as caught:
        parse_layout(layout)
    assert "\n" not in str(caught.value)
