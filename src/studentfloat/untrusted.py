"""JSON and TOML that somebody else wrote: bounded, typed, and refused in one line.

Every such file goes through here. A parser of Python's raises ``RecursionError`` on deep
nesting and ``ValueError`` on long numbers, takes the last of two equal keys, and reads
``Infinity`` and halves of characters; whoever uses the data then meets a text where a number
should be. Here all of that is an error that names the file and the field::

    data = read_json("results.json")
    result = typed(Comparison, data, where="results.json")
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from studentfloat.errors import FailureError, StudentFloatError

__all__ = [
    "parse_json",
    "parse_toml",
    "read_json",
    "read_text",
    "read_toml",
    "shown",
    "table",
    "typed",
]

T = TypeVar("T")
Error = type[StudentFloatError]

_LARGEST_JSON = 256 << 20
_LARGEST_TOML = 1 << 20
_DEEPEST = 64
_MOST_DIGITS = 100
_MOST_KEY_PARTS = 32
_LONGEST_SHOWN = 60
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Python's parser needs memory with the square of a dotted key's parts.
_KEY_PART = r"""(?:(?<![\w-])[\w-]++|"(?:[^"\\\n]|\\.){0,99}+"|'[^'\n]{0,99}+')"""
_LONG_KEY = re.compile(rf"(?:{_KEY_PART}[ \t]*\.[ \t]*){{{_MOST_KEY_PARTS}}}")


def read_text(
    path: str | os.PathLike[str],
    *,
    what: str = "",
    error: Error = FailureError,
    unreadable: Error | None = None,
    largest: int = _LARGEST_JSON,
) -> str:
    """Read a file of UTF-8 text; a byte-order mark at its beginning is not part of it.

    Lines end with a line feed, however the file ends them.

    Parameters
    ----------
    path
        The file.
    what
        What to call it in an error: "study file".
    error, unreadable
        Class of the exception; and where the system does not give the file, if that is another.
    largest
        Bytes that it may have.

    Raises
    ------
    StudentFloatError
        Of class `unreadable` if it cannot be read; of `error`, if it is larger or not UTF-8.
    """
    unreadable = unreadable or error
    name = f"the {what} {os.fspath(path)}" if what else os.fspath(path)
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(largest + 1)
    except OSError as reason:
        raise unreadable(f"cannot read {name}: {reason.strerror or reason}") from reason
    except ValueError as reason:  # a NUL in the path
        raise unreadable(f"cannot read {name}: {reason}") from reason
    if len(raw) > largest:
        raise error(f"{name} is larger than {largest >> 20} MiB")
    return _decoded(raw, name, error).replace("\r\n", "\n").replace("\r", "\n")


def read_json(
    path: str | os.PathLike[str],
    *,
    error: Error = FailureError,
    lenient: bool = False,
    largest: int = _LARGEST_JSON,
) -> Any:
    """Read a JSON file; see :func:`parse_json`."""
    text = read_text(path, error=error, largest=largest)
    return parse_json(text, os.fspath(path), error=error, lenient=lenient)


def read_toml(
    path: str | os.PathLike[str], *, error: Error = FailureError, unreadable: Error | None = None
) -> dict[str, Any]:
    """Read a TOML file of up to 1 MiB; see :func:`parse_toml`."""
    text = read_text(path, error=error, unreadable=unreadable, largest=_LARGEST_TOML)
    return parse_toml(text, os.fspath(path), error=error)


def parse_json(
    text: str | bytes, where: str, *, error: Error = FailureError, lenient: bool = False
) -> Any:
    """Parse JSON.

    Parameters
    ----------
    text
        Bytes are UTF-8.
    where
        What to call it in an error: the file's name.
    error
        Class of the exception.
    lenient
        Take NaN, infinities and the last of equal keys, as Python's own parser does. For files
        that transformers reads too: some of its configurations have ``Infinity``.

    Raises
    ------
    StudentFloatError
        Of class `error`: not JSON, nested deeper than 64 levels, a number of more than 100
        digits or beyond float64, a lone surrogate; unless lenient, an equal key, NaN or
        infinity.
    """
    text = text.removeprefix("\ufeff") if isinstance(text, str) else _decoded(text, where, error)
    hooks = _Hooks(lenient)
    try:
        data = json.loads(
            text,
            parse_int=hooks.whole,
            parse_float=hooks.real,
            parse_constant=hooks.constant,
            object_pairs_hook=None if lenient else hooks.object,
        )
    except ValueError as reason:
        empty = "it is empty" if not text.strip() else str(reason)
        raise error(f"{where} is not valid JSON: {empty}") from reason
    except RecursionError:
        raise _too_deep(where, error) from None
    _check_depth(data, where, error)
    if hooks.refused or _SURROGATE.search(text):
        _check_leaves(data, where, error)
    return data


