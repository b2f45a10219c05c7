from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import FormatError
from studentfloat.formats import CATALOG, Format, get_format

sensible_numbers = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-6)
value_sets = st.lists(sensible_numbers, min_size=2, max_size=256, unique=True)


@st.composite
def formats(draw: st.DrawFn) -> Format:
    """Any format: catalog entries and arbitrary codebooks with arbitrary codes."""
    if draw(st.booleans()):
        return get_format(draw(st.sampled_from(sorted(CATALOG))))
    values = draw(value_sets)
    bits = draw(st.integers(max(2, (len(values) - 1).bit_length()), 8))
    codes = draw(st.permutations(range(2**bits)))[: len(values)]
    return Format.from_values(values, bits=bits, codes=codes)


@given(formats(), st.lists(sensible_numbers, min_size=1, max_size=40))
def test_encode_is_nearest_by_exhaustive_comparison(fmt: Format, numbers: list[float]) -> None:
    decoded = fmt.decode(fmt.encode(numbers))
    for number, got in zip(numbers, decoded.tolist(), strict=True):
        exact = Fraction(number)
        best = min(abs(exact - Fraction(level)) for level in fmt.levels)
        assert abs(exact - Fraction(got)) == best


@given(formats())
def test_every_code_decodes_to_its_value_and_levels_survive_a_round_trip(fmt: Format) -> None:
    assert fmt.decode(list(fmt.codes)).tolist() == list(fmt.values)
    assert fmt.decode(fmt.encode(fmt.levels)).tolist() == list(fmt.levels)
    assert tuple(fmt.encode(fmt.levels)) == fmt.level_codes


@given(formats())
def test_ties_take_the_level_that_tie_goes_up_names(fmt: Format) -> None:
    for i, goes_up in enumerate(fmt.tie_goes_up):
        middle = (Fraction(fmt.levels[i]) + Fraction(fmt.levels[i + 1])) / 2
        if Fraction(float(middle)) != middle:
            continue
        expected = fmt.levels[i + 1] if goes_up else fmt.levels[i]
        assert fmt.decode(fmt.encode(float(middle))) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(CATALOG))
def test_thresholds_split_the_floats_exactly(name: str, dtype: type) -> None:
    fmt = get_format(name)
    thresholds = fmt.rounding_thresholds(dtype)
    for i, threshold in enumerate(thresholds):
        boundary = (Fraction(fmt.levels[i]) + Fraction(fmt.levels[i + 1])) / 2
        above = np.nextafter(threshold, dtype(np.inf))
        assert Fraction(float(threshold)) <= boundary <= Fraction(float(above))
        assert (Fraction(float(threshold)) == boundary) <= (not fmt.tie_goes_up[i])


@given(formats())
def test_integer_grid_holds_levels_exactly_and_is_smallest(fmt: Format) -> None:
    grid = fmt.integer_grid
    if grid is None:
        return
    assert [float(grid.step * k) for k in grid.integers] == list(fmt.levels)
    assert np.gcd.reduce(np.array(grid.integers, dtype=object)) == 1
    low, high = -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1
    assert all(low <= k <= high for k in grid.integers)


def test_integer_grids_of_known_formats() -> None:
    assert get_format("e2m1").integer_grid.integers[-4:] == (4, 6, 8, 12)
    apot = get_format("apot4+sp").integer_grid
    assert apot.step == Fraction(1, 10)
    assert apot.integers == (-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 10)
    assert get_format("int4").integer_grid.bits == 4
    sevenths = Format.from_values([k / 7 for k in range(-7, 8)])
    assert sevenths.integer_grid.integers == tuple(range(-7, 8))
    assert get_format("sf4").integer_grid is None


def test_two_zeros_are_understood() -> None:
    fmt = get_format("e2m1")
    assert len(fmt.values) == 16
    assert len(fmt.levels) == 15
    assert fmt.decode([0, 8]).tolist() == [0.0, 0.0]
    assert fmt.encode([0.0, -0.0]).tolist() == [0, 0]
    assert fmt.is_symmetric
    assert fmt.has_zero


def test_long_side() -> None:
    assert get_format("int4").long_side_extreme == -8
    assert get_format("e2m1+sr").long_side_extreme == 8
    assert get_format("sf4").long_side_extreme == 1
    mirrored = Format.from_values([-v for v in get_format("sf4").levels])
    assert mirrored.long_side_extreme == -1


def test_is_a_value() -> None:
    first, second = get_format("e2m1"), pickle.loads(pickle.dumps(get_format("e2m1")))
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second, get_format("nf4")}) == 2
    with pytest.raises(AttributeError):
        first.bits = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0], {}, "one value only"),
        ([1.0, 1.0], {}, "one value only"),
        ([], {}, "no values"),
        ([0.0, float("nan")], {}, "nan"),
        ([0.0, float("inf")], {}, "inf"),
        (range(300), {}, "300 values"),
        (range(17), {"bits": 4}, "17 values"),
        ([0, 1], {"bits": 9}, "9 bits"),
        ([0, 1], {"bits": 1}, "1 bits"),
        ([0, 1], {"codes": [0]}, "1 codes"),
        ([0, 1], {"codes": [0, 0]}, "twice"),
        ([0, 1], {"codes": [0, 4]}, "code 4"),
        ([0, 1e300], {}, "float32"),
        ([0, 1], {"name": "a b"}, "'a b'"),
    ],
)
def test_misuse_names_the_offending_value(values, options, message) -> None:
    with pytest.raises(FormatError, match=message):
        Format.from_values(values, **options)


def test_encode_refuses_nan_and_decode_refuses_alien_codes() -> None:
    with pytest.raises(FormatError, match="2 values that are NaN"):
        get_format("nf4").encode([0.0, np.nan, np.inf])
    with pytest.raises(FormatError, match="code 16"):
        get_format("nf4").decode([16])
