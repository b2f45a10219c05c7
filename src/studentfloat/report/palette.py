"""The colors of pages and figures, on light paper and on dark.

Specifications name colors as CSS does, ``var(--series-1)``: in a page they follow the reader's
setting and turn light for print; in a file they are resolved by :func:`resolve`.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["DARK", "LIGHT", "SERIES", "SHAPES", "chart_config", "resolve", "style_sheet"]

# Series: Okabe and Ito's palette, which people with any color vision can tell apart
# (https://jfly.uni-koeln.de/color/). Those of its colors that have less than 3:1 of contrast on
# white are darkened there (orange) or give way to a violet (yellow); the blues change places on
# dark paper.
LIGHT = {
    "paper": "#ffffff",
    "wash": "#f4f6f8",
    "ink": "#1a1a1a",
    "faint": "#5c5c5c",
    "line": "#d6d6d6",
    "edge": "#767676",
    "accent": "#0065a0",
    "caution": "#8c5e00",
    "series-1": "#0072b2",
    "series-2": "#d55e00",
    "series-3": "#009e73",
    "series-4": "#c26a9b",
    "series-5": "#4d4d4d",
    "series-6": "#8c5e00",
    "series-7": "#5e3c99",
}
DARK = {
    "paper": "#16181b",
    "wash": "#1f2328",
    "ink": "#e8e8e8",
    "faint": "#a8adb3",
    "line": "#3a3f45",
    "edge": "#8b9198",
    "accent": "#56b4e9",
    "caution": "#e69f00",
    "series-1": "#56b4e9",
    "series-2": "#e8711a",
    "series-3": "#009e73",
    "series-4": "#cc79a7",
    "series-5": "#d0d0d0",
    "series-6": "#e69f00",
    "series-7": "#f0e442",
}
SERIES = [f"var(--{name})" for name in LIGHT if name.startswith("series")]
# As many as colors: each series has one of either, so that nothing hangs on color alone.
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]


def style_sheet() -> str:
    """CSS that sets the colors: light, dark if the reader's system is, light again in print."""

    def block(palette: dict[str, str], scheme: str) -> str:
        named = " ".join(f"--{name}: {color};" for name, color in palette.items())
        return f":root {{ color-scheme: {scheme}; {named} }}"

    return "\n".join(
        [
            block(LIGHT, "light"),
            f"@media (prefers-color-scheme: dark) {{ {block(DARK, 'dark')} }}",
            f"@media print {{ {block(LIGHT, 'light')} }}",
        ]
    )


def chart_config() -> dict[str, Any]:
    """Vega-Lite's configuration for all figures."""
    ink, line = "var(--ink)", "var(--line)"
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": line},
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "gridColor": line,
            "domainColor": "var(--edge)",
            "tickColor": "var(--edge)",
            "labelLimit": 150,
            "titleFontWeight": "normal",
        },
        "legend": {
            "orient": "top",
            "columns": 4,
            "labelColor": ink,
            "titleColor": ink,
            "symbolBaseFillColor": ink,
            "symbolBaseStrokeColor": ink,
            "symbolLimit": 60,
        },
        "header": {"labelColor": ink, "titleColor": ink},
        "text": {"color": ink},
        "title": {"color": ink},
    }


def resolve(spec: Any, palette: dict[str, str]) -> Any:
    """A copy of a specification with the palette's colors in place of their names."""
    if isinstance(spec, dict):
        return {key: resolve(value, palette) for key, value in spec.items()}
    if isinstance(spec, list):
        return [resolve(value, palette) for value in spec]
    if isinstance(spec, str) and (named := re.fullmatch(r"var\(--([\w-]+)\)", spec)):
        return palette[named[1]]
    return spec
