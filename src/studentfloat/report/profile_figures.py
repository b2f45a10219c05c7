"""Figures of a profile: densities against laws, Q-Q, ν and distances by layer."""

from __future__ import annotations

import math
from typing import Any

from studentfloat.records import LawFit, Profile, TensorProfile
from studentfloat.report.figures import Figure, altair
from studentfloat.report.palette import SERIES

__all__ = ["profile_figures"]

_GREY = "var(--faint)"
_WIDE = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
_LAWS = {
    "student_t": ("Student's t", SERIES[0]),
    "normal": ("normal", SERIES[1]),
    "laplace": ("Laplace", SERIES[2]),
    "generalized_normal": ("generalized normal", SERIES[3]),
    "logistic": ("logistic", SERIES[5]),
}
_MOST_DRAWN = 48
_CELLS_JOINED = 8
_LARGEST_NU_DRAWN = 100.0


def profile_figures(profile: Profile) -> list[Figure]:
    """All figures that the profile has the numbers for."""
    alt = altair()
    fitted = [tensor for tensor in profile.tensors if tensor.laws is not None]
    fitted.sort(key=lambda tensor: tensor.part != "linear")  # the first is shown first
    if not fitted:
        return []
    return [
        _degrees_by_layer(alt, fitted),
        _distances(alt, fitted),
        _densities(alt, fitted),
        _quantiles(alt, fitted),
    ]


def _kind(tensor: TensorProfile) -> str:
    return tensor.kind if tensor.part == "linear" else tensor.part


def _drawn(fitted: list[TensorProfile]) -> list[TensorProfile]:
    """Tensors to draw one by one: all, or evenly spread ones of every kind and role."""
    if len(fitted) <= _MOST_DRAWN:
        return fitted
    groups: dict[tuple[str, str], list[TensorProfile]] = {}
    for tensor in fitted:
        groups.setdefault((tensor.kind, tensor.role), []).append(tensor)
    each = max(1, _MOST_DRAWN // len(groups))
    chosen = []
    for members in groups.values():
        step = max(1, math.ceil(len(members) / each))
        chosen += members[::step]
    return chosen


def _degrees_by_layer(alt: Any, fitted: list[TensorProfile]) -> Figure:
    rows = []
    for tensor in fitted:
        assert tensor.laws is not None
        nu = tensor.laws.student_t.degrees_of_freedom
        if tensor.layer is None or nu is None:
            continue
        low, high = tensor.laws.student_t.degrees_of_freedom_interval or (nu, nu)
        rows.append(
            {
                "tensor": tensor.name,
                "of": _kind(tensor),
                "kind of layer": tensor.role,
                "layer": tensor.layer,
                "ν": min(nu, _LARGEST_NU_DRAWN),
                "exact": "∞" if math.isinf(nu) else f"{nu:.2f}",
                "interval": f"{low:.2f} to {'∞' if math.isinf(high) else f'{high:.2f}'}",
            }
        )
    pick = alt.selection_point(fields=["kind of layer"], bind="legend")
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=1.3)
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "ν:Q", scale=alt.Scale(type="log"), title="degrees of freedom (100: more, or ∞)"
            ),
            color=alt.Color("kind of layer:N", sort=None, scale=alt.Scale(range=SERIES)),
            opacity=alt.condition(pick, alt.value(1), alt.value(0.1)),
            tooltip=["tensor:N", "exact:N", "interval:N"],
        )
        .add_params(pick)
        .properties(width=440, height=240)
        .facet(row=alt.Row("of:N", title=None))
        .resolve_scale(y="independent")
    )
    return Figure(
        "degrees",
        "Degrees of freedom by layer",
        "The fewer, the heavier the tails. SF4 is made for 5; the normal law is ∞. Click a kind "
        "of layer in the legend to single it out.",
        chart.to_dict(),
    )


def _distances(alt: Any, fitted: list[TensorProfile]) -> Figure:
    rows: list[dict[str, Any]] = []
    for tensor in fitted:
        assert tensor.laws is not None
        rows.append(
            {
                "tensor": tensor.name,
                "of": _kind(tensor),
                "kind of layer": tensor.role,
                "t": tensor.laws.student_t.ks,
                "normal": tensor.laws.normal.ks,
                "difference": tensor.laws.ks_difference,
                "best": _LAWS[tensor.laws.best][0],
            }
        )
    end = max(max(row["t"], row["normal"]) for row in rows) * 1.1
    start = max(min(min(row["t"], row["normal"]) for row in rows) / 1.2, 1e-5)
    scale = alt.Scale(type="log", domain=[start, end])
    diagonal = alt.Chart(
        alt.Data(values=[{"t": start, "normal": start}, {"t": end, "normal": end}])
    ).mark_line(color=_GREY, strokeDash=[4, 3])
    dots = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=38, opacity=0.75)
    chart = alt.layer(
        diagonal.encode(x=alt.X("normal:Q", scale=scale), y=alt.Y("t:Q", scale=scale)),
        dots.encode(
            x=alt.X("normal:Q", scale=scale, title="KS distance to the normal law"),
            y=alt.Y("t:Q", scale=scale, title="KS distance to Student's t"),
            color=alt.Color("kind of layer:N", sort=None, scale=alt.Scale(range=SERIES)),
            shape=alt.Shape("of:N", title=None),
            tooltip=[
                "tensor:N",
                alt.Tooltip("t:Q", format=".4f"),
                alt.Tooltip("normal:Q", format=".4f"),
                alt.Tooltip("difference:Q", format="+.4f"),
                "best:N",
            ],
        ),
    ).properties(height=360, **_WIDE)
    return Figure(
        "distances",
        "Student's t against the normal law",
        "A dot a tensor. Below the dashed line t is nearer to the numbers than the normal law.",
        chart.to_dict(),
    )


