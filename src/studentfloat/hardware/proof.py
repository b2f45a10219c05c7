"""Proof that a unit computes what its formats' values say.

Yosys joins the unit (as Verilog, or as mapped gates with the cells' functions from the
Liberty file) and its model in a miter, and a SAT solver shows by temporal induction that no
input sequence whatever makes them differ once ``clear`` was given for one clock cycle.

Adder trees are too much for that at once. For them ABC finds, by induction too, the signals
within unit and model that always agree (van Eijk, IEEE TCAD 19(7), 2000), and merges them: if
nothing is left of the miter but a constant, it is proved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from studentfloat.errors import FailureError
from studentfloat.hardware.golden import (
    lane_model,
    mac_model,
    sum_model,
    valid_code,
    valid_terms,
)
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.multipliers import product_range
from studentfloat.hardware.netlist import Net, Netlist
from studentfloat.hardware.simulation import Words, pack, settle, unpack
from studentfloat.hardware.synthesis import read_cells, write_library
from studentfloat.hardware.units import Unit
from studentfloat.hardware.verilog import Port, literal, module, signed_literal, vector
from studentfloat.hardware.yosys import LimitError, run_abc, run_yosys

__all__ = ["Proof", "prove_lane", "prove_lane_exhaustively", "prove_sum", "prove_unit"]

# Processor time a proof may use: the verdict must not depend on what else the machine does.
DEFAULT_LIMIT_S = 120.0
_SEARCH_S = 20.0
_PATTERNS_AT_ONCE = 1 << 18
_MACHINE_BITS = 62


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
    limit_s: float = DEFAULT_LIMIT_S,
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
    files = {
        "unit.v": unit.verilog if verilog is None else verilog,
        "model.v": mac_model(unit, "model", wrong_entry=wrong_entry),
        "miter.v": _unit_miter(unit),
    }
    return _by_solver(files, library, latency=unit.latency, limit_s=limit_s)


def prove_lane(
    unit: Unit, *, verilog: str | None = None, library: Library | None = None,
    limit_s: float = DEFAULT_LIMIT_S,
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
    files = {
        "unit.v": unit.verilog if verilog is None else verilog,
        "model.v": lane_model(unit, "model"),
        "miter.v": miter,
    }
    return _by_solver(files, library, latency=0, limit_s=limit_s)


def prove_sum(
    unit: Unit, *, verilog: str | None = None, library: Library | None = None,
    limit_s: float = DEFAULT_LIMIT_S,
) -> Proof:  # fmt: skip
    """Prove that adder tree and accumulator add what the lanes give, whatever that is."""
    files = {
        "unit.v": unit.verilog if verilog is None else verilog,
        "model.v": sum_model(unit, "model"),
        "miter.v": _sum_miter(unit),
        "cleared.v": _cleared(unit),
    }
    return _by_correspondence(files, library, limit_s=limit_s)


def _commands(
    files: Mapping[str, str], top: str, directory: Path, library: Library | None
) -> list[str]:
    """Write the files and read them into one flat design of `top`."""
    for file, content in files.items():
        (directory / file).write_text(content, encoding="utf-8")
    cells = []
    if library is not None:
        cells = read_cells(write_library(library, directory), functions=True)
    return [
        *cells,
        *(f"read_verilog -formal {file}" for file in files),
        f"hierarchy -check -top {top}",
        "proc -norom",
        "chformal -lower",
        "flatten",
        "opt -full",
        "techmap",
        "opt -full",
    ]


def _by_solver(
    files: Mapping[str, str],
    library: Library | None,
    *,
    latency: int,
    limit_s: float,
    top: str = "miter",
) -> Proof:
    """Let the solver look for a difference; a `latency` of 0 is a circuit without registers."""
    method = "temporal induction (SAT)" if latency else "equivalence (SAT)"
    search = (
        f"-tempinduct -set-at 1 clear 1 -seq {latency} -maxsteps {latency + 4}" if latency else ""
    )
    with tempfile.TemporaryDirectory(prefix="studentfloat-") as name:
        directory = Path(name)
        commands = [
            *_commands(files, top, directory, library),
            f"sat {search} -set-assumes -prove-asserts {top}",
        ]
        try:
            said = run_yosys(commands, directory, limit_s)
        except LimitError as error:
            return Proof(False, method, f"the solver did not finish: {error}")
        except FailureError as error:
            return Proof(False, method, str(error))
    if "Induction step proven: SUCCESS!" in said or "no model found: SUCCESS!" in said:
        return Proof(True, method)
    if "model found for base case" in said or "model found: FAIL!" in said:
        return Proof(False, method, "the unit and its model differ")
    return Proof(False, method, "the solver did not finish")


def _by_correspondence(
    files: Mapping[str, str], library: Library | None, *, limit_s: float
) -> Proof:
    """Merge what always agrees, from accumulators of zero on; and prove that clear makes zero."""
    method = "induction on corresponding signals (ABC)"
    with tempfile.TemporaryDirectory(prefix="studentfloat-") as name:
        directory = Path(name)
        commands = [
            *_commands(files, "miter", directory, library),
            "dffunmap",
            "aigmap",
            "opt_clean",
            "setundef -init -zero",
            "write_aiger miter.aig",
        ]
        try:
            run_yosys(commands, directory, limit_s)
            merge = ["read_aiger miter.aig", "strash", "scorr", "dc2", "write_aiger merged.aig"]
            run_abc(merge, directory, limit_s)
            merged = (directory / "merged.aig").read_bytes()
            constant = _is_always_zero(merged)
            differs = not constant and _differs_soon(directory)
        except (FailureError, OSError) as error:
            return Proof(False, method, str(error))
    if not constant:
        detail = "the unit and its model differ" if differs else "signals are left that may differ"
        return Proof(False, method, detail)
    cleared = _by_solver(files, library, latency=1, limit_s=limit_s, top="cleared")
    return Proof(True, method) if cleared.proved else cleared


def _differs_soon(directory: Path) -> bool:
    """Whether a short search finds inputs under which the miter's output becomes 1."""
    try:
        said = run_abc(["read_aiger miter.aig", "bmc3 -F 8"], directory, _SEARCH_S)
    except LimitError:
        return False
    return "was asserted" in said


