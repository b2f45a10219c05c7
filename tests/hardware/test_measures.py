"""Timing, energy and the simulator beneath it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from studentfloat.errors import ConfigError, FailureError
from studentfloat.hardware import Unit, mac, resolve_operand
from studentfloat.hardware.energy import code_pairs, energy_per_cycle
from studentfloat.hardware.generic_library import TAU_NS, generic_liberty
from studentfloat.hardware.liberty import Library, read_libraries
from studentfloat.hardware.netlist import Instance, Netlist, netlist_from_json
from studentfloat.hardware.simulation import _function, pack, settle, toggles, unpack
from studentfloat.hardware.synthesis import AREA_RECIPES, SynthesisResult, synthesize
from studentfloat.hardware.timing import analyze_timing
from tests.hardware.tools import OSU018, needs, needs_osu018


@pytest.fixture(scope="module")
def e2m1(yosys: None, library: Library) -> tuple[Unit, SynthesisResult]:
    operand = resolve_operand("e2m1")
    unit = mac(operand, operand, "float")
    return unit, synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])[0]


def chain(library: Library, *gates: tuple[str, dict[str, int]]) -> Netlist:
    """A netlist written by hand: nets 1 and 2 go in, the last output comes out."""
    instances = [Instance(f"g{i}", library.cells[n], nets) for i, (n, nets) in enumerate(gates)]
    return Netlist("chain", {"x": (1, 2)}, {"y": (gates[-1][1]["Y"],)}, tuple(instances))


def test_two_inverters_take_what_logical_effort_says(library: Library) -> None:
    netlist = chain(library, ("INV_X1", {"A": 1, "Y": 3}), ("INV_X1", {"A": 3, "Y": 4}))
    timing = analyze_timing(netlist)
    # The first: parasitic 1 + effort 1, from a step; the second: 1, and a share of the slew.
    slew = 1 + 2 * 1
    assert timing.delay_ns == pytest.approx(TAU_NS * (2 + 1 + 0.15 * slew), rel=1e-4)
    assert timing.path == ("INV_X1", "INV_X1")


def test_a_loop_is_refused(library: Library) -> None:
    netlist = chain(library, ("INV_X1", {"A": 4, "Y": 3}), ("INV_X1", {"A": 3, "Y": 4}))
    with pytest.raises(FailureError, match="loop"):
        analyze_timing(netlist)


def test_a_glitch_is_counted_and_a_short_one_swallowed(library: Library) -> None:
    # x and not-x meet in a NAND: a hazard as long as the inverter's delay.
    netlist = chain(library, ("INV_X1", {"A": 1, "Y": 3}), ("NAND2_X1", {"A": 1, "B": 3, "Y": 4}))
    low, high = np.zeros(1, dtype=np.uint64), np.full(1, 2**64 - 1, dtype=np.uint64)
    before, after = {1: low, 2: low}, {1: high, 2: low}
    long = toggles(netlist, before, after, {"g0": 4.0, "g1": 1.0})
    assert long[4] == 2.0
    short = toggles(netlist, before, after, {"g0": 1.0, "g1": 4.0})
    assert short[4] == 0.0
    assert long[3] == short[3] == 1.0


class SlowSimulator:
    """One pattern, one event at a time: a transition that is due is dropped if inputs undo it."""

    def __init__(self, netlist: Netlist, delays: dict[str, float], before: dict[int, bool]) -> None:
        self.netlist, self.delays, self.values = netlist, delays, dict(before)
        for gate in netlist.gates:
            self.values[gate.nets["Y"]] = self.output(gate)
        self.counts = dict.fromkeys(self.values, 0)

    def output(self, gate: Instance) -> bool:
        pins = {
            pin.name: np.uint64(self.values[gate.nets[pin.name]] * (2**64 - 1))
            for pin in gate.cell.pins.values()
            if pin.direction == "input"
        }
        return bool(_function(gate.cell.outputs[0].function)(pins))

    def run(self, after: dict[int, bool]) -> None:
        due = {net: (0.0, value) for net, value in after.items() if value != self.values[net]}
        while due:
            now = min(time for time, _ in due.values())
            for net in [net for net, (time, _) in due.items() if time == now]:
                self.values[net] = due.pop(net)[1]
                self.counts[net] += 1
            for gate in self.netlist.gates:
                net, new = gate.nets["Y"], self.output(gate)
                if net in due and due[net][1] != new:
                    del due[net]
                elif net not in due and new != self.values[net]:
                    due[net] = (now + self.delays[gate.name], new)


def test_transitions_are_those_of_one_event_at_a_time(library: Library) -> None:
    rng = np.random.default_rng(11)
    kinds = ["NAND2_X1", "NOR2_X1", "XOR2_X1", "XNOR2_X1"]
    instances = tuple(
        Instance(
            f"g{i}",
            library.cells[str(rng.choice(kinds))],
            {pin: int(net) for pin, net in zip("AB", rng.choice(i + 4, 2, False) + 1, strict=True)}
            | {"Y": i + 5},
        )
        for i in range(30)
    )
    netlist = Netlist("random", {"x": (1, 2, 3, 4)}, {"y": (34,)}, instances)
    delays = {f"g{i}": float(rng.uniform(0.5, 3.0)) for i in range(30)}
    before, after = ({net: rng.random(64) < 0.5 for net in range(1, 5)} for _ in range(2))
    expected = dict.fromkeys(range(1, 35), 0)
    for k in range(64):
        slow = SlowSimulator(netlist, delays, {net: bool(bits[k]) for net, bits in before.items()})
        slow.run({net: bool(bits[k]) for net, bits in after.items()})
        expected = {net: count + slow.counts[net] for net, count in expected.items()}
    packed = ({net: pack(bits) for net, bits in bits.items()} for bits in (before, after))
    measured = toggles(netlist, *packed, delays)
    assert sum(expected.values()) > 500
    assert {net: round(64 * count) for net, count in measured.items()} == expected


def test_packing_is_undone() -> None:
    bits = np.random.default_rng(3).random((5, 192)) < 0.5
    np.testing.assert_array_equal(unpack(pack(bits)), bits)


def test_settled_gates_compute_the_next_accumulator(
    e2m1: tuple[Unit, SynthesisResult], library: Library
) -> None:
    unit, result = e2m1
    netlist = result.netlist
    pairs = np.array([(x, y) for x in range(16) for y in range(16)]).T
    zero = np.zeros(4, dtype=np.uint64)
    sources = dict.fromkeys([n for nets in netlist.inputs.values() for n in nets], zero)
    sources |= dict.fromkeys(netlist.outputs["acc"], zero)
    for port, codes in (("a", pairs[0]), ("b", pairs[1])):
        bits = (codes[None] >> np.arange(4)[:, None] & 1).astype(bool)
        sources |= dict(zip(netlist.inputs[port], pack(bits), strict=True))
    from studentfloat.hardware.simulation import next_states

    states = next_states(netlist, settle(netlist, sources))
    value = sum(
        unpack(states[net]).astype(np.int64) << i for i, net in enumerate(netlist.outputs["acc"])
    )
    value = np.where(value >= 2**15, value - 2**16, value)
    integers = np.array(unit.a.integers)
    np.testing.assert_array_equal(value, integers[pairs[0]] * integers[pairs[1]])


def test_energy_follows_the_codes(e2m1: tuple[Unit, SynthesisResult], library: Library) -> None:
    unit, result = e2m1
    timing = analyze_timing(result.netlist)

    def energy(counts: np.ndarray | None, seed: int = 0) -> float:
        pairs = code_pairs(unit.a, unit.b, counts)
        return energy_per_cycle(result.netlist, unit, library, timing, pairs=pairs, seed=seed)

    uniform = energy(None)
    assert energy(np.ones((16, 16)), seed=1) == pytest.approx(uniform, rel=0.05)
    still = np.zeros((16, 16))
    still[0, 0] = 1.0
    near_zero = np.zeros((16, 16))
    near_zero[[[0], [1], [9]], [0, 1, 9]] = 1.0
    assert energy(still) < energy(near_zero) < uniform
    # Nothing but the clock moves then.
    clock = sum(f.cell.pins["CK"].capacitance_ff for f in result.netlist.flops)
    assert energy(still) > clock * library.voltage**2


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (np.ones((4, 4)), r"shape \(4, 4\)"),
        (-np.ones((16, 16)), "zero and more"),
        (np.zeros((16, 16)), "zero and more"),
    ],
)
def test_histograms_that_cannot_be(counts: np.ndarray, said: str) -> None:
    operand = resolve_operand("e2m1")
    with pytest.raises(ConfigError, match=said):
        code_pairs(operand, operand, counts)


def test_a_histogram_must_not_hold_nan_codes() -> None:
    operand = resolve_operand("e4m3")
    with pytest.raises(ConfigError, match="code 127 of e4m3 stands for no number"):
        code_pairs(operand, operand, np.ones((256, 256)))


def test_an_unmapped_cell_is_refused(library: Library) -> None:
    text = """{"modules": {"m": {"ports": {}, "cells":
        {"c": {"type": "$_AND_", "connections": {"A": [1]}}}}}}"""
    with pytest.raises(FailureError, match=r"\$_AND_, which is not mapped"):
        netlist_from_json(text, "m", library)


def _opensta(verilog: str, top: str, liberty: Path, directory: Path) -> float:
    (directory / "netlist.v").write_text(verilog)
    (directory / "run.tcl").write_text(
        f"""read_liberty {liberty}
