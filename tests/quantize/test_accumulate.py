"""Sums in integers against Python's own, one product at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import SchemeError
from studentfloat.formats import get_format
from studentfloat.quantize.accumulate import grid_integers, integer_matmul


def plainly(a, b, bits, overflow) -> int:
    total = 0
    for x, y in zip(a, b, strict=True):
        total += x * y
        if bits is not None and overflow == "saturate":
            total = max(-(1 << bits - 1), min((1 << bits - 1) - 1, total))
    if bits is not None and overflow == "wrap":
        total &= (1 << bits) - 1
        total -= (total >> bits - 1) << bits
    return total


@given(
    st.integers(0, 10**6),
    st.sampled_from([None, 8, 10, 12, 16, 32]),
    st.sampled_from(["saturate", "wrap"]),
)
def test_equals_python(seed, bits, overflow) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-12, 13, (3, 40), generator=generator)
    right = torch.randint(-12, 13, (4, 40), generator=generator)
    got = integer_matmul(left, right, bits=bits, overflow=overflow)
    for i, a in enumerate(left.tolist()):
        for j, b in enumerate(right.tolist()):
            assert int(got[i, j]) == plainly(a, b, bits, overflow)


@pytest.mark.parametrize("name", ["int4", "e2m1+sp", "apot4", "e4m3", "e3m0"])
def test_levels_are_their_grids_integers(name) -> None:
    number_format = get_format(name)
    levels = torch.tensor(number_format.levels, dtype=torch.float64)
    integers = grid_integers(levels, number_format)
    step = float(number_format.integer_grid.step)
    torch.testing.assert_close(integers.double() * step, levels)
    with pytest.raises(SchemeError, match="not all levels"):
        grid_integers(levels + 1e-3, number_format)


def test_misuse() -> None:
    with pytest.raises(SchemeError, match="no integer grid"):
        grid_integers(torch.zeros(1), get_format("sf4"))
    one = torch.ones(1, 1, dtype=torch.int64)
    with pytest.raises(SchemeError, match="accumulator of 60 bits"):
        integer_matmul(one, one, bits=60)
    with pytest.raises(SchemeError, match="'bounce'"):
        integer_matmul(one, one, overflow="bounce")
