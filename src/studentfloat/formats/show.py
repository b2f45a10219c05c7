"""Formats as plain text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from studentfloat.formats.catalog import CATALOG, PATTERNS, get_format
from studentfloat.formats.format import Format

__all__ = ["catalog_json", "catalog_table", "format_json", "format_view"]

_WIDTH = 72


def catalog_table() -> str:
    """All catalog formats, a line each."""
    headings = ("name", "bits", "values", "smallest", "largest", "description", "source")
    rows = []
    for name in CATALOG:
        fmt = get_format(name)
        rows.append(
            (
                name,
                str(fmt.bits),
                str(len(fmt.levels)),
                f"{fmt.minimum:g}",
                f"{fmt.maximum:g}",
                fmt.description,
                fmt.source,
            )
        )
    families = ", ".join(PATTERNS)
    text = _columns(headings, rows, right=("bits", "values", "smallest", "largest"))
    return f"{text}\nFamilies, by their parameters: {families}\n"


def catalog_json() -> str:
    """All catalog formats as JSON."""
    return json.dumps({"formats": [_data(get_format(name)) for name in CATALOG]}, indent=1) + "\n"


def format_json(fmt: Format) -> str:
    """One format as JSON."""
    return json.dumps(_data(fmt), indent=1) + "\n"


def format_view(fmt: Format) -> str:
    """One format for people: a number line, then each level with code and boundary."""
    grid = fmt.integer_grid
    lines = [
        f"{fmt.name}: {fmt.description}",
        f"  source         {fmt.source or 'not given'}",
        f"  bits           {fmt.bits} ({len(fmt.levels)} levels, {len(fmt.values)} codes used"
        + (f", {len(fmt.special_codes)} special" if fmt.special_codes else "")
        + ")",
        f"  range          {fmt.minimum:g} to {fmt.maximum:g}, "
        + ("symmetric" if fmt.is_symmetric else "not symmetric")
        + (", with zero" if fmt.has_zero else ", without zero"),
        "  integer grid   "
        + ("none" if grid is None else f"{grid.bits} bits, in steps of {grid.step}"),
        "",
        *_number_line(fmt),
        "",
    ]
    boundaries = ["-inf", *(f"{b:.7g}" for b in fmt.decision_boundaries)]
    rows = [
        (str(code), f"{code:0{fmt.bits}b}", f"{level:.10g}", boundary)
        for level, code, boundary in zip(fmt.levels, fmt.level_codes, boundaries, strict=True)
    ]
    headings = ("code", "bits", "value", "decided from")
    text = "\n".join(lines) + "\n" + _columns(headings, rows, right=headings)
    others = sorted(set(fmt.codes) - set(fmt.level_codes))
    for code in others:
        text += f"code {code} also means {fmt.decode(code):g}\n"
    for code, special in fmt.special_codes:
        text += f"code {code} is {special}\n"
    return text


def _number_line(fmt: Format) -> list[str]:
    """Levels marked on a line of characters, zero below."""
    low, high = min(fmt.minimum, 0.0), max(fmt.maximum, 0.0)
    line = ["─"] * _WIDTH

    def column(value: float) -> int:
        return round((value - low) / (high - low) * (_WIDTH - 1))

    for level in fmt.levels:
        line[column(level)] = "┼" if line[column(level)] == "─" else "╫"
    below = [" "] * _WIDTH
    below[column(0.0)] = "0"
    ends = f"{low:g}".ljust(_WIDTH - len(f"{high:g}")) + f"{high:g}"
    return ["  " + "".join(line), "  " + "".join(below), "  " + ends]


def _data(fmt: Format) -> dict[str, Any]:
    grid = fmt.integer_grid
    return {
        "name": fmt.name,
        "bits": fmt.bits,
        "values": list(fmt.values),
        "codes": list(fmt.codes),
        "special_codes": [list(pair) for pair in fmt.special_codes],
        "decision_boundaries": list(fmt.decision_boundaries),
        "symmetric": fmt.is_symmetric,
        "zero": fmt.has_zero,
        "integer_grid": None
        if grid is None
        else {"step": str(grid.step), "integers": list(grid.integers), "bits": grid.bits},
        "description": fmt.description,
        "source": fmt.source,
    }


def _columns(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str]
) -> str:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
