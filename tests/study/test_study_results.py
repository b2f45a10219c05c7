"""What a study found, joined and exported; and what its commands say and return."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from studentfloat.cli.main import cli
from studentfloat.errors import ConfigError
from studentfloat.records import StudyResult, record_from_json, record_to_json
from studentfloat.study import CompareOptions, compare, read_study
from studentfloat.study.sweep.drive import RunSettings, begin_study, open_study, run_study
from studentfloat.study.sweep.export import export_study
from studentfloat.study.sweep.measures import COLUMNS, index_study
from studentfloat.study.sweep.show import status_text
from studentfloat.study.sweep.status import study_status
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.study_file import parse_study
from studentfloat.study.sweep.worker import work
from tests import tiny

STUDY = """
name = "small"
title = "A small study & more"
models = [{ id = "llama", name = "tiny" }, { id = "nowhere", name = "absent" }]
formats = ["nf4", "int8", "int2"]
methods = ["rtn", "gptq"]
activations = ["none", "same"]
schemes = [{ block_size = 16 }]
laws = true

[quality]
texts = ["pydoc"]
windows = 4
window_length = 24

[tasks]
names = ["winogrande", "lambada_openai"]
data = "data"

[calibration]
windows = 4
window_length = 24

[[exclude]]
format = ["nf4", "int2"]
method = "gptq"

[[exclude]]
model = "absent"
format = ["int2", "int8", "nf4"]

[[exclude]]
model = "absent"
evaluation = ["laws", "winogrande", "lambada_openai"]

[[exclude]]
evaluation = "lambada_openai"
format = "int2"
"""


class InThisProcess:
    def run(self, directory: Path, settings, watch) -> None:
        work(directory, settings)
        watch()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with a model, items of two tasks, and a study that was run."""
    directory = tmp_path_factory.mktemp("study")
    tiny.save(tiny.llama, directory / "llama")
    items = [
        {"sentence": f"The {a} saw the {b} because _ came.", "option1": a, "option2": b,
         "answer": str(1 + i % 2)}
        for i, (a, b) in enumerate([("dog", "cat"), ("sun", "moon"), ("man", "sea")] * 2)
    ]  # fmt: skip
    texts = [{"text": f"one two three four number {i} is here"} for i in range(4)]
    for name, rows in (("winogrande/validation", items), ("lambada_openai/test", texts)):
        file = directory / "data" / f"{name}.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = parse_study(STUDY, base=directory)
    begin_study(options, directory / "out", text=STUDY)
    status = run_study(directory / "out", RunSettings(InThisProcess()))
    assert (status.planned, status.failed) == (status.done + 1, 1)
    return directory


@pytest.fixture(scope="module")
def result(place) -> StudyResult:
    return read_study(place / "out")


def test_rows_hold_all_that_was_found(result) -> None:
    model, absent = result.models
    assert result.name == "A small study & more"
    assert model.model == "tiny"
    names = {row.name for row in model.formats}
    assert names == {"nf4", "nf4 a:nf4", "int8", "int8 a:int8", "int2", "int2 a:int2",
                     "int8 gptq", "int8 gptq a:int8"}  # fmt: skip
    for row in model.formats:
        assert row.bits_per_weight > row.bits
        assert all(weight.seconds == 0 for weight in row.weights)
        assert len(row.windows("kl")) == 4
        tasks = {score.task for score in row.scores}
        wanted = {"winogrande"} if row.format == "int2" else {
            "winogrande", "lambada_openai"}  # fmt: skip
        assert tasks == wanted
        assert len(row.cells) == 1 + len(wanted)
    by_name = {row.name: row for row in model.formats}
    assert by_name["int8"].kl < by_name["nf4"].kl < by_name["int2"].kl
    assert by_name["nf4"].kl < by_name["nf4 a:nf4"].kl
    assert model.formats[0].rank == 1
    assert model.baseline.perplexity > 1
    assert {score.task for score in model.original_scores} == {"winogrande", "lambada_openai"}
    assert {law.name for law in model.laws} >= {"model.layers.0.mlp.up_proj.weight"}
    assert {frontier.cost for frontier in model.frontiers} == {"bits_per_weight"}
    assert absent.formats == ()
    assert "nowhere" in absent.provenance.model_source


