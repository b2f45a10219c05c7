"""What a safetensors header may say, held against the library safetensors."""

from __future__ import annotations

import json
import struct

import pytest
import safetensors

from studentfloat.errors import ModelError
from studentfloat.models.safetensors_header import read_header


def entry(**changes) -> dict:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


def write(tmp_path, header: dict | bytes, size: int):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(size))
    return file


ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
BOTH_REFUSE = {
    "trailing bytes": ({"a": entry()}, 8, "describes .. bytes, the file has"),
    "a cut file": ({"a": entry()}, 3, "describes .. bytes, the file has"),
    "bytes of no tensor": ({}, 4, "describes 10 bytes, the file has 14"),
    "overlap": ({"a": entry(), "b": entry()}, 4, "entry for b overlaps another tensor"),
    "half an overlap": (
        {"a": entry(), "b": entry(data_offsets=[2, 6])}, 6, "entry for b overlaps another tensor"
    ),
    "a hole": ({"a": entry(data_offsets=[4, 8])}, 8, "entry for a leaves a hole before it"),
    "an empty tensor inside": (
        {"a": entry(), "c": entry(shape=[0], data_offsets=[2, 2])}, 4, "entry for c overlaps"
    ),
    "offsets backward": ({"a": entry(data_offsets=[4, 0])}, 4, "are no beginning and end"),
    "three offsets": ({"a": entry(data_offsets=[0, 4, 8])}, 8, "are no beginning and end"),
    "a fraction as offset": ({"a": entry(data_offsets=[0.0, 4])}, 4, "data_offsets has 0.0"),
    "a fraction as size": ({"a": entry(shape=[1.0])}, 4, "shape has 1.0"),
    "true as size": ({"a": entry(shape=[True])}, 4, "shape has True"),
    "a text as size": ({"a": entry(shape=["1"])}, 4, "shape has '1'"),
    "a text as shape": ({"a": entry(shape="1")}, 4, "shape must be a list"),
    "a negative offset": ({"a": entry(data_offsets=[-4, 0])}, 0, "data_offsets has -4"),
    "negative sizes": ({"a": entry(shape=[-1, -1])}, 4, "shape has -1"),
    "sizes that overflow": (
        {"a": entry(shape=[2**40, 2**40, 0], data_offsets=[0, 0])}, 0, "no tensor has the shape"
    ),
    "5,000 digits": (
        b'{"a":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,4]}}', 4,
        r"a\.shape\[0\] is a number of 5001 digits",
    ),
    "Infinity": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}', 4,
        r"a\.data_offsets\[1\] is Infinity",
    ),
    "an exponent": (
        b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', 4, "shape has 1.0"
    ),
    "deep": (b'{"a":' + b"[" * 100_000, 0, "nested deeper than 64 levels"),
    "half a character": (b'{"\\ud800":' + ONE + b"}", 4, "half of a character"),
    "no UTF-8": (b'{"\xff":' + ONE + b"}", 4, "not UTF-8"),
    "another size than the type's": ({"a": entry(shape=[2])}, 4, r"4 bytes for F32 of shape \[2\]"),
    "an unknown type": ({"a": entry(dtype="F31")}, 4, "unknown type 'F31'"),
    "a list as type": ({"a": entry(dtype=["F32"])}, 4, "unknown type"),
    "no type": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, "unknown type None"),
    "a list as entry": ({"a": []}, 0, "entry for a must be a table"),
    "a list as header": (b"[]", 0, "must begin with a brace"),
    "numbers as metadata": ({"__metadata__": {"a": 1}, "a": entry()}, 4, "only texts may be"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOTH_REFUSE)
def test_what_the_library_refuses_is_refused_in_a_line(case: str, tmp_path) -> None:
    header, size, says = BOTH_REFUSE[case]
    file = write(tmp_path, header, size)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(file.read_bytes())
    with pytest.raises(ModelError, match=says) as caught:
        read_header(file)
    said = str(caught.value)
    assert said.isprintable()
    assert "x.safetensors is damaged" in said


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b'{"a":' + ONE + b',"a":' + ONE + b"}", "a is there twice"),
        ({"a\nb": entry()}, r"the name 'a\\nb': empty, or with control characters"),
        ({"a\0b": entry()}, r"the name 'a\\x00b'"),
        ({"a\x1b[2J": entry()}, r"the name 'a\\x1b"),
        ({"": entry()}, "the name ''"),
        (b' {"a":' + ONE + b"}", "must begin with a brace"),
    ],
)
def test_what_the_format_forbids_or_no_line_can_show(header, says: str, tmp_path) -> None:
    """The library takes these; its README forbids the last and keys given twice."""
    with pytest.raises(ModelError, match=says):
        read_header(write(tmp_path, header, 4))


@pytest.mark.parametrize(
    ("dtype", "bytes_of_8"),
    [
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F8_E4M3", 8),
        ("BOOL", 8),
        ("BF16", 16),
        ("C64", 64),
        ("U64", 64),
    ],
)
def test_sizes_are_those_of_the_library(dtype: str, bytes_of_8: int, tmp_path) -> None:
    header = {"a": entry(dtype=dtype, shape=[2, 4], data_offsets=[0, bytes_of_8])}
    file = write(tmp_path, header, bytes_of_8)
    assert safetensors.deserialize(file.read_bytes())
    (found,) = read_header(file)
    assert (found.shape, found.end - found.begin) == ((2, 4), bytes_of_8)


def test_a_file_that_is_cut_is_read_where_that_is_wanted(tmp_path) -> None:
    file = write(tmp_path, {"__metadata__": {"format": "pt"}, "a": entry()}, 3)
    (found,) = read_header(file, whole=False)
    assert found.end == file.stat().st_size + 1
