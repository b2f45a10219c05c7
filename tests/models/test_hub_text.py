"""Texts from data sets: the hub's own library reads a directory as it reads the hub."""

from __future__ import annotations

import json

import pytest

from studentfloat.errors import ConfigError, DataError
from studentfloat.models import Calibration, find_model, load_model
from studentfloat.models.hub_text import DataSet, parse_data_set, read_data_set
from studentfloat.models.text import load_calibration_text, load_text
from tests import tiny

pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")


@pytest.fixture
def directory(tmp_path):
    rows = [
        {"text": "The first.", "other": "eins", "label": 1},
        {"text": "  ", "other": "zwei", "label": 2},
        {"text": "The third.", "other": "drei", "label": 3},
    ]
    for split in ("train", "test"):
        lines = [json.dumps({**row, "other": f"{row['other']} {split}"}) for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_rows_are_joined_and_empty_ones_left_out(directory) -> None:
    assert load_text(f"hub:{directory}").content == "The first.\n\nThe third."
    text = load_calibration_text(f"hub:{directory},split=test,field=other,rows=2")
    assert text.parts[0][0].content == "eins test\n\nzwei test"
    assert text.source == f"data set {directory},split=test,field=other,rows=2"


def test_no_more_is_read_than_is_wanted(directory) -> None:
    assert read_data_set(DataSet(str(directory)), 5) == "The first."


def test_calibration_takes_one(directory, tmp_path) -> None:
    model = load_model(find_model(str(tiny.save(tiny.llama, tmp_path / "model"))))
    cut = Calibration(f"hub:{directory}", windows=1, window_length=8).cut(model)
    assert cut.tokens.shape == (1, 8)
    assert cut.source.startswith("data set ")


def test_parsing() -> None:
    spec = "hub:owner/name,config=raw,split=test,field=body,rows=10,revision=abc"
    assert parse_data_set(spec) == DataSet("owner/name", "raw", "test", "body", 10, "abc")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hub:owner/name,spilt=train", "'spilt=train' is none of config, split"),
        ("hub:owner/name,rows=0", "rows=0 is no number from 1 up"),
        ("hub:owner/name,rows=ten", "rows=ten"),
        ("hub:,split=train", "has no name"),
        ("hub:owner/name,split=", "'split=' is none of"),
    ],
)
def test_misuse(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_data_set(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{},field=body", "no text in column 'body' of row 1: .* other, text$"),
        ("{},field=label", "no text in column 'label'"),
        ("{},split=validation", "cannot read the data set"),
        ("{}/nothing", "cannot read the data set"),
    ],
)
def test_what_is_not_there(directory, spec: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load_text("hub:" + spec.format(directory))
    assert "\n" not in str(caught.value)
