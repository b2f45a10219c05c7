from __future__ import annotations

import json
from pathlib import Path

import click.testing
import pytest

from studentfloat.cli.hardware import hardware
from studentfloat.errors import FailureError, FormatError
from studentfloat.hardware.proof import Proof
from tests import tiny

pytest.importorskip("pyosys", reason="pip install 'studentfloat[hardware]'")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(hardware, arguments)


def test_json_and_table_on_stdout_progress_on_stderr(tmp_path: Path) -> None:
    result = invoke("e2m0", "--json", "--no-proof")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["unit"] == "mac"
    assert [row["name"] for row in data["formats"]] == ["e2m0"]
    assert "synthesis" in result.stderr
    assert list((tmp_path / "cache").rglob("*.json"))
    again = invoke("e2m0", "--no-proof", "--mac-share", "0.2")
    assert "e2m0" in again.stdout
    assert "MACs take 20% of it" in again.stdout


def test_verilog_of_a_format_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nvalues = [-3, -1, 0, 1, 3]\n')
    result = invoke(str(path), "--verilog", "--no-proof")
    assert "module mine_mac_acc12 (" in result.stdout
    assert invoke("int4", "e2m1", "--verilog").exit_code == 2


def test_codes_and_accumulators_of_ones_own(tmp_path: Path) -> None:
    model = tiny.save(tiny.llama, tmp_path / "llama")
    options = ["e2m0", "--no-proof", "--codes-from", str(model)]
    narrow = invoke(*options, "--accumulator-bits", "9", "--overflow", "saturate", "--json")
    assert narrow.exit_code == 0, narrow.output
    data = json.loads(narrow.stdout)
    assert (data["accumulator_bits"], data["overflow"]) == (9, "saturate")
    assert "14 linear layers of" in data["codes"]
    (row,) = data["formats"]
    assert row["accumulator_bits"] == 9
    assert 0 < row["energy_real_fj"] != row["energy_fj"]
    study = invoke(*options, "--study", "accumulators", "--json")
    points = json.loads(study.stdout)
    assert {point["codes"] for point in points} == {data["codes"]}
    assert {point["overflow"] for point in points} == {"wrap", "saturate"}


def test_misuse(tmp_path: Path) -> None:
    values = ", ".join(map(str, range(300)))
    path = tmp_path / "many.toml"
    path.write_text(f'name = "many"\nvalues = [{values}]\n')
    result = invoke(str(path))
    assert isinstance(result.exception, FormatError)
    assert "300 values" in str(result.exception)
    half = tmp_path / "half.lib"
    half.write_text("library (x) { cell (INV) { area : 1;")
    result = invoke("int4", "--liberty", str(half))
    assert isinstance(result.exception, FailureError)
    assert "truncated" in str(result.exception)
    assert invoke("int4", "--study", "sweep", "--unit", "systolic").exit_code == 2


@pytest.mark.parametrize(
    ("study", "option", "value"),
    [
        ("sweep", "--lookup-bits", "8"),
        ("sweep", "--dot-length", "64"),
        ("sweep", "--accumulator-bits", "12"),
        ("sweep", "--codes-from", "m"),
        ("accumulators", "--overflow", "saturate"),
        ("accumulators", "--unit", "dot4"),
    ],
)
def test_a_study_refuses_options_that_it_does_not_look_at(study, option, value) -> None:
    result = invoke("int4", "--study", study, option, value)
    assert result.exit_code == 2
    assert f"--study {study} takes no {option}" in result.stderr


def test_a_row_that_is_not_proved_is_a_failure(monkeypatch) -> None:
    unproved = Proof(False, "", "not this time")
    monkeypatch.setattr("studentfloat.hardware.mac_rows.prove_result", lambda *_: unproved)
    result = invoke("e2m0", "--no-cache")
    assert "NO: not this time" in result.stdout
    assert isinstance(result.exception, FailureError)
    assert "not proved: e2m0" in str(result.exception)