def _picker(alt: Any, names: list[str]) -> Any:
    return alt.param(
        name="tensor", value=names[0], bind=alt.binding_select(options=names, name="tensor ")
    )


def _densities(alt: Any, fitted: list[TensorProfile]) -> Figure:
    """Density of the numbers and of each law, on a logarithmic axis."""
    rows = []
    drawn = [tensor for tensor in _drawn(fitted) if tensor.histogram is not None]
    for tensor in drawn:
        rows += _density_rows(tensor)
    colors = alt.Scale(
        domain=["the numbers", *(name for name, _ in _LAWS.values())],
        range=[_GREY, *(color for _, color in _LAWS.values())],
    )
    pick = _picker(alt, [tensor.name for tensor in drawn])
    base = alt.Chart(alt.Data(values=rows)).transform_filter("datum.tensor == tensor")
    x = alt.X("x:Q", title="value over root mean square")
    y = alt.Y("density:Q", scale=alt.Scale(type="log"), title="density (log)")
    color = alt.Color("law:N", scale=colors, title=None)
    dots = base.transform_filter("datum.law == 'the numbers'").mark_point(size=22, filled=True)
    lines = base.transform_filter("datum.law != 'the numbers'").mark_line(strokeWidth=1.5)
    chart = alt.layer(
        lines.encode(x=x, y=y, color=color), dots.encode(x=x, y=y, color=color)
    ).add_params(pick)
    return Figure(
        "density",
        "The numbers and the laws",
        f"Density on a logarithmic axis, where tails show; {len(drawn)} of {len(fitted)} tensors "
        "can be chosen.",
        chart.properties(height=340, **_WIDE).to_dict(),
    )


def _density_rows(tensor: TensorProfile) -> list[dict[str, Any]]:
    histogram, laws = tensor.histogram, tensor.laws
    assert histogram is not None
    assert laws is not None
    total = sum(histogram.counts)
    least = 0.3 / total
    rows = []
    for low, high, count in _joined(tensor):
        middle = (low + high) / 2
        density = count / total / (high - low)
        if count:
            rows.append(_density_row(tensor.name, middle, density, "the numbers"))
        for key, (label, _) in _LAWS.items():
            value = _density(key, getattr(laws, key), middle * histogram.unit) * histogram.unit
            if value > least:
                rows.append(_density_row(tensor.name, middle, value, label))
    return rows


def _density_row(name: str, x: float, density: float, law: str) -> dict[str, Any]:
    return {"tensor": name, "x": round(x, 4), "density": float(f"{density:.4g}"), "law": law}


def _joined(tensor: TensorProfile) -> list[tuple[float, float, int]]:
    """Edges (in units of the root mean square) and counts of cells joined for drawing."""
    histogram = tensor.histogram
    assert histogram is not None
    cells: dict[int, int] = {}
    for index, count in enumerate(histogram.counts):
        slot = (histogram.first + index) // _CELLS_JOINED
        cells[slot] = cells.get(slot, 0) + count
    width = _CELLS_JOINED / histogram.per_unit
    return [
        (math.sinh(slot * width), math.sinh((slot + 1) * width), count)
        for slot, count in sorted(cells.items())
    ]


def _density(law: str, fit: LawFit, x: float) -> float:
    z = abs(x - fit.location) / fit.scale
    if law == "student_t" and fit.degrees_of_freedom is not None:
        nu = fit.degrees_of_freedom
        if math.isfinite(nu):
            log_top = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - math.log(math.pi * nu) / 2
            return math.exp(log_top - (nu + 1) / 2 * math.log1p(z * z / nu)) / fit.scale
    if law in ("student_t", "normal"):
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / fit.scale
    if law == "laplace":
        return math.exp(-z) / 2 / fit.scale
    if law == "logistic":
        return math.exp(-z) / (1 + math.exp(-z)) ** 2 / fit.scale
    shape = fit.shape or 2.0
    top = shape / (2 * math.gamma(1 / shape)) / fit.scale
    return top * math.exp(-min(z**shape, 700.0))


def _quantiles(alt: Any, fitted: list[TensorProfile]) -> Figure:
    """Q-Q: quantiles of the numbers against those of the t and of the normal law."""
    rows = []
    drawn = [tensor for tensor in _drawn(fitted) if tensor.quantiles is not None]
    for tensor in drawn:
        points = tensor.quantiles
        assert points is not None
        for label, law in (("Student's t", points.student_t), ("normal", points.normal)):
            rows += [
                {"tensor": tensor.name, "law": label, "expected": a, "found": b}
                for a, b in zip(law, points.numbers, strict=True)
            ]
    pick = _picker(alt, [tensor.name for tensor in drawn])
    base = alt.Chart(alt.Data(values=rows)).transform_filter("datum.tensor == tensor")
    colors = alt.Scale(domain=["Student's t", "normal"], range=[SERIES[0], SERIES[1]])
    dots = base.mark_point(filled=True, size=22).encode(
        x=alt.X("expected:Q", title="quantile of the law"),
        y=alt.Y("found:Q", title="quantile of the numbers"),
        color=alt.Color("law:N", scale=colors, title=None),
    )
    line = base.mark_line(color=_GREY, strokeDash=[4, 3]).encode(x="found:Q", y="found:Q")
    return Figure(
        "quantiles",
        "Quantile against quantile",
        "On the dashed line the law is right. In units of the root mean square, from the "
        "millionth to the last millionth where there are as many numbers.",
        alt.layer(line, dots).add_params(pick).properties(height=360, **_WIDE).to_dict(),
    )
