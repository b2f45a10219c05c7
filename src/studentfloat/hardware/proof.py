"""Proof that a unit computes what its formats' values say.

Yosys joins the unit (as Verilog, or as mapped gates with the cells' functions from the
Liberty file) and its model in a miter, and a SAT solver shows by temporal induction that no
input sequence whatever makes them differ once ``clear`` was given for one clock cycle.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FailureError
from studentfloat.hardware.golden import lane_model, mac_model, sum_model
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.netlist import Net, Netlist
from studentfloat.hardware.simulation import Words, pack, settle, unpack
from studentfloat.hardware.synthesis import read_cells, write_library
from studentfloat.hardware.units import Unit
from studentfloat.hardware.verilog import module
from studentfloat.hardware.yosys import run_yosys

__all__ = ["Proof", "prove_lane", "prove_lane_exhaustively", "prove_sum", "prove_unit"]

DEFAULT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Proof:
    """Outcome of a proof.

    Attributes
    ----------
    proved
        True only if the solver finished and found no difference.
    method
        How, in words.
    detail
        Why not, where it is not proved.
    """

    proved: bool
    method: str
    detail: str = ""


def prove_unit(
    unit: Unit,
    *,
    verilog: str | None = None,
    library: Library | None = None,
    wrong_entry: tuple[int, int] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Proof:
    """Prove a unit of one lane as a whole: its ``acc`` equals its model's forever.

    Parameters
    ----------
    verilog
        What to prove: the mapped netlist; by default the unit as it was written.
    library
        Where the cells of a mapped netlist are from.
    wrong_entry
        A pair of codes whose product the model gets wrong, to see the proof fail.
    """
    model = mac_model(unit, "model", wrong_entry=wrong_entry)
    ports = [("a", unit.a.bits), ("b", unit.b.bits)]
    miter = _sequential_miter(unit, unit.top, ports, ports)
    text = unit.verilog if verilog is None else verilog
    return _prove(text, model, miter, library, latency=unit.latency, timeout_s=timeout_s)


def prove_lane(
    unit: Unit, *, verilog: str | None = None, library: Library | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Proof:  # fmt: skip
    """Prove that a lane's addend and carry make the product of its codes."""
    bits = unit.a.signed_bits + unit.b.signed_bits + 1
    carry = ", .carry(carry)" if unit.has_carry else ""
    miter = module(
        "miter",
        [("input wire", "a", unit.a.bits), ("input wire", "b", unit.b.bits)],
        [
            f"wire signed [{unit.addend_bits - 1}:0] addend;",
            "wire carry;" if unit.has_carry else "wire carry = 1'b0;",
            f"wire signed [{bits - 1}:0] expected;",
            "wire valid;",
            f"{unit.lane} lane (.a(a), .b(b), .addend(addend){carry});",
            "model model (.a(a), .b(b), .expected(expected), .valid(valid));",
            "wire signed [1:0] one = {1'b0, carry};",
            f"wire signed [{bits - 1}:0] actual = addend + one;",
            "always @* begin",
            "    assume (valid);",
            "    assert (actual == expected);",
            "end",
        ],
    )
    text = unit.verilog if verilog is None else verilog
    return _prove(text, lane_model(unit, "model"), miter, library, latency=0, timeout_s=timeout_s)


