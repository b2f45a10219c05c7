from __future__ import annotations

import dataclasses
import json

import pytest

import studentfloat.study.comparison as module
from studentfloat.errors import ConfigError, DataError, FailureError, FormatError, ModelError
from studentfloat.formats import Format, save_format
from studentfloat.records import Comparison, record_from_json, record_to_json
from studentfloat.study import CompareOptions, compare
from tests import tiny

SMALL = {"windows": 4, "window_length": 24, "block_size": 16}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return str(tiny.save(tiny.llama, tmp_path_factory.mktemp("llama") / "m"))


def options(model: str, **changes) -> CompareOptions:
    return CompareOptions(
        **{"model": model, "formats": ("nf4", "int4", "int8"), **SMALL, **changes}
    )


def without_times(comparison: Comparison) -> dict:
    data = record_to_json(comparison)
    data["provenance"]["created"] = None
    return data


def test_rows_have_all_figures_and_wider_formats_win(llama) -> None:
    result = compare(options(llama))
    by_name = {row.name: row for row in result.formats}
    assert result.ranked_by == "kl"
    assert result.formats[0].name == "int8"
    assert by_name["int8"].rank == 1
    for row in result.formats:
        assert row.method == "rtn"
        assert row.perplexity > 1
        assert row.kl > 0
        assert 0 <= row.top1_agreement <= 1
        assert len(row.windows("kl")) == 4
        assert len(row.tensors) == 14
    assert by_name["int8"].kl < by_name["nf4"].kl
    assert by_name["int8"].weight_nmse < by_name["nf4"].weight_nmse
    assert by_name["nf4"].bits_per_weight == 4 + 16 / 16  # a bfloat16 for each block
    assert result.baseline.perplexity > 1
    assert len(result.differences) == 3
    assert {t.reason for t in result.skipped} >= {"vector (norm, bias or scale)"}


def test_the_model_is_quantized_from_the_original_each_time(llama) -> None:
    """A format's row must not depend on what was measured before it."""
    together = {row.name: row for row in compare(options(llama)).formats}
    alone = compare(options(llama, formats=("nf4",))).formats[0]
    assert alone.windows("kl") == together["nf4"].windows("kl")
    assert alone.weight_nmse == together["nf4"].weight_nmse


def test_interrupted_it_goes_on_where_it_stopped(llama, tmp_path, monkeypatch) -> None:
    undisturbed = compare(options(llama), directory=tmp_path / "a")
    steps = 0

    def interrupt(share: float, what: str) -> None:
        nonlocal steps
        steps += what == "int4"
        if steps > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(options(llama), directory=tmp_path / "b", progress=interrupt)
    measured = []
    compute = module.Laboratory.compute

    def counting(self, cell):
        measured.append(cell.configuration.name)
        return compute(self, cell)

    monkeypatch.setattr(module.Laboratory, "compute", counting)
    resumed = compare(options(llama), directory=tmp_path / "b")
    assert measured == ["int4", "int8"]
    assert without_times(resumed) == without_times(undisturbed)
    again = compare(options(llama), directory=tmp_path / "b")
    assert measured == ["int4", "int8"]
    assert without_times(again) == without_times(undisturbed)


