"""What units must compute, written from the formats' values and from nothing else.

The models here share no code with the decoders and multipliers that they judge: they hold
the table of products (or, for wide codes, the table of values) as the codec has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from studentfloat.hardware.multipliers import product_range
from studentfloat.hardware.operands import Operand, signed_width
from studentfloat.hardware.units import Unit
from studentfloat.hardware.verilog import literal, module, signed_literal, vector

__all__ = [
    "lane_model",
    "mac_model",
    "product_table",
    "saturated",
    "sum_model",
    "valid_code",
    "valid_terms",
]

_LARGEST_TABLE_BITS = 8


def product_table(a: Operand, b: Operand) -> npt.NDArray[np.object_]:
    """Product of each pair of codes, of shape ``(2**a.bits, 2**b.bits)``; None where invalid."""
    table = np.empty((len(a.integers), len(b.integers)), dtype=object)
    for i, x in enumerate(a.integers):
        for j, y in enumerate(b.integers):
            table[i, j] = None if x is None or y is None else x * y
    return table


def valid_code(operand: Operand, code: str) -> str:
    """A condition that a code stands for a number."""
    invalid = [c for c, value in enumerate(operand.integers) if value is None]
    if not invalid:
        return "1'b1"
    return " & ".join(f"({code} != {literal(c, operand.bits)})" for c in invalid)


def saturated(total: int, bits: int) -> int:
    """The nearest number that two's complement of a width holds."""
    reach = 1 << (bits - 1)
    return max(-reach, min(reach - 1, total))


def _next(unit: Unit, addition: str) -> list[str]:
    """Declare ``following``: what the accumulator holds after `addition` joined it."""
    width = unit.accumulator_bits
    if not unit.saturates:
        return [f"wire signed [{width - 1}:0] following = {addition};"]
    greatest, least = (
        signed_literal(end, width + 3) for end in (2 ** (width - 1) - 1, -(2 ** (width - 1)))
    )
    return [
        f"wire signed [{width + 2}:0] whole = {addition};",
        f"wire signed [{width + 2}:0] following = whole > {greatest} ? {greatest} :",
        f"    whole < {least} ? {least} : whole;",
    ]


def _value_function(operand: Operand, name: str) -> list[str]:
    width = operand.signed_bits
    lines = [
        f"function signed [{width - 1}:0] {name};",
        f"    input {vector(operand.bits)}code;",
    ]
    if operand.definition:
        return [*lines, *(f"    {name} = {line};" for line in operand.definition), "endfunction"]
    lines += ["    case (code)"]
    lines += [
        f"        {literal(code, operand.bits)}: {name} = {signed_literal(value, width)};"
        for code, value in enumerate(operand.integers)
        if value is not None
    ]
    return [*lines, f"        default: {name} = {width}'sd0;", "    endcase", "endfunction"]


def product_lines(a: Operand, b: Operand, name: str, code_a: str, code_b: str) -> list[str]:
    """Declare the signed wire or register `name`, the product of two codes."""
    width = signed_width(*product_range(a, b))
    if a.bits + b.bits > _LARGEST_TABLE_BITS:
        return [
            *_value_function(a, f"{name}_value_a"),
            *_value_function(b, f"{name}_value_b"),
            f"wire signed [{a.signed_bits - 1}:0] {name}_a = {name}_value_a({code_a});",
            f"wire signed [{b.signed_bits - 1}:0] {name}_b = {name}_value_b({code_b});",
            f"wire signed [{a.signed_bits + b.signed_bits - 1}:0] {name} = {name}_a * {name}_b;",
        ]
    table = product_table(a, b)
    lines = [
        f"reg signed [{width - 1}:0] {name};",
        "always @*",
        f"    case ({{{code_a}, {code_b}}})",
    ]
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            if table[i, j] is not None:
                code = literal(i << b.bits | j, a.bits + b.bits)
                lines.append(f"        {code}: {name} = {signed_literal(table[i, j], width)};")
    return [*lines, f"        default: {name} = {width}'sd0;", "    endcase"]


