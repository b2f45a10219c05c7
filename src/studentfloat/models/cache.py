"""Where downloaded and converted models are kept, and how they get there whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from studentfloat.errors import FailureError
from studentfloat.records.temporary import temporary_directory

__all__ = ["build_once", "cache_directory", "changed_since_hashed", "sha256_of", "sha256_of_files"]

_CHUNK = 1 << 22

# Which file it is, its size, and when its bytes and its entry last changed.
_Stamp: TypeAlias = tuple[int, int, int, int, int]
_hashed: dict[Path, tuple[_Stamp, str]] = {}


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
        with temporary_directory(target) as place:
            build(place)
            try:
                place.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    except OSError as error:
        raise FailureError(
            f"cannot fill the cache {target}: {error.strerror or error}; set STUDENTFLOAT_CACHE "
            "to a directory that can be written to"
        ) from error
    return target


def sha256_of(file: Path) -> str:
    """Hash of all bytes of a file.

    Within one process a file is read again only if its size, its inode or a time of change
    says that it may be another.
    """
    known = _hashed.get(file)
    before = _stamp(file)
    if known is not None and known[0] == before:
        return known[1]
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    _hashed[file] = before, found
    return found


def sha256_of_files(files: Iterable[Path]) -> str:
    """One hash for a set of files: their names and contents, in order of name."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        total.update(f"{file.name} {sha256_of(file)}\n".encode())
    return total.hexdigest()


def changed_since_hashed(files: Iterable[Path]) -> Path | None:
    """Return the first file that was hashed in this process and is not what it was then."""
    for file in files:
        known = _hashed.get(file)
        if known is None:
            continue
        try:
            same = _stamp(file) == known[0]
        except OSError:
            same = False
        if not same:
            return file
    return None


def _stamp(file: Path) -> _Stamp:
    is_now = file.stat()
    return is_now.st_dev, is_now.st_ino, is_now.st_size, is_now.st_mtime_ns, is_now.st_ctime_ns
