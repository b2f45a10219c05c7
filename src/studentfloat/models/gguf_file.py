"""GGUF files opened: whatever their bytes are, in one line if they are not sound."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from studentfloat.errors import MissingDependencyError, ModelError

__all__ = ["open_gguf"]

# Bytes of a value by its type in the file; 8 is a string and 9 an array.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_DEEPEST = 4


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
        _check_header(path)
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}") from error
    except Exception as error:
        # On a file of any bytes the reader raises whatever its parsing runs into.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path} is not a sound GGUF file: {reason}") from error


class _Header:
    """Walks a GGUF header and refuses whatever reaches beyond the file.

    The reader does not: past the end it goes on with nothing, for as many elements as a damaged
    length names.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 4
        (version,) = struct.unpack_from("<I", data, 4)
        # A file for a big-endian machine has the version's bytes the other way round.
        self._order = ">" if version & 0xFFFF == 0 else "<"

    def skip(self, size: int) -> None:
        if not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"{size} bytes from byte {self._at} reach beyond its end")
        self._at += size

    def number(self, kind: str) -> int:
        at = self._at
        self.skip(struct.calcsize(f"={kind}"))
        (value,) = struct.unpack_from(self._order + kind, self._data, at)
        return int(value)

    def string(self) -> None:
        self.skip(self.number("Q"))

    def value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            self.array(depth + 1)
        elif kind in _SIZES:
            self.skip(_SIZES[kind])
        else:
            raise ValueError(f"a value of the unknown type {kind}")

    def array(self, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"arrays nested deeper than {_DEEPEST}")
        kind, count = self.number("I"), self.number("Q")
        if kind in _SIZES:
            self.skip(count * _SIZES[kind])
            return
        for _ in range(count):
            self.value(kind, depth)

    def tensor(self) -> None:
        self.string()
        dimensions = self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        self.skip(8 * dimensions + 4 + 8)


def _check_header(path: Path) -> None:
    """Refuse a header whose lengths do not fit into the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        header = _Header(data)
        header.skip(4)
        tensors, values = header.number("Q"), header.number("Q")
        for _ in range(values):
            header.string()
            header.value(header.number("I"))
        for _ in range(tensors):
            header.tensor()
