"""Formats as plain text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from studentfloat.formats.catalog import CATALOG, PATTERNS, get_format
from studentfloat.formats.codes import CODE_PATTERNS, CODES, AnyFormat, get_code
from studentfloat.formats.distortion import distortion, shannon_bound
from studentfloat.formats.format import Format
from studentfloat.formats.trellis import Trellis
from studentfloat.formats.vectors import VectorFormat

__all__ = ["catalog_json", "catalog_table", "format_json", "format_view"]

_WIDTH = 72
_TAILS = 5.0  # degrees of freedom of the source beside the normal one


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
    families = ", ".join((*PATTERNS, *CODE_PATTERNS))
    text = _columns(headings, rows, right=("bits", "values", "smallest", "largest"))
    return f"{text}\n{_codes_table()}\nFamilies, by their parameters: {families}\n"


def _codes_table() -> str:
    """Codes of more than one number, beside what their rate allows."""
    headings = (
        *("name", "bits", "dimension", "table bits", "normal", "bound"),
        *(f"t{_TAILS:g}", "bound", "description", "source"),
    )
    rows = []
    for code in map(get_code, CODES):
        assert not isinstance(code, Format)
        figures = [f"{number:.5f}" for pair in _distortions(code) for number in pair]
        rows.append(
            (
                code.name,
                f"{code.bits:g}",
                str(code.dimension),
                str(code.table_bits),
                *figures,
                code.description,
                code.source,
            )
        )
    title = (
        "Codes of several numbers, and their mean squared error on a normal source and on a "
        f"Student t of\nν = {_TAILS:g}, both of variance 1, beside Shannon's bound:\n\n"
    )
    return title + _columns(headings, rows, right=headings[1:8])


def _distortions(code: AnyFormat) -> list[tuple[float, float]]:
    """Error and bound on a normal source and on one with tails."""
    rate = float(code.bits)
    return [(distortion(code, nu), shannon_bound(rate, nu)) for nu in (math.inf, _TAILS)]


def catalog_json() -> str:
    """All catalog formats as JSON."""
    data = {
        "formats": [_data(get_format(name)) for name in CATALOG],
        "codes": [_code_data(get_code(name)) for name in CODES],
    }
    return json.dumps(data, indent=1) + "\n"


def format_json(fmt: AnyFormat) -> str:
    """One format or code as JSON."""
    data = _data(fmt) if isinstance(fmt, Format) else _code_data(fmt)
    return json.dumps(data, indent=1) + "\n"


def format_view(fmt: AnyFormat) -> str:
    """One format or code for people: what it is made of, and how far from the bound."""
    return _scalar_view(fmt) if isinstance(fmt, Format) else _code_view(fmt)


def _code_view(code: Trellis | VectorFormat) -> str:
    lines = [
        f"{code.name}: {code.description}",
        f"  source         {code.source or 'not given'}",
        f"  bits           {code.bits:g} a number, {code.dimension} numbers together",
        f"  tables         {code.table_bits} bits",
        *(f"  {what:<14} {value}" for what, value in _makings(code)),
        "",
    ]
    rows = [
        (law, f"{error:.5f}", f"{bound:.5f}", f"{error / bound:.3f}")
        for law, (error, bound) in zip(
            ("normal", f"t, ν = {_TAILS:g}"), _distortions(code), strict=True
        )
    ]
    headings = ("source of variance 1", "squared error", "bound", "ratio")
    return "\n".join(lines) + "\n" + _columns(headings, rows, right=headings[1:])


def _makings(code: Trellis | VectorFormat) -> list[tuple[str, str]]:
    if isinstance(code, Trellis):
        made = [("states", f"{code.states} ({code.state_bits} bits)"), ("made by", "")]
        generator = code.generator
        parts = {key: value for key, value in vars(generator).items() if key != "entries"}
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in parts.items())
        made[1] = ("made by", f"{generator.kind}{': ' if told else ''}{told}")
        values = code.values
        return [*made, ("values", f"{values.min()} to {values.max()}, in units of {code.unit:g}")]
    stages = (
        f"{stage.kind}, {1 << stage.index_bits} points, scale {scale:g}"
        for stage, scale in zip(code.stages, code.scales, strict=True)
    )
    return [("stages", "; ".join(stages))]


def _scalar_view(fmt: Format) -> str:
    """A number line, then each level with code and boundary."""
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


def _code_data(code: AnyFormat) -> dict[str, Any]:
    assert not isinstance(code, Format)
    normal, tails = _distortions(code)
    return {
        "name": code.name,
        "kind": "trellis" if isinstance(code, Trellis) else "vectors",
        "bits": code.bits,
        "dimension": code.dimension,
        "table_bits": code.table_bits,
        "normal": {"squared_error": normal[0], "bound": normal[1]},
        f"t{_TAILS:g}": {"squared_error": tails[0], "bound": tails[1]},
        "description": code.description,
        "source": code.source,
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
