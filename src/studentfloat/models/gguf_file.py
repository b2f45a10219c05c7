"""GGUF files opened: whatever their bytes are, in one line if they are not sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studentfloat.errors import MissingDependencyError, ModelError

__all__ = ["open_gguf"]


def open_gguf(path: Path) -> Any:
    """A ``gguf.GGUFReader`` of a file.

    Raises
    ------
    ModelError
        If it is no GGUF file or a damaged one.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("gguf", "models") from error
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}") from error
    except Exception as error:
        # On a file of any bytes the reader raises whatever its parsing runs into.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path} is not a sound GGUF file: {reason}") from error
