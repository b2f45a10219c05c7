"""The header of a safetensors file, held to all that the format asks for.

Torch-free. What the library safetensors refuses is refused here: tensors that overlap or leave
holes, sizes that do not fit type and shape, offsets and shapes that are no whole numbers; and
beyond that names with control characters, which no line of output could show.

References
----------
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studentfloat.errors import ModelError
from studentfloat.untrusted import parse_json, shown, table

__all__ = ["HeaderEntry", "read_header"]

_LARGEST = 100_000_000
_LARGEST_SIZE = 1 << 63
_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16},
    **{"I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64},
}


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor as a header has it.

    Attributes
    ----------
    name, dtype, shape
        As they stand there (dtype "F32", "BF16", "I8" ...).
    begin, end
        Bytes from the beginning of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(shard: Path, *, whole: bool = True) -> list[HeaderEntry]:
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    shard
        The file.
    whole
        Whether the file must have just the bytes that its header describes; otherwise it may
        be cut, which whoever reads a tensor sees.

    Raises
    ------
    ModelError
        If the file cannot be read, or its header is not what the format allows; the message
        names file and tensor.
    """
    raw, size = _raw_header(shard)
    start = 8 + len(raw)
    where = f"the shard {shard.name} is damaged: its header"
    if raw[:1] != b"{":
        raise ModelError(f"{where} is not JSON: it must begin with a brace")
    header = table(parse_json(raw, where, error=ModelError), where, error=ModelError)
    _check_metadata(header.pop("__metadata__", {}), where)
    entries = [_entry(name, entry, start, where) for name, entry in header.items()]
    end = _check_layout(entries, start, where)
    if whole and end != size:
        raise ModelError(
            f"the shard {shard.name} is damaged: its header describes {end} bytes, the file has "
            f"{size}"
        )
    return entries


def _raw_header(shard: Path) -> tuple[bytes, int]:
    """The bytes of the header, and how many the file has."""
    try:
        size = shard.stat().st_size
        with shard.open("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise ModelError(f"the shard {shard.name} is damaged: it has only {size} bytes")
            (length,) = struct.unpack("<Q", start)
            if length > min(size - 8, _LARGEST):
                raise ModelError(
                    f"the shard {shard.name} is damaged: its header claims {length} bytes of {size}"
                )
            return stream.read(length), size
    except OSError as error:
        raise ModelError(f"cannot read the shard {shard}: {error.strerror}") from error


def _check_metadata(data: Any, where: str) -> None:
    metadata = table(data or {}, f"{where}'s __metadata__", error=ModelError)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ModelError(
                f"{where}'s __metadata__ has {shown(value)} for {shown(key)}: only texts may be"
            )


def _entry(name: str, entry: Any, start: int, where: str) -> HeaderEntry:
    if not name or not name.isprintable():
        raise ModelError(f"{where} has the name {shown(name)}: empty, or with control characters")
    where = f"{where}'s entry for {name}"
    data = table(entry, where, error=ModelError)
    bits = _BITS.get(dtype) if isinstance(dtype := data.get("dtype"), str) else None
    if bits is None:
        raise ModelError(f"{where} has the unknown type {shown(dtype)}")
    shape = _sizes(data.get("shape"), f"{where}: shape")
    offsets = _sizes(data.get("data_offsets"), f"{where}: data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelError(f"{where}: data_offsets {list(offsets)} are no beginning and end")
    begin, end = offsets
    if math.prod(size or 1 for size in shape) >= _LARGEST_SIZE:
        raise ModelError(f"{where}: no tensor has the shape {list(shape)}")
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise ModelError(f"{where} gives {end - begin} bytes for {dtype} of shape {list(shape)}")
    return HeaderEntry(name, str(dtype), shape, start + begin, start + end)


def _sizes(data: Any, where: str) -> tuple[int, ...]:
    if not isinstance(data, list):
        raise ModelError(f"{where} must be a list of whole numbers, not {shown(data)}")
    for size in data:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < _LARGEST_SIZE:
            raise ModelError(f"{where} has {shown(size)}: a whole number from 0 up must be")
    return tuple(data)


def _check_layout(entries: list[HeaderEntry], start: int, where: str) -> int:
    """Where the data end: tensors must lie one after another, without overlap or holes."""
    end = start
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            what = "overlaps another tensor" if entry.begin < end else "leaves a hole before it"
            raise ModelError(
                f"{where}'s entry for {entry.name} {what}: it begins at byte "
                f"{entry.begin - start} of the data, not at {end - start}"
            )
        end = entry.end
    return end
