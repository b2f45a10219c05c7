"""Every part alike: files, bits, slices, dense weights, products, what refuses it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from studentfloat.errors import ModelError, SchemeError
from studentfloat.kernels.hadamard import Rotation
from studentfloat.models.exchange.blocks import refuse_extras
from studentfloat.quantize import (
    InputScale,
    LowRank,
    Offsets,
    Outliers,
    QuantizedTensor,
    QuantizedWeight,
    Scheme,
    quantize,
)
from studentfloat.quantize.packed_weight import pack_weight
from studentfloat.quantize.parts import InputRotation
from studentfloat.quantize.parts.part import PartOfWeightSpec
from studentfloat.quantize.parts.registry import PARTS, in_order
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.stored import StoredWeight

INT8 = Scheme("int8", block_size="row", scale_dtype="bfloat16")
ROWS, COLUMNS, EXPERTS = 6, 40, 3


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape)))


def outliers(*shape: int) -> Outliers:
    count = torch.Size(shape).numel()
    positions = torch.arange(3, count, 17, dtype=torch.int32)
    return Outliers(positions, 9 * numbers(len(positions)).bfloat16())


def offsets(*shape: int, size: int = 16) -> torch.Tensor:
    return numbers(*shape[:-1], -(-shape[-1] // size), seed=7)


# Each with the shape of the matrix to the part of it.
MADE = {
    "float factors": lambda *s: LowRank(numbers(*s[:-1], 2), numbers(*s[:-2], 2, s[-1])),
    "short factors": lambda *s: LowRank(
        numbers(*s[:-1], 2).bfloat16(), numbers(*s[:-2], 2, s[-1]).bfloat16()
    ),
    "int8 factors": lambda *s: LowRank(
        quantize(numbers(*s[:-1], 2), INT8), quantize(numbers(*s[:-2], 2, s[-1]), INT8)
    ),
    "outliers": outliers,
    "no outlier": lambda *s: Outliers(torch.empty(0, dtype=torch.int32), torch.empty(0).half()),
    "offsets": lambda *s: Offsets(offsets(*s).bfloat16(), 16),
    "offsets of rows": lambda *s: Offsets(offsets(*s, size=s[-1]), s[-1]),
    "quantized offsets": lambda *s: Offsets(
        quantize(offsets(*s).reshape(1, -1), Scheme("int6", block_size=8)), 16
    ),
    "input scale": lambda *s: InputScale(numbers(s[-1]).abs() + 0.5),
    "rotation": lambda *s: InputRotation(Rotation(s[-1], s[-1], seed=3)),
    "rotation of blocks": lambda *s: InputRotation(Rotation(s[-1], s[-1] & -s[-1])),
}


def weight_of(*names: str, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> QuantizedWeight:
    base = quantize(numbers(*shape, seed=3), Scheme("nf4", block_size=16, scale_dtype="bfloat16"))
    return QuantizedWeight(base, tuple(MADE[name](*shape) for name in names))


@pytest.fixture(params=MADE)
def name(request) -> str:
    return request.param


@pytest.fixture(params=[(ROWS, COLUMNS), (EXPERTS, ROWS, COLUMNS)], ids=["matrix", "experts"])
def shape(request) -> tuple[int, ...]:
    return request.param


def test_every_part_with_numbers_of_its_own_is_tried_here() -> None:
    tried = {make(ROWS, COLUMNS).kind for make in MADE.values()}
    assert tried == {k for k, part in PARTS.items() if issubclass(part, PartOfWeightSpec)}


def test_files(name: str, shape: tuple[int, ...]) -> None:
    weight = weight_of(name, shape=shape)
    stored, tables = StoredWeight.of(weight, shape), LayoutTables()
    data = json.loads(json.dumps({"w": stored.to_json(tables), **tables.to_json()}))
    assert data["w"]["parts"][-1]["kind"] == weight.parts[0].kind == weight.parts[0].spec.kind
    read = StoredWeight.from_json(data["w"], LayoutTables.from_json(data), "w")
    assert read == stored
    assert hash(read) == hash(stored)
    tensors = weight.tensors()
    read.check(tensors, "w")
    again = read.assemble(tensors)
    assert torch.equal(again.dequantize(), weight.dequantize())
    assert again.bits == weight.bits == read.bits
    assert weight.bits == weight.base.bits + 8 * sum(
        t.numel() * t.element_size() for s, t in tensors.items() if s not in ("", "_scale")
    )


def test_a_file_says_no_more_and_no_less(name: str) -> None:
    stored, tables = StoredWeight.of(weight_of(name), (ROWS, COLUMNS)), LayoutTables()
    entry = stored.to_json(tables)
    known = LayoutTables.from_json(tables.to_json())
    part = entry["parts"][-1]
    for key in [key for key in part if key != "kind"]:
        less = {
            **entry,
            "parts": [*entry["parts"][:-1], {k: v for k, v in part.items() if k != key}],
        }
        with pytest.raises(ModelError, match=r"^w: "):
            StoredWeight.from_json(less, known, "w")
        odd = {**entry, "parts": [*entry["parts"][:-1], {**part, key: [1]}]}
        with pytest.raises(ModelError, match=r"^w: "):
            StoredWeight.from_json(odd, known, "w")
    more = {**entry, "parts": [*entry["parts"][:-1], {**part, "more": 1}]}
    with pytest.raises(ModelError, match="'more', which this version does not know"):
        StoredWeight.from_json(more, known, "w")


def test_tensors_that_are_not_those_described(name: str) -> None:
    weight = weight_of(name)
    stored = StoredWeight.of(weight, (ROWS, COLUMNS))
    for suffix, tensor in weight.part(type(weight.parts[0])).tensors().items():
        for wrong in (tensor[1:], tensor.double()) if len(tensor) else ():
            with pytest.raises(ModelError, match=f"^w{suffix} is"):
                stored.check(weight.tensors() | {suffix: wrong}, "w")
        if tensor.is_floating_point() and tensor.numel():
            bad = tensor.clone()
            bad.view(-1)[0] = float("nan")
            with pytest.raises(ModelError, match=f"^w{suffix} holds 1 numbers that are NaN"):
                stored.check(weight.tensors() | {suffix: bad}, "w")
        others = {s: t for s, t in weight.tensors().items() if s != suffix}
        with pytest.raises(ModelError, match=f"lacks its tensor w{suffix}$"):
            stored.check(others, "w")


def test_rows(name: str) -> None:
    weight = weight_of(name)
    for indices in ([4], [5, 0, 0, 3], [], list(range(ROWS))):
        chosen = torch.tensor(indices, dtype=torch.int64)
        got = weight.rows(chosen)
        assert got.shape == (len(indices), COLUMNS)
        torch.testing.assert_close(
            got.dequantize(), weight.dequantize()[chosen], rtol=1e-6, atol=1e-6
        )


def test_members(name: str) -> None:
    weight = weight_of(name, shape=(EXPERTS, ROWS, COLUMNS))
    for number in range(EXPERTS):
        torch.testing.assert_close(
            weight.member(number).dequantize(), weight.dequantize()[number], rtol=1e-6, atol=1e-6
        )


def test_products(name: str) -> None:
    weight = weight_of(name, "outliers") if name.startswith("off") else weight_of(name)
    x, g = numbers(5, COLUMNS), numbers(5, ROWS)
    packed, dense = pack_weight(weight), weight.product_matrix()
    torch.testing.assert_close(packed.matmul(x), x @ dense.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed.matmul_transposed(g), g @ dense, rtol=1e-5, atol=1e-5)
    through = packed.matmul(weight.transform_inputs(x))
    torch.testing.assert_close(through, x @ weight.dequantize().T, rtol=1e-5, atol=1e-5)
    back = weight.transform_inputs(x)
    for transform in reversed(weight.transforms):
        back = transform.undo(back)
    torch.testing.assert_close(back, x)


def test_formats_of_others_refuse_it_in_a_line(name: str) -> None:
    stored = StoredWeight.of(weight_of(name), (ROWS, COLUMNS))
    reason = stored.parts[-1].beyond_blocks(stored.matrix)
    with pytest.raises(SchemeError, match=f"^GGUF cannot carry w: it {reason}. `studentfloat deq"):
        refuse_extras("w", stored, "GGUF")


def test_a_part_of_another_shape_does_not_fit(name: str) -> None:
    weight, part = weight_of(), MADE[name](ROWS + 1, COLUMNS + 16)
    if isinstance(part, Outliers):
        # Positions are flat: whether they lie within is a question of numbers.
        far = QuantizedWeight(weight.base, (MADE["outliers"](ROWS + 1, COLUMNS),))
        with pytest.raises(ModelError, match="outside of 240 weights"):
            StoredWeight.of(far, (ROWS, COLUMNS)).check(far.tensors(), "w")
        return
    with pytest.raises(SchemeError, match=r"do(es)? not fit"):
        QuantizedWeight(weight.base, (part,))


def test_all_parts_together() -> None:
    names = ["offsets", "int8 factors", "outliers", "input scale"]
    weight = weight_of(*names)
    shuffled = [weight.parts[i] for i in (3, 1, 0, 2)]
    assert in_order(shuffled) == weight.parts
    dense = weight.base.dequantize()
    for part in weight.parts:
        dense = part.apply(dense)
    assert torch.equal(weight.dequantize(), dense)
    # Outliers are what the file says, whatever is added to the others.
    kept = weight.part(Outliers)
    assert torch.equal(weight.product_matrix().view(-1)[kept.positions.long()], kept.values.float())
    x = numbers(3, COLUMNS)
    product = pack_weight(weight).matmul(weight.transform_inputs(x))
    torch.testing.assert_close(product, x @ weight.dequantize().T, rtol=1e-5, atol=1e-5)


def test_corrections_stand_before_transforms() -> None:
    weight = weight_of("outliers", "input scale")
    with pytest.raises(SchemeError, match="before transforms"):
        replace(weight, parts=weight.parts[::-1])


def test_two_parts_of_one_kind_cannot_be_told_apart_in_a_file() -> None:
    with pytest.raises(ModelError, match="two of its parts have a tensor '_outlier_"):
        StoredWeight.of(weight_of("outliers", "outliers"), (ROWS, COLUMNS))


def test_positions_ascend() -> None:
    weight = weight_of("outliers")
    stored, tensors = StoredWeight.of(weight, (ROWS, COLUMNS)), weight.tensors()
    tensors["_outlier_position"] = tensors["_outlier_position"].flip(0)
    with pytest.raises(ModelError, match="w_outlier_position does not ascend"):
        stored.check(tensors, "w")


def test_factors_and_offsets_hold_codes_that_decode() -> None:
    ternary = Scheme("int2-symmetric", block_size="row")
    factors = LowRank(quantize(numbers(ROWS, 2), ternary), quantize(numbers(2, COLUMNS), ternary))
    line = quantize(offsets(ROWS, COLUMNS).reshape(1, -1), ternary)
    for part, suffix in ((factors, "_low_rank_right"), (Offsets(line, 16), "_offset")):
        weight = QuantizedWeight(weight_of().base, (part,))
        stored, tensors = StoredWeight.of(weight, (ROWS, COLUMNS)), weight.tensors()
        stored.check(tensors, "w")
        unused = set(range(4)) - set(ternary.format.codes)
        tensors[suffix] = torch.full_like(tensors[suffix], unused.pop() * 0b01010101)
        with pytest.raises(ModelError, match=f"w{suffix} holds .* stand for no number"):
            stored.check(tensors, "w")


@pytest.mark.parametrize("block_size", ["tensor", 4])
def test_rows_of_a_weight_whose_blocks_lie_across_them(block_size) -> None:
    axis = 0 if block_size == 4 else -1
    base = quantize(numbers(ROWS, COLUMNS), Scheme("nf4", block_size=block_size, axis=axis))
    weight = QuantizedWeight(base)
    assert not weight.has_rows
    with pytest.raises(SchemeError, match="do not keep the rows"):
        weight.rows(torch.tensor([1]))
    stored = StoredWeight.of(weight, (ROWS, COLUMNS))
    assert stored.beyond_blocks() == "has blocks across rows"
    assert stored.without_kernel() == f"blocks of {block_size} along axis {axis}"


def test_parts_within_the_codes() -> None:
    choice = quantize(numbers(ROWS, COLUMNS), Scheme("nf4|int4", block_size=16))
    stored = StoredWeight.of(QuantizedWeight(choice), (ROWS, COLUMNS))
    assert [part.kind for part in stored.parts] == ["codes", "selectors"]
    assert stored == StoredWeight(choice.scheme, (ROWS, COLUMNS), "float32")
    assert stored.beyond_blocks() == "chooses among 2 formats in each block"
    assert stored.without_kernel() is None
    plain = quantize(numbers(ROWS, COLUMNS), Scheme("nf4", block_size=16))
    fields = {f: getattr(plain, f) for f in ("packed", "scales", "scheme", "shape", "dtype")}
    learned = QuantizedTensor(**fields, row_tables=numbers(ROWS, 16).sort().values)
    stored = StoredWeight.of(QuantizedWeight(learned), (ROWS, COLUMNS))
    assert [part.kind for part in stored.parts] == ["codes", "row_tables"]
    assert stored.beyond_blocks() == "has a table of values per row"
    assert stored.without_kernel() == "a table of values per row"
    eight = StoredWeight(Scheme("int8", block_size=16), (ROWS, COLUMNS), "float32")
    assert eight.beyond_blocks() is None
    assert eight.without_kernel() == "codes of 8 bits"