def test_differences_are_paired_within_each_measure(result) -> None:
    differences = result.models[0].differences
    measures = {pair.measure for pair in differences}
    assert measures == {"kl", "winogrande acc", "lambada_openai acc"}
    assert sum(pair.measure == "kl" for pair in differences) == 8 * 7 // 2
    assert sum(pair.measure == "lambada_openai acc" for pair in differences) == 6 * 5 // 2


def test_a_study_measures_what_compare_measures(place, result) -> None:
    rows = {row.name: row for row in result.models[0].formats}
    common = {
        "model": str(place / "llama"),
        "methods": ("rtn", "gptq"),
        "formats": ("int8",),
        "block_size": 16,
        "texts": ("pydoc",),
        "windows": 4,
        "window_length": 24,
        "calibration_windows": 4,
        "calibration_length": 24,
    }
    for activations, suffix in ((None, ""), ("int8", " a:int8")):
        compared = compare(CompareOptions(**common, activations=activations))
        for row in compared.formats:
            mine = rows[f"{row.name}{suffix}"]
            assert mine.windows("kl") == row.windows("kl")
            assert mine.windows("perplexity") == row.windows("perplexity")
            assert mine.weight_nmse == row.weight_nmse
            assert mine.note == row.note
    assert compared.baseline == result.models[0].baseline


def test_json_round_trip(result, place) -> None:
    text = export_study(place / "out", "json")
    assert (
        record_from_json(StudyResult, json.loads(text)).models[0].formats
        == result.models[0].formats
    )
    assert result.planned == result.done + 1
    (failure,) = result.failures
    assert failure.configuration.model == "absent"


def test_one_row_for_each_measure(place, result, tmp_path) -> None:
    export_study(place / "out", "csv", tmp_path / "o.csv")
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    kl = {row["name"]: float(row["value"]) for row in rows if row["measure"] == "kl"}
    assert kl == {row.name: row.kl for row in result.models[0].formats}
    lines = [json.loads(line) for line in export_study(place / "out", "jsonl").splitlines()]
    assert [float(row["value"]) for row in rows] == [line["value"] for line in lines]
    scores = [line for line in lines if line["evaluation"] == "winogrande"]
    assert len({line["name"] for line in scores}) == 9
    arrow = pytest.importorskip("pyarrow.parquet")
    export_study(place / "out", "parquet", tmp_path / "o.parquet")
    table = arrow.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["value"] for row in table] == [line["value"] for line in lines]


