"""Formats in TOML files, exact both ways, and the look-up of a name or a file."""

from __future__ import annotations

import difflib
import os
from typing import Any, cast

from studentfloat.errors import FormatError
from studentfloat.formats.catalog import get_format
from studentfloat.formats.format import Format, SpecialValue
from studentfloat.records import write_text_atomically
from studentfloat.untrusted import parse_toml, read_text

__all__ = ["format_from_toml", "format_to_toml", "load_format", "resolve_format", "save_format"]

_KEYS = ("name", "bits", "values", "codes", "special_codes", "description", "source")
_LARGEST_FILE = 1 << 20


def format_to_toml(number_format: Format) -> str:
    """Write a format as TOML text, its values to the last bit."""
    import tomli_w

    data: dict[str, Any] = {
        "name": number_format.name,
        "bits": number_format.bits,
        "description": number_format.description,
        "source": number_format.source,
        "values": list(number_format.values),
        "codes": list(number_format.codes),
    }
    if number_format.special_codes:
        data["special_codes"] = [[code, value] for code, value in number_format.special_codes]
    return tomli_w.dumps({key: value for key, value in data.items() if value != ""})


def format_from_toml(text: str, *, where: str = "TOML text") -> Format:
    """Read a format from TOML text.

    Parameters
    ----------
    text
        Keys: ``values`` (numbers), and optionally ``name``, ``bits``, ``codes``,
        ``special_codes``, ``description``, ``source``.
    where
        What to call the text in an error.

    Raises
    ------
    FormatError
        On anything but a sound format; unknown keys are named with the nearest right one.
    """
    data = parse_toml(text, where, error=FormatError)
    for key in data:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            right = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
            raise FormatError(f"{where} has the unknown key {key!r}: {right}")
    if "values" not in data:
        raise FormatError(f"{where} has no key 'values': a list of numbers")
    values = _numbers(data["values"], "values", where)
    codes = _numbers(data["codes"], "codes", where) if "codes" in data else None
    name, bits = data.get("name", "custom"), data.get("bits")
    try:
        plain = Format.from_values(
            cast("list[float]", values),
            name=name,
            bits=bits,
            codes=cast("list[int] | None", codes),
            description=str(data.get("description", "")),
            source=str(data.get("source", "")),
        )
        if "special_codes" not in data:
            return plain
        return Format(
            name=plain.name,
            bits=plain.bits,
            values=plain.values,
            codes=plain.codes,
            special_codes=_special_codes(data["special_codes"], where),
            description=plain.description,
            source=plain.source,
        )
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


def load_format(path: str | os.PathLike[str]) -> Format:
    """Read a format from a TOML file (up to 1 MiB)."""
    text = read_text(path, what="format file", error=FormatError, largest=_LARGEST_FILE)
    return format_from_toml(text, where=os.fspath(path))


def save_format(number_format: Format, path: str | os.PathLike[str]) -> None:
    """Write a format to a TOML file, whole or not at all."""
    write_text_atomically(path, format_to_toml(number_format))


def resolve_format(name_or_file: str | Format) -> Format:
    """Turn what a user typed into a format: a catalog name, a family name, or a ``.toml`` file."""
    if isinstance(name_or_file, Format):
        return name_or_file
    if name_or_file.lower().endswith(".toml"):
        return load_format(name_or_file)
    return get_format(name_or_file)


def _numbers(value: Any, key: str, where: str) -> list[float | int]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: {key!r} must be a list of numbers, not {value!r}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            raise FormatError(f"{where}: {key!r} holds {item!r}, which is no number")
    return value


def _special_codes(value: Any, where: str) -> tuple[tuple[int, SpecialValue], ...]:
    pairs = []
    for item in value if isinstance(value, list) else [value]:
        if not (isinstance(item, list) and len(item) == 2):
            raise FormatError(
                f"{where}: 'special_codes' holds {item!r}: pairs such as [127, \"nan\"]"
            )
        code, special = item
        if isinstance(code, bool) or not isinstance(code, int) or not isinstance(special, str):
            raise FormatError(
                f"{where}: 'special_codes' holds {item!r}: pairs such as [127, \"nan\"]"
            )
        pairs.append((code, cast(SpecialValue, special)))
    return tuple(sorted(pairs))
