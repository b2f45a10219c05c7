"""Units that multiply and accumulate, as Verilog text with the operands' values in it."""

from __future__ import annotations

from dataclasses import dataclass

from studentfloat.errors import ConfigError
from studentfloat.hardware.multipliers import Multiplier, build_multiplier, product_range
from studentfloat.hardware.operands import Operand, identifier, signed_width
from studentfloat.hardware.verilog import Port, module, vector

__all__ = [
    "DEFAULT_DOT_LENGTH",
    "Unit",
    "accumulate_module",
    "accumulator_width",
    "check_accumulator",
    "connect_multiplier",
    "mac",
    "multiplier_input_bits",
    "unit_name",
]

DEFAULT_DOT_LENGTH = 128
_LONGEST_DOT = 1 << 20


@dataclass(frozen=True)
class Unit:
    """A unit that multiplies and accumulates, as Verilog.

    Attributes
    ----------
    kind
        ``mac``, ``dot16``, ``systolic`` ...
    top
        Name of the top module.
    verilog
        All modules.
    a, b
        The operands: `a` is the format, `b` the activations.
    multiplier
        The multiplier inside.
    accumulator_bits
        Width of the accumulator; it holds every dot product of `dot_length` terms.
    lanes
        Products per clock cycle.
    latency
        Clock cycles from a pair of codes at the inputs to its product in the sum.
    """

    kind: str
    top: str
    verilog: str
    a: Operand
    b: Operand
    multiplier: Multiplier
    accumulator_bits: int
    dot_length: int
    lanes: int = 1
    latency: int = 1

    @property
    def architecture(self) -> str:
        """Of its multiplier."""
        return self.multiplier.architecture


def accumulator_width(a: Operand, b: Operand, dot_length: int) -> int:
    """Width of the two's complement accumulator that no dot product of that length overflows."""
    if isinstance(dot_length, bool) or not 1 <= dot_length <= _LONGEST_DOT:
        raise ConfigError(f"dot length {dot_length}: a whole number from 1 to {_LONGEST_DOT}")
    low, high = product_range(a, b)
    return signed_width(min(0, low * dot_length), max(0, high * dot_length))


def check_accumulator(a: Operand, b: Operand, dot_length: int, bits: int | None) -> int:
    """Return the accumulator's width: the exact one, or a given one that holds a product."""
    exact = accumulator_width(a, b, dot_length)
    if bits is None:
        return exact
    least = signed_width(*product_range(a, b))
    if not least <= bits <= exact + 64:
        raise ConfigError(
            f"an accumulator of {bits} bits for {a.name} by {b.name}: one product needs {least}"
        )
    return bits


def unit_name(a: Operand, b: Operand, kind: str) -> str:
    """Name of a unit's top module."""
    names = a.identifier if a == b else f"{a.identifier}_{b.identifier}"
    return identifier(f"{names}_{kind}")


def mac(
    a: Operand,
    b: Operand,
    architecture: str,
    dot_length: int = DEFAULT_DOT_LENGTH,
    accumulator_bits: int | None = None,
) -> Unit:
    """Multiply-accumulate: one product joins an exact accumulator each clock cycle.

    Ports: ``clk``, ``clear`` (synchronous: the accumulator becomes zero), the codes ``a`` and
    ``b``, and the accumulator ``acc``, which counts units of ``a.step * b.step``.

    Parameters
    ----------
    dot_length
        Terms that the accumulator holds without overflow.
    accumulator_bits
        A width of the accumulator's own; it then wraps around where that is too narrow.

    Raises
    ------
    UnavailableError
        If the operands do not lend themselves to the architecture.
    """
    multiplier = build_multiplier(architecture, a, b)
    width = check_accumulator(a, b, dot_length, accumulator_bits)
    top = unit_name(a, b, "mac")
    accumulator = accumulate_module(f"{top}_accumulate", multiplier, width)
    wires, pins = connect_multiplier(multiplier)
    text = module(
        top,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            ("input  wire", "a", a.bits),
            ("input  wire", "b", b.bits),
            ("output wire signed", "acc", width),
        ],
        [
            *wires,
            f"{top}_accumulate accumulate (.clk(clk), .clear(clear), {pins}, .acc(acc));",
        ],
        comment=[
            f"Multiply-accumulate of {a.name} and {b.name}; acc counts units of "
            f"{a.step} x {b.step}.",
            *_contract(a, b, dot_length, width),
        ],
    )
    verilog = "\n".join([multiplier.modules, accumulator, text])
    return Unit("mac", top, verilog, a, b, multiplier, width, dot_length)