read_verilog {directory}/netlist.v
link_design {top}
create_clock -name clk -period 1000 [get_ports clk]
set_input_delay 0 -clock clk [all_inputs]
set_output_delay 0 -clock clk [all_outputs]
set_input_transition 0 [all_inputs]
report_worst_slack -digits 5
exit
"""
    )
    command = ["sta", "-no_splash", "-exit", str(directory / "run.tcl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    slack = re.search(r"worst slack\s+([\d.]+)", done.stdout)
    assert slack, done.stdout + done.stderr
    return 1000 - float(slack[1])


@needs("sta", "opensta")
@pytest.mark.usefixtures("yosys")
def test_delays_agree_with_opensta_on_the_built_in_library(
    e2m1: tuple[Unit, SynthesisResult], tmp_path: Path
) -> None:
    liberty = tmp_path / "generic.lib"
    liberty.write_text(generic_liberty())
    unit, result = e2m1
    expected = _opensta(result.verilog, unit.top, liberty, tmp_path)
    assert analyze_timing(result.netlist).delay_ns == pytest.approx(expected, rel=1e-4)


@needs("sta", "opensta")
@needs_osu018
@pytest.mark.usefixtures("yosys")
@pytest.mark.parametrize("name", ["int4", "sf4"])
def test_delays_agree_with_opensta_on_a_real_library(name: str, tmp_path: Path) -> None:
    library = read_libraries([OSU018])
    operand = resolve_operand(name)
    unit = mac(operand, operand, "sign-magnitude")
    (result,) = synthesize(unit.verilog, unit.top, library, AREA_RECIPES[:1])
    expected = _opensta(result.verilog, unit.top, OSU018, tmp_path)
    # OpenSTA takes rising and falling input capacitances apart; one mean serves here.
    assert analyze_timing(result.netlist).delay_ns == pytest.approx(expected, rel=0.01)
