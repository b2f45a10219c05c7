"""Where downloaded and converted models are kept, and how they get there whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from studentfloat.errors import FailureError

__all__ = ["build_once", "cache_directory", "sha256_of_files"]

_CHUNK = 1 << 22


def cache_directory() -> Path:
    """The user's cache for studentfloat; the environment variable STUDENTFLOAT_CACHE moves it."""
    override = os.environ.get("STUDENTFLOAT_CACHE")
    if override:
        return Path(override)
    import platformdirs

    return Path(platformdirs.user_cache_dir("studentfloat"))


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Make a directory in the cache, whole or not at all.

    Parameters
    ----------
    target
        The directory wanted; if it exists it is returned as it is.
    build
        Fills the directory that it is given. What it leaves is renamed to `target`; where
        two processes race, the first wins and the second's copy is dropped.

    Raises
    ------
    FailureError
        If the cache cannot be written to.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise FailureError(
            f"cannot write to the cache {target.parent}: {error.strerror}; "
            "set STUDENTFLOAT_CACHE to a directory that can be written to"
        ) from error
    try:
        build(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise FailureError(f"cannot fill the cache {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def sha256_of_files(files: Iterable[Path]) -> str:
    """One hash for a set of files: their names and contents, in order of name."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        total.update(f"{file.name} {digest.hexdigest()}\n".encode())
    return total.hexdigest()
