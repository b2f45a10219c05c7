from __future__ import annotations

import pytest

from studentfloat.report.palette import DARK, LIGHT, SERIES, SHAPES, resolve, style_sheet

PALETTES = {"light": LIGHT, "dark": DARK}


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_as_wcag_defines_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("text", ["ink", "faint", "accent"])
@pytest.mark.parametrize("ground", ["paper", "wash"])
def test_text_has_the_contrast_of_level_aa(name: str, text: str, ground: str) -> None:
    assert contrast(PALETTES[name][text], PALETTES[name][ground]) >= 4.5


@pytest.mark.parametrize("name", PALETTES)
def test_marks_and_controls_have_the_contrast_of_level_aa(name: str) -> None:
    palette = PALETTES[name]
    for key in ("edge", "caution", *(key for key in palette if key.startswith("series"))):
        assert contrast(palette[key], palette["paper"]) >= 3, key


@pytest.mark.parametrize("name", PALETTES)
def test_signs_on_marks_can_be_read(name: str) -> None:
    """The + and − of the pairs stand in the paper's color on these two."""
    palette = PALETTES[name]
    for key in ("series-1", "series-2"):
        assert contrast(palette["paper"], palette[key]) >= 3


@pytest.mark.parametrize("name", PALETTES)
def test_series_differ_in_color_and_in_shape(name: str) -> None:
    palette = PALETTES[name]
    assert LIGHT.keys() == DARK.keys()
    assert len({palette[key] for key in palette if key.startswith("series")}) == len(SERIES)
    assert len(set(SHAPES)) == len(SHAPES) == len(SERIES)


def test_print_is_light_whatever_the_screen_is() -> None:
    assert style_sheet().index("prefers-color-scheme: dark") < style_sheet().index("media print")
    assert LIGHT["ink"] in style_sheet().split("@media print")[1]


def test_names_of_colors_are_resolved_at_any_depth() -> None:
    spec = {"mark": {"color": "var(--ink)"}, "range": ["var(--series-1)", "plain"], "n": 3}
    assert resolve(spec, LIGHT) == {
        "mark": {"color": LIGHT["ink"]},
        "range": [LIGHT["series-1"], "plain"],
        "n": 3,
    }