def _is_always_zero(aiger: bytes) -> bool:
    """Whether a binary AIGER file is of one output that is the constant 0.

    The header is ``aig M I L O A``, then a line for each output.
    """
    header, _, rest = aiger.partition(b"\n")
    words = header.split()
    nothing_left = words[:1] == [b"aig"] and words[3:6] == [b"0", b"1", b"0"]
    return nothing_left and rest.partition(b"\n")[0] == b"0"


def _unit_miter(unit: Unit) -> str:
    """Join a unit and its model: codes that stand for no number are replaced by one that does."""
    width = unit.accumulator_bits
    lines = [f"wire signed [{width - 1}:0] actual, expected;"]
    for side, operand in (("a", unit.a), ("b", unit.b)):
        some = literal(operand.valid[0], operand.bits)
        lines.append(
            f"wire {vector(operand.bits)}{side}_used = "
            f"{valid_code(operand, side)} ? {side} : {some};"
        )
    pins = ".clk(clk), .clear(clear), .a(a_used), .b(b_used)"
    return module(
        "miter",
        [
            ("input wire", "clk", 1),
            ("input wire", "clear", 1),
            ("input wire", "a", unit.a.bits),
            ("input wire", "b", unit.b.bits),
        ],
        [
            *lines,
            f"{unit.top} unit ({pins}, .acc(actual));",
            f"model model ({pins}, .acc(expected));",
            "always @* assert (actual == expected);",
        ],
    )


def _sum_ports(unit: Unit) -> list[Port]:
    return [
        ("input wire", "clk", 1),
        ("input wire", "clear", 1),
        ("input wire", "addends", unit.addend_bits * unit.lanes),
        ("input wire", "carries", unit.lanes),
    ]


def _sum_pins(unit: Unit, addends: str, carries: str) -> str:
    pins = f".clk(clk), .clear(clear), .addends({addends})"
    return pins + (f", .carries({carries})" if unit.has_carry else "")


