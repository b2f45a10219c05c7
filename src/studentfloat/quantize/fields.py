"""Fields of untrusted JSON data: each of its type and range, or an error in one line."""

from __future__ import annotations

from typing import Any

import torch

from studentfloat.errors import ModelError

__all__ = [
    "FLOAT_TYPES",
    "MOST_ELEMENTS",
    "dtype_name",
    "read_float_type",
    "read_table",
    "read_text",
    "read_whole",
]

# No real tensor has more than 2**48 elements, and 64-bit products of sizes stay exact.
MOST_ELEMENTS = 1 << 48
FLOAT_TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def dtype_name(dtype: torch.dtype) -> str:
    """A torch type's name without its module: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def read_table(data: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """A JSON object with no keys but `known`.

    Raises
    ------
    ModelError
        If it is something else; the message begins with `where`.
    """
    if not isinstance(data, dict):
        raise ModelError(f"{where} is not a table")
    for key in data:
        if key not in known:
            raise ModelError(f"{where} has {key!r}, which this version does not know")
    return data


def read_whole(value: Any, where: str, *, least: int = 1) -> int:
    """A whole number from `least` to :data:`MOST_ELEMENTS`; errors as for :func:`read_table`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_ELEMENTS:
        raise ModelError(f"{where} {value!r}: a whole number from {least}")
    return value


def read_text(value: Any, where: str) -> str:
    """A string; errors as for :func:`read_table`."""
    if not isinstance(value, str):
        raise ModelError(f"{where} {value!r} is not a name")
    return value


def read_float_type(value: Any, where: str) -> str:
    """The name of a floating-point type; errors as for :func:`read_table`."""
    if not isinstance(value, str) or value not in FLOAT_TYPES:
        raise ModelError(f"{where}: type {value!r} is not one of {', '.join(FLOAT_TYPES)}")
    return value
