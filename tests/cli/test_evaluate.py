"""``studentfloat evaluate``."""

from __future__ import annotations

import json

import pytest

from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.quantize import Scheme
from studentfloat.records import Evaluation, record_from_json
from tests import tiny
from tests.cli.test_cli import run
from tests.evaluate.tasks import items

pytest.importorskip("lm_eval", reason="needs the extra 'tasks'")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Items, a dense model and the same packed, its cache in a format."""
    place = tmp_path_factory.mktemp("evaluate")
    items.write(place / "data")
    make = lambda: tiny.llama(max_position_embeddings=512)  # noqa: E731
    source = find_model(str(tiny.save(make, place / "dense")))
    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    quantize_checkpoint(source, scheme, place / "packed")
    return place


def test_a_model_and_the_same_packed(place, tmp_path) -> None:
    shared = ("--tasks", "piqa, arc_easy,wikitext", "--data", str(place / "data"), "--limit", "2")
    output = tmp_path / "out" / "dense.json"
    done = run("evaluate", str(place / "dense"), *shared, "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert "acc_norm *" in done.stdout
    assert "wikitext (" in done.stderr  # progress
    dense = record_from_json(Evaluation, json.loads(output.read_text()))
    assert [(s.task, s.metric) for s in dense.scores if s.primary] == [
        ("piqa", "acc_norm"),
        ("arc_easy", "acc"),
        ("wikitext", "word_perplexity"),
    ]
    assert dense.provenance.settings["limit"] == 2
    assert dense.provenance.versions["lm_eval"].startswith("0.4.")
    assert dense.provenance.model_sha256 == find_model(str(place / "dense")).sha256
    done = run("evaluate", str(place / "packed"), *shared, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    packed = record_from_json(Evaluation, json.loads(done.stdout))
    assert packed.provenance.model_source == "packed model packed"
    assert [s.data_sha256 for s in packed.scores] == [s.data_sha256 for s in dense.scores]
    assert packed.scores != dense.scores


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--tasks", "piqqa"), 2, "there is no task 'piqqa': did you mean piqa?"),
        (("--tasks", ","), 2, "no tasks"),
        (("--limit", "0"), 2, "a limit of 0 items"),
        (("--limit", "many"), 2, "'many' is not a valid integer"),
        (("--data", "/nowhere"), 2, "no directory /nowhere"),
        (("--data", "DATA", "--tasks", "stsb"), 1, "put stsb/test.jsonl or stsb/test.tsv there"),
        (("--data", "DATA", "--tasks", "piqa", "/no/model"), 1, "/no/model"),
        (("-o", "."), 1, "it is a directory"),
    ],
)
def test_misuse_is_one_line(arguments, code, message, place, tmp_path) -> None:
    given = [str(place / "data") if a == "DATA" else a for a in arguments]
    done = run("evaluate", *given, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_wrong_leaves_nothing_behind(place, tmp_path) -> None:
    items.write(tmp_path, {"piqa/validation.jsonl": [items.PIQA[0], {"goal": "x"}]})
    output = tmp_path / "result.json"
    done = run(
        *("evaluate", str(place / "dense"), "--tasks", "piqa", "--data", str(tmp_path)),
        *("-o", str(output)),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/piqa/validation.jsonl, line 2 has no field 'sol1': task piqa needs "
        "goal, sol1, sol2, label"
    )
    assert not output.exists()


def test_a_packed_model_with_its_cache_in_a_format(place) -> None:
    source = find_model(str(place / "dense"))
    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    target = place / "cached"
    from studentfloat.models.packed_files import Companions

    quantize_checkpoint(
        source, scheme, target, companions=Companions(kv_cache=Scheme.per_token("int3"))
    )
    shared = ("--tasks", "arc_easy", "--data", str(place / "data"), "--json", "--quiet")
    scores = []
    for model in ("packed", "cached"):
        done = run("evaluate", str(place / model), *shared)
        assert done.returncode == 0, done.stderr
        scores.append(record_from_json(Evaluation, json.loads(done.stdout)).scores)
    assert scores[0][0].notes == ()
    assert any("takes no mask" in note for note in scores[1][0].notes)
