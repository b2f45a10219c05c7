"""The layout of stored weights: every kind of part there and back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studentfloat.errors import ModelError
from studentfloat.formats import Format, get_format
from studentfloat.quantize import Scheme, quantize
from studentfloat.quantize.stored import (
    Orientation,
    StoredWeight,
    formats_of,
    formats_to_json,
    stored_parts,
)
from studentfloat.quantize.weight import LowRank, Outliers, QuantizedWeight

SCHEMES = {
    "plain": Scheme("sf4", block_size=16),
    "tails, bfloat16": Scheme("nf4", block_size=24, scale_dtype="bfloat16"),
    "three bits by rows": Scheme("sf3", block_size="row", scale_dtype="float16"),
    "one scale": Scheme("e2m1", block_size="tensor"),
    "powers of two": Scheme("e2m1", block_size=32, scale_dtype="e8m0"),
    "two levels": Scheme("e2m1", block_size=16, scale_dtype="e4m3"),
    "two levels, a power of two": Scheme("e2m1", block_size=16, scale_dtype="e4m3/e8m0"),
    "double": Scheme("nf4", block_size=16).with_double_quantization(8),
    "choice": Scheme("e2m1+sp|e2m1+sr|e2m1", block_size=16, scale_rule="signed-absmax"),
    "eight bits": Scheme("int8", block_size=16),
    "other axis": Scheme("sf4", block_size=4, axis=0),
}


def weight_of(scheme: Scheme, shape=(6, 40), dtype=torch.float32) -> QuantizedWeight:
    torch.manual_seed(1)
    return QuantizedWeight(quantize(torch.randn(shape).to(dtype), scheme))


def there_and_back(weight: QuantizedWeight, shape, orientation=Orientation.PLAIN):
    stored = StoredWeight.of(weight, shape, orientation)
    formats: dict[str, Format] = {}
    text = json.dumps({"weight": stored.to_json(formats), "formats": formats_to_json(formats)})
    data = json.loads(text)
    read = StoredWeight.from_json(data["weight"], formats_of(data["formats"]), "w")
    parts = {suffix: part.clone() for suffix, part in stored_parts(weight).items()}
    read.check(parts, "w")
    return read, read.assemble(parts)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", [(6, 40), (3, 6, 40)])
def test_every_scheme_there_and_back(name: str, shape) -> None:
    weight = weight_of(SCHEMES[name], shape)
    read, again = there_and_back(weight, shape)
    assert torch.equal(again.dequantize(), weight.dequantize())
    assert again.bits == weight.bits
    assert read.expected_parts().keys() == stored_parts(weight).keys()


def test_extras_there_and_back() -> None:
    base = weight_of(SCHEMES["plain"])
    factor = quantize(torch.randn(6, 2), Scheme("int8", block_size="row"))
    weight = QuantizedWeight(
        replace(base.base, row_tables=torch.randn(6, 16).sort(dim=1).values),
        LowRank(factor, torch.randn(2, 40).bfloat16()),
        Outliers(torch.tensor([3, 77], dtype=torch.int32), torch.tensor([9.0, -9]).bfloat16()),
        torch.linspace(0.5, 2, 40),
    )
    with pytest.raises(ModelError, match="low-rank"):
        StoredWeight.of(weight, (6, 40))
    right = quantize(torch.randn(2, 40), factor.scheme)
    floats = replace(weight, low_rank=LowRank(torch.randn(6, 2), torch.randn(2, 40)))
    for one in (floats, replace(weight, low_rank=LowRank(factor, right))):
        _, again = there_and_back(one, (6, 40))
        assert torch.equal(again.dequantize(), one.dequantize())
        assert again.bits == one.bits


@pytest.mark.parametrize("orientation", [Orientation.TRANSPOSED, Orientation.FLATTENED])
def test_orientations(orientation: Orientation) -> None:
    original = torch.randn(8, 4, 6)
    matrix = orientation.to_matrix(original)
    assert tuple(matrix.shape) == orientation.matrix_shape((8, 4, 6))
    assert torch.equal(orientation.from_matrix(matrix, (8, 4, 6)), original)


def test_values_survive_to_the_last_bit() -> None:
    odd = Format.from_values([-1 / 3, 0.0, 0.1, 2**-40], name="odd")
    again = formats_of(json.loads(json.dumps(formats_to_json({"odd": odd}))))["odd"]
    assert again == odd
    assert again.values == odd.values


def test_two_formats_of_one_name() -> None:
    a = Format.from_values([-1, 0, 1, 2], name="x")
    b = Format.from_values([-1, 0, 1, 3], name="x")
    formats: dict[str, Format] = {}
    entries = [StoredWeight(Scheme(f), (4, 4), "float32").to_json(formats) for f in (a, b, a)]
    assert [entry["scheme"]["format"] for entry in entries] == ["x", "x#2", "x"]


HOSTILE = {
    "a value that is NaN": lambda d: d["formats"]["sf4"]["values"].__setitem__(0, float("nan")),
    "300 values": lambda d: d["formats"]["sf4"].update(values=[0.0] * 300, codes=[0] * 300),
    "a code twice": lambda d: d["formats"]["sf4"]["codes"].__setitem__(0, 1),
    "a code that is text": lambda d: d["formats"]["sf4"]["codes"].__setitem__(0, "1"),
    "a huge integer": lambda d: d["formats"]["sf4"]["values"].__setitem__(0, 10**400),
    "no such format": lambda d: d["weight"]["scheme"].update(format="nf5"),
    "10^12 elements a side": lambda d: d["weight"].update(shape=[10**12, 10**12]),
    "a negative size": lambda d: d["weight"].update(shape=[-4, 40]),
    "no shape": lambda d: d["weight"].update(shape=[]),
    "a size of true": lambda d: d["weight"].update(shape=[True, 40]),
    "an unknown key": lambda d: d["weight"].update(surprise=1),
    "an unknown key in the scheme": lambda d: d["weight"]["scheme"].update(surprise=1),
    "an unknown type": lambda d: d["weight"].update(dtype="int7"),
    "a type that is a list": lambda d: d["weight"].update(dtype=[]),
    "an axis beyond": lambda d: d["weight"]["scheme"].update(axis=7),
    "block size zero": lambda d: d["weight"]["scheme"].update(block_size=0),
    "block size null": lambda d: d["weight"]["scheme"].update(block_size=None),
    "an unknown rule": lambda d: d["weight"]["scheme"].update(scale_rule="best"),
    "a scale type of number": lambda d: d["weight"]["scheme"].update(scale_dtype=4),
    "an endless nest": lambda d: d["weight"]["scheme"].update(scale_dtype=nest(9)),
    "a rank of minus one": lambda d: d["weight"].update(low_rank={"rank": -1, "type": "float16"}),
    "outliers of text": lambda d: d["weight"].update(outliers={"count": "2", "dtype": "float16"}),
    "an orientation of one axis": lambda d: d["weight"].update(shape=[4], orientation="transposed"),
    "row tables of nothing": lambda d: d["weight"].update(row_tables="int8"),
}


def nest(depth: int):
    inner = "float32" if depth == 0 else nest(depth - 1)
    return {
        "format": "sf4",
        "block_size": 8,
        "axis": -1,
        "scale_rule": "absmax",
        "scale_dtype": inner,
    }


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_descriptions(case: str) -> None:
    formats: dict[str, Format] = {}
    stored = StoredWeight(SCHEMES["plain"], (6, 40), "float32")
    data = {"weight": stored.to_json(formats), "formats": formats_to_json(formats)}
    HOSTILE[case](data)
    with pytest.raises(ModelError):
        StoredWeight.from_json(data["weight"], formats_of(data["formats"]), "w")


def broken(parts, suffix, change):
    parts = {s: p.clone() for s, p in parts.items()}
    parts[suffix] = change(parts[suffix])
    return parts


def test_check_names_what_is_wrong() -> None:
    weight = weight_of(SCHEMES["plain"])
    stored, parts = StoredWeight.of(weight, (6, 40)), stored_parts(weight)
    stored.check(parts, "w")
    for value, word in ((float("nan"), "NaN"), (float("inf"), "infinite"), (0.0, "zero")):
        bad = broken(parts, "_scale", lambda s, v=value: s.index_fill(1, torch.tensor([0]), v))
        with pytest.raises(ModelError, match=word):
            stored.check(bad, "w")
    with pytest.raises(ModelError, match="w_scale is float64"):
        stored.check(broken(parts, "_scale", torch.Tensor.double), "w")
    with pytest.raises(ModelError, match="shape"):
        stored.check(broken(parts, "", lambda c: c[:, 1:]), "w")
    with pytest.raises(ModelError, match="lacks"):
        stored.check({"": parts[""]}, "w")


def test_a_row_of_zeros_is_sound() -> None:
    matrix = torch.randn(4, 32)
    matrix[2] = 0
    weight = QuantizedWeight(quantize(matrix, Scheme("sf4", block_size=16)))
    StoredWeight.of(weight, (4, 32)).check(stored_parts(weight), "w")


def test_codes_that_stand_for_nothing() -> None:
    weight = weight_of(Scheme("int4", block_size=16))
    unused = set(range(16)) - set(get_format("int4").codes)
    stored, parts = StoredWeight.of(weight, (6, 40)), stored_parts(weight)
    if not unused:
        three = Format.from_values([-1, 0, 1], name="ternary", bits=2)
        weight = weight_of(Scheme(three, block_size=16))
        stored, parts = StoredWeight.of(weight, (6, 40)), stored_parts(weight)
    with pytest.raises(ModelError, match="holds a code"):
        stored.check(broken(parts, "", lambda c: torch.full_like(c, 255)), "w")


def test_selectors_and_positions_out_of_range() -> None:
    weight = weight_of(SCHEMES["choice"])
    stored, parts = StoredWeight.of(weight, (6, 40)), stored_parts(weight)
    with pytest.raises(ModelError, match="selects format 3 of 3"):
        stored.check(broken(parts, "_selector", lambda s: torch.full_like(s, 255)), "w")
    extra = replace(
        weight_of(SCHEMES["plain"]),
        outliers=Outliers(torch.tensor([240], dtype=torch.int32), torch.ones(1).bfloat16()),
    )
    with pytest.raises(ModelError, match="outside"):
        StoredWeight.of(extra, (6, 40)).check(stored_parts(extra), "w")
    zero = replace(weight_of(SCHEMES["plain"]), input_scale=torch.zeros(40))
    with pytest.raises(ModelError, match="zero"):
        StoredWeight.of(zero, (6, 40)).check(stored_parts(zero), "w")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 50),
    block=st.sampled_from([1, 7, 16, "row", "tensor"]),
    name=st.sampled_from(["sf4", "sf3", "e2m1", "int8"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_shape(rows: int, length: int, block, name: str, dtype: torch.dtype) -> None:
    scheme = Scheme(name, block_size=block, scale_dtype="bfloat16")
    torch.manual_seed(rows * 100 + length)
    weight = QuantizedWeight(quantize(torch.randn(rows, length).to(dtype), scheme))
    stored, again = there_and_back(weight, (rows, length))
    assert again.base.dtype == dtype
    assert torch.equal(again.dequantize(), weight.dequantize())
    for suffix, part in stored.expected_parts().items():
        assert tuple(stored_parts(weight)[suffix].shape) == part.shape
