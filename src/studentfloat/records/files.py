"""Record files: written whole or not at all, and read back only when understood."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, TypeVar

from studentfloat import untrusted
from studentfloat.errors import FailureError
from studentfloat.records.temporary import temporary_beside

__all__ = [
    "read_json",
    "record_from_json",
    "record_to_json",
    "write_json",
    "write_text_atomically",
]


T = TypeVar("T")


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all: under a temporary name, then renamed.

    Raises
    ------
    FailureError
        If the file cannot be written; what stood there before still stands.
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the reason worth telling is the first one
        raise FailureError(f"cannot write {target}: {error.strerror or error}") from error


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, as JSON has neither."""
    write_text_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises
    ------
    FailureError
        If it cannot be read or is not JSON with bounds (see
        :func:`studentfloat.untrusted.parse_json`); the message names the file.
    """
    return untrusted.read_json(path)


def record_to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON data: tuples as lists, numbers that are not finite as null.

    A record's method ``derived`` gives what is said again in another form; reading ignores it.
    """
    data = {"schema": f"{record.KIND}/{record.VERSION}"} if hasattr(record, "KIND") else {}
    return {**data, **_fields(record)}


def record_from_json(kind: type[T], data: Any, *, where: str = "record") -> T:
    """Rebuild a record from what :func:`record_to_json` made of it.

    Fields that the record does not know are ignored, so that a newer minor writer does
    not break an older reader; another kind or version is refused.

    Raises
    ------
    FailureError
        If `data` is no such record, or a field of it is missing or of another type; the message
        names the field.
    """
    if hasattr(kind, "KIND"):
        wanted, found = f"{kind.KIND}/{kind.VERSION}", _get(data, "schema")  # type: ignore[attr-defined]
        if found != wanted:
            raise FailureError(f"{where} is of schema {found!r}, this version reads {wanted!r}")
    return untrusted.typed(kind, data, where=where)


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _fields(record: Any) -> dict[str, Any]:
    """A record's fields, and what its class derives of them for readers of the JSON."""
    plain = {f.name: _plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if hasattr(type(record), "derived"):
        plain |= _plain(record.derived())
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
