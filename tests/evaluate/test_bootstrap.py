from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import DataError
from studentfloat.evaluate import mean_and_error, paired_differences, ranks
from studentfloat.evaluate.bootstrap import holm


def test_mean_and_error() -> None:
    mean, error = mean_and_error([1.0, 2.0, 3.0, 6.0])
    assert mean == 3
    assert error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert mean_and_error([5.0]) == (5.0, None)


def test_pairing_finds_a_small_steady_difference_that_overlapping_errors_hide(rng) -> None:
    windows = rng.normal(3, 1, 12)
    scores = {
        "good": windows,
        "a bit worse": windows + rng.normal(0.05, 0.01, 12),
        "as good": windows + rng.normal(0, 0.05, 12) * 0.01,
    }
    pairs = {(p.first, p.second): p for p in paired_differences("kl", scores)}
    assert pairs["good", "a bit worse"].significant
    assert pairs["good", "a bit worse"].difference < 0
    assert not pairs["good", "as good"].significant
    rank = ranks(list(scores), list(pairs.values()))
    assert rank == {"good": 1, "as good": 1, "a bit worse": 3}


def test_tables_without_any_difference_show_one_rarely() -> None:
    """At the default shape, 13 formats on 12 windows; a percentile bootstrap fails this."""
    false = 0
    for trial in range(40):
        noise = np.random.default_rng(trial).normal(size=(13, 12))
        pairs = paired_differences("x", {str(i): row for i, row in enumerate(noise)}, seed=trial)
        false += any(pair.significant for pair in pairs)
    assert false <= 6  # binomial(40, .05): 99.9 % of the time


def test_many_formats_leave_room_for_significance(rng) -> None:
    scores = {str(i): 10.0 * i + rng.normal(0, 0.1, 12) for i in range(36)}
    assert all(pair.significant for pair in paired_differences("x", scores))


def test_draws_in_parts_are_the_same_draws(rng, monkeypatch) -> None:
    scores = {name: rng.normal(size=30) for name in "abc"}
    whole = paired_differences("x", scores, seed=2)
    monkeypatch.setattr("studentfloat.evaluate.bootstrap._MOST_SHARES", 30 * 700)
    assert paired_differences("x", scores, seed=2) == whole


def test_the_same_difference_in_every_window_is_real() -> None:
    (pair,) = paired_differences("x", {"a": [1.0] * 12, "b": [2.0] * 12})
    assert pair.significant
    assert (pair.low, pair.high) == (-1.0, -1.0)
    (none,) = paired_differences("x", {"a": [1.0, 2.0] * 6, "b": [1.0, 2.0] * 6})
    assert not none.significant


def test_interval_covers_as_often_as_it_says(rng) -> None:
    inside = 0
    for trial in range(150):
        shift = rng.exponential(size=12) - 1.0 + 0.3
        (pair,) = paired_differences("x", {"a": shift, "b": np.zeros(12)}, seed=trial)
        inside += pair.low <= 0.3 <= pair.high
    assert inside >= 128  # binomial(150, .92), skewed as these are: 99.9 % of the time


def test_same_seed_same_result() -> None:
    scores = {"a": [1.0, 2.0, 3.0], "b": [1.1, 2.5, 2.9], "c": [0.0, 1.0, 5.0]}
    assert paired_differences("x", scores, seed=1) == paired_differences("x", scores, seed=1)


def test_different_windows_are_refused() -> None:
    with pytest.raises(DataError, match="different numbers of windows"):
        paired_differences("x", {"a": [1.0], "b": [1.0, 2.0]})


@pytest.mark.parametrize("scores", [{}, {"a": [1.0, 2.0]}, {"a": [1.0], "b": [2.0]}])
def test_too_little_to_compare_gives_no_claim(scores) -> None:
    assert paired_differences("x", scores) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def testholm(p_values) -> None:
    """Against the definition: p_(k) adjusted is max over j ≤ k of (m - j) p_(j), capped."""
    ordered = sorted(p_values)
    m = len(ordered)
    expected = [min(1.0, max((m - j) * ordered[j] for j in range(k + 1))) for k in range(m)]
    np.testing.assert_allclose(sorted(holm(p_values)), expected)
