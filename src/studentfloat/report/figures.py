"""Figures as Vega-Lite specifications: what they are, how they are filled in and saved.

A figure that follows the reader's choices is a template: where its data and titles go stands a
slot, the string ``@name``. The page fills slots in the browser as :func:`fill` does here, so a
static figure comes from the same specification.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studentfloat.errors import FailureError, MissingDependencyError
from studentfloat.records import write_text_atomically
from studentfloat.records.temporary import temporary_beside
from studentfloat.report.palette import LIGHT, chart_config, resolve

__all__ = ["Figure", "altair", "fill", "inline", "save_figures"]

# Of a figure outside of a page, where no container sets it.
_STATIC_WIDTH = 560
_PNG_SCALE = 2.0


@dataclass(frozen=True)
class Figure:
    """A chart with what it shows in words.

    Attributes
    ----------
    key, title, caption
        Identifier (a file's name), heading, and one or two sentences that stand in for the
        picture.
    spec
        The Vega-Lite specification; colors are those of :mod:`studentfloat.report.palette`.
    """

    key: str
    title: str
    caption: str
    spec: dict[str, Any] = field(repr=False)

    @property
    def described(self) -> dict[str, Any]:
        """The specification with the words in it, which Vega hands to screen readers."""
        return {**self.spec, "description": f"{self.title}. {self.caption}"}


def altair() -> Any:
    """The charting library.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import altair as alt
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("altair", "report") from error
    alt.data_transformers.disable_max_rows()
    return alt


def inline(alt: Any, rows: Sequence[dict[str, Any]]) -> Any:
    """Data that are part of the specification."""
    return alt.Data(values=list(rows))


def fill(template: Any, slots: dict[str, Any]) -> Any:
    """A copy of a template with what belongs in its slots; layers without data are left out."""
    if isinstance(template, dict):
        return {key: fill(value, slots) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, slots) for value in template if not _is_empty_layer(value, slots)]
    return slots.get(template, template) if isinstance(template, str) else template


def _is_empty_layer(part: Any, slots: dict[str, Any]) -> bool:
    data = part.get("data") if isinstance(part, dict) else None
    return isinstance(data, dict) and slots.get(data.get("values", "")) == []


def save_figures(figures: Sequence[Figure], directory: Path) -> list[Path]:
    """Write each figure as SVG and PNG, for papers: light, with nothing to click.

    Returns
    -------
    list of Path
        The files, two a figure.

    Raises
    ------
    FailureError
        If they cannot be written.
    MissingDependencyError
        If vl-convert is not installed.
    """
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("vl-convert-python", "report") from error
    written = []
    for figure in figures:
        spec = _static(figure.described)
        # Parts of keys come from the records' file.
        name = re.sub(r"[^\w.+-]+", "-", figure.key)
        svg, png = directory / f"{name}.svg", directory / f"{name}.png"
        words = html.escape(spec["description"], quote=True)
        drawn = vl_convert.vegalite_to_svg(spec)
        drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)
        write_text_atomically(svg, drawn)
        _write_bytes(png, vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE))
        written += [svg, png]
    return written


def _write_bytes(target: Path, data: bytes) -> None:
    """Whole or not at all, as :func:`~studentfloat.records.write_text_atomically`."""
    temporary = temporary_beside(target)
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FailureError(f"cannot write {target}: {error.strerror or error}") from error


def _static(spec: dict[str, Any]) -> dict[str, Any]:
    fixed = {"background": LIGHT["paper"]}
    if spec.get("width") == "container":
        fixed["width"] = _STATIC_WIDTH  # type: ignore[assignment]
    config = {**chart_config(), **spec.get("config", {}), "background": LIGHT["paper"]}
    return resolve({**spec, "config": config, **fixed}, LIGHT)  # type: ignore[no-any-return]
