"""Figures of one model's rows, and those of formats that all models share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from studentfloat.records import (
    METRICS,
    Comparison,
    FormatHardware,
    Row,
    StudyResult,
    TensorError,
)
from studentfloat.report.figures import Figure, altair, inline
from studentfloat.report.palette import SERIES, SHAPES

__all__ = ["format_figures", "model_figures", "unique_silicon"]

_ROW_HEIGHT = 22
_MOST_PAIRED = 30
_MOST_COLORED = len(SERIES)
_LARGEST_NU_DRAWN = 100.0
_FIT = {"type": "fit-x", "contains": "padding"}
_WIDE = {"width": "container", "autosize": _FIT}


def format_figures(result: StudyResult) -> list[Figure]:
    """Where each format's values lie, and where its unit's area goes."""
    rows = [row for model in result.models for row in model.formats]
    return _drawn([_number_lines(rows), _breakdown(rows)])


def model_figures(model: Comparison) -> list[Figure]:
    """Errors by layer and kind, against KL, pairs, and the law of each layer."""
    return _drawn([make(model) for make in (_layers, _kinds, _weight_error, _pairs, _degrees)])


def _drawn(figures: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def _qualities(model: Comparison) -> list[tuple[str, Row]]:
    return [(row.name, row) for row in model.formats if row.measures]


def _number_lines(rows: Iterable[Row]) -> Figure | None:
    """Every format's values on one line each, scaled to the same greatest magnitude."""
    formats = dict.fromkeys((row.format, row.values) for row in rows if row.values)
    if not formats:
        return None
    alt = altair()
    drawn = [
        {"format": name, "value": v, "scaled": v / max(map(abs, values)), "kind": _kind(values, v)}
        for name, values in formats
        for v in values
    ]
    names = list(dict.fromkeys(name for name, _ in formats))
    legend = alt.Legend(orient="top", symbolSize=90, symbolType="square")
    kinds = alt.Scale(
        domain=["value", "no mirror image", "zero"], range=[SERIES[0], SERIES[1], "var(--ink)"]
    )
    chart = (
        alt.Chart(inline(alt, drawn))
        .mark_tick(thickness=2)
        .encode(
            x=alt.X("scaled:Q", title="value over greatest magnitude"),
            y=alt.Y("format:N", sort=names, title=None),
            color=alt.Color("kind:O", title=None, scale=kinds, legend=legend),
            size=alt.Size(
                "kind:O",
                title=None,
                scale=alt.Scale(domain=kinds.domain, range=[14, 20, 20]),
                legend=legend,
            ),
            tooltip=["format:N", alt.Tooltip("value:Q", format=".6g"), "kind:N"],
        )
        .properties(height=_ROW_HEIGHT * len(names), **_WIDE)
    )
    return Figure(
        "number-lines",
        "Where the values lie",
        "A line a format. Longer ticks: zero, and values that have no mirror image on the other "
        "side of it.",
        chart.to_dict(),
    )


def _kind(values: tuple[float, ...], value: float) -> str:
    if value == 0:
        return "zero"
    return "value" if -value in values else "no mirror image"


def unique_silicon(rows: Iterable[Row]) -> list[tuple[str, FormatHardware]]:
    """Each format in each unit once, by its name, cheapest first."""
    found: dict[tuple[Any, ...], tuple[str, FormatHardware]] = {}
    for row in rows:
        for silicon in row.hardware:
            name = row.format
            key = (name, silicon.unit, silicon.library, silicon.area, silicon.energy_real_fj)
            found.setdefault(key, (name, silicon))
    return sorted(found.values(), key=lambda pair: (pair[1].unit, pair[1].area))


_PARTS = ("decoder", "multiplier", "adder", "register")