def _sum_miter(unit: Unit) -> str:
    """Join a sum and its model: terms that are no product are replaced by one that is."""
    width, bits = unit.accumulator_bits, unit.addend_bits
    low, high = product_range(unit.a, unit.b)
    some = signed_literal(max(low, min(high, 0)), bits)
    vectors = range(unit.lanes)
    # With one lane `carries` is no vector, so that it has no bit 0.
    inside = [line.replace("carries[0]", "carries") for line in valid_terms(unit)]
    return module(
        "miter",
        [*_sum_ports(unit), ("output wire", "differ", 1)],
        [
            f"wire signed [{width - 1}:0] actual, expected;",
            *(inside if unit.lanes == 1 else valid_terms(unit)),
            f"wire [{bits * unit.lanes - 1}:0] addends_used;",
            f"wire {vector(unit.lanes)}carries_used;",
            *(
                f"assign addends_used[{i * bits} +: {bits}] = valid{i} ? addend{i} : {some};"
                for i in vectors
            ),
            "assign carries_used = carries & {"
            + ", ".join(f"valid{i}" for i in reversed(vectors))
            + "};",
            f"{unit.sum} unit ({_sum_pins(unit, 'addends_used', 'carries_used')}, .acc(actual));",
            "model model (.clk(clk), .clear(clear), .addends(addends_used), "
            ".carries(carries_used), .acc(expected));",
            "assign differ = actual != expected;",
        ],
    )


def _cleared(unit: Unit) -> str:
    """From whatever state: after a cycle of ``clear`` the accumulator is zero."""
    return module(
        "cleared",
        _sum_ports(unit),
        [
            f"wire {vector(unit.accumulator_bits)}actual;",
            "reg was_cleared;",
            "always @(posedge clk) was_cleared <= clear;",
            f"{unit.sum} unit ({_sum_pins(unit, 'addends', 'carries')}, .acc(actual));",
            "always @* assert (!was_cleared || actual == 0);",
        ],
    )


def prove_lane_exhaustively(unit: Unit, lane: Netlist) -> Proof:
    """Compare a lane's mapped netlist with the codec on every pair of codes.

    A lane has no registers, so that is a proof; for codes too wide for the solver.
    """
    method = "all pairs of codes (gate-level simulation)"
    widest = max(map(abs, product_range(unit.a, unit.b))).bit_length()
    if widest > _MACHINE_BITS:
        return Proof(False, method, f"products of {widest} bits, of which {_MACHINE_BITS} fit")
    side_a, side_b = (np.array(operand.valid, dtype=np.int64) for operand in (unit.a, unit.b))
    values_b = np.array([unit.b.integers[code] for code in unit.b.valid], dtype=np.int64)
    rows = max(1, _PATTERNS_AT_ONCE // side_b.size)
    for start in range(0, side_a.size, rows):
        part = side_a[start : start + rows]
        values_a = np.array([unit.a.integers[code] for code in part], dtype=np.int64)
        x, y = np.repeat(part, side_b.size), np.tile(side_b, part.size)
        expected = np.outer(values_a, values_b).ravel()
        wrong = _first_wrong(unit, lane, x, y, expected)
        if wrong is not None:
            return Proof(False, method, f"codes {x[wrong]} and {y[wrong]} give a wrong product")
    return Proof(True, method)


def _first_wrong(
    unit: Unit,
    lane: Netlist,
    codes_a: npt.NDArray[np.int64],
    codes_b: npt.NDArray[np.int64],
    expected: npt.NDArray[np.int64],
) -> int | None:
    """Index of the first pair of codes whose addend and carry are not its product."""
    count = expected.size
    padding = -count % 64
    sources: dict[Net, Words] = {}
    for port, codes, operand in (("a", codes_a, unit.a), ("b", codes_b, unit.b)):
        padded = np.pad(codes, (0, padding), mode="edge")
        bits = (padded[None] >> np.arange(operand.bits)[:, None] & 1).astype(bool)
        sources |= dict(zip(lane.inputs[port], pack(bits), strict=True))
    nets = settle(lane, sources)
    zero = np.zeros((count + padding) // 64, dtype=np.uint64)
    constants = {"0": zero, "x": zero, "1": ~zero}

    def port_bits(name: str) -> list[npt.NDArray[np.bool_]]:
        return [
            unpack(constants[net] if isinstance(net, str) else nets[net])[:count]
            for net in lane.outputs[name]
        ]

    if unit.has_carry:
        expected = expected - port_bits("carry")[0]
    wrong = np.zeros(count, dtype=bool)
    for position, actual in enumerate(port_bits("addend")):
        wrong |= actual != (expected >> min(position, 63) & 1).astype(bool)
    return int(wrong.argmax()) if wrong.any() else None
