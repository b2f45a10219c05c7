"""Results on disk by what they were made of, so that nothing is synthesized twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from studentfloat.records import write_json

__all__ = ["ContentCache", "content_key", "library_digest"]


def content_key(**parts: Any) -> str:
    """Digest of everything that a result depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def library_digest(files: tuple[Path, ...], text: str) -> str:
    """Digest of a cell library: its files, or its text where it has none."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    if not files:
        digest.update(text.encode())
    return digest.hexdigest()


class ContentCache:
    """A folder of JSON files named by key.

    Parameters
    ----------
    folder
        By default ``hardware`` in the user's cache folder for studentfloat.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            import platformdirs

            folder = platformdirs.user_cache_path("studentfloat") / "hardware"
        self.folder = folder

    def get(self, key: str) -> Any | None:
        """The stored data, or None; a file that cannot be read counts as absent."""
        try:
            return json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, key: str, data: Any) -> None:
        """Store data, whole or not at all."""
        write_json(self.folder / f"{key}.json", data)
