"""Similarity of sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate.tasks import TaskOptions, load_tasks, score_tasks
from studentfloat.evaluate.tasks.sentences import _spearman_and_shares
from tests import tiny
from tests.evaluate.tasks import items
from tests.evaluate.tasks.conftest import load_tiny

WORDS = ("a cat", "the cat sleeps on a mat", "rain", "it rains on the old roof", "two dogs run")
PAIRS = [
    {"sentence1": first, "sentence2": second, "score": round(abs(i - j) * 1.3, 1)}
    for i, first in enumerate(WORDS)
    for j, second in enumerate(WORDS)
    if i < j
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return items.write(tmp_path_factory.mktemp("pairs"), {"stsb/test.jsonl": PAIRS})


@pytest.fixture(scope="module", params=["bert", "masked"])
def encoder(request, tmp_path_factory):
    make = {"bert": tiny.bert, "masked": lambda: tiny.bert(head=True)}[request.param]
    return load_tiny(tmp_path_factory.mktemp("encoder") / "m", make)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_against_a_plain_computation(encoder, place, batch_size) -> None:
    """The oracle: sentences one by one without padding, scipy's correlation."""
    tasks = load_tasks(TaskOptions(("stsb",), data=str(place), batch_size=batch_size))
    ticks = []
    (score,) = score_tasks(encoder, tasks, tick=lambda: ticks.append(1))

    def embed(sentence: str) -> torch.Tensor:
        ids = encoder.tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return encoder.module.base_model(input_ids=ids).last_hidden_state[0].double().mean(0)

    similar = [
        float(torch.cosine_similarity(embed(p["sentence1"]), embed(p["sentence2"]), dim=0))
        for p in PAIRS
    ]
    assert score.value == pytest.approx(spearmanr(similar, [p["score"] for p in PAIRS]).statistic)
    assert np.mean(score.items) == pytest.approx(score.value)
    assert (score.metric, score.primary, len(ticks)) == ("spearman", True, len(PAIRS))
    assert score.source == "file: stsb/test.jsonl"
    assert score.data_sha256 == tasks.sha256["stsb"]


def test_shares_give_the_standard_error(rng) -> None:
    people = rng.normal(size=300)
    machine = people + rng.normal(size=300)
    value, shares = _spearman_and_shares(machine, people)
    assert value == pytest.approx(spearmanr(machine, people).statistic)
    draws = rng.integers(0, 300, size=(1500, 300))
    drawn = [spearmanr(machine[d], people[d]).statistic for d in draws]
    assert shares.std(ddof=1) / np.sqrt(300) == pytest.approx(np.std(drawn), rel=0.15)
    assert _spearman_and_shares([1, 1, 1, 1], [1, 2, 3, 4])[0] == 0


def test_a_table_is_as_good(place, tmp_path) -> None:
    lines = ["id\tscore\tsentence1\tsentence2"]
    lines += [f"{i}\t{p['score']}\t{p['sentence1']}\t{p['sentence2']}" for i, p in enumerate(PAIRS)]
    (tmp_path / "stsb").mkdir()
    file = tmp_path / "stsb" / "test.tsv"
    file.write_text("\r\n".join(lines) + "\r\n", newline="")
    from_table, from_lines = (
        load_tasks(TaskOptions(("stsb",), data=str(p))) for p in (tmp_path, place)
    )
    assert from_table.sha256 == from_lines.sha256
    file.write_text(lines[0] + "\n1\t2.0\tone\n")
    with pytest.raises(DataError, match=r"line 2 has 3 cells, its first line 4"):
        load_tasks(TaskOptions(("stsb",), data=str(tmp_path)))
    file.write_text(lines[0] + "\n1\tmuch\tone\ttwo\n")
    with pytest.raises(DataError, match=r"line 2: the field 'score' is \"much\", not a number"):
        load_tasks(TaskOptions(("stsb",), data=str(tmp_path)))


def test_what_cannot_be_ordered(place, tmp_path, llama) -> None:
    with pytest.raises(ConfigError, match="no encoder of sentences but causal language model"):
        score_tasks(llama, load_tasks(TaskOptions(("stsb",), data=str(place))))
    with pytest.raises(DataError, match="2 pairs for task stsb: a correlation needs 4"):
        load_tasks(TaskOptions(("stsb",), data=str(place), limit=2))
    items.write(tmp_path, {"stsb/test.jsonl": [{**p, "score": 1} for p in PAIRS]})
    with pytest.raises(DataError, match="have the same score"):
        load_tasks(TaskOptions(("stsb",), data=str(tmp_path)))


def test_another_pooling_is_noted(place, tmp_path) -> None:
    model = load_tiny(tmp_path / "m", tiny.bert)
    tasks = load_tasks(TaskOptions(("stsb",), data=str(place)))
    assert score_tasks(model, tasks)[0].notes == ()
    pooling = model.source.directory / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": False}))
    assert "another pooling" in score_tasks(model, tasks)[0].notes[0]
