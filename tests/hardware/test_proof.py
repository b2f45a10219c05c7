from __future__ import annotations

import dataclasses
import re

import pytest

from studentfloat.formats import CATALOG, get_format
from studentfloat.hardware import Unit, dot, mac, operand_from_format, resolve_operand
from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.dequantizer import dequantizer, prove_dequantizer
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.multipliers import ARCHITECTURES
from studentfloat.hardware.netlist import netlist_from_json
from studentfloat.hardware.operands import Operand, needs_lookup
from studentfloat.hardware.proof import prove_lane, prove_lane_exhaustively, prove_sum, prove_unit
from studentfloat.hardware.synthesis import AREA_RECIPES, synthesize
from studentfloat.hardware.units import systolic_array

pytestmark = pytest.mark.usefixtures("yosys")

DIFFERS = "the unit and its model differ"


def narrow_operands() -> dict[str, Operand]:
    """Catalog formats up to 4 bits, each list of integers once."""
    seen: dict[tuple[int | None, ...], Operand] = {}
    for name in CATALOG:
        number_format = get_format(name)
        if number_format.bits <= 4:
            bits = 8 if needs_lookup(number_format) else None
            operand = operand_from_format(number_format, bits)
            seen.setdefault(operand.integers, operand)
    return {operand.name: operand for operand in seen.values()}


NARROW = narrow_operands()


def best_guess(operand: Operand) -> Unit:
    """The architecture that such operands mostly end up with."""
    for architecture in ("float", "sign-magnitude"):
        try:
            return mac(operand, operand, architecture)
        except UnavailableError:
            continue
    raise AssertionError(operand.name)


@pytest.mark.parametrize("name", sorted(NARROW))
def test_verilog_and_netlist_are_proved(name: str, library: Library) -> None:
    unit = best_guess(NARROW[name])
    assert prove_unit(unit).proved
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    assert prove_unit(unit, verilog=result.verilog, library=library).proved


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_is_proved(architecture: str, library: Library) -> None:
    unit = mac(NARROW["e2m1+sp"], NARROW["e2m1+sp"], architecture)
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[2:3])
    assert prove_unit(unit).proved
    assert prove_unit(unit, verilog=result.verilog, library=library).proved


def test_one_wrong_entry_in_the_model_fails_the_proof(library: Library) -> None:
    unit = best_guess(NARROW["e2m1"])
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    for verilog, cells in ((None, None), (result.verilog, library)):
        proof = prove_unit(unit, verilog=verilog, library=cells, wrong_entry=(3, 13))
        assert (proof.proved, proof.detail) == (False, DIFFERS)


def test_one_wrong_entry_in_the_unit_fails_the_proof() -> None:
    unit = mac(NARROW["int4"], NARROW["int4"], "table")
    right = "8'b01010111: product = 8'sd35;"
    assert right in unit.verilog
    proof = prove_unit(unit, verilog=unit.verilog.replace(right, right.replace("35", "34")))
    assert (proof.proved, proof.detail) == (False, DIFFERS)


def test_one_wrong_gate_fails_the_proof(library: Library) -> None:
    unit = best_guess(NARROW["apot4"])
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    wrong = re.sub(r"\bNAND2_X1\b", "NOR2_X1", result.verilog, count=1)
    assert wrong != result.verilog
    assert not prove_unit(unit, verilog=wrong, library=library).proved


def test_an_accumulator_that_is_too_narrow_still_wraps_as_its_model_does() -> None:
    assert prove_unit(mac(NARROW["e2m1"], NARROW["e2m1"], "float", accumulator_bits=10)).proved


@pytest.mark.parametrize("architecture", ["float", "baugh-wooley"])
def test_a_saturating_accumulator_is_proved(architecture: str, library: Library) -> None:
    operand = NARROW["e2m1"]
    unit = mac(operand, operand, architecture, accumulator_bits=10, overflow="saturate")
    wraps = mac(operand, operand, architecture, accumulator_bits=10)
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    assert prove_unit(unit).proved
    assert prove_unit(unit, verilog=result.verilog, library=library).proved
    assert prove_sum(unit).proved
    # Judged by the other's model, each fails.
    for one, other in ((unit, wraps), (wraps, unit)):
        verilog = other.verilog.replace(other.top, one.top)
        assert prove_unit(one, verilog=verilog).detail == DIFFERS
        assert not prove_sum(one, verilog=verilog).proved


