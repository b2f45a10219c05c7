"""The page of a study, and of a comparison, which is a study of one model."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections import Counter
from typing import Any

from studentfloat.records import (
    Comparison,
    Metric,
    Provenance,
    StudyResult,
    record_to_json,
)
from studentfloat.report.figures import Figure
from studentfloat.report.maps import (
    FLOOR,
    FOREST_CAPTION,
    HEIGHT,
    KEYS,
    ROW_HEIGHT,
    forest_template,
    frontier_caption,
    frontier_template,
    map_figures,
)
from studentfloat.report.model_figures import format_figures, model_figures
from studentfloat.report.page import definitions, figure_html, json_script, page, table
from studentfloat.report.points import Point, PointMap, as_study, map_points, rank_marks
from studentfloat.report.study_tables import failures_table, rows_table, silicon_table
from studentfloat.report.table import notes

__all__ = ["comparison_page", "study_figures", "study_page"]


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison: map, tables, figures, cautions, provenance, records."""
    said = [line for line in notes(comparison) if not line.startswith("Caution")]
    return _page(
        as_study(comparison),
        f"What each number format costs {comparison.model}",
        comparison.provenance.model_source,
        said,
    )


def study_page(result: StudyResult) -> str:
    """The page of a study: map, tables, figures, failures, provenance, records.

    Raises
    ------
    MissingDependencyError
        If the extra ``report`` is not installed.
    """
    open_cells = result.planned - result.done - len(result.failures)
    progress = f"{result.done} of {result.planned} cells are done"
    progress += f"; failed: {len(result.failures)}" if result.failures else ""
    progress += f"; open: {open_cells}." if open_cells > 0 else "."
    return _page(result, f"Study {result.name}", progress, [])


def study_figures(result: StudyResult | Comparison) -> list[Figure]:
    """Every figure of the page as one of its own, for :func:`save_figures`."""
    study = as_study(result) if isinstance(result, Comparison) else result
    figures = [*map_figures(map_points(study)), *format_figures(study)]
    for model in study.models:
        for figure in model_figures(model):
            title = f"{figure.title}: {model.model}"
            key = f"{figure.key}-{_slug(model.model)}"
            figures.append(Figure(key, title, figure.caption, figure.spec))
    return figures


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name.lower()).strip("-.")


def _page(result: StudyResult, title: str, lead: str, said: list[str]) -> str:
    points = map_points(result)
    marks = {model.model: rank_marks(points, model) for model in result.models}
    shared = format_figures(result)
    silicon = silicon_table(result)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="faint">{html.escape(lead)}</p>',
        *_cautions(result),
        *(_maps(result, points) if points.points else ["<p>No row has results yet.</p>"]),
        *([rows_table(result, points, marks)] if points.points else []),
        _listed(said),
        *(_forests(result, points) if points.measures else []),
        *([f"<h2>In silicon</h2>{silicon}"] if silicon else []),
        *(figure_html(figure) for figure in shared),
        *(part for index, model in enumerate(result.models) for part in _model(index, model)),
        failures_table(result),
        "<h2>Provenance</h2>",
        *(_provenance(model, len(result.models) > 1) for model in result.models),
        _settings(result),
        _dialog(),
        *_records(result),
    ]
    if not points.points:
        return page(f"studentfloat: {title}", body)
    body += [
        json_script("points", _payload(result, points, marks)),
        json_script("frontier-template", frontier_template()),
        json_script("forest-template", forest_template()),
    ]
    return page(f"studentfloat: {title}", body, ("charts.js", "study.js"))


