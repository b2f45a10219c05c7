from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import DataError
from studentfloat.evaluate import mean_and_error, paired_differences, ranks
from studentfloat.evaluate.bootstrap import _holm


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


def test_interval_covers_as_often_as_it_says() -> None:
    """Under no difference, few pairs may be called significant."""
    rng = np.random.default_rng(5)
    false = 0
    for trial in range(60):
        noise = rng.normal(size=(2, 40))
        (pair,) = paired_differences("x", {"a": noise[0], "b": noise[1]}, seed=trial)
        false += pair.significant
    assert false <= 9  # binomial(60, .05..0.07): 99.9 % of the time


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
def test_holm(p_values) -> None:
    """Against the definition: p_(k) adjusted is max over j ≤ k of (m - j) p_(j), capped."""
    ordered = sorted(p_values)
    m = len(ordered)
    expected = [min(1.0, max((m - j) * ordered[j] for j in range(k + 1))) for k in range(m)]
    np.testing.assert_allclose(sorted(_holm(p_values)), expected)
