from __future__ import annotations

from dataclasses import replace

import pytest

from studentfloat.records import (
    METRICS,
    Comparison,
    OnText,
    PairedDifference,
    Row,
    Standing,
)
from studentfloat.records.metrics import measure, over_texts
from studentfloat.report.maps import forest_rows, frontier_rows
from studentfloat.report.points import as_study, map_points, rank_marks, standings
from studentfloat.report.table import notes
from studentfloat.study.ranking import rank_rows
from tests.report.records import study


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """The first model of the made-up study, ranked as `compare` would."""
    (model,) = study(("small",)).models
    return replace(model, frontiers=rank_rows(_with_windows(model), 0).frontiers)


def _with_windows(model: Comparison) -> tuple[Row, ...]:
    """Scores by window that spread as the errors say."""
    rows = []
    for row in model.formats:
        kl = row.measured("kl")
        windows = tuple(kl.value + shift * kl.standard_error for shift in (-2, -1, 1, 2))
        on_text = OnText("cd" * 32, kl.value, kl.standard_error, windows)
        rows.append(replace(row, measures=(replace(kl, texts=(on_text,)),)))
    return tuple(rows)


def test_the_page_and_compare_agree_on_every_frontier(comparison) -> None:
    ranking = rank_rows(_with_windows(comparison), 0)
    shown = replace(comparison, differences=ranking.differences)
    points = map_points(as_study(shown))
    (kl,) = (axis for axis in points.measures if axis.key == "kl")
    axes = {"area": "area mac generic", "energy_fj": "energy, real mac generic"}
    for found in comparison.frontiers:
        expected = {point.name: point.standing for point in found.points}
        assert standings(points, "small", axes.get(found.cost, found.cost), kl) == expected
    assert {found.cost for found in comparison.frontiers} == {*axes, "bits_per_weight"}


def test_with_one_window_nothing_is_told_apart(comparison) -> None:
    """Neither in the terminal, whose frontiers are the record's, nor on the page."""
    rows = [
        replace(row, measures=over_texts([measure("t", {"kl": (row.kl,)}, {})]))
        for row in comparison.formats
    ]
    ranking = rank_rows(rows, 0)
    assert {row.rank for row in ranking.rows} == {1}
    one = replace(comparison, formats=ranking.rows, frontiers=ranking.frontiers, differences=())
    points = map_points(as_study(one))
    for found in ranking.frontiers:
        cost = {"area": "area mac generic", "energy_fj": "energy, real mac generic"}
        on_page = standings(points, "small", cost.get(found.cost, found.cost), METRICS["kl"])
        assert on_page == {point.name: point.standing for point in found.points}
        if found.cost == "bits_per_weight":
            # What costs more for certain may be dominated: its loss ties with that of cheaper rows.
            least = min(point.cost for point in found.points)
            cheapest = {point.name for point in found.points if point.cost == least}
            assert len(cheapest) > 10
            assert all(on_page[name] != Standing.DOMINATED.value for name in cheapest)
    said = " ".join(notes(one))
    assert "Frontier of kl against bits per weight" in said


def test_measures_are_those_that_rows_have_and_know_which_way_is_better() -> None:
    points = map_points(study())
    higher = {axis.key: axis.higher_is_better for axis in points.measures}
    assert higher == {
        "kl": False,
        "perplexity": False,
        "top1_agreement": True,
        "weight_nmse": False,
        "piqa acc_norm": True,
        "lambada_openai acc": True,
    }
    assert points.costs[0].key == "area mac generic"
    assert points.costs[-1].key == "bits_per_weight"


def test_a_measure_without_noise_has_a_plain_frontier() -> None:
    points = map_points(study(("small",)))
    (weights,) = (axis for axis in points.measures if axis.key == "weight_nmse")
    found = standings(points, "small", "bits_per_weight", weights)
    shown = {p.name: (p.costs["bits_per_weight"][0], p.measures["weight_nmse"][0])
             for p in points.points}  # fmt: skip
    for name, standing in found.items():
        cost, loss = shown[name]
        beaten = any(c <= cost and w <= loss and (c, w) != (cost, loss) for c, w in shown.values())
        assert standing == (Standing.DOMINATED if beaten else Standing.FRONTIER).value


def test_rank_is_one_more_than_how_many_are_better_for_certain() -> None:
    (model,) = study(("small",), methods=("rtn",), formats=("sf4", "int4", "e3m0")).models
    pairs = (
        PairedDifference("kl", "sf4", "int4", -0.1, -0.2, -0.05, 0.01, True),
        PairedDifference("kl", "sf4", "e3m0", -0.5, -0.6, -0.4, 0.01, True),
        PairedDifference("kl", "int4", "e3m0", -0.1, -0.3, 0.1, 0.3, False),
        PairedDifference("piqa acc_norm", "sf4", "int4", -0.1, -0.2, -0.05, 0.01, True),
    )
    result = study(("small",), methods=("rtn",), formats=("sf4", "int4", "e3m0"))
    marks = rank_marks(map_points(result), replace(model, differences=pairs))
    assert marks == {
        ("sf4", "kl"): "1",
        ("int4", "kl"): "=2",
        ("e3m0", "kl"): "=2",
        ("sf4", "piqa acc_norm"): "2",
        ("int4", "piqa acc_norm"): "1",
    }


def test_bars_are_two_errors_and_stay_above_zero_on_a_logarithm() -> None:
    points = map_points(study(("small",)))
    (kl,) = (axis for axis in points.measures if axis.key == "kl")
    values = {(p.model, p.name): p.measures["kl"] for p in points.points}
    for row in frontier_rows(points, points.costs[0], kl)["@points"]:
        value, error = values["small", row["name"]]
        assert row["high"] == pytest.approx(value + 2 * error)
        assert 0 < row["low"] <= value
        assert row["left"] < row["cost"] < row["right"]
    names = forest_rows(points, "small", kl)["@names"]
    assert names == sorted(names, key=lambda name: values["small", name][0])
