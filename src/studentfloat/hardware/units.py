"""Units that multiply and accumulate, as Verilog text with the operands' values in it.

Every unit is made of lanes and a sum: a lane turns a pair of codes into an addend (and, where it
subtracts, a carry of one still to be added), the sum adds those to the accumulator. A MAC has one
lane; a dot-product unit many and an adder tree; a systolic element one behind registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from studentfloat.errors import ConfigError
from studentfloat.hardware.multipliers import Multiplier, build_multiplier, product_range
from studentfloat.hardware.operands import Operand, identifier, signed_width
from studentfloat.hardware.verilog import Port, module, vector

__all__ = [
    "DEFAULT_DOT_LENGTH",
    "OVERFLOWS",
    "Unit",
    "accumulator_width",
    "dot",
    "mac",
    "systolic_array",
]

DEFAULT_DOT_LENGTH = 128
OVERFLOWS = ("wrap", "saturate")
"""What an accumulator does with a sum that it cannot hold: drop its highest bits, or take the
nearest number that it holds."""

_LONGEST_DOT = 1 << 20
MOST_LANES = 256
"""Products a clock cycle."""
ARRAY_SIDE = 16
"""Rows and columns of the systolic array over which the decoders at its edge are shared."""
_MOST_ELEMENTS = 64 * 64


@dataclass(frozen=True)
class Unit:
    """A unit that multiplies and accumulates, as Verilog.

    Ports: ``clk``, ``clear`` (synchronous: the accumulator becomes zero), the codes ``a`` and
    ``b`` (of lane i from bit ``i * bits`` on), and the accumulator ``acc``, which counts units
    of ``a.step * b.step``.

    Attributes
    ----------
    top, lane, sum
        Names of the top module, of the one that multiplies, of the one that accumulates.
    verilog
        All modules.
    a, b
        The operands: `a` is the format, `b` the activations.
    multiplier
        The multiplier inside.
    addend_bits
        Width of a lane's output.
    accumulator_bits
        Width of the accumulator; by default it holds every dot product of `dot_length` terms.
    overflow
        Of :data:`OVERFLOWS`, where the accumulator is narrower than that.
    lanes
        Products per clock cycle.
    latency
        Clock cycles from a pair of codes at the inputs to its product in the sum.
    array_side
        Rows and columns of the array over which its decoders are shared; 1 outside of arrays.
    """

    top: str
    lane: str
    sum: str
    verilog: str
    a: Operand
    b: Operand
    multiplier: Multiplier
    addend_bits: int
    accumulator_bits: int
    dot_length: int
    lanes: int = 1
    latency: int = 1
    overflow: str = "wrap"
    array_side: int = 1

    @property
    def saturates(self) -> bool:
        """Whether it takes the nearest number that it holds for one that it cannot."""
        return self.overflow == "saturate"

    @property
    def architecture(self) -> str:
        """Of its multiplier."""
        return self.multiplier.architecture

    @property
    def has_carry(self) -> bool:
        """Whether a lane leaves a carry of one to be added."""
        return not self.multiplier.signed


def accumulator_width(a: Operand, b: Operand, dot_length: int) -> int:
    """Width of the two's complement accumulator that no dot product of that length overflows."""
    if isinstance(dot_length, bool) or not 1 <= dot_length <= _LONGEST_DOT:
        raise ConfigError(f"dot length {dot_length}: a whole number from 1 to {_LONGEST_DOT}")
    low, high = product_range(a, b)
    return signed_width(min(0, low * dot_length), max(0, high * dot_length))


def mac(
    a: Operand,
    b: Operand,
    architecture: str,
    dot_length: int = DEFAULT_DOT_LENGTH,
    *,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
) -> Unit:
    """Multiply-accumulate: one product joins an exact accumulator each clock cycle.

    Parameters
    ----------
    dot_length
        Terms that the accumulator holds without overflow.
    accumulator_bits
        A width of the accumulator's own.
    overflow
        What happens where that is too narrow: of :data:`OVERFLOWS`.

    Raises
    ------
    UnavailableError
        If the operands do not lend themselves to the architecture.
    """
    return _lanes_and_sum(
        "mac",
        a,
        b,
        architecture,
        lanes=1,
        dot_length=dot_length,
        accumulator_bits=accumulator_bits,
        overflow=overflow,
    )