def test_other_settings_reuse_no_cells_and_a_damaged_cell_is_done_again(llama, tmp_path) -> None:
    first = compare(options(llama, formats=("nf4",)), directory=tmp_path)
    other = compare(options(llama, formats=("nf4",), window_length=16), directory=tmp_path)
    assert other.formats[0].kl != first.formats[0].kl
    for cell in (tmp_path / "cells").rglob("*.json"):
        cell.write_text(cell.read_text()[: len(cell.read_text()) // 2])
    assert without_times(compare(options(llama, formats=("nf4",)), directory=tmp_path)) == (
        without_times(first)
    )


def test_a_changed_configuration_reuses_no_cells(tmp_path) -> None:
    directory = tiny.save(tiny.llama, tmp_path / "m")
    first = compare(options(str(directory), formats=("nf4",)), directory=tmp_path / "o")
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["rms_norm_eps"] = 0.1
    file.write_text(json.dumps(config))
    second = compare(options(str(directory), formats=("nf4",)), directory=tmp_path / "o")
    assert second.baseline != first.baseline
    assert second.formats[0].windows("kl") != first.formats[0].windows("kl")


def test_one_window_tells_nothing_apart(llama) -> None:
    result = compare(options(llama, windows=1, formats=("nf4", "int4", "e3m0")))
    assert result.differences == ()
    assert {row.rank for row in result.formats} == {1}
    standings = {point.standing for found in result.frontiers for point in found.points}
    assert "dominated" not in standings


def test_an_at_sign_in_a_path_is_no_scale_rule(llama, tmp_path) -> None:
    (tmp_path / "a@b").mkdir()
    file = tmp_path / "a@b" / "mine.toml"
    save_format(Format.from_values([-1, 0, 1], name="mine"), file)
    for spec in (str(file), f"{file}@signed-absmax"):
        assert compare(options(llama, weights_only=True, formats=(spec,))).formats


def test_a_one_sided_format_says_what_it_does(llama) -> None:
    (row,) = compare(options(llama, weights_only=True, formats=("uint4",))).formats
    assert "no negative levels" in row.note


def test_several_texts_each_have_their_figure_and_ranks_are_by_the_mean(llama, tmp_path) -> None:
    for name, words in (("a", "the quick brown fox jumps over "), ("b", "0 1 2 3 5 8 13 21 34 ")):
        (tmp_path / name).write_text(words * 40)
    texts = (str(tmp_path / "a"), str(tmp_path / "b"))
    out = tmp_path / "out"
    both = compare(options(llama, texts=texts), directory=out)
    assert [text.source for text in both.provenance.texts] == ["file a", "file b"]
    alone = [compare(options(llama, texts=(text,))) for text in texts]
    for row in both.formats:
        found = row.measured("kl")
        its = [next(r for r in one.formats if r.name == row.name) for one in alone]
        assert [on.value for on in found.texts] == [r.kl for r in its]
        assert found.value == row.kl == pytest.approx(sum(r.kl for r in its) / 2)
        assert row.windows("kl") == (*its[0].windows("kl"), *its[1].windows("kl"))
        assert [on.text for on in found.texts] == [t.sha256 for t in both.provenance.texts]
        # Of the weights alone there is one figure, whatever the texts.
        assert row.measured("weight_nmse").texts == ()
        assert row.note == its[0].note
    values = [row.kl for row in both.formats]
    assert values == sorted(values)
    kept = {file: file.stat().st_mtime_ns for file in (out / "cells").rglob("*.json")}
    one = compare(options(llama, texts=texts[:1]), directory=out)
    assert one.formats == alone[0].formats
    assert {file: file.stat().st_mtime_ns for file in (out / "cells").rglob("*.json")} == kept
    with pytest.raises(ConfigError, match="is given twice"):
        compare(options(llama, texts=(texts[0], texts[0])))


def test_weights_only(llama) -> None:
    result = compare(options(llama, weights_only=True, formats=("int4", "int8", "nf4")))
    assert result.ranked_by == "weight_nmse"
    assert [row.rank for row in result.formats] == [1, 2, 3]
    assert result.formats[0].name == "int8"
    assert result.formats[0].perplexity is None
    assert result.baseline.perplexity is None
    assert result.provenance.texts == ()


def test_scale_rules_by_format_and_users_formats(llama, tmp_path) -> None:
    file = tmp_path / "mine.toml"
    save_format(Format.from_values([-1, -0.3, 0, 0.3, 1], name="mine"), file)
    result = compare(
        options(llama, weights_only=True, formats=(str(file), "e2m1+sr", "e2m1+sr@signed-absmax"))
    )
    rules = {row.name: row.scale_rule for row in result.formats}
    assert rules == {
        "mine": "absmax",
        "e2m1+sr": "absmax",
        "e2m1+sr@signed-absmax": "signed-absmax",
    }
    assert {row.name: row.bits for row in result.formats}["mine"] == 3
    published = compare(options(llama, weights_only=True, formats=("int4@published",)))
    assert "comparison only" in published.formats[0].note


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.mixtral, lambda: tiny.bert(head=True)])
def test_other_architectures(make, tmp_path) -> None:
    directory = tiny.save(make, tmp_path / "m")
    result = compare(options(str(directory), formats=("int8", "int2")))
    kl = {row.name: row.kl for row in result.formats}
    assert kl["int8"] < kl["int2"]
    perplexity = result.formats[0].perplexity
    assert (perplexity is None) == (result.baseline.perplexity is None)


