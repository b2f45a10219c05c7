"""Proof that a unit computes what its formats' values say.

Yosys joins the unit (as Verilog, or as mapped gates with the cells' functions from the
Liberty file) and its model in a miter, and a SAT solver shows by temporal induction that no
input sequence whatever makes them differ once ``clear`` was given for one clock cycle.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from studentfloat.errors import FailureError
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.synthesis import read_cells, write_library
from studentfloat.hardware.units import Unit
from studentfloat.hardware.verilog import module
from studentfloat.hardware.yosys import run_yosys

__all__ = ["Proof", "prove_sequential"]

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


def prove_sequential(
    unit: Unit,
    model: str,
    model_name: str,
    *,
    verilog: str | None = None,
    library: Library | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Proof:
    """Prove by temporal induction that a unit's ``acc`` equals its model's forever.

    Parameters
    ----------
    model
        Verilog of a module `model_name` with the unit's ports and the output ``valid``.
        Inputs for which that is false are assumed never to occur.
    verilog
        What to prove: the mapped netlist; by default the unit as it was written.
    library
        Where the cells of a mapped netlist are from.
    """
    method = "temporal induction (SAT)"
    with tempfile.TemporaryDirectory(prefix="studentfloat-") as name:
        directory = Path(name)
        files = {
            "unit.v": unit.verilog if verilog is None else verilog,
            "model.v": model,
            "miter.v": _miter(unit, model_name),
        }
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
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
            "sat -tempinduct -set-at 1 clear 1 -set-assumes -prove-asserts "
            f"-seq {unit.latency} -maxsteps {unit.latency + 4} "
            f"-timeout {max(1, round(timeout_s))} miter",
        ]
        try:
            said = run_yosys(commands, directory, timeout_s * 4 + 60)
        except FailureError as error:
            return Proof(False, method, str(error))
    if "Induction step proven: SUCCESS!" in said:
        return Proof(True, method)
    if "model found for base case" in said:
        return Proof(False, method, "the unit and its model differ")
    return Proof(False, method, "the solver did not finish")


def _miter(unit: Unit, model_name: str) -> str:
    """Join a unit and its model: assume valid inputs, assert equal accumulators."""
    width = unit.accumulator_bits
    pins = ".clk(clk), .clear(clear), .a(a), .b(b)"
    return module(
        "miter",
        [
            ("input wire", "clk", 1),
            ("input wire", "clear", 1),
            ("input wire", "a", unit.a.bits * unit.lanes),
            ("input wire", "b", unit.b.bits * unit.lanes),
        ],
        [
            f"wire signed [{width - 1}:0] actual, expected;",
            "wire valid;",
            f"{unit.top} unit ({pins}, .acc(actual));",
            f"{model_name} model ({pins}, .acc(expected), .valid(valid));",
            "always @* begin",
            "    assume (valid);",
            "    assert (actual == expected);",
            "end",
        ],
    )
