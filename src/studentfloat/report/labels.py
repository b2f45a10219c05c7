"""Where names go beside the points of a map, so that none covers another."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["place_labels"]

# In pixels: a letter of the labels' size, a line of them, a point, the scales' padding.
_LETTER, _LINE, _POINT, _PADDING = 6.3, 12.0, 6.0, 28.0
# Offsets of the baseline from the point, nearest first; a negative x puts the text to the left.
_OFFSETS = [(8, -5), (8, 12), (-8, -5), (-8, 12), (8, 3), (-8, 3)]

Box = tuple[float, float, float, float]


def place_labels(
    rows: list[dict[str, Any]], *, logarithmic: bool, width: float, height: float
) -> None:
    """Give each row a ``label`` with ``dx``, ``dy`` and ``align``, in the order of their standing.

    A label that fits nowhere is left empty: its point still tells its name. The page does the
    same for the width it has (``study.js``).

    Parameters
    ----------
    rows
        With ``name``, ``cost``, ``loss`` and the ends of their bars; changed in place.
    logarithmic
        Whether the axis of the measure is; that of the cost always is.
    width, height
        Of the plot, in pixels.
    """
    xs = _pixels([(r["cost"], r["left"], r["right"]) for r in rows], width, log=True)
    ys = _pixels([(r["loss"], r["low"], r["high"]) for r in rows], height, log=logarithmic)
    points = [(x, height - y) for x, y in zip(xs, ys, strict=True)]
    taken: list[Box] = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    first = {"frontier": 0, "within noise": 1}
    for index in sorted(range(len(rows)), key=lambda i: first.get(rows[i]["standing"], 2)):
        row, (x, y) = rows[index], points[index]
        row.update(label="", dx=0, dy=0, align="left")
        long = _LETTER * len(row["name"])
        for dx, dy in _OFFSETS:
            left = x + dx if dx > 0 else x + dx - long
            box = (left, y + dy - _LINE + 2, left + long, y + dy + 2)
            outside = box[0] < 0 or box[2] > width or box[1] < 0 or box[3] > height
            if not outside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                align = "left" if dx > 0 else "right"
                row.update(label=row["name"], dx=dx, dy=dy, align=align)
                break


def _pixels(values: list[tuple[float, float, float]], size: float, *, log: bool) -> list[float]:
    """Distance from the axis's start of the first of each three."""
    scaled = [[math.log(v) if log else v for v in three] for three in values]
    flat = [v for three in scaled for v in three]
    low = min(flat, default=0.0)
    span = max(flat, default=0.0) - low or 1.0
    return [_PADDING + (three[0] - low) / span * (size - 2 * _PADDING) for three in scaled]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
