"""Formats in TOML files, exact both ways, and the look-up of a name or a file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from studentfloat.errors import FormatError
from studentfloat.formats.catalog import get_format
from studentfloat.formats.format import Format, SpecialValue
from studentfloat.records import write_text_atomically
from studentfloat.untrusted import parse_toml, read_text, shown

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
    if "kind" in data:
        raise FormatError(
            f"{where} is of the kind {shown(data['kind'])}, which encodes several numbers "
            "together: here a format of single numbers is needed"
        )
    check_keys(data, _KEYS, where)
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
    return format_from_toml(read_toml_file(path), where=os.fspath(path))


def read_toml_file(path: str | os.PathLike[str]) -> str:
    """The text of a file of a format (up to 1 MiB)."""
    return read_text(path, what="format file", error=FormatError, largest=_LARGEST_FILE)


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


def check_keys(
    data: Mapping[str, Any], known: Sequence[str], where: str, *, needed: Iterable[str] = ()
) -> None:
    """Refuse keys that are not known, naming the nearest, and miss those that are needed."""
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            right = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise FormatError(f"{where} has the unknown key {key!r}: {right}")
    for key in needed:
        if key not in data:
            raise FormatError(f"{where} has no key {key!r}")


def _numbers(value: Any, key: str, where: str) -> list[float | int]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: {key!r} must be a list of numbers, not {shown(value)}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            raise FormatError(f"{where}: {key!r} holds {shown(item)}, which is no number")
    return value


def _special_codes(value: Any, where: str) -> tuple[tuple[int, SpecialValue], ...]:
    pairs = []
    for item in value if isinstance(value, list) else [value]:
        if not (isinstance(item, list) and len(item) == 2):
            raise FormatError(
                f"{where}: 'special_codes' holds {shown(item)}: pairs such as [127, \"nan\"]"
            )
        code, special = item
        if isinstance(code, bool) or not isinstance(code, int) or not isinstance(special, str):
            raise FormatError(
                f"{where}: 'special_codes' holds {shown(item)}: pairs such as [127, \"nan\"]"
            )
        pairs.append((code, cast(SpecialValue, special)))
    return tuple(sorted(pairs))
