"""A comparison as a table in the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from studentfloat.records import Comparison, FormatHardware, FormatQuality, Frontier, Standing

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType

__all__ = ["comparison_rows", "print_comparison", "silicon_rows"]

_HEADINGS = {
    "rank": "rank",
    "name": "format",
    "bits_per_weight": "bits",
    "weight_nmse": "error",
    "perplexity": "perplexity",
    "kl": "KL (nats)",
    "top1_agreement": "top-1",
    "output_nmse": "output error",
}


def comparison_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table; columns that no format has are left out."""
    shown = [
        key for key in _HEADINGS if any(getattr(row, key) is not None for row in comparison.formats)
    ]
    ties = Counter(row.rank for row in comparison.formats)
    rows = [
        [_cell(row, key, tied=ties[row.rank] > 1) for key in shown] for row in comparison.formats
    ]
    return [_HEADINGS[key] for key in shown], rows


def silicon_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the silicon table, cheapest first; empty without hardware."""
    standing = {
        point.name: point.standing
        for found in comparison.frontiers
        if found.cost == "area"
        for point in found.points
    }
    rows = [
        [f"{row.name}{_lookup_mark(row)}", *_silicon_cells(row), standing.get(row.name, "-")]
        for row in sorted(comparison.hardware, key=lambda row: row.area)
    ]
    unit = comparison.hardware[0].area_unit if comparison.hardware else ""
    headings = [
        "format",
        f"area {unit}",
        "area/int4",
        "delay ns",
        "fJ uniform",
        "fJ real",
        "proved",
    ]
    return [*headings, f"{comparison.ranked_by}/area"], rows


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, what it says, and what to bear in mind."""
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(_title(comparison)),
        Text(),
        _table(*comparison_rows(comparison)),
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
    if comparison.baseline.perplexity is not None:
        lines.append(
            f"The original model has perplexity "
            f"{_with_error(comparison.baseline.perplexity, comparison.baseline.perplexity_se, 2)}."
        )
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
    legend = (
        "bits: per weight, scales included. error: of the weights, squared, over their squares."
    )
    if any(row.kl is not None for row in comparison.formats):
        legend += " KL: from the original's next-token distribution, nats. top-1: same top token."
    return legend


def _title(comparison: Comparison) -> str:
    settings = comparison.provenance.settings
    title = (
        f"{comparison.model}: blocks of {settings.get('block_size')}, {settings.get('scale_rule')} "
        f"scales in {settings.get('scale_dtype')}"
    )
    if comparison.provenance.text_sha256 is not None:
        title += f", {settings.get('windows')} windows of {settings.get('window_length')} tokens"
    return title


def _cell(row: FormatQuality, key: str, *, tied: bool) -> str:
    value = getattr(row, key)
    if value is None:
        return "-"
    if key == "rank":
        return f"={value}" if tied else str(value)
    if key == "name":
        return f"{value}{_lookup_mark(row)}"
    if key == "bits_per_weight":
        return f"{value:.3f}"
    if key == "weight_nmse":
        return f"{value:.5f}"
    if key == "top1_agreement":
        return f"{value:.3f}"
    digits = {"perplexity": 2, "kl": 3, "output_nmse": 5}[key]
    return _with_error(value, getattr(row, f"{key}_se"), digits)


def _silicon_cells(row: FormatHardware) -> list[str]:
    relative = row.area_relative_to_int4
    return [
        f"{row.area:.0f} ± {row.area_spread:.0f}",
        "-" if relative is None else f"{relative:.2f}",
        f"{row.delay_ns:.2f}",
        "-" if row.energy_fj is None else _with_error(row.energy_fj, row.energy_spread_fj, 0),
        "-" if row.energy_real_fj is None else f"{row.energy_real_fj:.0f}",
        "yes" if row.proved else "no",
    ]


def _lookup_mark(row: FormatQuality | FormatHardware) -> str:
    """Beside the name: that not the exact values were measured, but what the unit looks up."""
    return "" if row.lookup_bits is None else f" ({row.lookup_bits}-bit)"


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
    bits = next((row.lookup_bits for row in comparison.formats if row.lookup_bits), None)
    if bits:
        lines.append(
            f"({bits}-bit): a format without an integer grid, rounded to {bits}-bit fixed point "
            "for its quality as for its silicon; --no-hardware measures the exact values."
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


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
