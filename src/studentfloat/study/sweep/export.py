"""A study's results for other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from studentfloat.records import record_to_json, write_text_atomically
from studentfloat.study.sweep.results import read_study

__all__ = ["export_study"]

Progress = Callable[[float, str], None]


def export_study(
    directory: Path,
    target: str,
    output: Path | None = None,
    progress: Progress = lambda share, what: None,
) -> str | None:
    """Write what a study has found.

    Returns
    -------
    str or None
        The text where there is no `output`.
    """
    result = read_study(directory, progress)
    text = json.dumps(record_to_json(result), indent=1, allow_nan=False) + "\n"
    if output is None:
        return text
    write_text_atomically(output, text)
    return None