def dot(
    a: Operand,
    b: Operand,
    architecture: str,
    lanes: int = 16,
    dot_length: int = DEFAULT_DOT_LENGTH,
    *,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
) -> Unit:
    """N products each clock cycle, one adder tree, one accumulator (as of :func:`mac`)."""
    if not 2 <= lanes <= MOST_LANES:
        raise ConfigError(f"a dot product of {lanes} lanes: from 2 to {MOST_LANES}")
    return _lanes_and_sum(
        f"dot{lanes}",
        a,
        b,
        architecture,
        lanes=lanes,
        dot_length=max(dot_length, lanes),
        accumulator_bits=accumulator_bits,
        overflow=overflow,
    )


def _lanes_and_sum(
    kind: str,
    a: Operand,
    b: Operand,
    architecture: str,
    *,
    lanes: int,
    dot_length: int,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
) -> Unit:
    multiplier = build_multiplier(architecture, a, b)
    exact = accumulator_width(a, b, dot_length)
    width = _accumulator(
        multiplier, a, b, lanes=lanes, exact=exact, asked=accumulator_bits, overflow=overflow
    )
    bits = signed_width(*_addend_range(multiplier, a, b))
    top = _unit_name(a, b, kind, width, None if width >= exact else overflow)
    carry = "" if multiplier.signed else ", .carry(carries[i])"
    text = module(
        top,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "a", a.bits * lanes),
            ("input  wire", "b", b.bits * lanes),
            ("output wire signed", "acc", width),
        ],
        [
            f"wire [{bits * lanes - 1}:0] addends;",
            *([] if multiplier.signed else [f"wire [{lanes - 1}:0] carries;"]),
            "genvar i;",
            "generate",
            f"    for (i = 0; i < {lanes}; i = i + 1) begin : lane",
            f"        {top}_lane multiply (",
            f"            .a(a[i * {a.bits} +: {a.bits}]), .b(b[i * {b.bits} +: {b.bits}]),",
            f"            .addend(addends[i * {bits} +: {bits}]){carry});",
            "    end",
            "endgenerate",
            f"{top}_sum accumulate (.clk(clk), .clear(clear), .addends(addends), "
            + ("" if multiplier.signed else ".carries(carries), ")
            + ".acc(acc));",
        ],
        comment=_comment(kind, a, b, dot_length, overflow=None if width >= exact else overflow),
    )
    parts = [
        multiplier.modules,
        _lane_module(f"{top}_lane", multiplier, a, b, bits),
        _sum_module(f"{top}_sum", multiplier, a, b, lanes=lanes, width=width, overflow=overflow),
        text,
    ]
    return Unit(top, f"{top}_lane", f"{top}_sum", "\n".join(parts), a, b, multiplier,
                bits, width, dot_length, lanes, overflow=overflow)  # fmt: skip


def _accumulator(
    multiplier: Multiplier,
    a: Operand,
    b: Operand,
    *,
    lanes: int,
    exact: int,
    asked: int | None,
    overflow: str,
) -> int:
    """Width of the accumulator: the one that was asked for, if it holds one cycle's sum."""
    if overflow not in OVERFLOWS:
        raise ConfigError(f"overflow {overflow!r}: {' or '.join(OVERFLOWS)}")
    if asked is None:
        return exact
    least = signed_width(*(end * lanes for end in _addend_range(multiplier, a, b)))
    if isinstance(asked, bool) or not least <= asked <= exact + 64:
        raise ConfigError(
            f"an accumulator of {asked} bits for {a.name}: from {least} to {exact + 64}"
        )
    return asked


def systolic_array(
    a: Operand,
    b: Operand,
    architecture: str,
    *,
    rows: int = 1,
    columns: int = 1,
    dot_length: int = DEFAULT_DOT_LENGTH,
    accumulator_bits: int | None = None,
    overflow: str = "wrap",
) -> Unit:
    """Output-stationary array of `rows` by `columns` elements, decoders at its edge.

    Codes ``a`` enter at the left, one per row, ``b`` at the top, one per column. Both are
    decoded there and travel decoded, a register per element; each element keeps its own sum,
    which a product joins one clock cycle after its codes came to the element.
    """
    if not (rows >= 1 and columns >= 1 and rows * columns <= _MOST_ELEMENTS):
        raise ConfigError(f"a systolic array of {rows} x {columns}: 1 to {_MOST_ELEMENTS} elements")
    multiplier = build_multiplier(architecture, a, b)
    exact = accumulator_width(a, b, dot_length)
    width = _accumulator(
        multiplier, a, b, lanes=1, exact=exact, asked=accumulator_bits, overflow=overflow
    )
    bits = signed_width(*_addend_range(multiplier, a, b))
    top = _unit_name(a, b, "systolic", width, None if width >= exact else overflow)
    sizes = (_taken_bits(multiplier, a, "a"), _taken_bits(multiplier, b, "b"))
    text = module(
        top,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "a", a.bits * rows),
            ("input  wire", "b", b.bits * columns),
            ("output wire", "acc", width * rows * columns),
        ],
        _array_body(top, multiplier, (a.bits, b.bits), sizes, shape=(rows, columns), width=width),
        comment=[
            f"Systolic array of {rows} x {columns} elements: {a.name} from the left, {b.name} from",
            "the top, decoded once at the edge. Each element holds its own sum of products.",
            _reach(dot_length, None if width >= exact else overflow),
        ],
    )
    parts = [
        multiplier.modules,
        _sum_module(f"{top}_sum", multiplier, a, b, lanes=1, width=width, overflow=overflow),
        _element_module(top, multiplier, sizes, bits, width),
        text,
    ]
    return Unit(top, f"{top}_element", f"{top}_sum", "\n".join(parts), a, b,
                multiplier, bits, width, dot_length, latency=2, overflow=overflow,
                array_side=ARRAY_SIDE)  # fmt: skip