def test_an_encoder_is_measured_by_its_outputs(tmp_path) -> None:
    directory = tiny.save(tiny.bert, tmp_path / "m")
    result = compare(options(str(directory), formats=("int8", "int2")))
    assert result.ranked_by == "output_nmse"
    assert result.formats[0].name == "int8"
    assert result.formats[0].perplexity is None
    assert result.formats[0].output_nmse < result.formats[1].output_nmse


CALIBRATED = {"calibration_windows": 4, "calibration_length": 32}


def test_methods_are_rows_beside_each_other(llama, tmp_path) -> None:
    asked = options(
        llama,
        formats=("nf4", "e2m1+sp|e2m1+sr"),
        methods=("rtn", "x2-mse", "gptq", "weighted-mse+gptq"),
        **CALIBRATED,
    )
    result = compare(asked, directory=tmp_path)
    rows = {row.name: row for row in result.formats}
    assert set(rows) == {
        f"{name}{method}"
        for name in ("nf4", "e2m1+sp|e2m1+sr")
        for method in ("", " x2-mse", " gptq", " weighted-mse+gptq")
    }
    assert rows["nf4 gptq"].method == "gptq"
    assert rows["nf4"].weights == ()
    records = rows["nf4 gptq"].weights
    assert len(records) == 14
    assert sum(r.output_nmse for r in records) < sum(r.output_nmse_nearest for r in records)
    assert rows["e2m1+sp|e2m1+sr"].bits_per_weight > rows["nf4"].bits_per_weight
    assert without_times(compare(asked, directory=tmp_path)) == without_times(result)
    alone = compare(options(llama, formats=("nf4",), methods=("rtn",))).formats[0]
    assert alone.windows("kl") == rows["nf4"].windows("kl")


def test_another_calibration_reuses_no_calibrated_cells(llama, tmp_path) -> None:
    asked = options(llama, formats=("nf4",), methods=("rtn", "gptq"), **CALIBRATED)
    first = {row.name: row for row in compare(asked, directory=tmp_path).formats}
    text = tmp_path / "other.txt"
    text.write_text("entirely different words, over and over; " * 200)
    changed = dataclasses.replace(asked, calibration=str(text))
    second = {row.name: row for row in compare(changed, directory=tmp_path).formats}
    assert second["nf4"].cells == first["nf4"].cells  # the very same cell
    assert second["nf4 gptq"].cells != first["nf4 gptq"].cells
    assert second["nf4"].windows("kl") == first["nf4"].windows("kl")
    assert second["nf4 gptq"].windows("kl") != first["nf4 gptq"].windows("kl")


def test_activations_and_cache_cost_quality_and_are_told(llama, tmp_path) -> None:
    plain = compare(options(llama, formats=("int8",)), directory=tmp_path).formats[0]
    for changes, said in (
        ({"activations": "int4"}, "activations in int4 per token"),
        ({"kv": "int2"}, "bytes per token instead of"),
    ):
        asked = options(llama, formats=("int8",), window_length=60, **changes)
        (row,) = compare(asked, directory=tmp_path).formats
        (without,) = compare(
            options(llama, formats=("int8",), window_length=60), directory=tmp_path
        ).formats
        assert said in row.note
        assert row.kl > without.kl
        assert row.weight_nmse == without.weight_nmse
    again = compare(options(llama, formats=("int8",)), directory=tmp_path).formats[0]
    assert again == plain


def test_smoothing_goes_with_activations(llama) -> None:
    asked = options(
        llama, formats=("int8",), methods=("rtn", "smooth=0.5"), activations="int8", **CALIBRATED
    )
    rows = {row.name: row for row in compare(asked).formats}
    assert "input scale folded" in rows["int8 smooth=0.5"].note
    assert rows["int8 smooth=0.5"].kl < 5 * rows["int8"].kl


