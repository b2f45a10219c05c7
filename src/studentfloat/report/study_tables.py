"""A study's tables in HTML: its rows, its silicon, its failures."""

from __future__ import annotations

import html

from studentfloat.records import Comparison, Metric, StudyResult
from studentfloat.report.cells import SILICON_HEADINGS, Cell, Line, lines_of, silicon_cells
from studentfloat.report.model_figures import unique_silicon
from studentfloat.report.page import table
from studentfloat.report.points import BITS, PointMap

__all__ = ["failures_table", "rows_table", "silicon_table"]


def rows_table(
    result: StudyResult, points: PointMap, marks: dict[str, dict[tuple[str, str], str]]
) -> str:
    """All rows: a group a model, the original first, ranks beside what was tested.

    Parameters
    ----------
    marks
        Of :func:`~studentfloat.report.points.rank_marks`, by model.
    """
    # Bits first; energies are in the table of silicon.
    costs = sorted(points.costs, key=lambda axis: axis.key != BITS.key)
    costs = [axis for axis in costs if not axis.key.startswith("energy,")]
    columns = [*costs, *points.measures]
    head = "".join(
        f'<th scope="col"{" class=text" if name == "row" else ""}><button type="button">'
        f"{html.escape(name)}</button></th>"
        for name in ("row", *(axis.short for axis in columns))
    )
    groups = []
    for index, model in enumerate(result.models):
        lines = [_original_line(model, points, columns)]
        lines += [
            _line(line, marks[model.model]) for line in lines_of(points, model.model, columns)
        ]
        heading = (
            f'<tr><th scope="rowgroup" colspan="{len(columns) + 1}">{html.escape(model.model)}'
            "</th></tr>"
        )
        shown = heading if len(result.models) > 1 else ""
        groups.append(f'<tbody data-model="{index}">{shown}{"".join(lines)}</tbody>')
    held = any(point.exact is not None for point in points.points)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"{''.join(groups)}</table></div>{_legend(marks, held=held)}"
    )


def _legend(marks: dict[str, dict[tuple[str, str], str]], *, held: bool) -> str:
    said = "± is one standard error; of areas, the spread over synthesis recipes."
    if any(marks.values()):
        said += (
            " The small figure is the rank: one more than the number of rows that are "
            "significantly better (paired test, adjusted over all pairs, 5 %), with = where it is "
            "shared; bold, where nothing is better for certain."
        )
    if held:
        said += (
            " Below a format that silicon cannot hold as it is stands what it would hold, in fixed "
            "point, with its area; it pushes no other row down."
        )
    return f'<p class="faint">{said} A click on a row\'s name opens its record.</p>'


def _original_line(model: Comparison, points: PointMap, columns: list[Metric]) -> str:
    found = points.originals.get(model.model, {})
    cells = (Cell(*found[axis.key], axis) if axis.key in found else None for axis in columns)
    shown = "".join(_value(cell, "") for cell in cells)
    return f'<tr class="original"><td class="text">original</td>{shown}</tr>'


def _line(line: Line, marks: dict[tuple[str, str], str]) -> str:
    point, row = line.point, line.index
    cells = "".join(
        _value(cell, "" if cell is None else marks.get((point.name, cell.metric.key), ""))
        for cell in line.cells
    )
    title = (
        "" if point.exact is None else f' title="{html.escape(point.exact)} as silicon holds it"'
    )
    held = "" if point.exact is None else " held"
    return (
        f'<tr class="sorted{held}" data-point="{row}"><td class="text"{title}>'
        f'<button type="button" data-open="{row}">{html.escape(point.name)}</button></td>'
        f"{cells}</tr>"
    )


def _value(cell: Cell | None, mark: str) -> str:
    if cell is None:
        return "<td>-</td>"
    text = cell.text()
    if mark.strip("=") == "1":
        text = f'<span class="best">{text}</span>'
    rank = f'<span class="rank" title="rank {mark}">{mark}</span>' if mark else ""
    return f'<td data-value="{cell.value:.9g}">{text}{rank}</td>'


def silicon_table(result: StudyResult) -> str:
    """Each format in each unit, cheapest first; empty where nothing was costed."""
    silicon = unique_silicon(row for model in result.models for row in model.formats)
    if not silicon:
        return ""
    first = silicon[0][1]
    several = len({hardware.unit for _, hardware in silicon}) > 1
    unit = ["unit"] if several else []
    headings = [
        *("format", *unit, f"area {first.area_unit}"),
        *SILICON_HEADINGS,
    ]
    rows = [[name, *([hw.unit] if several else []), *silicon_cells(hw)] for name, hw in silicon]
    listed = ", ".join(sorted({f"{hw.unit}, library {hw.library}" for _, hw in silicon}))
    said = (
        f"After synthesis, before placement: {listed}. ± is the spread over synthesis recipes. fJ: "
        "per clock cycle, on uniform codes and on those that meet in the model. proved: Verilog "
        "and netlist were shown equal to the format's values."
    )
    return (
        f'<p class="faint">{html.escape(said)}</p>'
        f"{table(headings, rows, text_columns=('format', 'unit'))}"
    )


def failures_table(result: StudyResult) -> str:
    """Cells that ended in an error; empty without any."""
    if not result.failures:
        return ""
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td class="text{" wrap" if wide else ""}">{html.escape(cell)}</td>'
            for cell, wide in (
                (failure.configuration.model, False),
                (failure.configuration.name, False),
                (failure.evaluation, False),
                (failure.error, True),
            )
        )
        + f"<td>{failure.attempts}</td></tr>"
        for failure in result.failures
    )
    head = "".join(
        f'<th scope="col" class="text">{name}</th>'
        for name in ("model", "row", "evaluation", "what went wrong")
    )
    return (
        f'<h2>What failed</h2><div class="scroll"><table><thead><tr>{head}'
        f'<th scope="col">attempts</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )
