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
from studentfloat.quantize import (
    InputScale,
    LowRank,
    Outliers,
    QuantizedWeight,
    Scheme,
    pack_codes,
    parse_method,
    quantize,
)
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.parts.registry import PARTS
from studentfloat.quantize.pipeline import quantize_weight
from studentfloat.quantize.scheme_json import LayoutTables, formats_of, formats_to_json
from studentfloat.quantize.stored import StoredWeight

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


def described(stored: StoredWeight) -> dict:
    tables = LayoutTables()
    entry = stored.to_json(tables)
    return {"weight": entry, **tables.to_json()}


def read_again(data) -> StoredWeight:
    return StoredWeight.from_json(data["weight"], LayoutTables.from_json(data), "w")


def there_and_back(weight: QuantizedWeight, shape, orientation=Orientation.PLAIN):
    stored = StoredWeight.of(weight, shape, orientation)
    read = read_again(json.loads(json.dumps(described(stored))))
    assert read == stored
    assert read.bits == weight.bits
    parts = {suffix: part.clone() for suffix, part in weight.tensors().items()}
    read.check(parts, "w")
    return read, read.assemble(parts)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", [(6, 40), (3, 6, 40)])
def test_every_scheme_there_and_back(name: str, shape) -> None:
    weight = weight_of(SCHEMES[name], shape)
    read, again = there_and_back(weight, shape)
    assert torch.equal(again.dequantize(), weight.dequantize())
    assert again.bits == weight.bits
    assert read.tensors.keys() == weight.tensors().keys()


def test_extras_there_and_back() -> None:
    base = weight_of(SCHEMES["plain"])
    factor = quantize(torch.randn(6, 2), Scheme("int8", block_size="row"))
    weight = QuantizedWeight(
        replace(base.base, row_tables=torch.randn(6, 16).sort(dim=1).values),
        (
            LowRank(factor, torch.randn(2, 40).bfloat16()),
            Outliers(torch.tensor([3, 77], dtype=torch.int32), torch.tensor([9.0, -9]).bfloat16()),
            InputScale(torch.linspace(0.5, 2, 40)),
        ),
    )
    with pytest.raises(ModelError, match="low-rank"):
        StoredWeight.of(weight, (6, 40))
    right = quantize(torch.randn(2, 40), factor.scheme)
    others = weight.parts[1:]
    for low_rank in (LowRank(torch.randn(6, 2), torch.randn(2, 40)), LowRank(factor, right)):
        one = replace(weight, parts=(low_rank, *others))
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
    tables = LayoutTables()
    entries = [StoredWeight(Scheme(f), (4, 4), "float32").to_json(tables) for f in (a, b, a)]
    assert [entry["scheme"] for entry in entries] == [0, 1, 0]
    assert [scheme["format"] for scheme in tables.to_json()["schemes"]] == ["x", "x#2"]


HOSTILE = {
    "a value that is NaN": lambda d: d["formats"]["sf4"]["values"].__setitem__(0, float("nan")),
    "300 values": lambda d: d["formats"]["sf4"].update(values=[0.0] * 300, codes=[0] * 300),
    "a code twice": lambda d: d["formats"]["sf4"]["codes"].__setitem__(0, 1),
    "a code that is text": lambda d: d["formats"]["sf4"]["codes"].__setitem__(0, "1"),
    "a huge integer": lambda d: d["formats"]["sf4"]["values"].__setitem__(0, 10**400),
    "no such format": lambda d: d["schemes"][0].update(format="nf5"),
    "10^12 elements a side": lambda d: d["weight"].update(shape=[10**12, 10**12]),
    "a negative size": lambda d: d["weight"].update(shape=[-4, 40]),
    "no shape": lambda d: d["weight"].update(shape=[]),
    "a size of true": lambda d: d["weight"].update(shape=[True, 40]),
    "an unknown key": lambda d: d["weight"].update(surprise=1),
    "an unknown key in the scheme": lambda d: d["schemes"][0].update(surprise=1),
    "an unknown type": lambda d: d["weight"].update(dtype="int7"),
    "a type that is a list": lambda d: d["weight"].update(dtype=[]),
    "an axis beyond": lambda d: d["schemes"][0].update(axis=7),
    "block size zero": lambda d: d["schemes"][0].update(block_size=0),
    "block size null": lambda d: d["schemes"][0].update(block_size=None),
    "an unknown rule": lambda d: d["schemes"][0].update(scale_rule="best"),
    "a scale type of number": lambda d: d["schemes"][0].update(scale_dtype=4),
    "an endless nest": lambda d: d["schemes"][0].update(scale_dtype=nest(9)),
    "a rank of minus one": lambda d: add_part(d, "low_rank", rank=-1, dtype="float16"),
    "a rank of two types": lambda d: add_part(d, "low_rank", rank=1, dtype="float16", scheme=0),
    "a rank of no type": lambda d: add_part(d, "low_rank", rank=1),
    "a rank in no scheme": lambda d: add_part(d, "low_rank", rank=1, scheme=1),
    "outliers of text": lambda d: add_part(d, "outliers", count="2", dtype="float16"),
    "an orientation of one axis": lambda d: d["weight"].update(shape=[4], orientation="transposed"),
    "row tables of nothing": lambda d: add_part(d, "row_tables", dtype="int8"),
    "row tables with what nobody knows": lambda d: add_part(d, "row_tables", dtype="float16", x=1),
    "no parts": lambda d: d["weight"].update(parts=[]),
    "parts of text": lambda d: d["weight"].update(parts="codes"),
    "a part of text": lambda d: d["weight"].update(parts=["codes"]),
    "an unknown part": lambda d: add_part(d, "wings"),
    "a part of no kind": lambda d: d["weight"]["parts"].append({}),
    "a kind that is a list": lambda d: d["weight"]["parts"].append({"kind": []}),
    "codes twice": lambda d: add_part(d, "codes"),
    "no codes": lambda d: d["weight"].update(parts=[{"kind": "input_scale"}]),
    "selectors of nothing": lambda d: add_part(d, "selectors"),
    "inputs scaled before a correction": lambda d: (
        add_part(d, "input_scale") or add_part(d, "outliers", count=1, dtype="float16")
    ),
    "scheme two of one": lambda d: d["weight"].update(scheme=1),
    "a scheme of true": lambda d: d["weight"].update(scheme=True),
    "no scheme": lambda d: d["weight"].pop("scheme"),
    "method one of none": lambda d: d["weight"].update(method=0),
    "a method of number": lambda d: d.update(methods=[4]),
    "a method of two lines": lambda d: d.update(methods=["gptq\nrank=2"]),
    "methods that are a table": lambda d: d.update(methods={}),
    "codes of two numbers": lambda d: d["formats"]["sf4"].update(dimension=2),
}


def add_part(data, kind: str, **fields) -> None:
    data["weight"]["parts"].append({"kind": kind, **fields})


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
    data = described(StoredWeight(SCHEMES["plain"], (6, 40), "float32"))
    read_again(data)
    HOSTILE[case](data)
    with pytest.raises(ModelError) as caught:
        read_again(data)
    assert "\n" not in str(caught.value)


def test_an_unknown_part_is_refused_with_those_that_are_known() -> None:
    data = described(StoredWeight(SCHEMES["plain"], (6, 40), "float32"))
    add_part(data, "wings")
    with pytest.raises(ModelError, match="w has a part 'wings'") as caught:
        read_again(data)
    assert all(kind in str(caught.value) for kind in PARTS)


def test_a_scheme_and_a_method_for_each_weight() -> None:
    tables = LayoutTables()
    wanted = [
        StoredWeight(SCHEMES[scheme], (6, 40), "float32", method=method)
        for scheme, method in [("plain", "gptq"), ("double", "gptq"), ("plain", ""), ("plain", "a")]
    ]
    entries = [stored.to_json(tables) for stored in wanted]
    data = json.loads(json.dumps({"entries": entries, **tables.to_json()}))
    assert len(data["schemes"]) == 2
    assert data["methods"] == ["gptq", "a"]
    again = LayoutTables.from_json(data)
    read = [StoredWeight.from_json(entry, again, "w") for entry in data["entries"]]
    assert read == wanted
    assert [stored.method for stored in read] == ["gptq", "gptq", "", "a"]


def broken(parts, suffix, change):
    parts = {s: p.clone() for s, p in parts.items()}
    parts[suffix] = change(parts[suffix])
    return parts


def test_check_names_what_is_wrong() -> None:
    weight = weight_of(SCHEMES["plain"])
    stored, parts = StoredWeight.of(weight, (6, 40)), weight.tensors()
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
    StoredWeight.of(weight, (4, 32)).check(weight.tensors(), "w")


def test_codes_that_stand_for_nothing() -> None:
    weight = weight_of(Scheme("int4", block_size=16))
    unused = set(range(16)) - set(get_format("int4").codes)
    stored, parts = StoredWeight.of(weight, (6, 40)), weight.tensors()
    if not unused:
        three = Format.from_values([-1, 0, 1], name="ternary", bits=2)
        weight = weight_of(Scheme(three, block_size=16))
        stored, parts = StoredWeight.of(weight, (6, 40)), weight.tensors()
    with pytest.raises(ModelError, match="codes that stand for no number"):
        stored.check(broken(parts, "", lambda c: torch.full_like(c, 255)), "w")


@pytest.mark.parametrize("names", ["nf4|int4-symmetric", "int4-symmetric|nf4"])
def test_a_code_must_stand_for_a_number_in_its_own_block(names) -> None:
    """Code 8 is a number of nf4, and none of int4-symmetric."""
    scheme = Scheme(names, block_size=8)
    symmetric = [f.name for f in scheme.formats].index("int4-symmetric")
    tensor = quantize(torch.randn(6, 40, generator=torch.Generator().manual_seed(1)), scheme)
    of_blocks = tensor.block_formats.repeat_interleave(8, dim=1)
    assert set(of_blocks.unique().tolist()) == {0, 1}
    for wrong in (False, True):
        place = ((of_blocks == symmetric) == wrong).nonzero()[0]
        codes = tensor.codes
        codes[tuple(place)] = 8
        changed = replace(tensor, packed=pack_codes(codes, 4))
        assert bool(torch.isfinite(changed.dequantize()).all()) != wrong
        weight = QuantizedWeight(changed)
        stored = StoredWeight.of(weight, (6, 40))
        if wrong:
            with pytest.raises(ModelError, match="w holds 1 codes that stand for no number"):
                stored.check(weight.tensors(), "w")
        else:
            stored.check(weight.tensors(), "w")


@pytest.mark.parametrize("name", ["int4-symmetric", "int3", "sf3-nozero", "e4m3", "e2m1"])
@pytest.mark.parametrize("method", ["lloyd-row", "lloyd", "lloyd=2"])
def test_what_codebooks_are_learned_for_passes_its_own_check(name, method) -> None:
    """Row tables have as many entries as there are codes, whatever the format uses of them."""
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    weight = quantize_weight(matrix, Scheme(name, 16), parse_method(method)).weight
    stored = StoredWeight.of(weight, (6, 40))
    stored.check(weight.tensors(), "w")
    again = stored.assemble(weight.tensors())
    assert torch.equal(again.dequantize(), weight.dequantize())
    levels = 2**weight.base.scheme.format.bits
    assert weight.base.row_tables is None or weight.base.row_tables.shape == (6, levels)


def test_selectors_and_positions_out_of_range() -> None:
    weight = weight_of(SCHEMES["choice"])
    stored, parts = StoredWeight.of(weight, (6, 40)), weight.tensors()
    with pytest.raises(ModelError, match="selects format 3 of 3"):
        stored.check(broken(parts, "_selector", lambda s: torch.full_like(s, 255)), "w")
    outlier = Outliers(torch.tensor([240], dtype=torch.int32), torch.ones(1).bfloat16())
    extra = replace(weight_of(SCHEMES["plain"]), parts=(outlier,))
    with pytest.raises(ModelError, match="outside"):
        StoredWeight.of(extra, (6, 40)).check(extra.tensors(), "w")
    zero = replace(weight_of(SCHEMES["plain"]), parts=(InputScale(torch.zeros(40)),))
    with pytest.raises(ModelError, match="zero"):
        StoredWeight.of(zero, (6, 40)).check(zero.tensors(), "w")


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
    for suffix, part in stored.tensors.items():
        assert tuple(weight.tensors()[suffix].shape) == part.shape