def parse_toml(text: str, where: str, *, error: Error = FailureError) -> dict[str, Any]:
    """Parse TOML.

    Raises
    ------
    StudentFloatError
        Of class `error`: not TOML, larger than 1 MiB, nested deeper than 64 levels, a number of
        more than 100 digits or beyond float64.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > _LARGEST_TOML:
        raise error(f"{where} is larger than 1 MiB")
    if _LONG_KEY.search(text):
        raise error(f"{where} has a key of more than {_MOST_KEY_PARTS} parts")
    try:
        data = tomllib.loads(text, parse_float=_Hooks(lenient=True).real)
    except tomllib.TOMLDecodeError as reason:
        raise error(f"{where} is not valid TOML: {reason}") from reason
    except ValueError as reason:  # Python's own limit of digits
        raise error(f"{where} holds a number of thousands of digits") from reason
    except RecursionError:
        raise _too_deep(where, error) from None
    _check_depth(data, where, error)
    _check_leaves(data, where, error)
    return data


def table(data: Any, where: str, *, error: Error = FailureError) -> dict[str, Any]:
    """`data` if it is a table (a JSON object).

    Raises
    ------
    StudentFloatError
        Of class `error`, if it is anything else.
    """
    if not isinstance(data, dict):
        raise error(f"{where} must be a table of names and values, not {shown(data)}")
    return data


def typed(kind: type[T], data: Any, *, where: str, error: Error = FailureError) -> T:
    """Parsed data as a value of a type: every field there and of the type that it declares.

    Parameters
    ----------
    kind
        A dataclass; or a plain type, ``tuple[int, ...]``, ``dict[str, float]``, a union of
        them, ``Literal`` ... Fields of a dataclass may be any of these. Fields that it does not
        have are ignored; those with a default may be missing. A null where a number must be is
        NaN, as :func:`studentfloat.records.record_to_json` writes it.
    where
        What to call `data` in an error.
    error
        Class of the exception.

    Raises
    ------
    StudentFloatError
        Of class `error`; the message names the field: "results.json: formats[2].bits must be a
        whole number, not 'four'".
    """
    try:
        return cast(T, _typed(kind, data, ""))
    except _WrongTypeError as wrong:
        place = f"{where}: {wrong.path}" if wrong.path else where
        raise error(f"{place} {wrong.problem}") from None


def shown(value: object) -> str:
    """A value as an error shows it: its ``repr``, cut where that is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


class _Refused:
    """Stands in parsed data for what must not be there, until its path is known."""

    def __init__(self, why: str) -> None:
        self.why = why


class _Hooks:
    """What the parsers call for numbers and objects."""

    def __init__(self, lenient: bool) -> None:
        self.lenient = lenient
        self.refused = False

    def _refuse(self, why: str) -> _Refused:
        self.refused = True
        return _Refused(why)

    def whole(self, text: str) -> int | _Refused:
        if len(text) > _MOST_DIGITS:
            return self._refuse(f"is a number of {len(text.lstrip('-'))} digits")
        return int(text)

    def real(self, text: str) -> float | _Refused:
        if len(text) > _MOST_DIGITS:
            return self._refuse(f"is a number of {len(text)} characters")
        value = float(text)
        if math.isinf(value) and "inf" not in text:
            return self._refuse(f"is {text}, beyond the range of float64")
        return value

    def constant(self, text: str) -> float | _Refused:
        if not self.lenient:
            return self._refuse(f"is {text}, which JSON does not have")
        return float(text)

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    found[key] = self._refuse("is there twice")
                seen.add(key)
        return found


def _decoded(raw: bytes, where: str, error: Error) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{where} is not UTF-8 text (byte {reason.start})") from reason


def _too_deep(where: str, error: Error) -> StudentFloatError:
    return error(f"{where} is nested deeper than {_DEEPEST} levels")


def _check_depth(data: Any, where: str, error: Error) -> None:
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(_DEEPEST):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise _too_deep(where, error)


