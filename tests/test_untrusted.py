from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from studentfloat.errors import ConfigError, FailureError
from studentfloat.untrusted import parse_json, parse_toml, read_json, read_text, typed

DEEP = 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f is not valid JSON: it is empty"),
        ("{", "f is not valid JSON: Expecting property name"),
        ("[1] x", "f is not valid JSON: Extra data"),
        ("[" * 200_000, "f is nested deeper than 64 levels"),
        ("[" * (DEEP + 1) + "]" * (DEEP + 1), "f is nested deeper than 64 levels"),
        ('{"a": [1, NaN]}', r"f: a\[1\] is NaN, which JSON does not have"),
        ('{"a": {"b": -Infinity}}', r"f: a\.b is -Infinity, which JSON does not have"),
        ('{"a": 1e999}', "f: a is 1e999, beyond the range of float64"),
        ('{"a": -1%s}' % ("0" * 5000), "f: a is a number of 5001 digits"),
        ('{"a": 0.%s}' % ("1" * 5000), "f: a is a number of 5002 characters"),
        ('{"b": {"a": 1, "a": 2}}', r"f: b\.a is there twice"),
        (r'{"a": ["\udc80"]}', r"f: a\[0\] holds half of a character"),
        (r'{"\ud800": 1}', r"f: \\ud800 holds half of a character"),
        (b'{"a": "\xff"}', r"f is not UTF-8 text \(byte 7\)"),
        (b"\xef\xbb\xbf{", "f is not valid JSON: Expecting property name"),
    ],
)
def test_json_that_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(FailureError, match=f"^{says}") as caught:
        parse_json(text, "f")
    assert "\n" not in str(caught.value)


def test_json_that_is_taken() -> None:
    assert parse_json("[" * DEEP + "]" * DEEP, "f")
    assert parse_json(r'{"a": "\ud83d\ude00"}', "f") == {"a": "😀"}
    assert parse_json(b'\xef\xbb\xbf{"a": 18446744073709551615}', "f") == {"a": 2**64 - 1}
    lenient = parse_json('{"a": Infinity, "b": 1, "b": 2}', "f", lenient=True)
    assert lenient == {"a": math.inf, "b": 2}
    assert math.isnan(parse_json('{"a": {"nan": NaN}}', "f", lenient=True)["a"]["nan"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = [1", "f is not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "f is nested deeper than 64 levels"),
        ("a = " + "[{a=" * 40 + "1" + "}]" * 40, "f is nested deeper than 64 levels"),
        ("a" + ".a" * 200_000 + " = 1", "f has a key of more than 32 parts"),
        ("[' '" + ".' '" * 200_000 + "]", "f has a key of more than 32 parts"),
        ("a = 1" + "0" * 5000, "f holds a number of thousands of digits"),
        ("a = 0x" + "f" * 5000, "f: a is a number of 6021 digits"),
        ("[t]\na = [1, 1e999]", r"f: t\.a\[1\] is 1e999, beyond the range of float64"),
        ("a = '" + "x" * (1 << 20) + "'", "f is larger than 1 MiB"),
        ("a = '\0'", "f is not valid TOML"),
    ],
)
def test_toml_that_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        parse_toml(text, "f", error=ConfigError)


def test_toml_that_is_taken() -> None:
    assert parse_toml("\ufeffa = [inf, 0x10]", "f") == {"a": [math.inf, 16]}
    # Dots in numbers and prose make no long key.
    assert parse_toml("a = '" + "x.y z. " * 99 + "'\nb = [" + "0.5, " * 99 + "]", "f")


def test_a_file_is_bounded_and_its_mark_and_line_ends_are_no_text(tmp_path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf[1,\r\n2]")
    assert read_text(file) == "[1,\n2]"
    assert read_json(file) == [1, 2]
    with pytest.raises(FailureError, match=r"a\.json is larger than 0 MiB"):
        read_text(file, largest=5)
    for path, says in ((tmp_path, "directory"), (tmp_path / "b", "No such"), ("a\0b", "null byte")):
        with pytest.raises(FailureError, match=says) as caught:
            read_text(path)
        assert str(caught.value).isprintable()


@dataclass(frozen=True)
class Part:
    size: int
    ratio: float = 1.0


@dataclass(frozen=True)
class Whole:
    KIND = "whole"

    name: str
    parts: tuple[Part, ...] = ()
    pair: tuple[int, int] = (0, 0)
    block: int | str = 1
    rule: Literal["a", "b"] = "a"
    maybe: float | None = None
    flag: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    rest: Any = None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], r"f must be a table \(a Whole\), not \[\]"),
        ({}, "f: name is missing"),
        ({"name": 3}, "f: name must be a text, not 3"),
        ({"parts": {}}, "f: parts must be a list, not {}"),
        ({"parts": [{"size": 1}, {"size": 2.0}]}, r"f: parts\[1\]\.size must be a whole number"),
        ({"parts": [{"size": True}]}, r"f: parts\[0\]\.size must be a whole number, not True"),
        ({"parts": [{"size": 1, "ratio": "x"}]}, r"f: parts\[0\]\.ratio must be a number, not 'x'"),
        ({"pair": [1]}, r"f: pair must be a list of 2, not \[1\]"),
        ({"pair": [1, "2"]}, r"f: pair\[1\] must be a whole number, not '2'"),
        ({"block": 1.5}, "f: block must be a whole number or a text, not 1.5"),
        ({"rule": "c"}, "f: rule must be one of 'a', 'b', not 'c'"),
        ({"rule": []}, "f: rule must be one of 'a', 'b', not"),
        ({"maybe": "x" * 999}, r"f: maybe must be a number, not 'x{56}\.\.\.$"),
        ({"flag": 1}, "f: flag must be true or false, not 1"),
        ({"counts": {"a": None}}, r"f: counts\.a must be a whole number, not None"),
    ],
)
def test_a_wrong_field_is_named(data: Any, says: str) -> None:
    given = {"name": "n", **data} if data else data
    with pytest.raises(FailureError, match=f"^{says}"):
        typed(Whole, given, where="f")


def test_sound_fields_are_built() -> None:
    data = {
        "name": "n",
        "parts": [{"size": 1, "ratio": None, "newer": 1}],
        "pair": [1, 2],
        "block": "row",
        "maybe": None,
        "counts": {"a": 1},
        "rest": [{}],
    }
    found = typed(Whole, data, where="f")
    assert found.parts[0].size == 1
    assert math.isnan(found.parts[0].ratio)
    assert (found.pair, found.block, found.maybe) == ((1, 2), "row", None)
    assert (found.counts, found.rest) == ({"a": 1}, [{}])


def test_messages_are_one_printable_line() -> None:
    assert str(FailureError("a\nb\x1b[31m\0\udc80\u202e")) == r"a\nb\x1b[31m\x00\udc80\u202e"
    assert str(FailureError("ν ≤ 3 · 两")) == "ν ≤ 3 · 两"