def _unit_name(a: Operand, b: Operand, kind: str, width: int, overflow: str | None) -> str:
    """Of the top module: variants that can stand in one design have names of their own."""
    names = a.identifier if a == b else f"{a.identifier}_{b.identifier}"
    narrow = "" if overflow is None else f"_{overflow}"
    return identifier(f"{names}_{kind}_acc{width}{narrow}")


def _reach(dot_length: int, overflow: str | None) -> str:
    """What the accumulator holds, for a comment; `overflow` is None where it holds everything."""
    if overflow is None:
        return f"It holds every dot product of {dot_length} terms."
    verb = {"wrap": "wraps around", "saturate": "saturates"}[overflow]
    return f"It {verb}: a dot product of {dot_length} terms can need more bits."


def _comment(
    kind: str, a: Operand, b: Operand, dot_length: int, *, overflow: str | None
) -> list[str]:
    lines = [
        f"{kind.upper()} of {a.name} and {b.name}; acc counts units of {a.step} x {b.step}.",
        _reach(dot_length, overflow),
    ]
    if len(a.valid) < len(a.integers) or len(b.valid) < len(b.integers):
        lines.append("Codes that stand for no number (NaN, infinity, unused) must not occur.")
    return lines


def _addend_range(multiplier: Multiplier, a: Operand, b: Operand) -> tuple[int, int]:
    """Range of a lane's addend; a subtracting lane's is one less than what it stands for."""
    low, high = product_range(a, b)
    if multiplier.signed:
        return low, high
    largest = max(-low, high)
    return -largest - 1, largest


def _taken_bits(multiplier: Multiplier, operand: Operand, side: str) -> int:
    """Width of one operand as the multiplying module takes it: decoded, or the code itself."""
    decoder = multiplier.decoder_a if side == "a" else multiplier.decoder_b
    return sum(width for _, width in decoder.outputs) if decoder else operand.bits


def _product_ports(multiplier: Multiplier) -> list[Port]:
    if multiplier.signed:
        return [("wire", "product", multiplier.product_bits)]
    return [("wire", "magnitude", multiplier.product_bits), ("wire", "negative", 1)]


def _multiply_lines(multiplier: Multiplier, pins: list[str], bits: int) -> list[str]:
    """Multiply what `pins` connect, and make the addend (and carry) of the product."""
    ports = _product_ports(multiplier)
    lines = [f"{kind} {vector(width)}{name};" for kind, name, width in ports]
    outputs = ", ".join(f".{name}({name})" for _, name, _ in ports)
    lines.append(f"{multiplier.name} multiply ({', '.join(pins)}, {outputs});")
    size = multiplier.product_bits
    if multiplier.signed:
        return [*lines, "assign addend = product;"]
    return [
        *lines,
        "// Inverting and adding one subtracts; the carry is that one.",
        f"assign addend = {{{bits - size}'b0, magnitude}} ^ {{{bits}{{negative}}}};",
        "assign carry = negative;",
    ]


def _lane_module(name: str, multiplier: Multiplier, a: Operand, b: Operand, bits: int) -> str:
    lines: list[str] = []
    pins = []
    for side, decoder in (("a", multiplier.decoder_a), ("b", multiplier.decoder_b)):
        if decoder is None:
            pins.append(f".{side}({side})")
            continue
        lines += [f"wire {vector(width)}{output}_{side};" for output, width in decoder.outputs]
        outputs = ", ".join(f".{output}({output}_{side})" for output, _ in decoder.outputs)
        lines.append(f"{decoder.name} decode_{side} (.code({side}), {outputs});")
        pins += [f".{output}_{side}({output}_{side})" for output, _ in decoder.outputs]
    carry: list[Port] = [] if multiplier.signed else [("output wire", "carry", 1)]
    return module(
        name,
        [
            ("input  wire", "a", a.bits),
            ("input  wire", "b", b.bits),
            ("output wire", "addend", bits),
            *carry,
        ],
        [*lines, *_multiply_lines(multiplier, pins, bits)],
        comment=["Product of a pair of codes: addend, plus carry where it has one."],
    )