def prove_sum(
    unit: Unit, *, verilog: str | None = None, library: Library | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Proof:  # fmt: skip
    """Prove that adder tree and accumulator add what the lanes give, whatever that is."""
    addends = [("addends", unit.addend_bits * unit.lanes)]
    carries = [("carries", unit.lanes)] if unit.has_carry else []
    miter = _sequential_miter(
        unit, unit.sum, [*addends, *carries], [*addends, ("carries", unit.lanes)]
    )
    text = unit.verilog if verilog is None else verilog
    return _prove(text, sum_model(unit, "model"), miter, library, latency=1, timeout_s=timeout_s)


def _prove(
    text: str,
    model: str,
    miter: str,
    library: Library | None,
    *,
    latency: int,
    timeout_s: float,
) -> Proof:
    """Let the solver look for a difference; a `latency` of 0 is a circuit without registers."""
    method = "temporal induction (SAT)" if latency else "equivalence (SAT)"
    search = (
        f"-tempinduct -set-at 1 clear 1 -seq {latency} -maxsteps {latency + 4}" if latency else ""
    )
    with tempfile.TemporaryDirectory(prefix="studentfloat-") as name:
        directory = Path(name)
        for file, content in (("unit.v", text), ("model.v", model), ("miter.v", miter)):
            (directory / file).write_text(content, encoding="utf-8")
        cells = []
        if library is not None:
            cells = read_cells(write_library(library, directory), functions=True)
        commands = [
            *cells,
            "read_verilog unit.v",
            "read_verilog model.v",
            "read_verilog -formal miter.v",
            "hierarchy -check -top miter",
            "proc -norom",
            "chformal -lower",
            "flatten",
            "opt -full",
            "techmap",
            "opt -full",
            f"sat {search} -set-assumes -prove-asserts -timeout {max(1, round(timeout_s))} miter",
        ]
        try:
            said = run_yosys(commands, directory, timeout_s * 4 + 60)
        except FailureError as error:
            return Proof(False, method, str(error))
    if "Induction step proven: SUCCESS!" in said or "no model found: SUCCESS!" in said:
        return Proof(True, method)
    if "model found for base case" in said or "model found: FAIL!" in said:
        return Proof(False, method, "the unit and its model differ")
    return Proof(False, method, "the solver did not finish")


def _sequential_miter(
    unit: Unit, top: str, ports: list[tuple[str, int]], model_ports: list[tuple[str, int]]
) -> str:
    """Join a unit and its model: assume valid inputs, assert equal accumulators."""
    width = unit.accumulator_bits
    pins, model_pins = (
        ", ".join(f".{name}({name})" for name in ("clk", "clear", *(name for name, _ in p)))
        for p in (ports, model_ports)
    )
    return module(
        "miter",
        [
            ("input wire", "clk", 1),
            ("input wire", "clear", 1),
            *(("input wire", name, size) for name, size in model_ports),
        ],
        [
            f"wire signed [{width - 1}:0] actual, expected;",
            "wire valid;",
            f"{top} unit ({pins}, .acc(actual));",
            f"model model ({model_pins}, .acc(expected), .valid(valid));",
            "always @* begin",
            "    assume (valid);",
            "    assert (actual == expected);",
            "end",
        ],
    )


def prove_lane_exhaustively(unit: Unit, lane: Netlist) -> Proof:
    """Compare a lane's mapped netlist with the codec on every pair of codes.

    A lane has no registers, so that is a proof; for codes too wide for the solver.
    """
    method = "all pairs of codes (gate-level simulation)"
    pairs = [(x, y) for x in unit.a.valid for y in unit.b.valid]
    padded = pairs + pairs[:1] * (-len(pairs) % 64)
    codes = np.array(padded, dtype=np.int64).T
    sources: dict[Net, Words] = {}
    for port, column, operand in (("a", codes[0], unit.a), ("b", codes[1], unit.b)):
        bits = (column[None] >> np.arange(operand.bits)[:, None] & 1).astype(bool)
        sources |= dict(zip(lane.inputs[port], pack(bits), strict=True))
    nets = settle(lane, sources)
    words = codes.shape[1] // 64
    zero = np.zeros(words, dtype=np.uint64)
    constants = {"0": zero, "x": zero, "1": ~zero}

    def port_bits(name: str) -> list[npt.NDArray[np.bool_]]:
        return [
            unpack(constants[net] if isinstance(net, str) else nets[net])
            for net in lane.outputs[name]
        ]

    carry = port_bits("carry")[0] if unit.has_carry else np.zeros(codes.shape[1], dtype=bool)
    expected = [_product(unit, x, y) for x, y in padded]
    expected = [value - int(one) for value, one in zip(expected, carry, strict=True)]
    for position, actual in enumerate(port_bits("addend")):
        bits_expected = np.array([value >> position & 1 for value in expected], dtype=bool)
        wrong = np.flatnonzero(actual != bits_expected)
        if wrong.size:
            x, y = padded[int(wrong[0])]
            return Proof(False, method, f"codes {x} and {y} give a wrong product")
    return Proof(True, method)


def _product(unit: Unit, code_a: int, code_b: int) -> int:
    x, y = unit.a.integers[code_a], unit.b.integers[code_b]
    assert x is not None
    assert y is not None
    return x * y
