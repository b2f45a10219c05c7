"""One self-contained HTML page: no network, no server, readable in print and on a phone."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from studentfloat.errors import MissingDependencyError
from studentfloat.records import Comparison
from studentfloat.report.figures import Figure, comparison_figures
from studentfloat.report.table import comparison_rows, notes, silicon_rows

__all__ = ["comparison_page", "page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --faint: #5c5c5c;
        --line: #d6d6d6; --wash: #f4f6f8; --accent: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --faint: #a8adb3; --line: #3a3f45; --wash: #1f2328;
          --accent: #56B4E9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; color: var(--ink);
       background: var(--paper); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
p { max-width: 46rem; } .faint { color: var(--faint); }
.caution { border-left: 4px solid #E69F00; background: var(--wash); padding: .6rem .9rem; }
.scroll { overflow-x: auto; } figure { margin: 0; }
figcaption { color: var(--faint); max-width: 46rem; margin-bottom: .6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
         white-space: nowrap; }
th { font-weight: 600; } th.text, td.text { text-align: left; }
tbody tr:hover { background: var(--wash); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: .9rem; } dl { grid-template-columns: 1fr; }
  dt { margin-top: .4rem; } }
@media print { body { max-width: none; } .scroll { overflow: visible; }
  figure, table { break-inside: avoid; } }
"""

# The charts take the page's colours, and are drawn again when those change.
_SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
const config = () => {
  const ink = dark.matches ? '#e8e8e8' : '#1a1a1a', line = dark.matches ? '#3a3f45' : '#dddddd';
  return { background: 'transparent', view: { stroke: line },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
            labelLimit: 220 },
    legend: { labelColor: ink, titleColor: ink }, title: { color: ink }, text: { fill: ink } };
};
const draw = () => document.querySelectorAll('script[data-figure]').forEach(source =>
  vegaEmbed('#' + source.dataset.figure, JSON.parse(source.textContent),
            { config: config(), renderer: 'svg', actions: { export: true, source: false,
              compiled: false, editor: false } }));
dark.addEventListener('change', draw);
draw();
"""


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison: table, figures, cautions, provenance."""
    headings, rows = comparison_rows(comparison)
    body = [
        f"<h1>What each number format costs {html.escape(comparison.model)}</h1>",
        f'<p class="faint">{html.escape(comparison.provenance.model_source)}</p>',
        *(f'<p class="caution">{html.escape(c)}</p>' for c in comparison.cautions),
        table(headings, rows, text_columns=("format",)),
        *(
            ["<h2>In silicon</h2>", table(*silicon_rows(comparison), text_columns=("format",))]
            if comparison.hardware
            else []
        ),
        *(
            f"<p>{html.escape(line)}</p>"
            for line in notes(comparison)
            if not line.startswith("Caution")
        ),
        "<h2>Provenance</h2>",
        _provenance(comparison),
    ]
    # The first figure belongs next to the table; provenance ends the page.
    return page(
        f"studentfloat: {comparison.model}", body[:-2], comparison_figures(comparison), body[-2:]
    )


def page(
    title: str, before: Sequence[str], figures: Sequence[Figure], after: Sequence[str] = ()
) -> str:
    """Put HTML parts and figures into one page with everything inlined.

    Parameters
    ----------
    title
        Plain text.
    before, after
        HTML that precedes and follows the figures; whoever makes it has escaped it.
    figures
        Drawn by Vega, which is part of the page.
    """
    drawn = "\n".join(_figure(figure) for figure in figures)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
            *before,
            drawn,
            *after,
            f"<script>{_vega()}</script>" if figures else "",
            f"<script>{_SCRIPT}</script>" if figures else "",
            "</body></html>",
            "",
        ]
    )


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


def _figure(figure: Figure) -> str:
    key = html.escape(figure.key, quote=True)
    label = html.escape(f"{figure.title}. {figure.caption}", quote=True)
    return (
        f"<h2>{html.escape(figure.title)}</h2><figure>"
        f"<figcaption>{html.escape(figure.caption)}</figcaption>"
        f'<div class="scroll"><div id="figure-{key}" role="img" aria-label="{label}"></div></div>'
        f'<script type="application/json" data-figure="figure-{key}">{_inline(figure.spec)}'
        "</script></figure>"
    )


def _inline(data: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _vega() -> str:
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("vl-convert-python", "report") from error
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


def _provenance(comparison: Comparison) -> str:
    provenance = comparison.provenance
    entries = {
        "made": provenance.created,
        "model": f"{provenance.model_source} (SHA-256 {provenance.model_sha256[:16]}…)",
        "text": "none (weights only)"
        if provenance.text_sha256 is None
        else f"{provenance.text_source} (SHA-256 {provenance.text_sha256[:16]}…)",
        "versions": ", ".join(f"{k} {v}" for k, v in provenance.versions.items()),
        "machine": ", ".join(str(v) for v in provenance.machine.values()),
        "seed": str(provenance.seed),
        "settings": ", ".join(f"{k}={v}" for k, v in provenance.settings.items()),
    }
    items = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
        for key, value in entries.items()
    )
    return f"<dl>{items}</dl>"
