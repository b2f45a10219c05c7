from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from studentfloat.records import Baseline, Comparison
from studentfloat.report import comparison_page, comparison_rows, print_comparison
from studentfloat.study import CompareOptions, compare
from tests import tiny


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    directory = tiny.save(tiny.llama, tmp_path_factory.mktemp("llama") / "m")
    return compare(
        CompareOptions(
            model=str(directory),
            formats=("nf4", "sf4", "int8", "e2m1+sr@signed-absmax"),
            windows=3,
            window_length=16,
        )
    )


def test_table_shows_each_row_once_with_uncertainty_and_ties(comparison) -> None:
    headings, rows = comparison_rows(comparison)
    assert headings == [
        *("rank", "format", "bits", "error", "perplexity", "KL (nats)", "top-1"),
    ]
    assert [row[1] for row in rows] == [row.name for row in comparison.formats]
    assert all("±" in row[headings.index("KL (nats)")] for row in rows)
    tied = replace(comparison, formats=tuple(replace(row, rank=1) for row in comparison.formats))
    assert {row[0] for row in comparison_rows(tied)[1]} == {"=1"}


def test_terminal_output_names_what_was_left_alone(comparison) -> None:
    out = io.StringIO()
    caution = replace(comparison, cautions=("mind the grid",))
    print_comparison(caution, Console(file=out, width=160))
    text = out.getvalue()
    assert "Left as they were" in text
    assert "Caution: mind the grid" in text
    assert "The original model has perplexity" in text


def test_page_needs_no_network_and_holds_every_figure(comparison) -> None:
    page = comparison_page(comparison)
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=", markup)
    assert "<script src" not in page
    keys = re.findall(r'data-figure="figure-([\w-]+)"', page)
    assert keys == ["number-lines", "0-layers", "0-kinds", "0-weight-error", "0-pairs"]
    for spec in re.findall(
        r'<script type="application/json" data-figure[^>]*>(.*?)</script>', page
    ):
        assert json.loads(spec)["$schema"].startswith("https://vega.github.io/schema/vega-lite")
    assert comparison.provenance.model_sha256[:16] in page
    assert len(page) < 1_500_000


def test_page_escapes_what_a_user_can_name(comparison) -> None:
    hostile = "</script><script>alert(1)</script>"
    rows = (replace(comparison.formats[0], name=hostile), *comparison.formats[1:])
    page = comparison_page(replace(comparison, formats=rows, model=hostile))
    assert "<script>alert" not in page


def test_page_of_weights_only_has_no_quality_figures(comparison) -> None:
    bare = replace(
        comparison,
        formats=tuple(
            replace(row, measures=(row.measured("weight_nmse"),), hardware=())
            for row in comparison.formats
        ),
        baseline=Baseline(),
        differences=(),
        ranked_by="weight_nmse",
    )
    page = comparison_page(bare)
    assert "KL from the original" not in page
    assert 'value="weight_nmse"' in page
    assert 'data-figure="figure-number-lines"' in page
    assert 'data-figure="figure-breakdown"' not in page
    assert "Ranked by weight error alone" in page
