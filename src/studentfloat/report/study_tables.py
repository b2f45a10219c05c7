"""A study's tables in HTML: its rows, its silicon, its failures."""

from __future__ import annotations

import html

from studentfloat.records import FormatHardware, StudyModel, StudyResult
from studentfloat.report.model_figures import unique_silicon
from studentfloat.report.page import table
from studentfloat.report.points import Axis, Point, PointMap

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
    costs = sorted(points.costs, key=lambda axis: axis.key != "bits_per_weight")
    costs = [axis for axis in costs if not axis.key.startswith("energy,")]
    columns = [*costs, *points.measures]
    head = "".join(
        f'<th scope="col"{" class=text" if name == "row" else ""}><button type="button">'
        f"{html.escape(name)}</button></th>"
        for name in ("row", *(axis.short for axis in columns))
    )
    row_of = {id(point): index for index, point in enumerate(points.points)}
    groups = []
    for index, model in enumerate(result.models):
        lines = [_original_line(model, points, columns)]
        lines += [
            _line(row_of[id(p)], p, columns, marks[model.model]) for p in points.of(model.model)
        ]
        heading = (
            f'<tr><th scope="rowgroup" colspan="{len(columns) + 1}">{html.escape(model.model)}'
            "</th></tr>"
        )
        shown = heading if len(result.models) > 1 else ""
        groups.append(f'<tbody data-model="{index}">{shown}{"".join(lines)}</tbody>')
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"{''.join(groups)}</table></div>{_legend(marks)}"
    )


def _legend(marks: dict[str, dict[tuple[str, str], str]]) -> str:
    said = "± is one standard error; of areas, the spread over synthesis recipes."
    if any(marks.values()):
        said += (
            " The small figure is the rank: one more than the number of rows that are "
            "significantly better (paired test, adjusted over all pairs, 5 %), with = where it is "
            "shared; bold, where nothing is better for certain."
        )
    return f'<p class="faint">{said} A click on a row\'s name opens its record.</p>'


def _original_line(model: StudyModel, points: PointMap, columns: list[Axis]) -> str:
    found = points.originals.get(model.model, {})
    cells = "".join(_value(found.get(axis.key), axis, "") for axis in columns)
    return f'<tr class="original"><td class="text">original</td>{cells}</tr>'


def _line(row: int, point: Point, columns: list[Axis], marks: dict[tuple[str, str], str]) -> str:
    cells = "".join(
        _value(
            point.measures.get(axis.key) or point.costs.get(axis.key),
            axis,
            marks.get((point.name, axis.key), ""),
        )
        for axis in columns
    )
    name = html.escape(point.name)
    return (
        f'<tr class="sorted" data-point="{row}"><td class="text">'
        f'<button type="button" data-open="{row}">{name}</button></td>{cells}</tr>'
    )


def _value(value: tuple[float, float | None] | None, axis: Axis, mark: str) -> str:
    if value is None:
        return "<td>-</td>"
    number, error = value
    area = axis.key.startswith("area")
    digits = 0 if area else axis.digits
    text = f"{number:.{digits}f}" + (f" ± {error:.{digits}f}" if error else "")
    if mark.strip("=") == "1":
        text = f'<span class="best">{text}</span>'
    rank = f'<span class="rank" title="rank {mark}">{mark}</span>' if mark else ""
    return f'<td data-value="{number:.9g}">{text}{rank}</td>'


def silicon_table(result: StudyResult) -> str:
    """Each format in each unit, cheapest first; empty where nothing was costed."""
    silicon = unique_silicon(row for model in result.models for row in model.rows)
    if not silicon:
        return ""
    first = silicon[0][1]
    several = len({hardware.unit for _, hardware in silicon}) > 1
    unit = ["unit"] if several else []
    headings = [
        *("format", *unit, f"area {first.area_unit}", "area/int4", "delay ns"),
        *("fJ uniform", "fJ real", "proved"),
    ]
    rows = [[name, *([hw.unit] if several else []), *_silicon_cells(hw)] for name, hw in silicon]
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


def _silicon_cells(row: FormatHardware) -> list[str]:
    relative, energy = row.area_relative_to_int4, row.energy_fj
    lookup = "" if row.lookup_bits is None else f" ({row.lookup_bits}-bit)"
    spread = "" if row.energy_spread_fj is None else f" ± {row.energy_spread_fj:.0f}"
    return [
        f"{row.area:.0f} ± {row.area_spread:.0f}{lookup}",
        "-" if relative is None else f"{relative:.2f}",
        f"{row.delay_ns:.2f}",
        "-" if energy is None else f"{energy:.0f}{spread}",
        "-" if row.energy_real_fj is None else f"{row.energy_real_fj:.0f}",
        "yes" if row.proved else "no",
    ]


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
