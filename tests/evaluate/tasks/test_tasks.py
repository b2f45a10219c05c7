"""Tasks as they are loaded and scored: prompts, measures, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lm_eval
import numpy as np
import pytest
from lm_eval.api import metrics
from lm_eval.tasks import _index, _yaml_loader, manager

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate.tasks import (
    TASKS,
    StudentFloatLM,
    TaskOptions,
    language,
    load_tasks,
    score_tasks,
)
from studentfloat.models import walk_weights
from studentfloat.records import TaskScore, record_from_json, record_to_json
from tests.evaluate.tasks import items


def loaded(data: str, *names: str, **options):
    return load_tasks(TaskOptions(names, data=data, **options))


def by_harness(task, model) -> dict[str, dict[str, float]]:
    """The same task through the harness's own loop; results by part."""
    parts = {part.definition.task_name: part.definition for part in task._parts}
    found = lm_eval.evaluate(StudentFloatLM(model), parts, bootstrap_iters=10, log_samples=False)
    return found["results"]


@pytest.mark.parametrize("name", items.LANGUAGE_TASKS)
def test_scores_are_those_of_the_harness(llama, data, name, monkeypatch) -> None:
    tasks = loaded(data, name)
    ticks = []
    scores = score_tasks(llama, tasks, tick=lambda: ticks.append(1))
    assert len(ticks) == len(tasks) == len(items.FILES[f"{name}/{TASKS[name].split}.jsonl"])
    assert [score.metric for score in scores if score.primary] == [TASKS[name].primary]
    results = by_harness(tasks.tasks[0], llama)
    for score in scores:
        assert score.task == name
        assert len(score.items) == len(tasks)
        parts = [part for part in results.values() if f"{score.metric},none" in part]
        sizes = [part["sample_len"] for part in parts]
        value = np.average([part[f"{score.metric},none"] for part in parts], weights=sizes)
        assert score.value == pytest.approx(value, rel=1e-6)
        if len(parts) == 1 and score.metric.startswith("acc"):
            error = parts[0][f"{score.metric}_stderr,none"]
            assert score.standard_error == pytest.approx(error, rel=1e-9)
        assert record_from_json(TaskScore, json.loads(json.dumps(record_to_json(score)))) == score


@pytest.mark.parametrize("name", items.LANGUAGE_TASKS)
def test_requests_are_those_that_the_harness_builds(data, name) -> None:
    task = loaded(data, name, limit=2).tasks[0]
    expected = []
    for part in task._parts:
        part.definition.build_all_requests(limit=2)
        expected += part.definition.instances
    assert [r.args for r in task.requests] == [r.args for r in expected]


def test_prompts_are_the_official_ones(data) -> None:
    def first(name: str) -> tuple[str, ...]:
        return loaded(data, name).tasks[0].requests[0].args

    assert first("piqa") == (
        "Question: To keep bread fresh,\nAnswer:",
        " put the bread into a closed box in a dry place.",
    )
    assert first("winogrande")[0] == "The cup did not fit into the box because the cup"
    assert first("winogrande")[1] == " was too small for it."
    assert first("lambada_openai")[1] == " key"
    assert first("hellaswag")[0] == "Cooking: A man cuts onions. Then he"
    assert first("mmlu")[0].startswith("The following are multiple choice questions (with answers)")
    assert first("mmlu") == (
        "The following are multiple choice questions (with answers) about anatomy.\n\nWhich bone "
        "is in the leg?\nA. the femur\nB. the skull\nC. the ulna\nD. the rib\nAnswer:",
        " A",
    )
    (page,) = first("wikitext")
    assert "made of stone." in page


def test_examples_before_each_item(data, tmp_path, llama) -> None:
    files = {
        **items.FILES,
        "arc_easy/train.jsonl": items.SCIENCE[::-1],
        "mmlu/dev.jsonl": items.MMLU,
    }
    place = str(items.write(tmp_path, files))
    plain = loaded(place, "arc_easy").tasks[0]
    task = loaded(place, "arc_easy", shots=2).tasks[0]
    text = task.requests[0].args[0]
    assert text.endswith("\n\n" + plain.requests[0].args[0])
    assert text.count("Question:") == 3
    assert any(f"Answer: {row['choices']['text'][-1]}\n\n" in text for row in items.SCIENCE)
    seeds = [loaded(place, "arc_easy", shots=2, seed=seed).sha256["arc_easy"] for seed in range(6)]
    assert len(set(seeds)) > 1
    assert loaded(place, "arc_easy", shots=2, seed=3).sha256["arc_easy"] == seeds[3]
    (score, _) = score_tasks(llama, loaded(place, "arc_easy", shots=2))
    assert score.shots == 2
    subjects = loaded(place, "mmlu", shots=1).tasks[0].requests
    assert "Answer: A\n\n" in subjects[0].args[0]
    with pytest.raises(DataError, match=r"1 solved examples of astronomy, too few for 2 shots"):
        loaded(place, "mmlu", shots=2)
    with pytest.raises(DataError, match=r"has 4 solved examples, too few for 9 shots"):
        loaded(place, "arc_easy", shots=9)
    with pytest.raises(DataError, match=r"put piqa/train\.jsonl or .* there"):
        loaded(place, "piqa", shots=1)


def test_hash_and_source_say_what_was_asked(data, tmp_path, llama) -> None:
    tasks = loaded(data, "piqa", "arc_easy")
    assert tasks.sha256 == loaded(data, "piqa", "arc_easy").sha256
    assert tasks.sources == {
        "piqa": "file: piqa/validation.jsonl",
        "arc_easy": "file: arc_easy/test.jsonl",
    }
    assert loaded(data, "piqa", limit=2).sha256["piqa"] != tasks.sha256["piqa"]
    # What no prompt shows changes nothing, the answer does.
    more = [{**row, "id": i} for i, row in enumerate(items.PIQA)]
    other = [{**row, "label": 1 - row["label"]} for row in items.PIQA]
    a = items.write(tmp_path / "a", {"piqa/validation.jsonl": more})
    b = items.write(tmp_path / "b", {"piqa/validation.jsonl": other})
    assert loaded(str(a), "piqa").sha256["piqa"] == tasks.sha256["piqa"]
    assert loaded(str(b), "piqa").sha256["piqa"] != tasks.sha256["piqa"]
    (accuracy, _, _, _) = score_tasks(llama, tasks)
    assert accuracy.data_sha256 == tasks.sha256["piqa"]
    assert accuracy.limit is None
    assert score_tasks(llama, loaded(data, "piqa", limit=2))[0].limit == 2


def test_a_limit_takes_the_first_items(llama, data) -> None:
    whole = score_tasks(llama, loaded(data, "arc_easy"))
    part = score_tasks(llama, loaded(data, "arc_easy", limit=2))
    assert [s.items for s in part] == [s.items[:2] for s in whole]


def test_loaded_tasks_serve_one_model_after_another(llama, data) -> None:
    tasks = loaded(data, "piqa", "lambada_openai")
    before = score_tasks(llama, tasks)
    sites, _ = walk_weights(llama.module)
    kept = [site.parameter.detach().clone() for site in sites]
    for site in sites:
        site.apply(lambda w: w.flip(0))
    changed = score_tasks(llama, tasks)
    for site, weight in zip(sites, kept, strict=True):
        site.parameter.data.copy_(weight)
    assert changed != before
    assert score_tasks(llama, tasks) == before


def test_the_index_of_all_tasks_is_not_built(data, monkeypatch) -> None:
    """It takes most of a minute; we read one definition a task (and what that includes)."""

    def fail(*_args, **_options):
        raise AssertionError("the whole index is built")

    read: list[str] = []

    def counted(path, **options):
        read.append(Path(path).name)
        return _yaml_loader.load_yaml(path, **options)

    monkeypatch.setattr(_index.TaskIndex, "build", fail)
    monkeypatch.setattr(manager.TaskManager, "__init__", fail)
    monkeypatch.setattr(language, "load_yaml", counted)
    loaded(data, "piqa", "arc_challenge", "lambada_openai")
    assert read == ["piqa.yaml", "arc_challenge.yaml", "lambada_openai.yaml"]
    loaded(data, "mmlu")
    assert read[3:] == ["mmlu_anatomy.yaml", "mmlu_astronomy.yaml"]


