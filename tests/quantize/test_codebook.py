"""What rounds: one rule of ties, and codes that mean what was rounded to, for every codebook."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import SchemeError
from studentfloat.formats import CATALOG, Format, get_format
from studentfloat.quantize import Scheme
from studentfloat.quantize.codebook import codebook_of
from studentfloat.quantize.codebook.levels import format_levels, row_levels
from studentfloat.quantize.reference import nearest_level
from tests.formats.test_format import formats

CPU = torch.device("cpu")


def near_boundaries(number_format: Format, dtype: torch.dtype) -> torch.Tensor:
    """Levels, midpoints, and the floats just beside both."""
    places = torch.tensor([*number_format.levels, *number_format.decision_boundaries], dtype=dtype)
    far = torch.tensor(torch.inf, dtype=dtype)
    return torch.cat([places, torch.nextafter(places, far), torch.nextafter(places, -far)])


@given(formats(), st.sampled_from([torch.float32, torch.float64]))
def test_ties_fall_by_one_rule(number_format: Format, dtype: torch.dtype) -> None:
    """A table per row and a choice per block round as the format does, ties and all."""
    numbers = near_boundaries(number_format, dtype)[None]
    expected = [nearest_level(float(x), number_format) for x in numbers[0]]
    alone = format_levels(number_format, dtype, CPU)
    assert alone.nearest(numbers)[0].tolist() == expected
    # Many numbers take another way than few.
    assert alone.nearest(numbers.expand(10_000, -1))[77].tolist() == expected
    chosen = codebook_of(Scheme(number_format, alternatives=[_other(number_format)]), dtype)
    in_blocks = chosen.choosing(torch.zeros(1, 1, dtype=torch.uint8))
    assert in_blocks.nearest(numbers[:, None])[0, 0].tolist() == expected
    of_rows = chosen.choosing(torch.zeros(1, dtype=torch.uint8))
    assert of_rows.nearest(numbers)[0].tolist() == expected
    # In a table codes are ranks: the same rule, on these codes.
    table = torch.tensor(number_format.levels, dtype=dtype)[None]
    ranked = Format.from_values(table[0].tolist(), bits=number_format.bits)
    tables = row_levels(table, alone, 1)
    codes = tables.codes(tables.nearest(numbers))[0]
    assert codes.tolist() == [nearest_level(float(x), ranked) for x in numbers[0]]


def _other(number_format: Format) -> Format:
    levels = [level * 0.75 for level in number_format.levels[::2]]
    return Format.from_values([*levels, 1e4], bits=number_format.bits)


@given(st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=16), st.integers(0, 2**32 - 1))
def test_equal_levels_of_a_table_give_the_least_code(values, seed) -> None:
    table = torch.tensor(sorted(values)).repeat_interleave(2)[None]
    codebook = row_levels(table, format_levels(get_format("int4"), torch.float32, CPU), 1)
    random = torch.from_numpy(np.random.default_rng(seed).uniform(-9, 9, 50)).float()
    numbers = torch.cat([random, table[0]])[None]
    codes = codebook.codes(codebook.nearest(numbers))
    assert (codes % 2 == 0).all()
    assert torch.equal(codebook.decode(codes, numbers.shape[1]), codebook.round(numbers))
    distance = (numbers[0, :, None] - table).abs()
    chosen = distance.gather(1, codes.long().T)[:, 0]
    # Distances are rounded, choices are not.
    torch.testing.assert_close(chosen, distance.amin(dim=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("names", ["nf4", "e2m1+sp|e2m1+sr", "uint4|nf4|int4-symmetric"])
def test_codes_decode_to_what_was_rounded_to(names: str) -> None:
    scheme = Scheme(names)
    numbers = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0)) * 4
    selectors = torch.arange(30, dtype=torch.uint8).reshape(6, 5) % len(scheme.formats)
    codebook = codebook_of(scheme, torch.float32).choosing(selectors)
    indices = codebook.nearest(numbers)
    rounded = codebook.values(indices, 8)
    assert torch.equal(codebook.decode(codebook.codes(indices), 8), rounded)
    for row, block in ((0, 0), (3, 4), (5, 2)):
        levels = torch.tensor(scheme.formats[int(selectors[row, block])].levels)
        distance = (numbers[row, block, :, None] - levels).abs().argmin(dim=1)
        assert torch.equal(rounded[row, block], levels[distance])
        one = codebook_of(scheme, torch.float32).choosing(selectors[:, block])
        assert torch.equal(one.round(numbers[:, block]), rounded[:, block])


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_trials_are_next_to_nearest(name: str) -> None:
    levels = format_levels(get_format(name), torch.float32, CPU)
    numbers = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    scales = numbers.abs().amax(dim=1) / max(levels.maximum, -levels.minimum)
    shares = (0.5, 1.0)
    for share, trial in zip(shares, levels.trials(numbers, scales, shares, None), strict=True):
        divided = numbers / (scales * share)[:, None]
        exact = (divided - levels.round(divided)).square().sum()
        assert (divided - trial).square().sum() <= exact * 1.01 + 1e-6


def test_a_table_takes_the_place_of_one_format() -> None:
    with pytest.raises(SchemeError, match=r"must have one, not nf4\|int4"):
        codebook_of(Scheme("nf4|int4"), torch.float32, row_tables=torch.zeros(1, 16))
    with pytest.raises(SchemeError, match="before its blocks have chosen"):
        codebook_of(Scheme("nf4|int4"), torch.float32).nearest(torch.zeros(1, 1, 4))