def mac_model(unit: Unit, name: str, *, wrong_entry: tuple[int, int] | None = None) -> str:
    """Model of a multiply-accumulate unit.

    Also of a systolic array of one element: it holds back the codes for a clock cycle.

    Parameters
    ----------
    wrong_entry
        A pair of codes whose product the model gets wrong by one: to show that a
        proof against it fails.
    """
    a, b, width = unit.a, unit.b, unit.accumulator_bits
    wrong = "1'b0"
    late = unit.latency > 1
    taken_a, taken_b = ("late_a", "late_b") if late else ("a", "b")
    held = [
        f"reg {vector(a.bits)}late_a;",
        f"reg {vector(b.bits)}late_b;",
        "always @(posedge clk) {late_a, late_b} <= {a, b};",
    ]
    if wrong_entry is not None:
        wrong = (
            f"({taken_a} == {literal(wrong_entry[0], a.bits)}) & "
            f"({taken_b} == {literal(wrong_entry[1], b.bits)})"
        )
    return module(
        name,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "a", a.bits),
            ("input  wire", "b", b.bits),
            ("output reg signed", "acc", width),
        ],
        [
            *(held if late else ()),
            *product_lines(a, b, "product", taken_a, taken_b),
            f"wire signed [1:0] error = {{1'b0, {wrong}}};",
            *_next(unit, "acc + product + error"),
            f"always @(posedge clk) acc <= clear ? {width}'sd0 : following;",
        ],
    )


def lane_model(unit: Unit, name: str) -> str:
    """Model of one lane: the product itself, of 1 + both widths, and ``valid``."""
    a, b = unit.a, unit.b
    return module(
        name,
        [
            ("input  wire", "a", a.bits),
            ("input  wire", "b", b.bits),
            ("output wire signed", "expected", a.signed_bits + b.signed_bits + 1),
            ("output wire", "valid", 1),
        ],
        [
            *product_lines(a, b, "product", "a", "b"),
            "assign expected = product;",
            f"assign valid = ({valid_code(a, 'a')}) & ({valid_code(b, 'b')});",
        ],
    )


def sum_model(unit: Unit, name: str) -> str:
    """Model of adder tree and accumulator: the plain sum of what the lanes give."""
    width, bits = unit.accumulator_bits, unit.addend_bits
    lines = []
    for i in range(unit.lanes):
        carry = (f"carries[{i}]" if unit.lanes > 1 else "carries") if unit.has_carry else "1'b0"
        lines += [
            f"wire signed [{bits - 1}:0] addend{i} = addends[{i * bits} +: {bits}];",
            f"wire signed [1:0] carry{i} = {{1'b0, {carry}}};",
        ]
    # Pairwise, each carry with its lane's first adder but one: the solver needs the sums between
    # to be the same numbers, though not the same gates.
    level = [(f"addend{i}", f"carry{i}") for i in range(unit.lanes)]
    while len(level) > 1:
        following = []
        for (left, pending), (right, later) in zip(level[::2], level[1::2], strict=False):
            total = f"{left}_{right}"
            lines.append(f"wire signed [{width - 1}:0] {total} = {left} + {right} + {pending};")
            following.append((total, later))
        level = following + (level[-1:] if len(level) % 2 else [])
    return module(
        name,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "addends", bits * unit.lanes),
            ("input  wire", "carries", unit.lanes),
            ("output reg signed", "acc", width),
        ],
        [
            *lines,
            *_next(unit, f"acc + {level[0][0]} + {level[0][1]}"),
            f"always @(posedge clk) acc <= clear ? {width}'sd0 : following;",
        ],
    )


def valid_terms(unit: Unit) -> list[str]:
    """Declare ``valid<i>`` of each lane: addend and carry make a product that there is.

    Of the words ``addends`` and ``carries``; :func:`lane_model` promises it of the lanes.
    """
    bits = unit.addend_bits
    low, high = product_range(unit.a, unit.b)
    lines = []
    for i in range(unit.lanes):
        carry = f"carries[{i}]" if unit.has_carry else "1'b0"
        lines += [
            f"wire signed [{bits - 1}:0] addend{i} = addends[{i * bits} +: {bits}];",
            f"wire signed [1:0] carry{i} = {{1'b0, {carry}}};",
            f"wire signed [{bits}:0] term{i} = addend{i} + carry{i};",
            f"wire valid{i} = (term{i} >= {signed_literal(low, bits + 1)}) & "
            f"(term{i} <= {signed_literal(high, bits + 1)});",
        ]
    return lines