def _breakdown(rows: Iterable[Row]) -> Figure | None:
    """Area by part of the unit."""
    drawn: dict[tuple[str, str, str], dict[str, Any]] = {}
    silicon = unique_silicon(rows)
    units = {hardware.unit for _, hardware in silicon}
    for name, hardware in silicon:
        split = hardware.area_breakdown
        for order, part in enumerate(_PARTS if split is not None else ()):
            row = name if len(units) == 1 else f"{name}, {hardware.unit}"
            drawn.setdefault(
                (row, hardware.library, part),
                {"format": row, "part": part, "area": getattr(split, part), "order": order},
            )
    if not drawn:
        return None
    alt = altair()
    names = list(dict.fromkeys(row["format"] for row in drawn.values()))
    unit = silicon[0][1].area_unit
    chart = (
        alt.Chart(inline(alt, list(drawn.values())))
        .mark_bar(stroke="var(--paper)", strokeWidth=1.5)
        .encode(
            x=alt.X("area:Q", title=f"area ({unit})"),
            y=alt.Y("format:N", sort=names, title=None),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=list(_PARTS), range=SERIES[:4]),
                legend=alt.Legend(orient="top"),
            ),
            order="order:O",
            tooltip=["format:N", "part:N", alt.Tooltip("area:Q", format=".1f")],
        )
        .properties(height=_ROW_HEIGHT * len(names), **_WIDE)
    )
    return Figure(
        "breakdown",
        "Where the area goes",
        "From left to right: decoder, multiplier, adder, register. Taken with the boundaries "
        "between the parts kept, so they add up to a little more than the whole.",
        chart.to_dict(),
    )


def _mean_by(tensors: Iterable[TensorError], key: str) -> dict[Any, float]:
    """Mean error by layer or kind, weighted by how many weights a tensor has."""
    sums: dict[Any, tuple[float, int]] = {}
    for tensor in tensors:
        group = getattr(tensor, key)
        if group is None:
            continue
        weights = 1
        for side in tensor.shape:
            weights *= side
        error, count = sums.get(group, (0.0, 0))
        sums[group] = (error + tensor.nmse * weights, count + weights)
    return {group: error / max(count, 1) for group, (error, count) in sums.items()}


def _layers(model: Comparison) -> Figure | None:
    """Weight error by layer: the best rows in color, the others grey."""
    found = [(name, _mean_by(quality.tensors, "layer")) for name, quality in _qualities(model)]
    found = [(name, by_layer) for name, by_layer in found if len(by_layer) > 1]
    if not found:
        return None
    found.sort(key=lambda pair: sum(pair[1].values()) / len(pair[1]))
    rows = [
        {
            "name": name,
            "layer": sorted(by_layer),
            "error": [v for _, v in sorted(by_layer.items())],
            "series": name if index < _MOST_COLORED else "others",
        }
        for index, (name, by_layer) in enumerate(found)
    ]
    alt = altair()
    domain = list(dict.fromkeys(row["series"] for row in rows))
    colors = [*SERIES[: min(len(found), _MOST_COLORED)], "var(--line)"][: len(domain)]
    shapes = [*SHAPES, "circle"][: len(domain)]
    pick = alt.selection_point(fields=["series"], bind="legend")
    legend = alt.Legend(orient="top", columns=3, labelLimit=180)
    base = (
        alt.Chart(inline(alt, rows))
        .transform_flatten(["layer", "error"])
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "error:Q",
                title="weight error, log",
                scale=alt.Scale(type="log", nice=False, padding=8),
            ),
            color=alt.Color(
                "series:N", title=None, scale=alt.Scale(domain=domain, range=colors), legend=legend
            ),
            detail="name:N",
            opacity=alt.condition(pick, alt.value(1), alt.value(0.12)),
        )
    )
    shape = alt.Shape(
        "series:N", title=None, scale=alt.Scale(domain=domain, range=shapes), legend=legend
    )
    tooltip = ["name:N", "layer:Q", alt.Tooltip("error:Q", format=".5f")]
    chart = alt.layer(
        base.mark_line(strokeWidth=1.3, aria=False),
        base.mark_point(filled=True, size=34).encode(shape=shape, tooltip=tooltip).add_params(pick),
    ).properties(height=320, **_WIDE)
    others = f" The {len(found) - _MOST_COLORED} worse are grey." if "others" in domain else ""
    return Figure(
        "layers",
        "Weight error by layer",
        "Mean over the weights of each block. Click a name in the legend to single it out."
        + others,
        chart.to_dict(),
    )


