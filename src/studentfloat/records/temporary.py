"""Temporary files, named after the process that writes them; what killed runs left is removed.

A file that must appear whole or not at all is written under a temporary name beside its place,
then renamed. A run that is killed in between leaves the temporary file: the next process that
writes into the same directory removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studentfloat.errors import FailureError

__all__ = ["sweep", "temporary_beside", "temporary_directory"]

# Of a process on another host nobody here can tell whether it lives.
_OTHERS_AGE_SECONDS = 24 * 3600
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_NAME = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp")

_made: set[str] = set()
_swept: set[Path] = set()


def temporary_beside(target: Path) -> Path:
    """Return a name beside `target` to write under until it is whole.

    The first call for a directory removes what killed processes left there.
    """
    if target.parent not in _swept:
        _swept.add(target.parent)
        sweep(target.parent)
    name = f".{target.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    _made.add(name)
    return target.with_name(name)


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """Make a directory beside `target`, and remove it at the end unless it was renamed.

    Raises
    ------
    FailureError
        If it cannot be made.
    """
    place = temporary_beside(target)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise FailureError(f"cannot write to {target.parent}: {error.strerror or error}") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Remove temporary files and directories whose writers are gone.

    Those of a process on another host are removed once they are a day old. What cannot be
    removed is left.
    """
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return  # there is no such directory, or what comes next says what is wrong with it
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None or entry.name in _made or not _is_stale(entry, match):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


def _is_stale(entry: os.DirEntry[str], match: re.Match[str]) -> bool:
    if match["host"] != _HOST or os.name != "posix":
        try:
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > _OTHERS_AGE_SECONDS
        except OSError:
            return False
    pid = int(match["pid"])
    # Not made by this process, though it bears its number: by an earlier one of that number.
    return pid == os.getpid() or not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
