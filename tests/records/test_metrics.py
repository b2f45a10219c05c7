from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from studentfloat.evaluate.quality import QUANTITIES, Quantity
from studentfloat.records import METRICS, Metric, record_from_json, record_to_json
from studentfloat.records.comparison import Comparison
from studentfloat.records.metrics import InPapers, Mean, measure, over_texts, sharpest
from studentfloat.report import comparison_page, comparison_rows, print_comparison
from studentfloat.report.points import as_study
from studentfloat.study import CompareOptions, compare
from studentfloat.study.sweep.measures import _measured
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.tables import markdown_tables
from tests import tiny

WINDOWS = {"kl": (0.1, 0.3), "nll": (1.0, 3.0)}
TOKENS = {"kl": (np.array([0.0, 0.2]), np.array([0.1, 0.5]))}


def test_values_on_a_text() -> None:
    found = {one.metric: one for one in measure("t", WINDOWS, TOKENS)}
    assert found["kl"].value == pytest.approx(0.2)
    assert found["kl"].standard_error == pytest.approx(0.1)
    assert found["kl"].windows == (0.1, 0.3)
    assert found["perplexity"].value == pytest.approx(math.exp(2))
    assert found["perplexity"].standard_error == pytest.approx(math.exp(2))
    assert found["kl_p50"].value == pytest.approx(0.15)
    assert found["kl_max"].value == 0.5
    assert found["kl_max"].windows == ()
    assert "top1_agreement" not in found
    # Percentiles are of tokens: means by window alone give none.
    assert "kl_p50" not in {one.metric for one in measure("t", WINDOWS, {})}


def test_over_texts_each_counts_alike() -> None:
    other = {"kl": (0.5, 0.5), "nll": (4.0, 4.0)}
    joined = {
        m.metric: m for m in over_texts([measure("a", WINDOWS, TOKENS), measure("b", other, {})])
    }
    kl = joined["kl"]
    assert kl.value == pytest.approx((0.2 + 0.5) / 2)
    assert kl.standard_error == pytest.approx(0.1 / 2)
    assert [(on.text, on.value) for on in kl.texts] == [("a", pytest.approx(0.2)), ("b", 0.5)]
    assert kl.windows == (0.1, 0.3, 0.5, 0.5)
    assert joined["perplexity"].value == pytest.approx(math.exp((2 + 4) / 2))
    (alone,) = over_texts([measure("a", {"kl": (0.1, 0.3)}, {})])
    assert alone == measure("a", {"kl": (0.1, 0.3)}, {})[0]


def test_rows_are_ranked_by_the_sharpest_metric() -> None:
    assert sharpest(["weight_nmse", "perplexity", "kl"]).key == "kl"
    assert sharpest(["weight_nmse", "output_nmse"]).key == "output_nmse"
    assert sharpest([]).key == "weight_nmse"


@pytest.fixture
def surprise(monkeypatch) -> Metric:
    """A metric that the package does not have: one entry, and what is measured."""
    metric = Metric(
        "surprise", "surprise", "share of tokens with less than half their probability",
        quantity="surprise", aggregate=Mean(), digits=4, explained="surprise: made up",
        paper=InPapers("S"),
    )  # fmt: skip
    kinds = QUANTITIES["kl"].kinds
    measured = Quantity(kinds, lambda seen: (QUANTITIES["kl"].of(seen) > math.log(2)).double())
    monkeypatch.setitem(METRICS, metric.key, metric)
    monkeypatch.setitem(QUANTITIES, metric.quantity, measured)
    return metric


def test_a_new_metric_is_an_entry_and_its_measurement(surprise, tmp_path) -> None:
    """Tables, page, ranks, frontiers, JSON and exports follow."""
    model = tiny.save(tiny.llama, tmp_path / "m")
    asked = CompareOptions(str(model), ("int2", "int8"), windows=3, window_length=24, block_size=16)
    result = compare(asked, directory=tmp_path / "out")
    values = {row.name: row.surprise for row in result.formats}
    assert values["int8"] < values["int2"]
    headings, rows = comparison_rows(result)
    column = headings.index("surprise")
    assert {row[1]: row[column].split(" ")[0] for row in rows} == {
        name: f"{value:.4f}" for name, value in values.items()
    }
    out = io.StringIO()
    print_comparison(result, Console(file=out, width=160))
    assert "surprise: made up." in out.getvalue()
    assert '<option value="surprise">share of tokens' in comparison_page(result)
    data = json.loads(json.dumps(record_to_json(result)))
    assert {row["name"]: row["surprise"] for row in data["formats"]} == values
    assert record_from_json(Comparison, data) == result
    assert "| S |" in markdown_tables(as_study(result))
    store = Store(tmp_path / "out")
    exported = {
        one[0]: one[2]
        for address in result.formats[0].cells
        for one in _measured(store.read_cell(address))
    }
    assert exported["surprise"] == values[result.formats[0].name]


def test_the_sharpest_ranks_even_if_it_is_new(surprise, monkeypatch, tmp_path) -> None:
    import dataclasses

    monkeypatch.setitem(METRICS, "surprise", dataclasses.replace(surprise, sharpness=9))
    model = tiny.save(tiny.llama, tmp_path / "m")
    result = compare(CompareOptions(str(model), ("int2", "int8"), windows=3, window_length=24))
    assert result.ranked_by == "surprise"
    assert {pair.measure for pair in result.differences} == {"surprise"}
    assert {found.loss for found in result.frontiers} == {"surprise"}