def _kinds(model: Comparison) -> Figure | None:
    """Weight error by kind of weight."""
    rows = [
        {"name": name, "kind": kind, "error": error}
        for name, quality in _qualities(model)
        for kind, error in _mean_by(quality.tensors, "kind").items()
    ]
    if not rows:
        return None
    alt = altair()
    names = list(dict.fromkeys(row["name"] for row in rows))
    chart = (
        alt.Chart(inline(alt, rows))
        .mark_rect()
        .encode(
            x=alt.X("kind:N", title=None, sort=None, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("name:N", title=None, sort=names),
            tooltip=["name:N", "kind:N", alt.Tooltip("error:Q", format=".5f")],
            color=alt.Color(
                "error:Q",
                scale=alt.Scale(type="log", scheme="viridis"),
                title="weight error",
                legend=alt.Legend(orient="top", gradientLength=220, tickCount=3),
            ),
        )
        .properties(height=_ROW_HEIGHT * len(names), **_WIDE)
    )
    return Figure(
        "kinds",
        "Weight error by kind of weight",
        "Mean over blocks. A dark row is a format that fits everywhere; a bright column is a "
        "kind of weight that no format fits well. The figures are in each row's record.",
        chart.to_dict(),
    )


def _weight_error(model: Comparison) -> Figure | None:
    """Weight error against KL: they do not order formats alike."""
    rows = [
        {
            "name": name,
            "label": name if len(model.formats) <= 20 else "",
            "weight error": quality.weight_nmse,
            "KL": quality.kl,
            "low": max(quality.kl - 2 * (quality.kl_se or 0), 0.1 * quality.kl),
            "high": quality.kl + 2 * (quality.kl_se or 0),
        }
        for name, quality in _qualities(model)
        if quality.kl and quality.weight_nmse
    ]
    if len(rows) < 2:
        return None
    alt = altair()
    base = alt.Chart(inline(alt, rows))
    tight = alt.Scale(type="log", nice=False, padding=24)
    x = alt.X("weight error:Q", scale=tight, title="weight error, log")
    y = alt.Y("KL:Q", scale=tight, title="KL from the original (nats per token), log")
    chart = alt.layer(
        base.mark_rule(color=SERIES[0], aria=False).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=60, color=SERIES[0], opacity=1).encode(
            x=x,
            y=y,
            tooltip=[
                "name:N",
                alt.Tooltip("weight error:Q", format=".5f"),
                alt.Tooltip("KL:Q", format=".4f"),
            ],
        ),
        base.mark_text(align="left", dx=7, dy=-5, fontSize=11, aria=False).encode(
            x=x, y=y, text="label:N"
        ),
    ).properties(height=400, **_WIDE)
    return Figure(
        "weight-error",
        "Weight error is not quality",
        "Were weight error all that counts, the dots would rise from left to right without "
        "exception.",
        chart.to_dict(),
    )


_VERDICTS = {"row is better": "+", "tie": "", "row is worse": "−"}


def _pairs(model: Comparison) -> Figure | None:
    """Which differences are real, for the measure that was tested first."""
    measure = next((pair.measure for pair in model.differences), None)
    pairs = [pair for pair in model.differences if pair.measure == measure]
    names = [row.name for row in model.formats]
    if measure is None or len(names) > _MOST_PAIRED:
        return None
    higher = measure in METRICS and METRICS[measure].higher_is_better
    higher = higher or any(
        f"{s.task} {s.metric}" == measure and s.higher_is_better
        for row in model.formats
        for s in row.scores
    )
    rows = []
    for pair in pairs:
        for first, second, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
            difference = sign * pair.difference
            better = (difference > 0) == higher
            verdict = "tie"
            if pair.significant:
                verdict = "row is better" if better else "row is worse"
            rows.append(
                {
                    "row": first,
                    "column": second,
                    "difference": difference,
                    "p": pair.p_value,
                    "verdict": verdict,
                    "mark": _VERDICTS[verdict],
                }
            )
    alt = altair()
    base = alt.Chart(inline(alt, rows)).encode(
        x=alt.X("column:N", sort=names, title=None, axis=alt.Axis(labelAngle=-45)),
        y=alt.Y("row:N", sort=names, title=None),
    )
    colors = alt.Scale(domain=list(_VERDICTS), range=[SERIES[0], "var(--wash)", SERIES[1]])
    cells = base.mark_rect(stroke="var(--line)", strokeWidth=1).encode(
        color=alt.Color("verdict:N", title=None, scale=colors, legend=alt.Legend(orient="top")),
        tooltip=[
            "row:N",
            "column:N",
            alt.Tooltip("difference:Q", format="+.4f"),
            alt.Tooltip("p:Q", format=".4f", title="adjusted p"),
            "verdict:N",
        ],
    )
    marks = base.mark_text(fontSize=13, fontWeight="bold", color="var(--paper)", aria=False)
    chart = alt.layer(cells, marks.encode(text="mark:N"))
    return Figure(
        "pairs",
        "Which differences are real",
        f"By {measure.replace('_', ' ')}, paired, adjusted over all pairs, 5 %. + where the row is "
        "better, − where it is worse; pairs without a mark are ties on these data.",
        chart.properties(height=_ROW_HEIGHT * len(names), **_WIDE).to_dict(),
    )


def _degrees(model: Comparison) -> Figure | None:
    """ν of each weight tensor by layer, with its interval."""
    rows = [
        {
            "tensor": law.name,
            "role": law.role,
            "layer": law.layer,
            "ν": _drawable(law.degrees_of_freedom),
            "low": _drawable(law.degrees_of_freedom_low),
            "high": _drawable(law.degrees_of_freedom_high),
            "found": "∞" if law.degrees_of_freedom is None else f"{law.degrees_of_freedom:.2f}",
            "best": law.best.replace("_", " "),
        }
        for law in model.laws
        if law.layer is not None
    ]
    if not rows:
        return None
    alt = altair()
    roles = list(dict.fromkeys(row["role"] for row in rows))
    pick = alt.selection_point(fields=["role"], bind="legend")
    legend = alt.Legend(orient="top", columns=4)
    ranges = [[of[i % len(of)] for i in range(len(roles))] for of in (SERIES, SHAPES)]
    base = alt.Chart(inline(alt, rows)).encode(
        x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y(
            "ν:Q",
            scale=alt.Scale(type="log", nice=False, padding=8),
            title="degrees of freedom (100: more, or ∞)",
        ),
        color=alt.Color(
            "role:N", title=None, legend=legend, scale=alt.Scale(domain=roles, range=ranges[0])
        ),
        opacity=alt.condition(pick, alt.value(1), alt.value(0.1)),
    )
    shape = alt.Shape(
        "role:N", title=None, legend=legend, scale=alt.Scale(domain=roles, range=ranges[1])
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=1.2, aria=False),
        base.mark_rule(aria=False).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=40)
        .encode(shape=shape, tooltip=["tensor:N", "found:N", "best:N"])
        .add_params(pick),
    ).properties(height=340, **_WIDE)
    return Figure(
        "degrees",
        "Degrees of freedom by layer",
        "Of Student's t, with 95 % intervals: the fewer, the heavier the tails. SF4 is made for 5; "
        "the normal law is ∞. Click a kind of layer in the legend to single it out.",
        chart.to_dict(),
    )


def _drawable(degrees: float | None) -> float:
    return _LARGEST_NU_DRAWN if degrees is None else min(degrees, _LARGEST_NU_DRAWN)
