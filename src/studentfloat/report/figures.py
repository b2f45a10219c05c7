"""Figures of a comparison, as Vega-Lite specifications made with Altair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from studentfloat.errors import MissingDependencyError
from studentfloat.records import Comparison, FormatQuality, Frontier, Standing

__all__ = ["Figure", "comparison_figures"]

# Okabe and Ito's palette, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
_ROW_HEIGHT = 22


class Figure:
    """A chart with what it shows in words.

    Attributes
    ----------
    key, title, caption
        Identifier, heading, and one or two sentences that stand in for the picture.
    spec
        The Vega-Lite specification.
    """

    def __init__(self, key: str, title: str, caption: str, spec: dict[str, Any]) -> None:
        self.key, self.title, self.caption, self.spec = key, title, caption, spec


def comparison_figures(comparison: Comparison) -> list[Figure]:
    """All figures that the comparison has the numbers for."""
    try:
        import altair as alt
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("altair", "report") from error
    makers: list[Callable[[Any, Comparison], Figure | None]] = [
        _frontiers,
        _quality,
        _number_lines,
        _three_measures,
        _layers,
        _kinds,
        _pairs,
    ]
    return [figure for make in makers if (figure := make(alt, comparison)) is not None]


def _data(alt: Any, rows: list[dict[str, Any]]) -> Any:
    return alt.Data(values=rows)


def _names(comparison: Comparison) -> list[str]:
    return [row.name for row in comparison.formats]


def _height(comparison: Comparison) -> int:
    return _ROW_HEIGHT * len(comparison.formats)


def _spec(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    return spec


_COST_LABELS = {
    "area": "area of a multiply-accumulate unit",
    "energy_fj": "energy per multiply-accumulate",
    "bits_per_weight": "bits per weight, scales included",
}


def _frontiers(alt: Any, comparison: Comparison) -> Figure | None:
    """Quality against each cost on which formats differ, the frontier drawn through."""
    panels = [
        _frontier_panel(alt, found)
        for found in comparison.frontiers
        if len({point.cost for point in found.points}) > 1
    ]
    if not panels:
        return None
    return Figure(
        "frontiers",
        "The Pareto frontier",
        "Lower and further left is better. Bars: two standard errors of quality over windows; of "
        "area, the spread over synthesis recipes. A format within the noise of the frontier may "
        "lie on it.",
        _spec(alt.vconcat(*panels)),
    )


def _frontier_panel(alt: Any, found: Frontier) -> Any:
    rows = [
        {
            "format": point.name,
            "cost": point.cost,
            "left": point.cost - point.cost_error,
            "right": point.cost + point.cost_error,
            "loss": point.loss,
            "low": point.loss - 2 * point.loss_error,
            "high": point.loss + 2 * point.loss_error,
            "standing": point.standing,
        }
        for point in found.points
    ]
    on_it = [row for row in rows if row["standing"] == Standing.FRONTIER.value]
    base = alt.Chart(_data(alt, rows))
    tight = alt.Scale(type="log", nice=False, padding=25)
    x = alt.X("cost:Q", title=f"{_COST_LABELS[found.cost]} ({found.cost_unit}, log)", scale=tight)
    y = alt.Y("loss:Q", title=f"{_MEASURES.get(found.loss, 'weight error')}, log", scale=tight)
    color = alt.Color(
        "standing:N",
        title=None,
        scale=alt.Scale(
            domain=[standing.value for standing in Standing], range=[BLUE, ORANGE, GREY]
        ),
        legend=alt.Legend(orient="top"),
    )
    tooltip = [
        "format:N",
        alt.Tooltip("cost:Q", title=found.cost, format=".4g"),
        alt.Tooltip("loss:Q", title=found.loss, format=".4g"),
        "standing:N",
    ]
    step = (
        alt.Chart(_data(alt, on_it))
        .mark_line(interpolate="step-after", color=BLUE, strokeWidth=1.5, opacity=0.6)
        .encode(x=x, y=y)
    )
    return alt.layer(
        step,
        base.mark_rule().encode(x=x, y=alt.Y("low:Q", scale=tight), y2="high:Q", color=color),
        base.mark_rule().encode(x=alt.X("left:Q", scale=tight), x2="right:Q", y=y, color=color),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y, color=color, tooltip=tooltip
        ),
        base.mark_text(align="left", dx=7, dy=-5, fontSize=10).encode(x=x, y=y, text="format:N"),
    ).properties(width=620, height=400)


_MEASURES = {
    "kl": "KL from the original (nats per token)",
    "perplexity": "perplexity",
    "output_nmse": "error of the last hidden state",
}


def _quality(alt: Any, comparison: Comparison) -> Figure | None:
    """Dot and error bar per format, for each measure that was taken."""
    panels = []
    for key, label in _MEASURES.items():
        rows = [_point(row, key) for row in comparison.formats if getattr(row, key) is not None]
        if rows:
            panels.append(_panel(alt, comparison, key, label, rows))
    if not panels:
        return None
    baseline = comparison.baseline.perplexity
    return Figure(
        "quality",
        "What each format costs",
        "Left is better. Dots are means over windows, bars two standard errors either way"
        + ("" if baseline is None else f"; the dashed line is the original, {baseline:.2f}")
        + ". Windows are shared, so two formats can differ for certain though their bars overlap: "
        "see the pairs below.",
        _spec(alt.vconcat(*panels)),
    )


def _point(row: FormatQuality, key: str) -> dict[str, Any]:
    value, error = getattr(row, key), getattr(row, f"{key}_se") or 0.0
    return {
        "format": row.name,
        "value": value,
        "low": value - 2 * error,
        "high": value + 2 * error,
        "standard error": error,
        "bits/weight": row.bits_per_weight,
        "scale rule": row.scale_rule,
        "rank": row.rank,
    }


def _panel(
    alt: Any, comparison: Comparison, key: str, label: str, rows: list[dict[str, Any]]
) -> Any:
    y = alt.Y("format:N", sort=_names(comparison), title=None)
    base = alt.Chart(_data(alt, rows))
    x = alt.X("value:Q", title=label, scale=alt.Scale(zero=False, nice=True))
    bars = base.mark_rule(color=BLUE, strokeWidth=1.5).encode(
        x=alt.X("low:Q", title=label, scale=alt.Scale(zero=False)), x2="high:Q", y=y
    )
    dots = base.mark_point(filled=True, size=70, color=BLUE, opacity=1).encode(
        x=x,
        y=y,
        tooltip=[
            "format:N",
            alt.Tooltip("value:Q", title=label, format=".4f"),
            alt.Tooltip("standard error:Q", format=".4f"),
            alt.Tooltip("bits/weight:Q", format=".3f"),
            "scale rule:N",
            "rank:Q",
        ],
    )
    layers = [bars, dots]
    if key == "perplexity" and comparison.baseline.perplexity is not None:
        original = _data(alt, [{"value": comparison.baseline.perplexity}])
        layers.insert(
            0, alt.Chart(original).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="value:Q")
        )
    return alt.layer(*layers).properties(width=560, height=_height(comparison))


def _number_lines(alt: Any, comparison: Comparison) -> Figure:
    """Every format's values on one line each, scaled to the same greatest magnitude."""
    rows = []
    for row in comparison.formats:
        largest = max(abs(v) for v in row.values)
        rows += [
            {"format": row.name, "value": v, "scaled": v / largest, "kind": _kind(row, v)}
            for v in row.values
        ]
    chart = (
        alt.Chart(_data(alt, rows))
        .mark_tick(thickness=2, size=15)
        .encode(
            x=alt.X("scaled:Q", title="value over greatest magnitude"),
            y=alt.Y("format:N", sort=_names(comparison), title=None),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(
                    domain=["value", "zero", "no mirror image"], range=[BLUE, GREY, VERMILION]
                ),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["format:N", alt.Tooltip("value:Q", format=".6g")],
        )
        .properties(width=560, height=_height(comparison))
    )
    return Figure(
        "number-lines",
        "Where the values lie",
        "One line per format, in order of rank. Vermilion values have no mirror image on the "
        "other side of zero: the supernormal of E2M1+SP and +SR, all of NF4 and SF4.",
        _spec(chart),
    )


