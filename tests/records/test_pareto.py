from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.records import PairedDifference, Standing
from studentfloat.records.pareto import MapPoint, frontier, place, ranks


def never(_a: str, _b: str) -> bool:
    return False


def standings(candidates, cost_tie=never, loss_tie=never) -> dict[str, str]:
    points = frontier(candidates, cost_tie=cost_tie, loss_tie=loss_tie)
    return {point.name: point.standing for point in points}


def test_without_noise_it_is_the_plain_frontier() -> None:
    found = standings(
        [
            MapPoint("cheap", 1, 9),
            MapPoint("middle", 2, 5),
            MapPoint("good", 4, 1),
            MapPoint("beaten", 3, 6),
            MapPoint("twin of good", 4, 1),
        ]
    )
    assert found == {
        "cheap": "frontier",
        "middle": "frontier",
        "good": "frontier",
        "beaten": "dominated",
        "twin of good": "frontier",
    }


def test_a_tie_on_both_axes_is_within_noise() -> None:
    pair = [MapPoint("a", 1.00, 5.0), MapPoint("b", 1.01, 5.1)]
    assert standings(pair)["b"] == "dominated"
    tied = standings(pair, cost_tie=lambda *_: True, loss_tie=lambda *_: True)
    assert tied == {"a": "frontier", "b": "within noise"}


def test_a_hair_cheaper_but_much_worse_is_no_frontier() -> None:
    """The figures put it on the frontier; the noise says that the hair may not be there."""
    pair = [MapPoint("hair", 0.999, 9.0), MapPoint("good", 1.0, 1.0)]
    assert standings(pair)["hair"] == "frontier"
    assert standings(pair, cost_tie=lambda *_: True)["hair"] == "within noise"


def test_equal_cost_leaves_the_best_and_its_ties() -> None:
    three = [MapPoint("best", 4, 1.0), MapPoint("tied", 4, 1.1), MapPoint("worse", 4, 2.0)]
    ties = {frozenset(("best", "tied"))}
    found = standings(three, loss_tie=lambda a, b: frozenset((a, b)) in ties)
    assert found == {"best": "frontier", "tied": "within noise", "worse": "dominated"}


coordinates = st.integers(0, 5)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12))
def test_against_the_definition(pairs) -> None:
    candidates = [MapPoint(str(i), c, q) for i, (c, q) in enumerate(pairs)]
    found = standings(candidates)
    for i, (c, q) in enumerate(pairs):
        beaten = any((c2 <= c and q2 <= q) and (c2, q2) != (c, q) for c2, q2 in pairs)
        assert (found[str(i)] == Standing.DOMINATED.value) == beaten
    assert Standing.FRONTIER.value in found.values()


def pair(first: str, second: str, *, significant: bool, difference: float = -1.0):
    return PairedDifference("kl", first, second, difference, 0, 0, 0.0, significant)


@pytest.mark.parametrize(
    ("errors", "tests", "exact", "expected"),
    [
        # Without a test: bars of two standard errors, which meet or do not.
        ((0.1, 0.1), (), False, "dominated"),
        ((0.3, 0.3), (), False, "within noise"),
        # One window has no error, so nothing is told apart.
        ((None, 0.1), (), False, "within noise"),
        # What the paired test says counts, whatever the bars look like.
        ((0.3, 0.3), (pair("a", "b", significant=True),), False, "dominated"),
        ((0.1, 0.1), (pair("b", "a", significant=False),), False, "within noise"),
        # A number of the weights alone has no noise.
        ((None, None), (), True, "dominated"),
    ],
)
def test_one_rule_of_ties(errors, tests, exact, expected) -> None:
    two = [MapPoint("a", 4, 1.0, 0, errors[0]), MapPoint("b", 4, 2.0, 0, errors[1])]
    found = {point.name: point.standing for point in place(two, tests, exact=exact)}
    assert found == {"a": "frontier", "b": expected}


def test_ranks_count_those_that_are_better_and_may_count() -> None:
    pairs = [
        pair("nf4", "e3m0", significant=True),
        pair("nf4-fixed8", "e3m0", significant=True),
        pair("nf4", "nf4-fixed8", significant=False),
    ]
    names = ["nf4", "nf4-fixed8", "e3m0"]
    assert ranks(names, pairs) == {"nf4": 1, "nf4-fixed8": 1, "e3m0": 3}
    assert ranks(names, pairs, counted=["nf4", "e3m0"]) == {"nf4": 1, "nf4-fixed8": 1, "e3m0": 2}
    assert ranks(names, pairs, higher_is_better=True) == {"nf4": 2, "nf4-fixed8": 2, "e3m0": 1}