def _check_leaves(data: Any, where: str, error: Error) -> None:
    for path, item in _leaves(data, ""):
        if isinstance(item, _Refused):
            raise error(f"{where}: {path or 'it'} {item.why}")
        if isinstance(item, str) and not _is_sound(item):
            raise error(f"{where}: {path or 'it'} holds half of a character (a lone surrogate)")
        if isinstance(item, int) and abs(item) >= 10**_MOST_DIGITS:
            digits = int(item.bit_length() * math.log10(2)) + 1
            raise error(f"{where}: {path or 'it'} is a number of {digits} digits")


def _leaves(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All that is no container, and all keys, with the path to each."""
    if isinstance(data, dict):
        for key, item in data.items():
            inner = _join(path, key)
            yield inner, key
            yield from _leaves(item, inner)
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, data


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class _WrongTypeError(Exception):
    """Data are not what a type asks for."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def _typed(kind: Any, data: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _record(kind, data, path)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _one_of(parts, data, path)
    if origin is Literal:
        if data not in parts:
            raise _wrong(path, "one of " + ", ".join(map(repr, parts)), data)
        return data
    read = _READERS.get(origin or kind)
    if read is None:
        return data  # Any: whoever asks for it checks it
    return read(parts, data, path)


def _record(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(path, f"a table (a {kind.__name__})", data)
    found = {}
    for name, hint, required in _fields(kind):
        if name in data:
            found[name] = _typed(hint, data[name], _join(path, name))
        elif required:
            raise _WrongTypeError(_join(path, name), "is missing")
    try:
        return kind(**found)
    except StudentFloatError as reason:  # what a record itself refuses
        raise _WrongTypeError(path, f"cannot be: {reason}") from reason


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Name, type and whether it must be given, of each field that a class is made with."""
    hints = get_type_hints(kind)
    none = dataclasses.MISSING
    return tuple(
        (f.name, hints[f.name], f.default is none and f.default_factory is none)
        for f in dataclasses.fields(kind)
        if f.init
    )


def _one_of(kinds: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and NoneType in kinds:
        return None
    inner = [kind for kind in kinds if kind is not NoneType]
    if len(inner) == 1:
        return _typed(inner[0], data, path)
    # A whole number is a float too, but not where a union asks for whole numbers.
    for kind in sorted(inner, key=lambda kind: kind is float):
        try:
            return _typed(kind, data, path)
        except _WrongTypeError:
            continue
    raise _wrong(path, " or ".join(_NAMES.get(kind, str(kind)) for kind in inner), data)


def _wrong(path: str, wanted: str, data: Any) -> _WrongTypeError:
    return _WrongTypeError(path, f"must be {wanted}, not {shown(data)}")


_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _text(_parts: tuple[Any, ...], data: Any, path: str) -> str:
    if not isinstance(data, str):
        raise _wrong(path, _NAMES[str], data)
    return data


def _whole(_parts: tuple[Any, ...], data: Any, path: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise _wrong(path, _NAMES[int], data)
    return data


def _number(_parts: tuple[Any, ...], data: Any, path: str) -> float:
    if data is None:
        return math.nan
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise _wrong(path, _NAMES[float], data)
    return data


def _flag(_parts: tuple[Any, ...], data: Any, path: str) -> bool:
    if not isinstance(data, bool):
        raise _wrong(path, _NAMES[bool], data)
    return data


def _list(parts: tuple[Any, ...], data: Any, path: str) -> list[Any]:
    if not isinstance(data, (list, tuple)):
        raise _wrong(path, "a list", data)
    return [_typed(parts[0], item, f"{path}[{i}]") for i, item in enumerate(data)]


def _tuple(parts: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_list(parts, data, path))
    if not isinstance(data, (list, tuple)) or len(data) != len(parts):
        raise _wrong(path, f"a list of {len(parts)}", data)
    return tuple(
        _typed(kind, item, f"{path}[{i}]")
        for i, (kind, item) in enumerate(zip(parts, data, strict=True))
    )


def _dict(parts: tuple[Any, ...], data: Any, path: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise _wrong(path, "a table", data)
    return {key: _typed(parts[1], item, _join(path, key)) for key, item in data.items()}


_READERS: dict[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _flag,
    list: _list,
    tuple: _tuple,
    dict: _dict,
}
