"""Docstrings are written for Sphinx's roles; the site's are Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Turn ``:class:`~a.b.C``` into code, and ``::`` before a block into a colon."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring before it is parsed."""
        if obj.docstring is not None:
            text = re.sub(r":\w+:`~(?:\w+\.)*(\w+)`", r"`\1`", obj.docstring.value)
            text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
            obj.docstring.value = re.sub(r"^::$|::$", ":", text, flags=re.MULTILINE)
