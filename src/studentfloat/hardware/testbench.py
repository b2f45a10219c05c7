"""Golden vectors from the codec, and a Verilog test bench that plays them to a unit."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studentfloat.errors import FailureError, MissingDependencyError
from studentfloat.hardware.golden import saturated
from studentfloat.hardware.operands import Operand
from studentfloat.hardware.units import Unit
from studentfloat.hardware.verilog import vector

__all__ = ["Vector", "bench_text", "golden_vectors", "simulate"]


@dataclass(frozen=True)
class Vector:
    """One clock cycle: what goes in, and what the accumulator holds after the clock edge."""

    clear: bool
    a: tuple[int, ...]
    b: tuple[int, ...]
    accumulator: int


def golden_vectors(unit: Unit, most_pairs: int = 1 << 16, seed: int = 0) -> list[Vector]:
    """Every pair of codes, and the extreme dot products, in sums of the unit's own length.

    In a unit of several lanes the pairs go round the lanes. Beyond `most_pairs` pairs that many
    are drawn at random.
    """
    a, b = unit.a, unit.b
    rng = np.random.default_rng(seed)
    if len(a.valid) * len(b.valid) <= most_pairs:
        pairs = [(x, y) for x in a.valid for y in b.valid]
    else:
        drawn = rng.choice(a.valid, most_pairs), rng.choice(b.valid, most_pairs)
        pairs = list(zip(*(codes.tolist() for codes in drawn), strict=True))
    cycles = max(1, unit.dot_length // unit.lanes)
    vectors = _sums(unit, pairs, cycles)
    for pair in _extremes(a, b):
        vectors += _sums(unit, [pair] * cycles, cycles)
    return vectors


def _sums(unit: Unit, pairs: list[tuple[int, int]], cycles: int) -> list[Vector]:
    """Sums of pairs, the accumulator cleared before every `cycles`."""
    vectors: list[Vector] = []
    total = 0
    for i in range(len(pairs)):
        lanes = [pairs[(i + lane * 17) % len(pairs)] for lane in range(unit.lanes)]
        a, b = tuple(x for x, _ in lanes), tuple(y for _, y in lanes)
        if i % cycles == 0:
            vectors.append(Vector(True, a, b, 0))
            total = 0
        total += _dot(unit, a, b)
        if unit.saturates:
            total = saturated(total, unit.accumulator_bits)
        vectors.append(Vector(False, a, b, total))
    return vectors


def _dot(unit: Unit, a: tuple[int, ...], b: tuple[int, ...]) -> int:
    total = 0
    for x, y in zip(a, b, strict=True):
        left, right = unit.a.integers[x], unit.b.integers[y]
        assert left is not None
        assert right is not None
        total += left * right
    return total


def _extremes(a: Operand, b: Operand) -> Iterator[tuple[int, int]]:
    for x in (a.minimum, a.maximum):
        for y in (b.minimum, b.maximum):
            yield a.integers.index(x), b.integers.index(y)


def bench_text(unit: Unit, vectors_file: str, count: int) -> str:
    """A self-checking test bench; it prints ``PASS`` and the number of vectors, or the first
    difference."""
    width, lanes = unit.accumulator_bits, unit.lanes
    size_a, size_b = unit.a.bits * lanes, unit.b.bits * lanes
    total = 1 + size_a + size_b + width
    return f"""\
// Plays golden vectors to {unit.top}: clear, a, b, and the accumulator afterwards.
`timescale 1ns / 1ps
module test_bench;
    localparam COUNT = {count};
    reg [{total - 1}:0] vectors [0:COUNT-1];
    reg clk = 0;
    reg clear = 1;
    reg {vector(size_a)}a = 0;
    reg {vector(size_b)}b = 0;
    reg [{width - 1}:0] expected;
    wire signed [{width - 1}:0] acc;
    integer i;
    {unit.top} unit (.clk(clk), .clear(clear), .a(a), .b(b), .acc(acc));
    initial begin
        $readmemh("{vectors_file}", vectors);
        for (i = 0; i < COUNT; i = i + 1) begin
            {{clear, a, b, expected}} = vectors[i];
            #1 clk = 1;
            #1 clk = 0;
            if (acc !== expected) begin
                $display("FAIL vector %0d: a=%h b=%h acc=%h expected=%h", i, a, b, acc, expected);
                $finish;
            end
        end
        $display("PASS %0d", COUNT);
        $finish;
    end
endmodule
"""


def simulate(
    unit: Unit,
    verilog: str | None = None,
    *,
    most_pairs: int = 1 << 16,
    timeout_s: float = 300.0,
) -> int:
    """Simulate a unit of latency one on its golden vectors with Icarus Verilog.

    Parameters
    ----------
    verilog
        What to simulate; by default the unit as it was written.
    most_pairs
        As of :func:`golden_vectors`.

    Returns
    -------
    int
        Number of vectors that agreed: all.

    Raises
    ------
    MissingDependencyError
        If ``iverilog`` is not installed.
    FailureError
        If a vector does not agree; the message has the first.
    """
    if unit.latency != 1:
        raise FailureError(f"golden vectors are for units of latency 1, not {unit.latency}")
    if shutil.which("iverilog") is None:
        raise MissingDependencyError(
            "iverilog is not installed: apt-get install iverilog (Debian's package)"
        )
    vectors = golden_vectors(unit, most_pairs)
    with tempfile.TemporaryDirectory(prefix="studentfloat-") as name:
        directory = Path(name)
        (directory / "unit.v").write_text(verilog or unit.verilog, encoding="utf-8")
        bench = bench_text(unit, "vectors.hex", len(vectors))
        (directory / "bench.v").write_text(bench, encoding="utf-8")
        lines = [f"{_packed(unit, one):x}" for one in vectors]
        (directory / "vectors.hex").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _run(["iverilog", "-g2005", "-o", "sim", "bench.v", "unit.v"], directory, timeout_s)
        said = _run(["vvp", "-n", "sim"], directory, timeout_s)
    if f"PASS {len(vectors)}" not in said:
        raise FailureError(f"{unit.top} in simulation: {said.strip() or 'no result'}")
    return len(vectors)


def _packed(unit: Unit, one: Vector) -> int:
    a = sum(code << (i * unit.a.bits) for i, code in enumerate(one.a))
    b = sum(code << (i * unit.b.bits) for i, code in enumerate(one.b))
    word = int(one.clear) << (unit.a.bits * unit.lanes) | a
    word = word << (unit.b.bits * unit.lanes) | b
    return word << unit.accumulator_bits | one.accumulator & (1 << unit.accumulator_bits) - 1


def _run(command: list[str], directory: Path, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise FailureError(f"{command[0]} took longer than {timeout_s:g} s") from None
    if done.returncode:
        raise FailureError(f"{command[0]} failed: {done.stderr.strip().splitlines()[:1]}")
    return done.stdout
