"""Texts that are always at hand: what calibration and evaluation use by default.

Web pages, encyclopedia articles, code and technical text come from ``standard_cal_data/`` in
the wheel ``exllamav2`` 0.3.2 (MIT license), fetched once and never installed. The Python
language reference and docstrings come from the Python that runs. Articles are split by place:
calibration sees the first two thirds of them, evaluation the rest.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from studentfloat.errors import DataError
from studentfloat.models.cache import build_once, cache_directory
from studentfloat.models.wheels import Wheel

__all__ = ["CALIBRATION_MIXTURE", "EVALUATION_TEXTS", "STANDARD_TEXTS", "standard_text"]

_WHEEL = Wheel(
    requirement="exllamav2==0.3.2",
    file="exllamav2-0.3.2-py3-none-any.whl",
    sha256="7cd61ae4bf1d8d12034595ab9731f0f43bac415d6394fbb273d4383293d6079e",
    what="texts for calibration and evaluation (1.5 MB)",
)
_FOLDER = "exllamav2/conversion/standard_cal_data/"
_FILES = ("c4", "wiki", "code", "technical")
_ARTICLE = re.compile(r"<doc [^>]*>\n(.*?)</doc>", re.DOTALL)
_SHORTEST_DOCSTRING = 400
# The evaluation text is in pydoc_data; the rest is no library or not always there.
_NOT_LIBRARY = frozenset(
    {"pydoc_data", "site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo"}
    | {"lib2to3", "ensurepip", "__pycache__"}
)

CALIBRATION_MIXTURE: Mapping[str, float] = MappingProxyType(
    {"c4": 0.35, "articles-calibration": 0.35, "code": 0.1, "technical": 0.1, "docstrings": 0.1}
)
"""What calibration reads by default: names of standard texts, and each one's share of the windows.

Several kinds, because weights calibrated on text of one kind fit that kind (docs/quality.md).
"""

EVALUATION_TEXTS: tuple[str, ...] = ("pydoc", "articles")
"""What models are measured on by default: two kinds of text, neither of them in the mixture."""


def standard_text(name: str) -> tuple[str, str]:
    """A standard text, and in words what it is.

    Parameters
    ----------
    name
        One of :data:`STANDARD_TEXTS`.

    Raises
    ------
    ModelError
        If the wheel cannot be fetched.
    DataError
        If this Python has no standard library in source.
    """
    described, read = _TEXTS[name]
    return read(), described


def _reference() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[key].strip() for key in sorted(topics))


@cache
def _docstrings() -> str:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for file in sorted(root.rglob("*.py")):
        if not _NOT_LIBRARY.isdisjoint(file.relative_to(root).parts):
            continue
        found += [text for text in _docstrings_in(file) if len(text) >= _SHORTEST_DOCSTRING]
    if not found:
        raise DataError("this Python has no standard library in source: give a calibration text")
    return "\n\n".join(found)


def _docstrings_in(file: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that a later Python will refuse
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, OSError, ValueError):
            return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):
            yield ast.get_docstring(node) or ""


@cache
def _fetched(name: str) -> str:
    target = cache_directory() / "texts" / f"exllamav2-{_WHEEL.sha256[:12]}"
    build_once(target, _extract)
    return (target / f"{name}.txt").read_text(encoding="utf-8")


def _extract(directory: Path) -> None:
    with _WHEEL.opened() as archive:
        for name in _FILES:
            text = archive.read(f"{_FOLDER}{name}.utf8")
            (directory / f"{name}.txt").write_bytes(text)


def _articles(*, held_out: bool) -> str:
    articles = [article.strip() for article in _ARTICLE.findall(_fetched("wiki"))]
    seen = len(articles) * 2 // 3
    return "\n\n".join(articles[seen:] if held_out else articles[:seen])


_TEXTS: dict[str, tuple[str, Callable[[], str]]] = {
    "pydoc": ("pydoc_data.topics, the Python language reference", _reference),
    "articles": (
        "English Wikipedia articles, the last third of those in exllamav2's calibration data",
        lambda: _articles(held_out=True),
    ),
    "articles-calibration": (
        "English Wikipedia articles, the first two thirds of those in exllamav2's calibration data",
        lambda: _articles(held_out=False),
    ),
    "c4": ("web pages (C4) from exllamav2's calibration data", lambda: _fetched("c4")),
    "code": ("code from exllamav2's calibration data", lambda: _fetched("code")),
    "technical": (
        "technical text from exllamav2's calibration data",
        lambda: _fetched("technical"),
    ),
    "docstrings": ("docstrings of the Python standard library", _docstrings),
}

STANDARD_TEXTS = tuple(_TEXTS)
"""Names that ``--text`` and ``--calibration`` take beside files and data sets."""
