"""The two figures that follow the reader's choices: the Pareto frontier, and one measure by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from studentfloat.records import Metric, Standing
from studentfloat.report.figures import Figure, fill
from studentfloat.report.labels import place_labels
from studentfloat.report.palette import SERIES, SHAPES
from studentfloat.report.points import PointMap, standings

__all__ = [
    "FLOOR",
    "FOREST_CAPTION",
    "HEIGHT",
    "KEYS",
    "ROW_HEIGHT",
    "forest_rows",
    "forest_template",
    "frontier_caption",
    "frontier_rows",
    "frontier_template",
    "map_figures",
]

# Of the map's plot in pixels; in a page it is as wide as there is room.
HEIGHT = 380
_WIDTH = 500
# How far down a bar goes that reaches below zero, on a logarithmic axis.
FLOOR = 0.1
ROW_HEIGHT = 22


def frontier_template() -> dict[str, Any]:
    """Quality against a cost; slots: ``@points``, ``@steps``, ``@originals``, titles, scales."""
    x = {
        "field": "cost",
        "type": "quantitative",
        "title": "@cost",
        "scale": {"type": "log", **_TIGHT},
    }
    y = {**_number("loss", "@measure"), "scale": "@loss scale"}
    legend = {"orient": "top", "columns": 3}
    colors = {"domain": "@series", "range": SERIES}
    series = {"field": "series", "type": "nominal", "title": None, "scale": colors}
    shapes = {**series, "scale": {"domain": "@series", "range": SHAPES}, "legend": legend}
    filled = {
        "field": "standing",
        "type": "ordinal",
        "title": None,
        "scale": {"domain": [standing.value for standing in Standing], "range": [1, 0.35, 0]},
        "legend": {**legend, "symbolFillColor": "var(--ink)", "symbolStrokeColor": "var(--ink)"},
    }
    points, originals = {"values": "@points"}, {"values": "@originals"}
    low, left = _number("low", "@measure"), _number("left", "@cost")
    return {
        **_base(HEIGHT),
        "description": "@description",
        "layer": [
            {"data": originals, **_DASHED, "encoding": {"y": y}},
            {
                "data": originals,
                "mark": {**_TEXT, "color": "var(--faint)", "align": "left", "dx": 4, "dy": -6},
                "encoding": {"y": y, "x": {"value": 0}, "text": {"field": "label"}},
            },
            {
                "data": {"values": "@steps"},
                "mark": {
                    "type": "line",
                    "interpolate": "step-after",
                    "opacity": 0.7,
                    "aria": False,
                },
                "encoding": {"x": x, "y": y, "stroke": series, "detail": {"field": "model"}},
            },
            {
                "data": points,
                "mark": _RULE,
                "encoding": {"x": x, "y": low, "y2": {"field": "high"}, "stroke": series},
            },
            {
                "data": points,
                "mark": _RULE,
                "encoding": {"x": left, "x2": {"field": "right"}, "y": y, "stroke": series},
            },
            {
                "data": points,
                "mark": {
                    "type": "point",
                    "size": 90,
                    "strokeWidth": 1.6,
                    "opacity": 1,
                    "cursor": "pointer",
                },
                "encoding": {
                    "x": x,
                    "y": y,
                    "stroke": {**series, "legend": legend},
                    "fill": {**series, "legend": legend},
                    "shape": shapes,
                    "fillOpacity": filled,
                    "description": {"field": "text"},
                    "tooltip": [
                        *({"field": key} for key in ("name", "model", "standing")),
                        {"field": "costText", "title": "@cost name"},
                        {"field": "lossText", "title": "@measure name"},
                    ],
                },
            },
            {
                "data": points,
                "mark": {**_TEXT, "color": "var(--ink)", **_PLACED},
                "encoding": {"x": x, "y": y, "text": {"field": "label"}},
            },
        ],
    }


def forest_template() -> dict[str, Any]:
    """One measure of a model's rows; slots: ``@rows``, ``@names``, ``@originals``, ``@measure``."""
    x = {
        "field": "value",
        "type": "quantitative",
        "title": "@measure",
        "scale": {"zero": False, "nice": True},
    }
    y = {"field": "name", "type": "nominal", "title": None, "sort": "@names"}
    rows = {"values": "@rows"}
    return {
        **_base("@height"),
        "description": "@description",
        "layer": [
            {"data": {"values": "@originals"}, **_DASHED, "encoding": {"x": x}},
            {
                "data": rows,
                "mark": {**_RULE, "color": SERIES[0]},
                "encoding": {"x": _number("low", "@measure"), "x2": {"field": "high"}, "y": y},
            },
            {
                "data": rows,
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 70,
                    "color": SERIES[0],
                    "opacity": 1,
                    "cursor": "pointer",
                },
                "encoding": {
                    "x": x,
                    "y": y,
                    "description": {"field": "text"},
                    "tooltip": [
                        {"field": "name"},
                        {"field": "valueText", "title": "@measure name"},
                        {"field": "rank"},
                    ],
                },
            },
        ],
    }


_TIGHT = {"nice": False, "padding": 28}
_TEXT = {"type": "text", "fontSize": 11, "aria": False}
_PLACED = {key: {"expr": f"datum.{key}"} for key in ("align", "dx", "dy")}
_RULE = {"type": "rule", "strokeWidth": 1.6, "aria": False}
_DASHED = {"mark": {**_RULE, "strokeDash": [5, 4], "color": "var(--faint)"}}


def _base(height: Any) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }


