"""Damaged files: bytes changed anywhere, and fields of JSON and TOML replaced by odd ones."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

# What parsers and their callers trip over.
TOKENS = (
    *(b"9" * 400, b"-", b"[", b"{", b'"', b"\\", b"e", b"\0", b"\n", b"\xff", b"\xef\xbb\xbf"),
    *(b"NaN", b"-Infinity", b"null", b"true", b"1e999", b"0x", b"\\ud800", b"[" * 300, b"a." * 40),
    *(b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x00\x00\x00\x00\x00\x00\x00\x80"),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.0, 1e308, -1e308, 10**9, 2**31, 2**63, 2**64, 10**99),
    *("", "x", "nan", "../../x", "/", "\0", "a\nb", "\x1b[31m", "<b>&", "ν" * 9, "x" * 5000, "{}"),
    *([], [[]], [None], [1, 2], ["a"], {}, {"a": 1}, {"": None}),
)


def bytes_changed(raw: bytes, draw: random.Random) -> bytes:
    """One to four changes; half of the time near the beginning, where headers are."""
    data = bytearray(raw)
    for _ in range(draw.randint(1, 4)):
        reach = len(data) if draw.random() < 0.5 else min(len(data), 400)
        at = draw.randrange(reach + 1)
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[at : at + draw.randint(1, 64)]
            case 2:
                data[at:at] = draw.choice(TOKENS)
            case 3:
                data[at : at + draw.randint(1, 9)] = draw.choice(TOKENS)
            case 4:
                flipped = (data[at] if at < len(data) else 0) ^ 1 << draw.randrange(8)
                data[at : at + 1] = bytes([flipped])
            case _:
                begin = draw.randrange(len(data) + 1)
                data[at:at] = data[begin : begin + draw.randint(1, 64)]
    return bytes(data)


def fields_changed(data: Any, draw: random.Random) -> Any:
    """One or two fields replaced, dropped, doubled or moved."""
    changed = copy.deepcopy(data)
    for _ in range(draw.randint(1, 2)):
        places = list(_places(changed))
        if not places:
            return draw.choice(ODD)
        outer, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del outer[key]
            case 1:
                other, its = draw.choice(places)
                outer[key] = copy.deepcopy(other[its])
            case 2 if isinstance(outer, list):
                outer.insert(key, draw.choice(ODD))
            case 2:
                outer[draw.choice(["", "name", "x\n"])] = draw.choice(ODD)
            case _:
                outer[key] = draw.choice(ODD)
    return changed


def json_changed(raw: bytes, draw: random.Random) -> bytes:
    """JSON with changed fields, or with changed bytes."""
    if draw.random() < 0.4:
        return bytes_changed(raw, draw)
    return json.dumps(fields_changed(json.loads(raw), draw)).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    keys = range(len(data)) if isinstance(data, list) else list(data)
    for key in keys:
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from _places(data[key])
