"""Layout 1 of packed directories, whose configuration is read as if it were of layout 2.

Tensors lie alike in both. Layout 1 named the parts of a weight by keys of its entry, had them in
one fixed order and knew no methods; a scheme inside of an entry was written out there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studentfloat.errors import ModelError

__all__ = ["as_layout_2"]

_KEPT = ("scheme", "shape", "dtype", "orientation")
_KNOWN = (*_KEPT, "row_tables", "low_rank", "outliers", "input_scale")


def as_layout_2(config: Mapping[str, Any]) -> dict[str, Any]:
    """A ``quantization_config`` of layout 1 in the words of layout 2; nothing else is changed.

    Raises
    ------
    ModelError
        On what has no counterpart; values are left to whoever reads layout 2.
    """
    schemes, tensors = config.get("schemes"), config.get("tensors")
    if not isinstance(schemes, list) or not isinstance(tensors, Mapping):
        raise ModelError("its layout lacks a list 'schemes' or a table 'tensors'")
    schemes = list(schemes)
    entries = {name: _entry(entry, schemes, str(name)) for name, entry in tensors.items()}
    return {**config, "version": 2, "schemes": schemes, "methods": [], "tensors": entries}


def _entry(entry: Any, schemes: list[Any], name: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ModelError(f"{name}: its entry is not a table")
    for key in entry:
        if key not in _KNOWN:
            raise ModelError(f"{name} has {key!r}, which layout 1 does not know")
    kept = {k: entry[k] for k in _KEPT if k in entry}
    parts: list[dict[str, Any]] = [{"kind": "codes"}]
    if _chooses(entry.get("scheme"), schemes):
        parts.append({"kind": "selectors"})
    if entry.get("row_tables") is not None:
        parts.append({"kind": "row_tables", "dtype": entry["row_tables"]})
    if entry.get("low_rank") is not None:
        parts.append(_low_rank(entry["low_rank"], schemes, name))
    if entry.get("outliers") is not None:
        outliers = _with_keys(entry["outliers"], {"count", "dtype"}, f"{name}: outliers")
        parts.append({"kind": "outliers", **outliers})
    if entry.get("input_scale") is True:
        parts.append({"kind": "input_scale"})
    return {**kept, "parts": parts}


def _with_keys(data: Any, keys: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or data.keys() != keys:
        raise ModelError(f"{where} is not a table of {' and '.join(sorted(keys))}")
    return data


def _chooses(number: Any, schemes: list[Any]) -> bool:
    """Whether blocks choose among formats; a number out of range is refused later."""
    if not isinstance(number, int) or not 0 <= number < len(schemes):
        return False
    return isinstance(schemes[number], Mapping) and bool(schemes[number].get("alternatives"))


def _low_rank(data: Any, schemes: list[Any], name: str) -> dict[str, Any]:
    data = _with_keys(data, {"rank", "type"}, f"{name}: low_rank")
    part = {"kind": "low_rank", "rank": data["rank"]}
    if not isinstance(data["type"], Mapping):
        return {**part, "dtype": data["type"]}
    if data["type"] not in schemes:
        schemes.append(data["type"])
    return {**part, "scheme": schemes.index(data["type"])}
