from __future__ import annotations

import tomllib
from pathlib import Path

import gfloat.formats
import ml_dtypes
import numpy as np
import pytest

from studentfloat.errors import FormatError
from studentfloat.formats import CATALOG, PUBLISHED_ELEVEN, get_format, integer, minifloat

PUBLISHED = tomllib.loads((Path(__file__).parent / "published.toml").read_text())

# Two tables were published as float32, some with six decimals, the rest to the last digit.
PRINTED = dict.fromkeys(("nf4", *(f"sf4-nu{nu}" for nu in (3, 4, 5, 6))), 5.1e-07)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_derived_values_equal_the_published_ones(name: str) -> None:
    levels = get_format(name).levels
    np.testing.assert_allclose(levels, PUBLISHED[name], rtol=0, atol=PRINTED.get(name, 1e-9))


def test_sf4_is_the_one_with_five_degrees_of_freedom() -> None:
    assert get_format("sf4").levels == get_format("sf4-nu5").levels


def test_the_eleven_are_there() -> None:
    assert len(PUBLISHED_ELEVEN) == 11
    assert all(get_format(name).bits == 4 for name in PUBLISHED_ELEVEN)


@pytest.mark.parametrize("name", ["int3", "nf3", "sf3", "sf3-nozero", "e2m0"])
def test_three_bit_formats_are_three_bit(name: str) -> None:
    fmt = get_format(name)
    assert fmt.bits == 3
    assert 7 <= len(fmt.levels) <= 8


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_entry_is_sound_and_cites_its_source(name: str) -> None:
    fmt = get_format(name)
    assert fmt.name == name
    assert fmt.source
    assert fmt.description


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("e2m1", "float4_e2m1fn"),
        ("e2m3", "float6_e2m3fn"),
        ("e3m2", "float6_e3m2fn"),
        ("e4m3", "float8_e4m3fn"),
        ("e5m2", "float8_e5m2"),
        ("e3m4", "float8_e3m4"),
    ],
)
def test_every_code_agrees_with_ml_dtypes(name: str, dtype: str) -> None:
    fmt = get_format(name) if name != "e3m4" else minifloat(3, 4, specials="ieee")
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    theirs = codes.view(getattr(ml_dtypes, dtype)).astype(np.float64)
    np.testing.assert_array_equal(fmt.decode(codes), theirs)
    # Rounding too: round-half-even on a dense grid, away from what overflows.
    numbers = np.linspace(fmt.minimum, fmt.maximum, 20_001).astype(np.float32)
    theirs = numbers.astype(getattr(ml_dtypes, dtype)).astype(np.float64)
    np.testing.assert_array_equal(fmt.decode(fmt.encode(numbers)), theirs)


@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("e2m1", gfloat.formats.format_info_ocp_e2m1),
        ("e2m3", gfloat.formats.format_info_ocp_e2m3),
        ("e3m2", gfloat.formats.format_info_ocp_e3m2),
        ("e4m3", gfloat.formats.format_info_ocp_e4m3),
        ("e5m2", gfloat.formats.format_info_ocp_e5m2),
    ],
)
def test_every_code_agrees_with_gfloat(name: str, info) -> None:
    fmt = get_format(name)
    theirs = [gfloat.decode_float(info, code).fval for code in range(2**fmt.bits)]
    np.testing.assert_array_equal(fmt.decode(np.arange(2**fmt.bits)), theirs)


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_are_twos_complement(bits: int) -> None:
    fmt = integer(bits)
    for code in range(2**bits):
        expected = code - 2**bits if code >= 2 ** (bits - 1) else code
        assert fmt.decode(code) == expected
    symmetric = integer(bits, symmetric=True)
    assert (symmetric.minimum, symmetric.maximum) == (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    assert integer(bits, signed=False).maximum == 2**bits - 1


def test_families_by_name() -> None:
    assert get_format("SF4-NU6.5").levels == get_format("sf4-nu6.5").levels
    assert get_format("sf5-nu5").bits == 5
    assert get_format("e3m3").bits == 7
    assert get_format("uint4").minimum == 0
    assert get_format("sf4-fixed8").integer_grid.bits == 8
    assert get_format("sf4-nuinf").levels == get_format("nf4").levels


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(FormatError, match=r"'sf44'.*did you mean .*sf4"):
        get_format("sf44")


def test_supernormal_must_be_new() -> None:
    with pytest.raises(FormatError, match="nothing new"):
        minifloat(2, 1, negative_zero=4)
