"""Which differences on tasks are real."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import DataError
from studentfloat.evaluate import paired_differences
from studentfloat.evaluate.tasks import paired_task_differences
from studentfloat.records import TaskScore


def score(items, **changes) -> TaskScore:
    items = tuple(float(item) for item in items)
    given = {
        "task": "piqa",
        "metric": "acc",
        "value": float(np.mean(items)),
        "standard_error": None,
        "higher_is_better": True,
        "primary": True,
        "items": items,
        "limit": None,
        "shots": 0,
        "source": "file: x",
        "data_sha256": "f" * 64,
    }
    return TaskScore(**{**given, **changes})


def exact(gained: int, lost: int) -> float:
    """The oracle: twice the smaller tail of a fair coin, by counting."""
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1)) / 2**total
    return min(1.0, 2 * tail)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_right_or_wrong_is_mcnemars_exact_test(pairs) -> None:
    first, second = (np.array(column, dtype=bool) for column in zip(*pairs, strict=True))
    (found,) = paired_task_differences({"a": score(first), "b": score(second)})
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    assert found.p_value == pytest.approx(exact(gained, lost))
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.low <= found.difference <= found.high
    assert (found.measure, found.first, found.second) == ("piqa acc", "a", "b")
    (turned,) = paired_task_differences({"b": score(second), "a": score(first)})
    assert turned.p_value == found.p_value
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_pairing_finds_what_two_standard_errors_hide() -> None:
    """Two formats of 70 and 66 % on 500 items: apart, if the items that differ say so."""
    base = np.arange(500) % 10 < 7
    worse = base.copy()
    worse[np.flatnonzero(base)[:20]] = False
    (found,) = paired_task_differences({"base": score(base), "worse": score(worse)})
    assert found.significant
    assert found.low > 0
    apart = math.sqrt(base.var() / 500 + worse.var() / 500)
    assert (base.mean() - worse.mean()) / apart < 1.5


def test_p_values_are_adjusted_over_all_pairs() -> None:
    base = np.ones(40)
    one = base.copy()
    one[:6] = 0  # alone: 2/2^6 = .031
    scores = {"a": score(base), "b": score(one), "c": score(base)}
    found = {(p.first, p.second): p for p in paired_task_differences(scores)}
    assert found["a", "b"].p_value == pytest.approx(3 * 2 / 2**6)
    assert found["a", "c"].p_value == 1.0
    assert not found["a", "b"].significant
    (alone,) = paired_task_differences({"a": score(base), "b": score(one)})
    assert alone.significant


def test_intervals_hold_the_truth_about_as_often_as_they_say(rng) -> None:
    held = 0
    for _ in range(300):
        both, first, second = rng.random(80) < 0.5, rng.random(80) < 0.3, rng.random(80) < 0.2
        a, b = both | first, both | second
        (found,) = paired_task_differences({"a": score(a), "b": score(b)})
        held += found.low <= 0.5 * 0.1 <= found.high
    assert held > 270


def test_other_measures_are_bootstrapped(rng) -> None:
    losses = rng.gamma(2.0, 1.0, 60)
    scores = {
        "a": score(losses, metric="perplexity", higher_is_better=False),
        "b": score(losses + rng.normal(0.1, 0.05, 60), metric="perplexity", higher_is_better=False),
    }
    found = paired_task_differences(scores, seed=4)
    table = {name: s.items for name, s in scores.items()}
    assert found == paired_differences("piqa perplexity", table, seed=4)
    assert found[0].significant
    assert found[0].difference < 0


def test_nothing_to_compare() -> None:
    assert paired_task_differences({}) == ()
    assert paired_task_differences({"a": score([1, 0])}) == ()
    assert paired_task_differences({"a": score([1]), "b": score([0])}) == ()


def test_scores_that_do_not_belong_together() -> None:
    one = score([1, 0])
    with pytest.raises(DataError, match="different measures cannot be paired: piqa acc, piqa top1"):
        paired_task_differences({"a": one, "b": score([1, 0], metric="top1")})
    with pytest.raises(DataError, match=r"of piqa acc on different items .*: 2 \(f+\), 3 \(f+\)"):
        paired_task_differences({"a": one, "b": score([1, 0, 1])})
    with pytest.raises(DataError, match=r"2 \(aaa"):
        paired_task_differences({"a": one, "b": score([1, 0], data_sha256="a" * 64)})