def _listed(lines: list[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if lines else ""


def _cautions(result: StudyResult) -> list[str]:
    counted = Counter(caution for model in result.models for caution in model.cautions)
    return [f'<p class="caution">{html.escape(caution)}</p>' for caution in counted]


def _maps(result: StudyResult, points: PointMap) -> list[str]:
    caption = frontier_caption(points.measures[0]) if points.measures else ""
    return [
        "<section><h2>The Pareto frontier</h2>",
        _controls(result, points),
        f'<figure><figcaption id="frontier-caption">{html.escape(caption)}</figcaption>'
        '<div class="chart" id="frontier" role="group" aria-label="Map of quality against cost. '
        "Tab goes to its points, arrow keys from one to the next, Enter opens a point's record; "
        'the table below has the same figures."></div>'
        '<output id="readout" for="controls" aria-live="polite"></output></figure></section>',
    ]


def _controls(result: StudyResult, points: PointMap) -> str:
    methods = list(dict.fromkeys(point.method for point in points.points))
    models = [model.model for model in result.models]
    widths = sorted({_width(point) for point in points.points})
    parts = [
        _select("measure", "Quality", points.measures),
        _select("cost", "Cost", points.costs),
        _checkboxes("model", "Models", models),
        _checkboxes("method", "Methods", methods),
        _checkboxes("width", "Codes", widths),
    ]
    return (
        f'<form id="controls" class="controls" autocomplete="off">{"".join(parts)}'
        '<output id="shown" aria-live="polite"></output></form>'
    )


def _width(point: Point) -> str:
    return "other" if point.bits is None else f"{point.bits} bit"


def _select(name: str, label: str, axes: tuple[Metric, ...]) -> str:
    options = "".join(
        f'<option value="{html.escape(axis.key, quote=True)}">{html.escape(axis.label)}</option>'
        for axis in axes
    )
    return f'<label>{label}<select name="{name}">{options}</select></label>'


def _checkboxes(name: str, label: str, values: list[str]) -> str:
    if len(values) < 2:
        return ""
    boxes = "".join(
        f'<label><input type="checkbox" name="{name}" value="{html.escape(value, quote=True)}" '
        f"checked>{html.escape(value)}</label>"
        for value in values
    )
    return f"<fieldset><legend>{label}</legend>{boxes}</fieldset>"


def _forests(result: StudyResult, points: PointMap) -> list[str]:
    parts = [
        "<h2>What each format costs</h2>",
        f"<p class='faint'>{html.escape(FOREST_CAPTION)}</p>",
    ]
    for index, model in enumerate(result.models):
        name = html.escape(model.model)
        heading = f"<h3>{name}</h3>" if len(result.models) > 1 else ""
        parts.append(
            f'<section data-model="{index}">{heading}<div class="chart" id="forest-{index}">'
            "</div></section>"
        )
    return parts


def _model(index: int, model: Comparison) -> list[str]:
    figures = model_figures(model)
    if not figures and not model.skipped:
        return []
    parts = [f'<section data-model="{index}"><h2>Inside {html.escape(model.model)}</h2>']
    parts += [figure_html(figure, level=3, prefix=f"{index}-") for figure in figures]
    if model.skipped:
        rows = [[t.name, " × ".join(map(str, t.shape)), t.reason] for t in model.skipped]
        listed = table(["tensor", "shape", "why"], rows, text_columns=("tensor", "shape", "why"))
        parts.append(
            f"<details><summary>{len(rows)} tensors were left as they were</summary>{listed}"
            "</details>"
        )
    return [*parts, "</section>"]


def _provenance(model: Comparison, several: bool) -> str:
    heading = f"<h3>{html.escape(model.model)}</h3>" if several else ""
    return heading + definitions(_origin(model.provenance))


def _origin(provenance: Provenance) -> dict[str, str]:
    texts = [f"{text.source} (SHA-256 {text.sha256[:16]}…)" for text in provenance.texts]
    entries = {
        "made": provenance.created,
        "model": f"{provenance.model_source} (SHA-256 {provenance.model_sha256[:16]}…)",
        "text": "; ".join(texts) or "none",
        "versions": ", ".join(f"{k} {v}" for k, v in provenance.versions.items()),
        "machine": ", ".join(str(v) for v in provenance.machine.values() if v),
        "seed": str(provenance.seed),
        "settings": ", ".join(f"{k}={v}" for k, v in provenance.settings.items()),
    }
    return {term: words for term, words in entries.items() if words}


def _settings(result: StudyResult) -> str:
    if not result.settings:
        return ""
    text = json.dumps(result.settings, indent=1, ensure_ascii=False)
    return f"<details><summary>The study file</summary><pre>{html.escape(text)}</pre></details>"


def _dialog() -> str:
    return (
        '<dialog id="record" aria-labelledby="record-title"><header><h2 id="record-title"></h2>'
        '<button type="button">Close</button></header><div class="body"></div></dialog>'
    )


def _records(result: StudyResult) -> list[str]:
    """Each row's record compressed: most of them are never looked at."""
    parts = []
    for index, row in enumerate(row for model in result.models for row in model.formats):
        text = json.dumps(record_to_json(row), allow_nan=False, ensure_ascii=False)
        packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
        parts.append(f'<script type="text/plain" id="record-{index}">{packed}</script>')
    return parts


def _payload(
    result: StudyResult, points: PointMap, marks: dict[str, dict[tuple[str, str], str]]
) -> dict[str, Any]:
    """What the page's script draws from."""
    row_of = {(point.model, point.name): row for row, point in enumerate(points.points)}
    return {
        "models": [model.model for model in result.models],
        "methods": list(dict.fromkeys(point.method for point in points.points)),
        "widths": sorted({_width(point) for point in points.points}),
        "costs": [_axis(axis) for axis in points.costs],
        "measures": [_axis(axis) for axis in points.measures],
        "rows": [
            {
                "row": row,
                "model": point.model,
                "name": point.name,
                "method": point.method,
                "width": _width(point),
                "costs": point.costs,
                "measures": point.measures,
                "ranks": {
                    measure: mark
                    for (name, measure), mark in marks[point.model].items()
                    if name == point.name
                },
            }
            for row, point in enumerate(points.points)
        ],
        "originals": points.originals,
        "tests": {
            model: {
                measure: sorted(
                    [*sorted((row_of[model, p.first], row_of[model, p.second])), p.significant]
                    for p in pairs
                    if (model, p.first) in row_of and (model, p.second) in row_of
                )
                for measure, pairs in of_model.items()
            }
            for model, of_model in points.tests.items()
        },
        "captions": {
            side: frontier_caption(Metric("", "", "", higher_is_better=side == "higher"))
            for side in ("higher", "lower")
        },
        "keys": KEYS,
        "floor": FLOOR,
        "height": HEIGHT,
        "rowHeight": ROW_HEIGHT,
    }


def _axis(axis: Metric) -> dict[str, Any]:
    return {
        "key": axis.key,
        "label": axis.label,
        "short": axis.short,
        "higher": axis.higher_is_better,
        "logarithmic": axis.logarithmic,
        "exact": axis.exact,
    }
