"""A comparison as a table in the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from studentfloat.records import METRICS, Comparison, Frontier, Standing
from studentfloat.report.cells import SILICON_HEADINGS, figure, lines_of, silicon_cells
from studentfloat.report.points import BITS, as_study, map_points

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType

__all__ = ["comparison_rows", "notes", "print_comparison", "silicon_rows"]


def comparison_rows(
    comparison: Comparison, *, details: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of formats' exact values; columns without any are left out.

    Parameters
    ----------
    details
        Whether metrics that are details, such as percentiles, have columns too.
    """
    points = map_points(as_study(comparison))
    columns = [BITS, *(m for m in METRICS.values() if m in points.measures)]
    columns = [metric for metric in columns if details or not metric.detail]
    rank = {row.name: row.rank for row in comparison.formats}
    lines = [
        line for line in lines_of(points, comparison.model, columns) if line.point.exact is None
    ]
    ties = Counter(rank[line.point.name] for line in lines)
    rows = []
    for line in lines:
        its = rank[line.point.name]
        mark = "-" if its is None else f"{'=' if ties[its] > 1 else ''}{its}"
        cells = ("-" if cell is None else cell.text(narrow=True) for cell in line.cells)
        rows.append([mark, line.point.name, *cells])
    return ["rank", "format", *(metric.narrow or metric.short for metric in columns)], rows


def silicon_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the silicon table, cheapest first; empty without hardware.

    Quality beside silicon is that of the values that the unit holds.
    """
    standing = {
        (found.unit, point.name): point.standing
        for found in comparison.frontiers
        if found.cost == "area"
        for point in found.points
    }
    metric = METRICS[comparison.ranked_by]
    value = {row.name: row.value(metric.key) for row in comparison.formats}
    rows = []
    for its in sorted(comparison.hardware, key=lambda its: its.area):
        quality = value[its.name]
        shown = "-" if quality is None else figure(quality[0], None, metric.digits)
        where = standing.get((its.unit, its.name), "-")
        rows.append([its.name, *silicon_cells(its), shown, where])
    unit = comparison.hardware[0].area_unit if comparison.hardware else ""
    headings = ["format", f"area {unit}", *SILICON_HEADINGS]
    return [*headings, metric.narrow or metric.short, f"{comparison.ranked_by}/area"], rows


def print_comparison(comparison: Comparison, console: Console, *, details: bool = False) -> None:
    """Print the table, what it says, and what to bear in mind."""
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(_title(comparison)),
        Text(),
        _table(*comparison_rows(comparison, details=details)),
        Text(),
    ]
    if comparison.hardware:
        parts += [_table(*silicon_rows(comparison)), Text()]
    for part in (*parts, *(Text(line) for line in notes(comparison))):
        console.print(part)


def _table(headings: list[str], rows: list[list[str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        justify: JustifyMethod = "left" if heading == "format" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def notes(comparison: Comparison) -> list[str]:
    """What the table's figures mean, what was left alone, and every caution."""
    lines = [_legend(comparison)]
    for one in comparison.baseline.measures:
        if (metric := METRICS.get(one.metric)) is not None:
            shown = figure(one.value, one.standard_error, metric.digits)
            lines.append(f"The original model has {metric.name} {shown}.")
    if comparison.differences:
        real = sum(pair.significant for pair in comparison.differences)
        lines.append(
            f"Ranked by {comparison.ranked_by}: a format ranks below those that are "
            f"significantly better (studentized paired bootstrap over windows, Holm-adjusted, "
            f"5 %: {real} of "
            f"{len(comparison.differences)} pairs differ); equal ranks are ties. ± is one "
            "standard error over windows."
        )
    elif comparison.ranked_by == "weight_nmse":
        lines.append("Ranked by weight error alone, which does not order formats as quality does.")
    lines += _silicon_notes(comparison)
    lines += [line for found in comparison.frontiers if (line := _frontier_note(found))]
    if comparison.skipped:
        reasons = Counter(tensor.reason for tensor in comparison.skipped)
        listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        lines.append(f"Left as they were: {listed}.")
    lines += [f"{row.name}: {row.note}." for row in comparison.formats if row.note]
    return lines + [f"Caution: {caution}" for caution in comparison.cautions]


def _legend(comparison: Comparison) -> str:
    measured = {one.metric for row in comparison.formats for one in row.measures}
    said = [m.explained for m in METRICS.values() if m.explained and m.key in measured]
    return "".join(f"{words}. " for words in ("bits: per weight, scales included", *said)).strip()


def _title(comparison: Comparison) -> str:
    settings = comparison.provenance.settings
    title = (
        f"{comparison.model}: blocks of {settings.get('block_size')}, {settings.get('scale_rule')} "
        f"scales in {settings.get('scale_dtype')}"
    )
    if texts := len(comparison.provenance.texts):
        title += f", {settings.get('windows')} windows of {settings.get('window_length')} tokens"
        title += f" of each of {texts} texts" if texts > 1 else ""
    return title


def _silicon_notes(comparison: Comparison) -> list[str]:
    if not comparison.hardware:
        return []
    first = comparison.hardware[0]
    lines = [
        f"Silicon: one {first.unit} after synthesis, library {first.library}; ± is the spread over "
        "synthesis recipes."
    ]
    codes = next((row.codes for row in comparison.hardware if row.codes), None)
    if codes:
        lines.append(
            f"fJ: per clock cycle, on uniform codes and on those that meet in {codes}, weights "
            "and activations both in the format; the energy frontier is of the latter."
        )
    held = [row.name for row in comparison.formats if row.exact is not None]
    if held:
        lines.append(
            f"{', '.join(held)}: formats without an integer grid as silicon holds them, rounded to "
            "fixed point; the table of formats has their exact values."
        )
    return lines


def _frontier_note(found: Frontier) -> str | None:
    """Who is on a frontier, in words; None where one cost is common to all."""
    if len({point.cost for point in found.points}) == 1:
        return None
    names = {
        standing: [p.name for p in found.points if p.standing == standing.value]
        for standing in Standing
    }
    cost = {"area": "area", "energy_fj": "energy"}.get(found.cost, found.cost.replace("_", " "))
    line = f"Frontier of {found.loss} against {cost}: {', '.join(names[Standing.FRONTIER])}"
    within = names[Standing.WITHIN_NOISE]
    return line + (f"; within its noise: {', '.join(within)}." if within else ".")