def _kind(row: FormatQuality, value: float) -> str:
    if value == 0:
        return "zero"
    return "value" if -value in row.values else "no mirror image"


def _three_measures(alt: Any, comparison: Comparison) -> Figure | None:
    """Weight error against KL: they do not order formats alike."""
    if any(row.kl is None for row in comparison.formats):
        return None
    rows = [
        {
            "format": row.name,
            "weight error": row.weight_nmse,
            "KL": row.kl,
            "low": (row.kl or 0) - 2 * (row.kl_se or 0),
            "high": (row.kl or 0) + 2 * (row.kl_se or 0),
        }
        for row in comparison.formats
    ]
    base = alt.Chart(_data(alt, rows))
    tight = alt.Scale(type="log", nice=False, padding=20)
    x = alt.X("weight error:Q", scale=tight, title="weight error (log)")
    y = alt.Y("low:Q", scale=tight, title="KL from the original (nats, log)")
    bars = base.mark_rule(color=BLUE).encode(x=x, y=y, y2="high:Q")
    dots = base.mark_point(filled=True, size=60, color=BLUE, opacity=1).encode(
        x=x,
        y="KL:Q",
        tooltip=[
            "format:N",
            alt.Tooltip("weight error:Q", format=".5f"),
            alt.Tooltip("KL:Q", format=".4f"),
        ],
    )
    labels = base.mark_text(align="left", dx=7, dy=-4, fontSize=10).encode(
        x=x, y="KL:Q", text="format:N"
    )
    return Figure(
        "weight-error",
        "Weight error is not quality",
        "Were weight error all that counts, the dots would rise from left to right without "
        "exception.",
        _spec(alt.layer(bars, dots, labels).properties(width=620, height=440)),
    )


