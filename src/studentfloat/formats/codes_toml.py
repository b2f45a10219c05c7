"""Codes of more than one number in TOML files, exact both ways."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from studentfloat.errors import FormatError
from studentfloat.formats.codes import AnyFormat, get_code
from studentfloat.formats.format import Format
from studentfloat.formats.toml import check_keys, format_from_toml, format_to_toml, read_toml_file
from studentfloat.formats.trellis import (
    ByteSum,
    Convolution,
    DrawnTable,
    Generator,
    Table,
    Trellis,
)
from studentfloat.formats.vectors import E8Lattice, Points, Stage, VectorFormat
from studentfloat.untrusted import parse_toml, shown

__all__ = ["code_from_data", "code_from_toml", "code_to_data", "code_to_toml", "resolve_code"]

_GENERATORS: dict[str, type[Generator]] = {
    kind.kind: kind for kind in (Convolution, ByteSum, DrawnTable, Table)
}
_TRELLIS_KEYS = (
    *("kind", "name", "bits", "state_bits", "unit", "length", "description", "source"),
    "generator",
)
_VECTOR_KEYS = ("kind", "name", "scales", "description", "source", "stages")


def code_to_toml(code: AnyFormat) -> str:
    """Write a format or code as TOML text, its numbers to the last bit."""
    import tomli_w

    if isinstance(code, Format):
        return format_to_toml(code)
    return tomli_w.dumps(code_to_data(code))


def code_to_data(code: Trellis | VectorFormat) -> dict[str, Any]:
    """A code of several numbers as plain data: what its TOML says."""
    data: dict[str, Any] = {"kind": "trellis" if isinstance(code, Trellis) else "vectors"}
    data["name"] = code.name
    for key in ("description", "source"):
        if getattr(code, key):
            data[key] = getattr(code, key)
    if isinstance(code, Trellis):
        data |= {key: getattr(code, key) for key in ("bits", "state_bits", "unit", "length")}
        data["generator"] = {"kind": code.generator.kind, **_fields(code.generator)}
    else:
        data["scales"] = list(code.scales)
        data["stages"] = [{"kind": stage.kind, **_fields(stage)} for stage in code.stages]
    return data


def code_from_toml(text: str, *, where: str = "TOML text") -> AnyFormat:
    """Read a format or code from TOML text: the key ``kind`` says which.

    Parameters
    ----------
    text
        ``kind = "trellis"`` with ``bits``, ``state_bits``, ``unit``, and a table ``generator``
        whose ``kind`` is convolution, byte-sum, drawn or table; ``kind = "vectors"`` with
        ``scales`` and tables ``stages`` of the kind points or e8; without ``kind``, a format of
        single numbers.
    where
        What to call the text in an error.

    Raises
    ------
    FormatError
        On anything but a sound code; unknown keys are named with the nearest right one.
    """
    data = parse_toml(text, where, error=FormatError)
    if "kind" not in data:
        return format_from_toml(text, where=where)
    return code_from_data(data, where)


def code_from_data(data: Mapping[str, Any], where: str) -> Trellis | VectorFormat:
    """Read what :func:`code_to_data` made; errors as for :func:`code_from_toml`."""
    kind = data.get("kind")
    try:
        if kind == "trellis":
            return _trellis(data, where)
        if kind == "vectors":
            return _vectors(data, where)
    except FormatError as error:
        told = str(error)
        raise FormatError(told if told.startswith(where) else f"{where}: {told}") from error
    raise FormatError(f"{where} has the kind {shown(kind)}: 'trellis', 'vectors', or none")


def resolve_code(name_or_file: str | os.PathLike[str] | AnyFormat) -> AnyFormat:
    """Turn what a user typed into a format or code: a name, or a ``.toml`` file."""
    if isinstance(name_or_file, Format | Trellis | VectorFormat):
        return name_or_file
    given = os.fspath(name_or_file)
    if given.lower().endswith(".toml"):
        return code_from_toml(read_toml_file(given), where=given)
    return get_code(given)


def _trellis(data: Mapping[str, Any], where: str) -> Trellis:
    check_keys(data, _TRELLIS_KEYS, where, needed=("bits", "state_bits", "unit", "generator"))
    table = _table(data["generator"], f"{where}, generator", _GENERATORS)
    generator: Generator = _make(_GENERATORS[table.pop("kind")], table, f"{where}, generator")
    return Trellis(
        _text(data, "name", "custom"),
        _whole(data["bits"], "bits"),
        _whole(data["state_bits"], "state_bits"),
        generator,
        _number(data["unit"], "unit"),
        _whole(data.get("length", 256), "length"),
        _text(data, "description"),
        _text(data, "source"),
    )


def _vectors(data: Mapping[str, Any], where: str) -> VectorFormat:
    check_keys(data, _VECTOR_KEYS, where, needed=("scales", "stages"))
    if not isinstance(data["stages"], list) or not isinstance(data["scales"], list):
        raise FormatError("'stages' is a list of tables, 'scales' a list of numbers")
    stages: list[Stage] = []
    for place, given in enumerate(data["stages"]):
        name = f"{where}, stage {place}"
        table = _table(given, name, ("points", "e8"))
        kinds: dict[str, type[Stage]] = {"points": Points, "e8": E8Lattice}
        stages.append(_make(kinds[table.pop("kind")], table, name))
    return VectorFormat(
        _text(data, "name", "custom"),
        tuple(stages),
        tuple(_number(scale, "scales") for scale in data["scales"]),
        _text(data, "description"),
        _text(data, "source"),
    )


def _fields(part: Generator | Stage) -> dict[str, Any]:
    """What a file says of a part; an infinite ν is left out, being what none means."""
    values = {each.name: getattr(part, each.name) for each in fields(part)}
    return {key: value for key, value in values.items() if value != math.inf}


def _table(value: Any, where: str, kinds: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("kind") not in kinds:
        raise FormatError(f"{where} is a table with a 'kind': one of {', '.join(kinds)}")
    return dict(value)


def _make(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    known = [each.name for each in fields(kind)]
    check_keys(table, known, where, needed=[key for key in known if key != "degrees_of_freedom"])
    return kind(**{key: _frozen(value, key) for key, value in table.items()})


def _frozen(value: Any, key: str) -> Any:
    """Lists as tuples; numbers whole but for coordinates and ν."""
    if isinstance(value, list):
        return tuple(_frozen(item, key) for item in value)
    return _number(value, key) if key in ("points", "degrees_of_freedom") else _whole(value, key)


def _text(data: Mapping[str, Any], key: str, default: str = "") -> str:
    return str(data.get(key, default))


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"{key!r} holds {value!r}: whole numbers only")
    return value


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 1e300:
        raise FormatError(f"{key!r} holds {value!r}, which is not a number within range")
    return float(value)
