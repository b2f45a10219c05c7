"""Per-block choice among formats, tables per row, and what is added to a weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import SchemeError
from studentfloat.formats import Format
from studentfloat.quantize import (
    InputScale,
    LowRank,
    Outliers,
    QuantizedTensor,
    QuantizedWeight,
    Scheme,
    fake_quantize,
    quantize,
)
from studentfloat.quantize.packing import packed_width

from .strategies import UNWEIGHTED_RULES, matrices

CHOICES = ("e2m1+sp|e2m1+sr", "nf4|sf4|int4", "int3|nf3|e2m0|sf3|sf3-nozero")


def blocks_of(matrix: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [block for row in matrix for block in row.split(size)]


def test_schemes_spell_their_choice() -> None:
    scheme = Scheme("e2m1+sp|e2m1+sr", block_size=8)
    assert [f.name for f in scheme.formats] == ["e2m1+sp", "e2m1+sr"]
    assert scheme.format_name == "e2m1+sp|e2m1+sr"
    assert scheme == Scheme("e2m1+sp", block_size=8, alternatives=("e2m1+sr",))
    assert [
        Scheme("|".join(["nf4", "sf4", "int4", "e2m1", "apot4"][:n])).selector_bits
        for n in range(1, 6)
    ] == [0, 1, 2, 2, 3]
    assert scheme.by_format[1] == Scheme("e2m1+sr", block_size=8)


@pytest.mark.parametrize(
    ("names", "message"),
    [("nf4|int3", "has 3 bits"), ("nf4|nf4", "given twice"), ("nf4|", "no format is called ''")],
)
def test_choices_that_cannot_be(names: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme(names)


@given(matrices(columns=30), st.sampled_from(CHOICES), st.sampled_from(UNWEIGHTED_RULES))
def test_each_block_is_the_best_of_its_formats(matrix, names, rule) -> None:
    """Every block equals one format's own result, and none would have less error."""
    scheme = Scheme(names, block_size=7, scale_rule=rule)
    chosen = quantize(matrix, scheme)
    singles = [quantize(matrix, single) for single in scheme.by_format]
    found = blocks_of(chosen.dequantize(), 7)
    options = [blocks_of(single.dequantize(), 7) for single in singles]
    picks = chosen.block_formats.reshape(-1).tolist()
    power = scheme.scale_rule.magnitude_power
    for i, (block, got) in enumerate(zip(blocks_of(matrix, 7), found, strict=True)):
        assert torch.equal(got, options[picks[i]][i])
        weight = (block.double().abs() / max(float(block.abs().max()), 1e-300)) ** power
        if float(block.abs().max()) < 1e-37:
            continue  # among subnormal numbers a scale is too coarse to compare by
        errors = [float((weight * (o[i].double() - block) ** 2).sum()) for o in options]
        assert errors[picks[i]] <= min(errors) * (1 + 1e-4) + 1e-12 * float(block.abs().max()) ** 2


@given(matrices(columns=30), st.sampled_from(CHOICES))
def test_choice_in_one_step_is_the_same(matrix, names) -> None:
    scheme = Scheme(names, block_size=9, scale_rule="absmax", scale_dtype="bfloat16")
    packed = quantize(matrix, scheme)
    values, bits = fake_quantize(matrix, scheme)
    assert torch.equal(values, packed.dequantize())
    assert bits == packed.bits_per_weight


def test_selectors_are_counted() -> None:
    matrix = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    plain = quantize(matrix, Scheme("nf4", 16))
    chosen = quantize(matrix, Scheme("nf4|sf4|int4", 16))
    assert chosen.bits == plain.bits + 4 * 8 * packed_width(8, 2)
    assert set(chosen.block_formats.unique().tolist()) > {0}


def test_choice_along_another_axis() -> None:
    matrix = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    scheme = Scheme("nf4|int4", 8, axis=0)
    expected = quantize(matrix.T.contiguous(), Scheme("nf4|int4", 8)).dequantize().T
    assert torch.equal(quantize(matrix, scheme).dequantize(), expected)


def test_row_tables_take_the_formats_place() -> None:
    plain = quantize(torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 2), Scheme("uint2", 4))
    tables = torch.tensor([[0.0, 1.0, 2.0, 3.0], [-1.0, 0.5, 1.0, 8.0]])
    own = QuantizedTensor(
        plain.packed, plain.scales, plain.scheme, plain.shape, plain.dtype, row_tables=tables
    )
    assert own.dequantize().tolist() == tables.tolist()
    assert own.bits == plain.bits + 32 * 8
    with pytest.raises(SchemeError, match="row tables take the place"):
        QuantizedTensor(
            plain.packed,
            plain.scales,
            Scheme("uint2|int2", 4),
            plain.shape,
            plain.dtype,
            selectors=torch.zeros(2, 1, dtype=torch.uint8),
            row_tables=tables,
        )
    with pytest.raises(SchemeError, match="selectors are stored"):
        QuantizedTensor(
            plain.packed, plain.scales, Scheme("uint2|int2", 4), plain.shape, plain.dtype
        )


def test_a_weight_is_all_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(6, 16, generator=generator)
    left, right = torch.randn(6, 2, generator=generator), torch.randn(2, 16, generator=generator)
    base = quantize(matrix, Scheme("nf4", 8))
    scale = torch.rand(16, generator=generator) + 0.5
    weight = QuantizedWeight(
        base,
        (
            LowRank(left.bfloat16(), quantize(right, Scheme("int8", 16))),
            Outliers(torch.tensor([5, 17], dtype=torch.int32), torch.tensor([9.0, -9]).half()),
            InputScale(scale),
        ),
    )
    expected = (
        base.dequantize()
        + left.bfloat16().float() @ quantize(right, Scheme("int8", 16)).dequantize()
    )
    expected[0, 5], expected[1, 1] = 9.0, -9.0
    torch.testing.assert_close(weight.product_matrix(), expected)
    x = torch.randn(3, 16, generator=generator)
    torch.testing.assert_close(x @ weight.dequantize().T, (x / scale) @ expected.T)
    assert weight.dequantize(torch.bfloat16).dtype == torch.bfloat16
    parts = 6 * 2 * 16 + (2 * 16 * 8 + 2 * 32) + 2 * (32 + 16) + 16 * 32
    assert weight.bits == base.bits + parts
    assert weight.part(LowRank).rank == 2
    assert weight.shape == (6, 16)
    with pytest.raises(SchemeError, match="input_scale of shape"):
        QuantizedWeight(base, (InputScale(scale[:3]),))


def test_a_format_object_may_have_a_name_with_a_bar_in_a_file(tmp_path) -> None:
    odd = Format.from_values([-1, 0, 1], name="a")
    assert Scheme(odd).formats == (odd,)