def test_a_sum_that_is_not_cleared_is_not_proved() -> None:
    """Merged signals start from zero: that clear makes zero is proved apart."""
    unit = dot(NARROW["e2m1"], NARROW["e2m1"], "float", 4)
    wrong = unit.verilog.replace("acc <= clear ? {ACC_BITS{1'b0}} : total", "acc <= total")
    assert wrong != unit.verilog
    assert not prove_sum(unit, verilog=wrong).proved


def test_lanes_and_sum_of_a_dot_product(library: Library) -> None:
    unit = dot(NARROW["e2m1"], NARROW["e2m1"], "float", 4)
    (result,) = synthesize(
        unit.verilog, unit.top, library, AREA_RECIPES[:1], keep=(unit.lane, unit.sum)
    )
    for verilog, cells in ((None, None), (result.modular_verilog, library)):
        assert prove_lane(unit, verilog=verilog, library=cells).proved
        assert prove_sum(unit, verilog=verilog, library=cells).proved
    wrong = unit.verilog.replace("{sum2_0[9], sum2_0}", "{sum2_0[8], sum2_0}")
    wrong = wrong.replace("carries[1]", "carries[0]")
    assert wrong != unit.verilog
    assert not prove_sum(unit, verilog=wrong).proved


def test_sixteen_lanes_through_a_12_bit_lookup_are_proved(library: Library) -> None:
    """The adder tree that a SAT solver alone does not finish."""
    operand = operand_from_format(get_format("nf4"), 12)
    unit = dot(operand, operand, "magnitude-table", 16)
    (result,) = synthesize(
        unit.verilog, unit.top, library, AREA_RECIPES[:1], keep=(unit.lane, unit.sum)
    )
    for verilog, cells in ((None, None), (result.modular_verilog, library)):
        assert prove_lane(unit, verilog=verilog, library=cells).proved
        assert prove_sum(unit, verilog=verilog, library=cells).proved


def test_a_lane_of_24_input_bits_is_proved(library: Library) -> None:
    unit = mac(resolve_operand("int8"), resolve_operand("int16"), "baugh-wooley")
    (result,) = synthesize(
        unit.verilog, unit.top, library, AREA_RECIPES[:1], keep=(unit.lane, unit.sum)
    )
    lane = netlist_from_json(result.modular_json, unit.lane, library)
    assert prove_lane_exhaustively(unit, lane).proved
    assert prove_sum(unit, verilog=result.modular_verilog, library=library).proved


def test_a_systolic_element_is_proved(library: Library) -> None:
    unit = systolic_array(NARROW["e2m1"], NARROW["e2m1"], "float")
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1], keep=(unit.lane,))
    assert prove_unit(unit).proved
    assert prove_unit(unit, verilog=result.verilog, library=library).proved
    assert not prove_unit(unit, wrong_entry=(2, 2)).proved


@pytest.mark.parametrize(("name", "other"), [("e4m3", "e4m3"), ("e2m1", "int8"), ("int8", "int8")])
def test_wide_lanes_on_all_pairs(name: str, other: str, library: Library) -> None:
    unit = mac(resolve_operand(name), resolve_operand(other), "sign-magnitude")
    (result,) = synthesize(
        unit.verilog, unit.top, library, AREA_RECIPES[:1], keep=(unit.lane, unit.sum)
    )
    lane = netlist_from_json(result.modular_json, unit.lane, library)
    assert prove_lane_exhaustively(unit, lane).proved
    assert prove_sum(unit, verilog=result.modular_verilog, library=library).proved
    # The same gates judged by other values must fail.
    negated = tuple(None if value is None else -value for value in unit.a.integers)
    other_unit = dataclasses.replace(unit, a=dataclasses.replace(unit.a, integers=negated))
    assert not prove_lane_exhaustively(other_unit, lane).proved


def test_a_dequantizer_on_all_codes_and_scales(library: Library) -> None:
    unit = dequantizer(NARROW["e2m1+sp"])
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    assert prove_dequantizer(unit, result.netlist).proved
    other = dequantizer(NARROW["e2m1+sr"])
    assert not prove_dequantizer(other, result.netlist).proved