def _layers(alt: Any, comparison: Comparison) -> Figure | None:
    """Error by layer, averaged over the tensors of a layer by their weights."""
    rows: list[dict[str, Any]] = []
    for row in comparison.formats:
        sums: dict[int, list[float]] = {}
        for tensor in row.tensors:
            if tensor.layer is not None:
                sums.setdefault(tensor.layer, []).append(tensor.nmse)
        rows += [
            {"format": row.name, "layer": layer, "error": sum(nmse) / len(nmse)}
            for layer, nmse in sorted(sums.items())
        ]
    if len({r["layer"] for r in rows}) < 2:
        return None
    pick = alt.selection_point(fields=["format"], bind="legend")
    chart = (
        alt.Chart(_data(alt, rows))
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.5)
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "error:Q",
                scale=alt.Scale(type="log", nice=False, padding=8),
                title="weight error (log)",
            ),
            color=alt.Color(
                "format:N",
                sort=_names(comparison),
                scale=alt.Scale(scheme="tableau20"),
                title="click to single out",
            ),
            opacity=alt.condition(pick, alt.value(1), alt.value(0.12)),
            tooltip=["format:N", "layer:Q", alt.Tooltip("error:Q", format=".5f")],
        )
        .add_params(pick)
        .properties(width=480, height=320)
    )
    return Figure(
        "layers",
        "Error by layer",
        "Mean over the weights of each block. Click a format in the legend to single it out.",
        _spec(chart),
    )


def _kinds(alt: Any, comparison: Comparison) -> Figure | None:
    """Error by kind of weight."""
    rows: list[dict[str, Any]] = []
    for row in comparison.formats:
        kinds: dict[str, list[float]] = {}
        for tensor in row.tensors:
            kinds.setdefault(tensor.kind, []).append(tensor.nmse)
        rows += [
            {"format": row.name, "kind": kind, "error": sum(nmse) / len(nmse)}
            for kind, nmse in kinds.items()
        ]
    if not rows:
        return None
    base = alt.Chart(_data(alt, rows)).encode(
        x=alt.X("kind:N", title=None, sort=None),
        y=alt.Y("format:N", title=None, sort=_names(comparison)),
        tooltip=["format:N", "kind:N", alt.Tooltip("error:Q", format=".5f")],
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "error:Q", scale=alt.Scale(type="log", scheme="viridis"), title="weight error"
        )
    )
    return Figure(
        "kinds",
        "Error by kind of weight",
        "Mean over blocks. A dark row is a format that fits everywhere; a bright column is a "
        "kind of weight that no format fits well.",
        _spec(cells.properties(width=460, height=_height(comparison))),
    )


def _pairs(alt: Any, comparison: Comparison) -> Figure | None:
    """Which differences are real."""
    if not comparison.differences:
        return None
    rows = []
    for pair in comparison.differences:
        for first, second, sign in (
            (pair.first, pair.second, 1.0),
            (pair.second, pair.first, -1.0),
        ):
            difference = sign * pair.difference
            verdict = "tie"
            if pair.significant:
                verdict = "row is better" if difference < 0 else "row is worse"
            rows.append(
                {
                    "row": first,
                    "column": second,
                    "difference": difference,
                    "p": pair.p_value,
                    "verdict": verdict,
                }
            )
    chart = (
        alt.Chart(_data(alt, rows))
        .mark_rect(stroke="white", strokeWidth=1)
        .encode(
            x=alt.X("column:N", sort=_names(comparison), title=None, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("row:N", sort=_names(comparison), title=None),
            color=alt.Color(
                "verdict:N",
                title=None,
                scale=alt.Scale(
                    domain=["row is better", "tie", "row is worse"], range=[BLUE, "#d9d9d9", ORANGE]
                ),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                "row:N",
                "column:N",
                alt.Tooltip("difference:Q", format="+.4f"),
                alt.Tooltip("p:Q", format=".4f", title="adjusted p"),
                "verdict:N",
            ],
        )
        .properties(width=400, height=_height(comparison))
    )
    return Figure(
        "pairs",
        "Which differences are real",
        f"Studentized paired bootstrap over windows of {comparison.ranked_by}, Holm-adjusted over "
        "all pairs, 5 %. Grey pairs are ties on this text.",
        _spec(chart),
    )
