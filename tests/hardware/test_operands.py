from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import FormatError
from studentfloat.formats import CATALOG, Format, get_format
from studentfloat.formats.rounded import rounded_format, rounded_grid
from studentfloat.hardware import operand_from_format, resolve_operand
from studentfloat.hardware.boolean import reduce_word
from studentfloat.hardware.operands import identifier, needs_lookup, odd_part, signed_width


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_an_operand_has_the_codecs_own_values(name: str) -> None:
    number_format = get_format(name)
    bits = 12 if needs_lookup(number_format) else None
    operand = operand_from_format(number_format, bits)
    codec = number_format if bits is None else rounded_format(number_format, bits)
    for code, integer in enumerate(operand.integers):
        value = codec.decode(code)
        if integer is None:
            assert not np.isfinite(value)
        else:
            assert float(operand.step * integer) == value


def test_published_formats_without_a_grid_are_looked_up() -> None:
    looked_up = {name for name in CATALOG if needs_lookup(get_format(name))}
    assert {"nf4", "sf4", "nf3", "bof4"} <= looked_up
    assert not {"int4", "e2m1", "e5m2", "apot4", "iq4_nl", "e2m1-b"} & looked_up


def test_rounding_moves_no_level_by_more_than_half_a_step() -> None:
    sf4 = get_format("sf4")
    for bits in (4, 8, 12):
        grid = rounded_grid(sf4, bits)
        assert max(map(abs, grid.integers)) == 2 ** (bits - 1) - 1
        for level, integer in zip(sf4.levels, grid.integers, strict=True):
            assert abs(Fraction(level) - grid.step * integer) <= grid.step / 2
        assert rounded_format(sf4, bits).maximum == sf4.maximum


@pytest.mark.parametrize("bits", [1, 25, 8.0, True])
def test_rounding_refuses_other_widths(bits: int) -> None:
    with pytest.raises(FormatError, match="whole number from 2 to 24"):
        rounded_format(get_format("sf4"), bits)


def test_a_grid_too_wide_is_named_with_the_limit() -> None:
    wide = Format.from_values([0, 1, 2.0**39], name="wide")
    with pytest.raises(FormatError, match=r"'wide' needs a 41-bit integer grid.*up to 36 bits"):
        operand_from_format(wide)


def test_a_lookup_needs_its_width() -> None:
    with pytest.raises(FormatError, match="'sf4' has no exact integer grid"):
        operand_from_format(get_format("sf4"))


def test_wide_operands() -> None:
    int16, fp16 = resolve_operand("int16"), resolve_operand("FP16")
    assert (int16.minimum, int16.maximum) == (-(2**15), 2**15 - 1)
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    for code in range(0, 2**16, 97):
        integer = fp16.integers[code]
        if integer is None:
            assert not np.isfinite(halves[code])
        else:
            assert float(fp16.step * integer) == halves[code]
    assert resolve_operand("fp8") == resolve_operand("e4m3")


@given(st.integers(-(2**40), 2**40), st.integers(0, 2**40))
def test_signed_width_is_the_least(low: int, span: int) -> None:
    high = low + span
    width = signed_width(low, high)
    assert -(2 ** (width - 1)) <= low
    assert high < 2 ** (width - 1)
    assert width == 1 or low < -(2 ** (width - 2)) or high >= 2 ** (width - 2)


def test_odd_part_and_identifiers() -> None:
    assert [odd_part(n) for n in (0, 1, -12, 96)] == [0, 1, 3, 3]
    assert identifier("e2m1+sp") == "e2m1_sp"
    assert identifier("4bit") == "f_4bit"


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(
    st.just(n),
    st.lists(st.one_of(st.none(), st.integers(0, 15)), min_size=2**n, max_size=2**n),
)))  # fmt: skip
def test_reduced_bits_say_the_same_where_it_matters(case: tuple[int, list[int | None]]) -> None:
    bits, values = case
    functions = reduce_word(values, bits, 4)
    for code, value in enumerate(values):
        if value is None:
            continue
        for position, function in enumerate(functions):
            index = 0
            for bit in function.support:
                index = index << 1 | code >> bit & 1
            assert function.outputs[index] == value >> position & 1


def test_a_wire_is_found() -> None:
    (function,) = reduce_word([code >> 2 & 1 for code in range(16)], 4, 1)
    assert function.support == (2,)


def test_hardware_leaves_torch_unloaded() -> None:
    code = "import studentfloat.hardware, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