def test_no_bootstrap_is_drawn(llama, data, monkeypatch) -> None:
    def fail(*_args, **_options):
        raise AssertionError("a bootstrap is drawn")

    monkeypatch.setattr(metrics, "bootstrap_stderr", fail)
    scores = score_tasks(llama, loaded(data, "lambada_openai", "wikitext"))
    assert all(score.standard_error is not None for score in scores)


def test_standard_errors_of_perplexities_against_a_bootstrap(rng) -> None:
    from studentfloat.evaluate.tasks.measures import measure

    likelihoods = -rng.gamma(2.0, 1.5, size=400)
    sizes = rng.integers(20, 200, size=400)
    draws = rng.integers(0, 400, size=(4000, 400))
    by_item = measure("perplexity", list(likelihoods))
    drawn = np.exp(-likelihoods[draws].mean(axis=1))
    assert by_item["standard_error"] == pytest.approx(drawn.std(), rel=0.1)
    assert by_item["value"] == pytest.approx(math.exp(np.mean(by_item["items"])))
    totals = likelihoods * sizes
    by_word = measure("word_perplexity", list(zip(totals, sizes, strict=True)))
    drawn = np.exp(-totals[draws].sum(axis=1) / sizes[draws].sum(axis=1))
    assert by_word["standard_error"] == pytest.approx(drawn.std(), rel=0.1)
    assert by_word["value"] == pytest.approx(math.exp(np.mean(by_word["items"])))
    bits = measure("bits_per_byte", list(zip(totals, sizes, strict=True)))
    assert bits["value"] == pytest.approx(np.mean(bits["items"]))
    assert bits["value"] == pytest.approx(math.log2(by_word["value"]))
    assert measure("perplexity", [-800.0])["value"] == math.inf
    assert measure("acc", [1.0])["standard_error"] is None


class Hub:
    """What datasets would fetch, and what it was asked for."""

    def __init__(self, rows) -> None:
        self.rows, self.asked = rows, []

    def __call__(self, path, name=None, **options):
        import datasets

        self.asked.append((path, name))
        if self.rows is None:
            raise ConnectionError("no way out\nof here")
        split = datasets.Dataset.from_list(self.rows)
        chosen = options.get("split")
        return split if chosen else {"train": split, "validation": split, "test": split}


