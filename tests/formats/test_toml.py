from __future__ import annotations

import pytest
from hypothesis import given

from studentfloat.errors import FailureError, FormatError
from studentfloat.formats import (
    Format,
    format_from_toml,
    format_to_toml,
    load_format,
    resolve_format,
    save_format,
)

from .test_format import formats


@given(formats())
def test_round_trip_is_exact(fmt: Format) -> None:
    back = format_from_toml(format_to_toml(fmt))
    assert back == fmt
    assert (back.description, back.source) == (fmt.description, fmt.source)


def test_files_and_names_resolve(tmp_path) -> None:
    fmt = Format.from_values([-1, -0.25, 0, 0.25, 1], name="mine")
    save_format(fmt, tmp_path / "mine.toml")
    assert resolve_format(str(tmp_path / "mine.toml")) == fmt
    assert resolve_format("nf4").name == "nf4"
    assert resolve_format(fmt) is fmt
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


def test_values_alone_are_enough() -> None:
    assert format_from_toml("values = [1, 0, -1]").levels == (-1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("values = [1, 2", "not valid TOML"),
        ("vlues = [1, 2]", "unknown key 'vlues'.*'values'"),
        ("name = 'x'", "no key 'values'"),
        ("values = 3", "list of numbers"),
        ("values = [1, 'a']", "'a'"),
        ("values = [1, true]", "True"),
        ("values = [1, nan]", "nan"),
        ("values = [1, 2]\nbits = 12", "12 bits"),
        ("values = [1, 2]\ncodes = [1, 1]", "twice"),
        ("values = [1, 2]\nname = 'a b'", "'a b'"),
        ("values = [1, 2]\nspecial_codes = 3", "special_codes"),
        ('values = [1, 2]\nspecial_codes = [["a", "nan"], [3, "nan"]]', "'a'"),
        (f"values = [1, 1{'0' * 400}]", "401 digits"),
        ("values = [1, 2]\nspecial_codes = [[3, 'nought']]", "nought"),
    ],
)
def test_bad_text_is_named(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        format_from_toml(text)


def test_missing_and_unwritable_files(tmp_path) -> None:
    with pytest.raises(FormatError, match=r"none\.toml"):
        load_format(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        load_format(tmp_path / "binary.toml")
    (tmp_path / "file").touch()
    with pytest.raises(FailureError, match="cannot write"):
        save_format(resolve_format("nf4"), tmp_path / "file" / "x.toml")