def _sum_module(
    name: str,
    multiplier: Multiplier,
    a: Operand,
    b: Operand,
    *,
    lanes: int,
    width: int,
    overflow: str,
) -> str:
    """The adder tree and the accumulator; each adder takes one lane's carry."""
    low, high = _addend_range(multiplier, a, b)
    bits = signed_width(low, high)
    has_carry = not multiplier.signed
    lines: list[str] = []
    # Text, number of lanes, width, and the one lane whose carry is still to be added.
    level = [(f"addends[{i * bits} +: {bits}]", 1, bits, i) for i in range(lanes)]
    if lanes == 1:
        level = [("addends", 1, bits, 0)]
    depth = 0
    while len(level) > 1:
        depth += 1
        following = []
        for k in range(0, len(level) - 1, 2):
            (left, count_left, bits_left, pending), right = level[k], level[k + 1]
            count = count_left + right[1]
            size = signed_width(low * count, high * count)
            sum_name = f"sum{depth}_{k // 2}"
            carry = f"carries[{pending}]" if has_carry else ""
            operands = (left, bits_left), (right[0], right[2])
            lines += _adder(sum_name, size, *operands, carry=carry)
            following.append((sum_name, count, size, right[3]))
        level = following + (level[-1:] if len(level) % 2 else [])
    text, _, size, pending = level[0]
    last = f"carries[{pending}]" if lanes > 1 else "carries"
    lines += _last_adder((text, size), last if has_carry else "", width, overflow)
    lines.append("always @(posedge clk) acc <= clear ? {ACC_BITS{1'b0}} : total;")
    carry_ports: list[Port] = [("input  wire", "carries", lanes)] if has_carry else []
    return module(
        name,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "addends", bits * lanes),
            *carry_ports,
            ("output reg", "acc", "ACC_BITS"),
        ],
        lines,
        comment=["Adds to the accumulator; clear makes that zero."],
        parameters=[("ACC_BITS", width)],
    )


def _last_adder(addend: tuple[str, int], carry: str, width: int, overflow: str) -> list[str]:
    """Add to the accumulator; ``total`` is what it is to hold next."""
    if overflow == "wrap":
        return _adder("total", width, ("acc", width), addend, carry=carry, shown="ACC_BITS")
    wide = "{acc[ACC_BITS-1], acc}", width + 1
    return [
        *_adder("exact", width + 1, wide, addend, carry=carry, shown="ACC_BITS+1"),
        "// Where the two highest bits differ the sum does not fit: take the nearest that does.",
        "wire overflows = exact[ACC_BITS] ^ exact[ACC_BITS-1];",
        "wire [ACC_BITS-1:0] nearest = {exact[ACC_BITS], {(ACC_BITS-1){~exact[ACC_BITS]}}};",
        "wire [ACC_BITS-1:0] total = overflows ? nearest : exact[ACC_BITS-1:0];",
    ]


def _adder(
    name: str,
    size: int,
    left: tuple[str, int],
    right: tuple[str, int],
    *,
    carry: str,
    shown: str = "",
) -> list[str]:
    """One adder, its width written as a number or as `shown`; a spare low bit takes the carry."""
    shown = shown or str(size)
    top = str(size - 1) if shown == str(size) else f"{shown}-1"
    x, y = (_widened(text, bits, size, shown) for text, bits in (left, right))
    if not carry:
        return [f"wire [{top}:0] {name} = {_braced(x)} + {_braced(y)};"]
    return [
        f"wire [{shown}:0] {name}_and_carry = {{{x}, 1'b1}} + {{{y}, {carry}}};",
        f"wire [{top}:0] {name} = {name}_and_carry[{shown}:1];",
        f"wire {name}_unused = {name}_and_carry[0];",
    ]


def _braced(text: str) -> str:
    return f"{{{text}}}" if ", " in text else text


