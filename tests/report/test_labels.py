from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from studentfloat.report.labels import place_labels

HEIGHT = 380
places = st.lists(st.tuples(st.floats(1, 1e4), st.floats(1e-4, 10)), max_size=30)


def rows_at(found: list[tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {"name": f"row {i}", "cost": x, "left": x, "right": x, "loss": y, "low": y, "high": y,
         "standing": "dominated"}
        for i, (x, y) in enumerate(found)
    ]  # fmt: skip


def along(values: list[float], size: float) -> list[float]:
    """Pixels from the start of an axis: 28 of padding at either end, as Vega draws it."""
    low, high = min(values), max(values)
    return [28 + (v - low) / ((high - low) or 1) * (size - 56) for v in values]


@given(places, st.booleans(), st.integers(200, 900))
def test_labels_stay_in_the_plot_and_cover_neither_points_nor_each_other(
    found: list[tuple[float, float]], logarithmic: bool, width: int
) -> None:
    rows = rows_at(found)
    place_labels(rows, logarithmic=logarithmic, width=width, height=HEIGHT)
    if not rows:
        return
    xs = along([math.log(x) for x, _ in found], width)
    ys = [HEIGHT - y for y in along([math.log(y) if logarithmic else y for _, y in found], HEIGHT)]
    boxes = []
    for row, x, y in zip(rows, xs, ys, strict=True):
        assert row["label"] in {row["name"], ""}
        if not row["label"]:
            continue
        long = 6.3 * len(row["label"])
        left = x + row["dx"] - (long if row["align"] == "right" else 0)
        boxes.append((left, y + row["dy"] - 10, left + long, y + row["dy"] + 2))
    for box in boxes:
        assert box[0] >= -1e-6
        assert box[2] <= width + 1e-6
        # The middle of a point is well within what a label must keep clear of.
        assert not any(box[0] < x < box[2] and box[1] < y < box[3]
                       for x, y in zip(xs, ys, strict=True))  # fmt: skip
    for a, b in combinations(boxes, 2):
        over = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        assert min(over) <= 1e-6


def test_those_on_the_frontier_are_named_first() -> None:
    rows = rows_at([(10.0, 1.0)] * 12)
    rows[-1]["standing"] = "frontier"
    place_labels(rows, logarithmic=True, width=500, height=HEIGHT)
    assert rows[-1]["label"] == "row 11"
    assert rows[-1]["dx"] == 8
    assert any(not row["label"] for row in rows)
