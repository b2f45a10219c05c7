from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from studentfloat.records import Standing
from studentfloat.records.pareto import Candidate, frontier


def never(_a: str, _b: str) -> bool:
    return False


def standings(candidates, cost_tie=never, loss_tie=never) -> dict[str, str]:
    points = frontier(candidates, cost_tie=cost_tie, loss_tie=loss_tie)
    return {point.name: point.standing for point in points}


def test_without_noise_it_is_the_plain_frontier() -> None:
    found = standings(
        [
            Candidate("cheap", 1, 9),
            Candidate("middle", 2, 5),
            Candidate("good", 4, 1),
            Candidate("beaten", 3, 6),
            Candidate("twin of good", 4, 1),
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
    pair = [Candidate("a", 1.00, 5.0), Candidate("b", 1.01, 5.1)]
    assert standings(pair)["b"] == "dominated"
    tied = standings(pair, cost_tie=lambda *_: True, loss_tie=lambda *_: True)
    assert tied == {"a": "frontier", "b": "within noise"}


def test_a_hair_cheaper_but_much_worse_is_no_frontier() -> None:
    """The figures put it on the frontier; the noise says that the hair may not be there."""
    pair = [Candidate("hair", 0.999, 9.0), Candidate("good", 1.0, 1.0)]
    assert standings(pair)["hair"] == "frontier"
    assert standings(pair, cost_tie=lambda *_: True)["hair"] == "within noise"


def test_equal_cost_leaves_the_best_and_its_ties() -> None:
    three = [Candidate("best", 4, 1.0), Candidate("tied", 4, 1.1), Candidate("worse", 4, 2.0)]
    ties = {frozenset(("best", "tied"))}
    found = standings(three, loss_tie=lambda a, b: frozenset((a, b)) in ties)
    assert found == {"best": "frontier", "tied": "within noise", "worse": "dominated"}


coordinates = st.integers(0, 5)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12))
def test_against_the_definition(pairs) -> None:
    candidates = [Candidate(str(i), c, q) for i, (c, q) in enumerate(pairs)]
    found = standings(candidates)
    for i, (c, q) in enumerate(pairs):
        beaten = any((c2 <= c and q2 <= q) and (c2, q2) != (c, q) for c2, q2 in pairs)
        assert (found[str(i)] == Standing.DOMINATED.value) == beaten
    assert Standing.FRONTIER.value in found.values()