def _contract(a: Operand, b: Operand, dot_length: int, width: int) -> list[str]:
    exact = width >= accumulator_width(a, b, dot_length)
    lines = [
        f"It holds every dot product of {dot_length} terms."
        if exact
        else f"It wraps around: a dot product of {dot_length} terms can need more bits."
    ]
    if len(a.valid) < len(a.integers) or len(b.valid) < len(b.integers):
        lines.append("Codes that stand for no number (NaN, infinity, unused) must not occur.")
    return lines


def connect_multiplier(multiplier: Multiplier) -> tuple[list[str], str]:
    """Decode ``a`` and ``b``, multiply; return those lines and the pins of the product."""
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
    lines += product_wires(multiplier)
    lines.append(f"{multiplier.name} multiply ({', '.join(pins)}, {product_pins(multiplier)});")
    return lines, product_pins(multiplier)


def product_ports(multiplier: Multiplier, direction: str) -> list[Port]:
    """The product as ports of a module that makes or takes it."""
    if multiplier.signed:
        return [(direction, "product", multiplier.product_bits)]
    return [(direction, "magnitude", multiplier.product_bits), (direction, "negative", 1)]


def product_wires(multiplier: Multiplier) -> list[str]:
    """Declarations of the product's wires."""
    return [f"wire {vector(width)}{name};" for _, name, width in product_ports(multiplier, "")]


def product_pins(multiplier: Multiplier) -> str:
    """The product's connections by name."""
    return ", ".join(f".{name}({name})" for _, name, _ in product_ports(multiplier, ""))


def multiplier_input_bits(multiplier: Multiplier, operand: Operand, side: str) -> int:
    """Width of one operand as the multiplying module takes it: decoded, or the code itself."""
    decoder = multiplier.decoder_a if side == "a" else multiplier.decoder_b
    return sum(width for _, width in decoder.outputs) if decoder else operand.bits


def accumulate_module(name: str, multiplier: Multiplier, width: int) -> str:
    """The adder and the accumulator's register."""
    product = multiplier.product_bits
    if multiplier.signed:
        body = [
            f"wire [ACC_BITS-1:0] addend = {extended('product', product, width)};",
            "wire [ACC_BITS-1:0] sum = acc + addend;",
        ]
        following = "sum"
    else:
        magnitude = extended("magnitude", product, width, signed=False)
        body = [
            "// Inverting and adding one subtracts; the spare low bit carries that one in.",
            f"wire [ACC_BITS-1:0] addend = {magnitude} ^ {{ACC_BITS{{negative}}}};",
            "wire [ACC_BITS:0] sum = {acc, 1'b1} + {addend, negative};",
            "wire unused = sum[0];",
        ]
        following = "sum[ACC_BITS:1]"
    body += [
        f"always @(posedge clk) acc <= clear ? {{ACC_BITS{{1'b0}}}} : {following};",
    ]
    text = module(
        name,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "clear", 1),
            *product_ports(multiplier, "input  wire"),
            ("output reg", "acc", "ACC_BITS"),
        ],
        body,
        comment=["Adds a product to the accumulator; clear makes that zero."],
        parameters=[("ACC_BITS", width)],
    )
    return text


def extended(name: str, width: int, to: int, *, signed: bool = True) -> str:
    """A word widened to the accumulator's width, by its sign or by zeros."""
    if width == to:
        return name
    top = f"{name}[{width - 1}]" if width > 1 else name
    filler = top if signed else "1'b0"
    return f"{{{{(ACC_BITS-{width}){{{filler}}}}}, {name}}}"

