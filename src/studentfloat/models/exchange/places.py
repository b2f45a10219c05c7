"""Directories that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studentfloat.errors import FailureError
from studentfloat.records.temporary import temporary_directory

__all__ = ["whole_directory"]


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A directory to fill beside `out`, which it becomes at the end; nothing is left else.

    Raises
    ------
    FailureError
        If it cannot be written.
    """
    try:
        with temporary_directory(out) as work:
            yield work
            work.rename(out)
    except OSError as error:
        raise FailureError(f"cannot write {out}: {error.strerror or error}") from error