def test_the_index_is_made_again_where_it_is_missing_or_damaged(place, tmp_path) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    before = export_study(tmp_path / "out", "jsonl")
    index = tmp_path / "out" / "index.sqlite"
    for damage in (index.unlink, lambda: index.write_bytes(b"no database" * 999)):
        damage()
        assert export_study(tmp_path / "out", "jsonl") == before
    plan, store = open_study(tmp_path / "out")
    kept = index_study(plan, store).read_bytes()
    assert index_study(plan, store).read_bytes() == kept
    with closing(sqlite3.connect(index)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM measures").fetchone()
    assert count == len(before.splitlines())


def test_lm_eval_layout(place, result, tmp_path) -> None:
    export_study(place / "out", "lm-eval", tmp_path)
    data = json.loads((tmp_path / "tiny__nf4" / "results.json").read_text())
    row = next(row for row in result.models[0].formats if row.name == "nf4")
    score = next(score for score in row.scores if score.task == "winogrande")
    assert data["results"]["winogrande"]["acc,none"] == score.value
    assert data["results"]["winogrande"]["acc_stderr,none"] == score.standard_error
    assert data["n-samples"]["winogrande"]["effective"] == 6
    assert data["higher_is_better"]["winogrande"] == {"acc": True}
    assert len(list(tmp_path.iterdir())) == 9
    with pytest.raises(ConfigError, match="-o PATH"):
        export_study(place / "out", "lm-eval")


def test_latex(place) -> None:
    text = export_study(place / "out", "latex")
    assert r"A small study \& more: tiny" in text
    assert r"lambada\_openai" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    first = lines[: lines.index(next(line for line in lines[1:] if line.startswith("format")))]
    assert len({line.count("&") for line in first}) == 1
    (nf4,) = [line for line in lines if line.startswith("nf4 &")]
    assert "5.00" in nf4
    assert r"\textbf{" in text


def test_markdown(place, result) -> None:
    text = export_study(place / "out", "markdown")
    tables = [table.splitlines() for table in text.split("\n\n")]
    assert [len(table) for table in tables] == [3 + len(model.formats) for model in result.models]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
        assert table[2].startswith("| original | – |")
    (nf4,) = [line for line in tables[0] if line.startswith("| nf4 |")]
    row = next(row for row in result.models[0].formats if row.name == "nf4")
    assert f"{row.perplexity:.2f} ± {row.perplexity_se:.2f}" in nf4
    score = next(s for s in row.scores if s.task == "winogrande" and s.primary)
    assert f"{100 * score.value:.1f}" in nf4
    assert f"± {100 * score.standard_error:.1f}" in nf4


def test_a_damaged_cell_is_done_again(place, result, tmp_path) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    name, address = (
        result.models[0].formats[0].configuration.name,
        result.models[0].formats[0].cells[0],
    )
    file = Store(tmp_path / "out").cell_file(address)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    rows = {row.name: row for row in read_study(tmp_path / "out").models[0].formats}
    assert address not in rows[name].cells
    assert rows[name].measures == ()
    assert not file.exists()
    assert run_study(tmp_path / "out", RunSettings(InThisProcess())).failed == 1
    assert file.read_bytes() == whole


def test_a_study_that_grows_does_only_what_is_new(place, tmp_path) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    more = parse_study(STUDY.replace('"int2"]\nmethods', '"int2", "sf4"]\nmethods'), base=place)
    begin_study(more, tmp_path / "out")
    worked = work(tmp_path / "out")
    assert worked.computed == 4 * 3  # sf4 alone and with gptq, with and without activations
    other = parse_study(STUDY.replace('name = "small"', 'name = "other"'), base=place)
    with pytest.raises(ConfigError, match="holds the study 'small', not 'other'"):
        begin_study(other, tmp_path / "out")


def test_a_model_whose_files_changed_meanwhile_fails_its_cells(place, tmp_path) -> None:
    shutil.copytree(place / "llama", tmp_path / "llama")
    options = parse_study(
        "models = ['llama']\nformats = ['nf4']\n"
        "[quality]\ntexts = ['pydoc']\nwindows = 2\nwindow_length = 24",
        base=tmp_path,
    )
    begin_study(options, tmp_path / "out")
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    (tmp_path / "llama" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert work(tmp_path / "out").failed == 2
    (failure, _) = study_status(*open_study(tmp_path / "out")).failures
    assert "not the one that the study began with" in failure.error


def test_commands(place) -> None:
    run = CliRunner().invoke
    out = str(place / "out")
    status = run(cli, ["study", "status", out])
    assert status.exit_code == 0
    assert "failed: absent original, quality: " in status.output
    data = json.loads(run(cli, ["study", "status", out, "--json"]).output)
    assert (data["schema"], data["failed"]) == ("study-status/1", 1)
    exported = run(cli, ["study", "export", out, "--to", "latex", "-q"])
    assert exported.output == export_study(place / "out", "latex")
    nothing = run(cli, ["study", "status", str(place / "data")])
    assert isinstance(nothing.exception, ConfigError)
    assert tomllib.loads((place / "out" / "study.toml").read_text())["name"] == "small"


def test_exit_status_3_when_some_failed(place, monkeypatch) -> None:
    import sys

    from studentfloat.cli.main import main

    command = ["studentfloat", "study", "resume", str(place / "out"), "-q"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 3


def test_the_state_of_a_study_at_work(place, tmp_path) -> None:
    begin_study(parse_study(STUDY, base=place), tmp_path)
    plan, store = open_study(tmp_path)
    with store.claims() as claims:
        assert claims.take(plan.cells[0].address)
        store.log("w", event="done", cell="x", seconds=7.0, model="tiny", method="rtn",
                  evaluation="quality")  # fmt: skip
        found = study_status(plan, store)
    (running,) = found.running
    assert (running.model, running.name, running.evaluation) == ("tiny", "original", "quality")
    assert found.seconds_left > 0
    assert "at work: tiny original, quality, on " in status_text(found)
    assert record_to_json(found)["planned"] == len(plan.by_address)
