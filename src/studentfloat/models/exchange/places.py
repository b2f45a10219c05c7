"""Directories that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studentfloat.errors import FailureError

__all__ = ["whole_directory"]


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A directory to fill beside `out`, which it becomes at the end; nothing is left else.

    Raises
    ------
    FailureError
        If it cannot be written.
    """
    work = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        yield work
        work.chmod(0o755)
        work.rename(out)
    except OSError as error:
        raise FailureError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