def test_methods_need_no_evaluation(llama) -> None:
    asked = options(llama, formats=("nf4",), methods=("gptq",), weights_only=True, **CALIBRATED)
    (row,) = compare(asked).formats
    assert row.kl is None
    assert row.weights[0].output_nmse < row.weights[0].output_nmse_nearest


def test_models_without_text_need_weights_only(tmp_path) -> None:
    directory = tiny.save(tiny.t5, tmp_path / "m", tokenizer=False)
    with pytest.raises(ConfigError, match="--weights-only"):
        compare(options(str(directory)))
    result = compare(options(str(directory), weights_only=True, formats=("nf4",)))
    assert result.formats[0].weight_nmse > 0


def test_a_model_without_tokenizer(tmp_path) -> None:
    directory = tiny.save(tiny.llama, tmp_path / "m", tokenizer=False)
    with pytest.raises(DataError, match="no tokenizer"):
        compare(options(str(directory)))


def test_a_weight_that_is_nan_is_named(tmp_path) -> None:
    def broken():
        model = tiny.llama()
        model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
        return model

    directory = tiny.save(broken, tmp_path / "m")
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj\.weight holds 1 NaN"):
        compare(options(str(directory), weights_only=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"formats": ("sf44",)}, FormatError, "did you mean sf4"),
        ({"formats": ("nf4", "nf4")}, ConfigError, "'nf4' is given twice"),
        ({"formats": ()}, ConfigError, "no formats"),
        ({"methods": ("gtpq",)}, ConfigError, "no step is called 'gtpq'"),
        ({"methods": ()}, ConfigError, "no methods"),
        ({"methods": ("gptq", "gptq")}, ConfigError, "'nf4 gptq' is given twice"),
        ({"formats": ("nf4|int3",)}, ValueError, "has 3 bits"),
        ({"methods": ("gptq",), "calibration": "/nowhere/x"}, DataError, "cannot read"),
        ({"formats": ("nf4@biggest",)}, ValueError, "'biggest'"),
        ({"block_size": "-3"}, ValueError, "-3"),
        ({"windows": 0}, ConfigError, "--windows 0"),
        ({"seed": -1}, ConfigError, "--seed -1"),
        ({"texts": ("/nowhere/x",)}, DataError, "cannot read"),
        ({"model": "/nowhere/model"}, ModelError, "/nowhere/model"),
    ],
)
def test_misuse(llama, changes, error, message) -> None:
    with pytest.raises(error, match=message):
        compare(options(**{"model": llama, **changes}))


def test_a_full_disk_is_said_and_leaves_no_half_file(llama, tmp_path, monkeypatch) -> None:
    import os

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FailureError, match="No space left"):
        compare(options(llama, formats=("nf4",)), directory=tmp_path)
    assert not any(file.is_file() for file in (tmp_path / "cells").rglob("*"))


def test_two_formats_of_one_name_are_refused(llama, tmp_path) -> None:
    save_format(Format.from_values([-1, 0, 1], name="int4"), tmp_path / "fake.toml")
    with pytest.raises(ConfigError, match="two different formats are called 'int4'"):
        compare(options(llama, formats=("int4@published", str(tmp_path / "fake.toml"))))


def test_an_unwritable_output_is_found_before_the_work(llama, tmp_path) -> None:
    def refuse_to_load(_share: float, what: str) -> None:
        assert not what.startswith("loading")

    (tmp_path / "file").touch()
    with pytest.raises(FailureError, match="cannot write to the output directory"):
        compare(options(llama), directory=tmp_path / "file", progress=refuse_to_load)


def test_json_round_trip_keeps_the_contract(llama) -> None:
    result = compare(options(llama))
    data = json.loads(json.dumps(record_to_json(result), allow_nan=False))
    assert {"model", "formats", "baseline", "provenance"} <= set(data)
    promised = {
        *("name", "method", "block_size", "scale_rule", "bits_per_weight", "weight_nmse"),
        *("perplexity", "perplexity_se", "kl", "kl_se", "top1_agreement"),
    }
    assert all(promised <= set(row) for row in data["formats"])
    assert "perplexity" in data["baseline"]
    assert record_from_json(Comparison, data) == result
    data["schema"] = "comparison/99"
    with pytest.raises(FailureError, match="comparison/99"):
        record_from_json(Comparison, data)