def _number(field: str, title: str) -> dict[str, Any]:
    """The ends of a bar carry the axis's title too: titles that differ would all be shown."""
    return {"field": field, "type": "quantitative", "title": title}


def frontier_rows(
    points: PointMap, cost: Metric, measure: Metric, *, width: float = _WIDTH
) -> dict[str, Any]:
    """What fills :func:`frontier_template` with all of a study's points."""
    shown = [p for p in points.points if cost.key in p.costs and measure.key in p.measures]
    models = list(dict.fromkeys(point.model for point in points.points))
    by_model = {model: standings(points, model, cost.key, measure) for model in models}
    rows = []
    for point in shown:
        standing = by_model[point.model][point.name]
        (at, spread), (value, error) = point.costs[cost.key], point.measures[measure.key]
        rows.append(
            {
                "row": points.points.index(point),
                "model": point.model,
                "name": point.name,
                "series": point.model if len(models) > 1 else point.method,
                "cost": at,
                "left": at - spread,
                "right": at + spread,
                "loss": value,
                **_bar(value, error, measure),
                "standing": standing,
                "text": f"{point.name}: {measure.short} {value:.4g}, {cost.short} {at:.4g}, "
                f"{standing}",
            }
        )
    place_labels(rows, logarithmic=measure.logarithmic, width=width, height=HEIGHT)
    steps = [row for row in rows if row["standing"] == Standing.FRONTIER.value]
    return {
        "@points": rows,
        "@steps": sorted(steps, key=lambda row: (row["cost"], row["loss"])),
        "@originals": [
            {"loss": found[measure.key][0], "label": _original(model, models)}
            for model, found in points.originals.items()
            if measure.key in found
        ],
        "@series": list(dict.fromkeys(row["series"] for row in rows)),
        "@loss scale": {**_TIGHT, **({"type": "log"} if measure.logarithmic else {"zero": False})},
        "@description": f"{measure.short} against {cost.short}. {KEYS}",
        "@cost": f"{cost.label}, log",
        "@measure": measure.label + (", log" if measure.logarithmic else ""),
        "@cost name": cost.short,
        "@measure name": measure.short,
    }


def _original(model: str, models: list[str]) -> str:
    return "original" if len(models) == 1 else f"{model}, original"


def _bar(value: float, error: float | None, measure: Metric) -> dict[str, float]:
    """Two standard errors either way."""
    low, high = value - 2 * (error or 0.0), value + 2 * (error or 0.0)
    if measure.logarithmic and value > 0:
        low = max(low, FLOOR * value)
    return {"low": low, "high": high}


def forest_rows(points: PointMap, model: str, measure: Metric) -> dict[str, Any]:
    """What fills :func:`forest_template` with all of a model's rows, the best first."""
    shown = [point for point in points.of(model) if measure.key in point.measures]
    sign = -1 if measure.higher_is_better else 1
    shown.sort(key=lambda point: sign * point.measures[measure.key][0])
    linear = replace(measure, logarithmic=False)
    originals = points.originals.get(model, {})
    return {
        "@rows": [
            {
                "row": points.points.index(point),
                "name": point.name,
                "value": point.measures[measure.key][0],
                "text": f"{point.name}: {measure.short} {point.measures[measure.key][0]:.4g}",
                **_bar(*point.measures[measure.key], linear),
            }
            for point in shown
        ],
        "@names": [point.name for point in shown],
        "@height": ROW_HEIGHT * len(shown),
        "@originals": [{"value": originals[measure.key][0]}] if measure.key in originals else [],
        "@description": f"{measure.short} of {model}, row by row, the best first. {KEYS}",
        "@measure": measure.label,
        "@measure name": measure.short,
    }


def map_figures(points: PointMap) -> list[Figure]:
    """Every frontier and every measure as figures of their own, with all rows."""
    figures = []
    frontier, forest = frontier_template(), forest_template()
    for measure in (axis for axis in points.measures if not axis.detail):
        for cost in points.costs:
            slots = frontier_rows(points, cost, measure)
            if len({row["cost"] for row in slots["@points"]}) > 1:
                title = f"{measure.short} against {cost.short}"
                key = _key("frontier", measure.short, "by", cost.short)
                figures.append(Figure(key, title, frontier_caption(measure), fill(frontier, slots)))
        for model in dict.fromkeys(point.model for point in points.points):
            slots = forest_rows(points, model, measure)
            if slots["@rows"]:
                title = f"{measure.short}: {model}"
                key = _key("measure", measure.short, model)
                figures.append(Figure(key, title, FOREST_CAPTION, fill(forest, slots)))
    return figures


def _key(*parts: str) -> str:
    text = "-".join(parts).lower()
    return "-".join("".join(c if c.isalnum() or c in "._" else " " for c in text).split())


KEYS = (
    "In a page Tab goes to the points, arrow keys from one to the next, Enter opens a point's "
    "record; the table has the same figures."
)
FOREST_CAPTION = (
    "Dots are means, bars two standard errors either way; a dashed line is the original. Rows are "
    "measured on the same text and items, so two can differ for certain though their bars "
    "overlap: see the ranks."
)


def frontier_caption(measure: Metric) -> str:
    """What the map shows, in words."""
    better = "Higher" if measure.higher_is_better else "Lower"
    return (
        f"{better} and further left is better. Bars: two standard errors of quality; of silicon, "
        "the spread over synthesis recipes. \u25cf filled: on the frontier; \u25d0 shaded: within "
        "its noise; \u25cb hollow: dominated. Names that would cover others are left out."
    )