def _widened(text: str, bits: int, size: int, shown: str) -> str:
    """Repeat a word's sign up to a width."""
    if bits >= size:
        return text
    if " +: " in text:
        start = int(text[text.index("[") + 1 : text.index(" ")])
        sign = f"{text[: text.index('[')]}[{start + bits - 1}]"
    else:
        sign = f"{text}[{bits - 1}]" if bits > 1 else text
    count = str(size - bits) if shown == str(size) else f"({shown}-{bits})"
    return f"{{{count}{{{sign}}}}}, {text}"


def _array_body(
    top: str,
    multiplier: Multiplier,
    codes: tuple[int, int],
    sizes: tuple[int, int],
    *,
    shape: tuple[int, int],
    width: int,
) -> list[str]:
    (rows, columns), (size_a, size_b) = shape, sizes
    stride = columns + 1
    lines = [
        "// Operands between elements: from column c to c + 1, and from row r to r + 1.",
        f"wire [{size_a * rows * stride - 1}:0] right;",
        f"wire [{size_b * columns * (rows + 1) - 1}:0] down;",
        "wire unused = &{1'b0, right, down}; // the last ones leave the array",
        "genvar r, c;",
        "generate",
    ]
    lines += _edge(
        multiplier, "a", f"right[r * {stride * size_a} +: {size_a}]", count=rows, bits=codes[0]
    )
    lines += _edge(multiplier, "b", f"down[c * {size_b} +: {size_b}]", count=columns, bits=codes[1])
    return [
        *lines,
        f"    for (r = 0; r < {rows}; r = r + 1) begin : row",
        f"        for (c = 0; c < {columns}; c = c + 1) begin : column",
        f"            {top}_element element (",
        "                .clk(clk), .clear(clear),",
        f"                .a_in(right[(r * {stride} + c) * {size_a} +: {size_a}]),",
        f"                .a_out(right[(r * {stride} + c + 1) * {size_a} +: {size_a}]),",
        f"                .b_in(down[(r * {columns} + c) * {size_b} +: {size_b}]),",
        f"                .b_out(down[((r + 1) * {columns} + c) * {size_b} +: {size_b}]),",
        f"                .acc(acc[(r * {columns} + c) * {width} +: {width}]));",
        "        end",
        "    end",
        "endgenerate",
    ]


def _edge(multiplier: Multiplier, side: str, target: str, *, count: int, bits: int) -> list[str]:
    """Decoders of one side of an array."""
    decoder = multiplier.decoder_a if side == "a" else multiplier.decoder_b
    index = "r" if side == "a" else "c"
    taken = f"{side}[{index} * {bits} +: {bits}]"
    edge = "left" if side == "a" else "above"
    loop = f"    for ({index} = 0; {index} < {count}; {index} = {index} + 1) begin : {edge}"
    if decoder is None:
        return [loop, f"        assign {target} = {taken};", "    end"]
    pins = ", ".join(f".{output}({output})" for output, _ in decoder.outputs)
    words = ", ".join(output for output, _ in decoder.outputs)
    return [
        loop,
        *(f"        wire {vector(width)}{output};" for output, width in decoder.outputs),
        f"        {decoder.name} decode (.code({taken}), {pins});",
        f"        assign {target} = {{{words}}};",
        "    end",
    ]


def _element_module(
    top: str, multiplier: Multiplier, sizes: tuple[int, int], bits: int, width: int
) -> str:
    pins = []
    lines = []
    for side, decoder in (("a", multiplier.decoder_a), ("b", multiplier.decoder_b)):
        if decoder is None:
            pins.append(f".{side}({side}_out)")
            continue
        lines += [f"wire {vector(size)}{output}_{side};" for output, size in decoder.outputs]
        words = ", ".join(f"{output}_{side}" for output, _ in decoder.outputs)
        lines.append(f"assign {{{words}}} = {side}_out;")
        pins += [f".{output}_{side}({output}_{side})" for output, _ in decoder.outputs]
    lines += [
        "always @(posedge clk) begin",
        "    a_out <= a_in;",
        "    b_out <= b_in;",
        "end",
        f"wire {vector(bits)}addend;",
        *([] if multiplier.signed else ["wire carry;"]),
        *_multiply_lines(multiplier, pins, bits),
        f"{top}_sum accumulate (.clk(clk), .clear(clear), .addends(addend), "
        + ("" if multiplier.signed else ".carries(carry), ")
        + ".acc(acc));",
    ]
    return module(
        f"{top}_element",
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "a_in", sizes[0]),
            ("input  wire", "b_in", sizes[1]),
            ("output reg", "a_out", sizes[0]),
            ("output reg", "b_out", sizes[1]),
            ("output wire", "acc", width),
        ],
        lines,
        comment=["One element: passes both operands on, and adds their product to its sum."],
    )
