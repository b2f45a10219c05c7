from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from studentfloat.errors import ConfigError, FailureError
from studentfloat.formats import CATALOG, PUBLISHED_ELEVEN
from studentfloat.hardware import Unit, accumulator_width, dot, mac, resolve_operand, systolic_array
from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.dequantizer import FLOATS, dequantizer
from studentfloat.hardware.multipliers import ARCHITECTURES, product_range
from studentfloat.hardware.testbench import golden_vectors, simulate
from tests.hardware.tools import needs

SAMPLE = ("int4", "e2m1+sp", "apot4", "sf4", "e2m0", "e4m3", "int8", "e5m2")


def units(name: str, other: str | None = None) -> list[Unit]:
    """A MAC in every architecture that the operands lend themselves to."""
    a = resolve_operand(name)
    b = a if other is None else resolve_operand(other)
    built = []
    for architecture in ARCHITECTURES:
        try:
            built.append(mac(a, b, architecture))
        except UnavailableError:
            continue
    return built


def lint(verilog: str, top: str, directory: Path) -> str:
    path = directory / "unit.v"
    path.write_text(verilog)
    command = ["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top-module", top]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_format_can_be_built(name: str) -> None:
    built = units(name)
    assert {unit.architecture for unit in built} >= {"baugh-wooley", "sign-magnitude"}
    for unit in built:
        low, high = product_range(unit.a, unit.b)
        reach = 2 ** (unit.accumulator_bits - 1)
        assert -reach <= 128 * low
        assert 128 * high < reach


@needs("verilator", "verilator")
@pytest.mark.parametrize("name", SAMPLE)
def test_macs_are_clean_under_verilator(name: str, tmp_path: Path) -> None:
    for unit in units(name):
        assert lint(unit.verilog, unit.top, tmp_path) == ""


@needs("verilator", "verilator")
def test_other_units_are_clean_under_verilator(tmp_path: Path) -> None:
    for name in ("int4", "e2m1+sp", "sf4"):
        operand = resolve_operand(name)
        for unit in units(name):
            for array in (
                dot(operand, operand, unit.architecture, 5),
                systolic_array(operand, operand, unit.architecture, rows=2, columns=3),
            ):
                assert lint(array.verilog, array.top, tmp_path) == ""
            for narrow in (
                mac(operand, operand, unit.architecture, accumulator_bits=17, overflow="saturate"),
                dot(operand, operand, unit.architecture, 5, accumulator_bits=20, overflow="wrap"),
                systolic_array(
                    operand, operand, unit.architecture, accumulator_bits=17, overflow="saturate"
                ),
            ):
                assert lint(narrow.verilog, narrow.top, tmp_path) == ""
        for scale in FLOATS:
            built = dequantizer(operand, scale)
            assert lint(built.verilog, built.top, tmp_path) == ""


@needs("iverilog", "iverilog")
@pytest.mark.parametrize("name", PUBLISHED_ELEVEN)
def test_simulation_agrees_with_the_codec_on_all_pairs_and_extremes(name: str) -> None:
    for unit in units(name):
        pairs = len(unit.a.valid) * len(unit.b.valid)
        assert simulate(unit) == pairs + -(-pairs // 128) + 4 * (1 + unit.dot_length)


@needs("iverilog", "iverilog")
@pytest.mark.parametrize(
    ("name", "other", "architecture"),
    [
        ("e4m3", None, "float"),
        ("e5m2", None, "float"),
        ("int8", None, "baugh-wooley"),
        ("int4", "int8", "sign-magnitude"),
        ("e2m1", "fp8", "float"),
        ("sf4", "int16", "baugh-wooley"),
        ("e2m1", "fp16", "float"),
    ],
)
def test_wide_and_mixed_operands_in_simulation(
    name: str, other: str | None, architecture: str
) -> None:
    a = resolve_operand(name)
    unit = mac(a, a if other is None else resolve_operand(other), architecture)
    exhaustive = unit.a.bits + unit.b.bits <= 12 or name == "e4m3"
    assert simulate(unit, most_pairs=1 << 16 if exhaustive else 2000) > 2000


@needs("iverilog", "iverilog")
def test_dot_products_in_simulation() -> None:
    for name, architecture in (("int4", "baugh-wooley"), ("e2m1+sr", "float")):
        operand = resolve_operand(name)
        for lanes in (2, 5, 16):
            assert simulate(dot(operand, operand, architecture, lanes)) > 256


@needs("iverilog", "iverilog")
@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_narrow_accumulators_in_simulation(overflow: str) -> None:
    operand = resolve_operand("e2m1")
    for unit in (
        mac(operand, operand, "float", accumulator_bits=11, overflow=overflow),
        dot(operand, operand, "float", 4, accumulator_bits=12, overflow=overflow),
    ):
        reached = {vector.accumulator for vector in golden_vectors(unit)}
        ends = {2 ** (unit.accumulator_bits - 1) - 1, -(2 ** (unit.accumulator_bits - 1))}
        assert (ends <= reached) == unit.saturates
        assert simulate(unit) > 256


@needs("iverilog", "iverilog")
def test_simulation_sees_one_wrong_entry() -> None:
    unit = next(unit for unit in units("e2m1") if unit.architecture == "table")
    right = "8'b01110111: product = 9'sd144;"
    assert right in unit.verilog
    with pytest.raises(FailureError, match="FAIL vector"):
        simulate(unit, unit.verilog.replace(right, "8'b01110111: product = 9'sd145;"))


def test_golden_vectors_hold_every_pair() -> None:
    (unit, *_) = units("e2m1")
    vectors = golden_vectors(unit)
    seen = {(v.a, v.b) for v in vectors if not v.clear}
    assert len(seen) == 256
    assert max(v.accumulator for v in vectors) == 128 * 144


def test_settings_out_of_range() -> None:
    operand = resolve_operand("int4")
    with pytest.raises(ConfigError, match="dot length 0"):
        mac(operand, operand, "baugh-wooley", 0)
    with pytest.raises(ConfigError, match="1 lanes"):
        dot(operand, operand, "baugh-wooley", 1)
    with pytest.raises(ConfigError, match="accumulator of 5 bits"):
        mac(operand, operand, "baugh-wooley", accumulator_bits=5)
    with pytest.raises(ConfigError, match="0 x 4"):
        systolic_array(operand, operand, "baugh-wooley", rows=0, columns=4)
    with pytest.raises(ConfigError, match="'bf8'"):
        dequantizer(operand, "bf8")


def test_accumulator_width() -> None:
    int4, e2m1 = resolve_operand("int4"), resolve_operand("e2m1")
    assert accumulator_width(int4, int4, 128) == 15  # 128 * 64 = 2**13 needs one more and a sign
    assert accumulator_width(e2m1, e2m1, 1) == 9
