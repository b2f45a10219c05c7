"""One self-contained HTML page: no network, no server, readable in print and on a phone."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from studentfloat.errors import MissingDependencyError
from studentfloat.report.figures import Figure
from studentfloat.report.palette import chart_config, style_sheet

__all__ = ["definitions", "figure_html", "json_script", "page", "table"]


def page(title: str, body: Sequence[str], scripts: Sequence[str] = ("charts.js",)) -> str:
    """Put HTML parts and scripts into one page with everything inlined.

    Parameters
    ----------
    title
        Plain text.
    body
        HTML; whoever makes it has escaped it.
    scripts
        Files of ``assets``, after Vega and in this order.
    """
    style = f"{style_sheet()}\n{_asset('page.css')}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{style}</style></head><body>",
            "<noscript><p class='caution'>The figures need JavaScript; the tables do not.</p>"
            "</noscript>",
            "<main>",
            *body,
            "</main>",
            json_script("chart-config", chart_config()),
            f"<script>{_vega()}</script>",
            *(f"<script>{_asset(name)}</script>" for name in scripts),
            "</body></html>",
            "",
        ]
    )


def _asset(name: str) -> str:
    return files("studentfloat.report").joinpath("assets", name).read_text(encoding="utf-8")


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: Sequence[str]
) -> str:
    """An HTML table; cells are plain text."""
    classes = [' class="text"' if h in text_columns else "" for h in headings]
    head = "".join(
        f'<th scope="col"{c}>{html.escape(h)}</th>' for h, c in zip(headings, classes, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{c}>{html.escape(cell)}</td>" for cell, c in zip(row, classes, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure_html(figure: Figure, *, level: int = 2, prefix: str = "") -> str:
    """A heading, the words, and the place where Vega draws the chart."""
    key = html.escape(f"figure-{prefix}{figure.key}", quote=True)
    return (
        f"<figure><h{level}>{html.escape(figure.title)}</h{level}>"
        f"<figcaption>{html.escape(figure.caption)}</figcaption>"
        f'<div class="scroll"><div class="chart" id="{key}"></div></div>'
        f'<script type="application/json" data-figure="{key}">{_inline(figure.described)}'
        "</script></figure>"
    )


def definitions(entries: Mapping[str, str]) -> str:
    """Terms and what they are, as a list; plain text."""
    items = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
        for key, value in entries.items()
    )
    return f"<dl>{items}</dl>"


def json_script(identifier: str, data: Any) -> str:
    """Data for the page's scripts."""
    return f'<script type="application/json" id="{identifier}">{_inline(data)}</script>'


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _inline(data: Any) -> str:
    """JSON that cannot end the script element that it stands in; NaN and infinity are null."""
    finite = _finite(data)
    text = json.dumps(finite, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _vega() -> str:
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("vl-convert-python", "report") from error
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")
