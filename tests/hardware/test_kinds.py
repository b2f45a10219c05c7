"""Kinds of unit: their names, what they heed, and that figures are of the netlist proved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studentfloat.errors import ConfigError, FormatError
from studentfloat.formats import Format
from studentfloat.hardware import cost, dot, mac, resolve_operand, systolic_array
from studentfloat.hardware.cache import ContentCache
from studentfloat.hardware.energy import energy_per_cycle
from studentfloat.hardware.netlist import netlist_from_json
from studentfloat.hardware.rows import unit_kind
from studentfloat.hardware.timing import analyze_timing

E2M1 = resolve_operand("e2m1")


@pytest.mark.parametrize("name", ["mac", "systolic", "dequantizer", "dot2", "dot256"])
def test_names_are_those_that_users_spell(name: str) -> None:
    assert unit_kind(name).name == name


@pytest.mark.parametrize("name", ["dot1", "dot257", "dot", "MAC", "dot99999999"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unit '{name}': mac, dot2 to dot256, systolic or"):
        unit_kind(name)


def test_variants_of_a_unit_have_names_of_their_own() -> None:
    tops = [
        mac(E2M1, E2M1, "float").top,
        mac(E2M1, E2M1, "float", 16).top,
        mac(E2M1, E2M1, "float", accumulator_bits=11).top,
        mac(E2M1, E2M1, "float", accumulator_bits=11, overflow="saturate").top,
        dot(E2M1, E2M1, "float", 4).top,
        systolic_array(E2M1, E2M1, "float").top,
    ]
    assert len(set(tops)) == len(tops)


@pytest.mark.parametrize(
    ("unit", "options", "said"),
    [
        ("dequantizer", {"activations": "int8"}, "--activations int8: makes no difference"),
        ("dequantizer", {"accumulator_bits": 12}, "--accumulator-bits 12: makes no difference"),
        ("dequantizer", {"overflow": "bogus"}, "--overflow 'bogus': one of wrap, saturate"),
        ("mac", {"scale_type": "nonsense"}, "--scale-type 'nonsense': one of bf16, fp16"),
        ("mac", {"scale_type": "fp16"}, "--scale-type fp16: makes no difference to the unit mac"),
    ],
)
def test_options_that_do_nothing_are_misuse(unit: str, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cost(["e2m1"], unit=unit, use_cache=False, **options)


def test_levels_that_a_lookup_cannot_tell_apart(yosys: None, tmp_path: Path) -> None:
    wide = Format.from_values([-1e9, -2, -1, 0, 1, 2, 1e9], name="wide")
    with pytest.raises(FormatError, match="4 of 7 levels of wide fall together in 8 bits"):
        cost([wide], most_collapsed=0, lookup_bits=[8], cache=ContentCache(tmp_path))
    table = cost(
        [wide], most_collapsed=4, lookup_bits=[8], prove=False, cache=ContentCache(tmp_path)
    )
    assert any("4 of 7 levels of wide" in note for note in table.notes)


@pytest.mark.parametrize("unit", ["mac", "dequantizer"])
def test_real_energy_is_of_the_netlist_that_was_costed(
    unit: str, yosys: None, tmp_path: Path
) -> None:
    cache = ContentCache(tmp_path)
    counts = np.ones((8, 8))
    (row,) = cost(
        ["e2m0"], unit=unit, prove=False, cache=cache, code_histograms={"e2m0": counts}
    ).formats
    if unit == "dequantizer":
        # Uniform codes are what the row's own figure is on, up to the draw.
        assert row.energy_real_fj == pytest.approx(row.energy_fj, rel=0.1)
        return
    stored = [cache.get(path.stem) for path in tmp_path.glob("*.json")]
    kept = next(data for data in stored if isinstance(data, dict) and data["row"]["name"] == "e2m0")
    operand = resolve_operand("e2m0")
    from studentfloat.hardware.synthesis import generic_library

    library = generic_library()
    netlist = netlist_from_json(kept["netlist_json"], kept["top"], library)
    assert netlist.area == pytest.approx(row.area)
    built = mac(operand, operand, row.architecture)
    pairs = np.where(operand_is_valid(operand), counts, 0)
    again = energy_per_cycle(netlist, built, library, analyze_timing(netlist), pairs=pairs)
    assert again == row.energy_real_fj


def operand_is_valid(operand) -> np.ndarray:
    valid = np.array([value is not None for value in operand.integers])
    return valid[:, None] & valid[None, :]
