from __future__ import annotations

from dataclasses import replace

import pytest

from studentfloat.records import Comparison, PairedDifference, Standing
from studentfloat.report.from_comparison import as_study
from studentfloat.report.maps import forest_rows, frontier_rows
from studentfloat.report.points import map_points, rank_marks, standings
from studentfloat.study.silicon import with_frontiers
from tests.report.records import study


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """The first model of the made-up study, as `compare` would have it."""
    (model,) = study(("small",)).models
    bare = Comparison(
        model="small",
        formats=tuple(row.quality for row in model.rows),
        baseline=model.baseline,
        provenance=model.provenance,
        ranked_by="kl",
        differences=tuple(pair for pair in model.differences if pair.measure == "kl"),
        hardware=tuple(row.hardware[0] for row in model.rows),
    )
    return with_frontiers(bare)


def test_the_page_and_compare_agree_on_every_frontier(comparison) -> None:
    points = map_points(as_study(comparison))
    (kl,) = (axis for axis in points.measures if axis.key == "kl")
    axes = {"area": "area mac generic", "energy_fj": "energy, real mac generic"}
    for found in comparison.frontiers:
        expected = {point.name: point.standing for point in found.points}
        assert standings(points, "small", axes.get(found.cost, found.cost), kl) == expected
    assert {found.cost for found in comparison.frontiers} == {*axes, "bits_per_weight"}


def test_comparison_keeps_its_formats_names_without_method_and_scale_rule(comparison) -> None:
    rows = [replace(comparison.formats[1], name="sf4@mse gptq", scale_rule="mse")]
    (row,) = as_study(replace(comparison, formats=tuple(rows))).models[0].rows
    assert row.configuration.format == "sf4"
    assert row.configuration.name == "sf4@mse gptq"


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


def test_a_measure_without_a_paired_test_ties_where_bars_overlap() -> None:
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