def test_items_from_the_hub(monkeypatch, data) -> None:
    import datasets

    hub = Hub(items.PIQA)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    tasks = load_tasks(TaskOptions(("piqa",)))
    assert hub.asked == [("baber/piqa", None)]
    assert tasks.sources == {"piqa": "hub: baber/piqa"}
    assert tasks.sha256 == loaded(data, "piqa").sha256
    hub.rows = items.MMLU[:1]
    assert len(load_tasks(TaskOptions(("mmlu",)))) == 57
    hub.rows = None
    with pytest.raises(DataError) as caught:
        load_tasks(TaskOptions(("arc_easy",)))
    assert str(caught.value) == (
        "the items of task arc_easy (allenai/ai2_arc on the hub) cannot be had: no way out of "
        "here; go online once, or give local files with --data"
    )
    with pytest.raises(DataError, match=r"stsb \(mteb/stsbenchmark-sts on the hub\)"):
        load_tasks(TaskOptions(("stsb",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ()}, "no tasks"),
        ({"tasks": ("piqqa",)}, "no task 'piqqa': did you mean piqa"),
        ({"tasks": ("zzzzzz",)}, "one of lambada_openai, hellaswag"),
        ({"tasks": ("piqa", "piqa")}, "piqa is given twice"),
        ({"limit": 0}, "a limit of 0 items: at least 1"),
        ({"limit": -3}, "a limit of -3"),
        ({"shots": -1}, "-1 shots"),
        ({"batch_size": 0}, "batches of 0"),
        ({"data": "/no/such/place"}, "no directory /no/such/place"),
        ({"tasks": ("stsb",), "shots": 2}, "task stsb takes no shots"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskOptions(**{"tasks": ("piqa",), **options})


def row(good: dict, **changes) -> str:
    return json.dumps({k: v for k, v in {**good, **changes}.items() if v is not None})


PIQA, SCIENCE, WINOGRANDE = items.PIQA[0], items.SCIENCE[0], items.WINOGRANDE[0]
HELLASWAG, MMLU = items.HELLASWAG[0], items.MMLU[0]
UNEVEN = {"text": ["a", "b"], "label": ["A"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("piqa", "", "is empty: it has no items for task piqa"),
        ("piqa", "\n \n", "is empty"),
        ("piqa", "{", "line 1 is not valid JSON"),
        ("piqa", f"{row(PIQA)}\n\n[1]", "line 3 is no JSON object"),
        ("piqa", row(PIQA, sol2=None), "line 1 has no field 'sol2': task piqa needs goal, sol1"),
        ("piqa", row(PIQA, label=2), "the field 'label' is 2, not a whole number from 0 to 1"),
        ("piqa", row(PIQA, label=True), "the field 'label' is true, not a whole"),
        ("piqa", row(PIQA, goal=7), "the field 'goal' is 7, not a text"),
        ("winogrande", row(WINOGRANDE, answer="3"), 'is "3", not "1" or "2"'),
        ("winogrande", row(WINOGRANDE, sentence="x"), "not a text with a blank"),
        ("arc_easy", row(SCIENCE, answerKey="Z"), "line 1: the answerKey 'Z' is none of the"),
        ("arc_easy", row(SCIENCE, choices=UNEVEN), "not a table of two lists"),
        ("hellaswag", row(HELLASWAG, label="4"), "the label 4 is beyond the 4 endings"),
        ("mmlu", row(MMLU, choices=["a", "b"]), "not four texts"),
        ("mmlu", row(MMLU, subject="cooking"), "mmlu has no subject 'cooking', only abstract_"),
        ("lambada_openai", '{"text": "word"}', "not a text of two words or more"),
    ],
)
def test_files_that_cannot_be_used(name, text, message, tmp_path) -> None:
    file = tmp_path / name / f"{TASKS[name].split}.jsonl"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        loaded(str(tmp_path), name)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no items under .*: put piqa/validation\.jsonl or"):
        loaded(str(tmp_path), "piqa")
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 0\)"):
        loaded(str(tmp_path), "piqa")


def test_line_breaks_of_other_alphabets_are_no_ends_of_items(tmp_path) -> None:
    text = {"text": "a line\u2028and another\x85 one more"}
    items.write(tmp_path, {"lambada_openai/test.jsonl": [text]})
    request = loaded(str(tmp_path), "lambada_openai").tasks[0].requests[0]
    assert request.args == ("a line\u2028and another\x85 one", " more")


def test_articles_of_the_raw_file(tmp_path) -> None:
    """Only titles of the first order begin an article; nothing is lost."""
    file = tmp_path / "wikitext2" / "wiki.test.raw"
    file.parent.mkdir()
    text = (
        " \n = One = \n \n Text of one . \n = = Part = = \n More . \n \n = Two = \n \n"
        " = = = Deep = = = \n Text = of two \n"
    )
    file.write_text(text)
    tasks = loaded(str(tmp_path), "wikitext")
    pages = [item.document["page"] for item in tasks.tasks[0]._parts[0].items]
    assert [page.strip()[:7] for page in pages] == ["= One =", "= Two ="]
    assert "\n".join(["", *pages]).split() == text.split()
    assert tasks.sources == {"wikitext": "file: wikitext2/wiki.test.raw"}
