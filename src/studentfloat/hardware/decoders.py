"""Decoders: from a code to the parts that a multiplier works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studentfloat.hardware.boolean import BitFunction, reduce_word
from studentfloat.hardware.operands import Operand, odd_part
from studentfloat.hardware.verilog import literal, module

__all__ = [
    "Decoder",
    "UnavailableError",
    "float_decoder",
    "is_twos_complement",
    "magnitude_support",
    "sign_decoder",
    "sign_magnitude_decoder",
    "tabulated_decoder",
    "twos_complement_decoder",
]

_LARGEST_TABLE = 8
"""Most bits of a code that a decoder's table may look at."""

Word = tuple[int, Sequence[int | None]]
"""Width, and the word for each code (None: does not matter)."""


class UnavailableError(Exception):
    """An architecture that an operand does not lend itself to; never leaves this package."""


@dataclass(frozen=True)
class Decoder:
    """A combinational module from ``code`` to some words.

    Attributes
    ----------
    name
        Of the module.
    outputs
        Name and width of each word.
    text
        Verilog of the module.
    """

    name: str
    outputs: tuple[tuple[str, int], ...]
    text: str

    def width(self, output: str) -> int:
        """Width of one word; 0 if the decoder has no such word."""
        return dict(self.outputs).get(output, 0)


def is_twos_complement(operand: Operand) -> bool:
    """Whether every code is its own integer in two's complement."""
    half, span = 1 << (operand.bits - 1), 1 << operand.bits
    return all(
        value is None or value == (code - span if code >= half else code)
        for code, value in enumerate(operand.integers)
    )


def _scale(operand: Operand) -> str:
    return f"unit {operand.step}" + (
        f", rounded to {operand.lookup_bits} bits" if operand.lookup_bits else ""
    )


def twos_complement_decoder(operand: Operand) -> Decoder:
    """Code to ``number``, the integer in two's complement."""
    return tabulated_decoder(
        f"{operand.identifier}_to_integer",
        operand,
        {"number": (operand.signed_bits, operand.integers)},
        f"{operand.name} code to two's complement ({_scale(operand)}).",
    )


def sign_magnitude_decoder(operand: Operand) -> Decoder:
    """Code to ``sign`` and ``magnitude``."""
    name = f"{operand.identifier}_to_sign_magnitude"
    if is_twos_complement(operand):
        return _negating(name, operand)
    magnitudes = [None if value is None else abs(value) for value in operand.integers]
    words = {"sign": _signs(operand), "magnitude": (operand.magnitude_bits, magnitudes)}
    return tabulated_decoder(
        name, operand, words, f"{operand.name} code to sign and magnitude ({_scale(operand)})."
    )


def sign_decoder(operand: Operand) -> Decoder:
    """Code to ``sign`` alone."""
    return tabulated_decoder(
        f"{operand.identifier}_to_sign",
        operand,
        {"sign": _signs(operand)},
        f"Sign of an {operand.name} code; that of zero means nothing.",
    )


def float_decoder(operand: Operand) -> Decoder:
    """Code to ``sign``, ``significand`` and ``shift``.

    The integer is ``significand << shift``. The significand is as wide as the widest odd part
    and as large as that allows, so that a minifloat's is its mantissa with the leading one.
    """
    width = max(odd_part(value).bit_length() for value in operand.numbers)
    significands: list[int | None] = []
    shifts: list[int | None] = []
    for value in operand.integers:
        magnitude = 0 if value is None else abs(value)
        shift = max(0, magnitude.bit_length() - width)
        significands.append(None if value is None else magnitude >> shift)
        shifts.append(shift if magnitude else None)
    shift_bits = max(shift or 0 for shift in shifts).bit_length()
    if not shift_bits or is_twos_complement(operand):
        raise UnavailableError(f"{operand.name} has no exponent")
    words = {
        "sign": _signs(operand),
        "significand": (width, significands),
        "shift": (shift_bits, shifts),
    }
    return tabulated_decoder(
        f"{operand.identifier}_to_float",
        operand,
        words,
        f"{operand.name} code to sign, significand and shift ({_scale(operand)}).",
    )


def magnitude_support(operand: Operand) -> tuple[int, ...]:
    """Bits of the code that its magnitude depends on, most significant first."""
    magnitudes = [None if value is None else abs(value) for value in operand.integers]
    functions = reduce_word(magnitudes, operand.bits, operand.magnitude_bits)
    return tuple(sorted({bit for f in functions for bit in f.support}, reverse=True))


def _signs(operand: Operand) -> Word:
    # The sign of zero does not matter: nothing is added or nothing is subtracted.
    return 1, [None if not value else int(value < 0) for value in operand.integers]


def _negating(name: str, operand: Operand) -> Decoder:
    """Sign and magnitude of a two's complement number, by arithmetic."""
    bits = operand.bits
    width = operand.magnitude_bits
    outputs = (("sign", 1), ("magnitude", width))
    text = module(
        name,
        [
            ("input  wire", "code", bits),
            ("output wire", "sign", 1),
            ("output wire", "magnitude", width),
        ],
        [
            f"assign sign = code[{bits - 1}];",
            f"assign magnitude = (code[{width - 1}:0] ^ {{{width}{{sign}}}})",
            f"                 + {{{width - 1}'b0, sign}};"
            if width > 1
            else "                 + sign;",
        ],
        comment=[f"{operand.name} code to sign and magnitude ({_scale(operand)})."],
    )
    return Decoder(name, outputs, text)


def tabulated_decoder(
    name: str, operand: Operand, words: Mapping[str, Word], comment: str
) -> Decoder:
    """A decoder whose bits are wires where they can be, and tables over few bits elsewhere."""
    ports = [("input  wire", "code", operand.bits)]
    body: list[str] = []
    used: set[int] = set()
    for output, (width, values) in words.items():
        functions = reduce_word(values, operand.bits, width)
        used |= {bit for function in functions for bit in function.support}
        ports.append(("output wire", output, width))
        body += _word(output, functions, operand.bits)
    unused = sorted(set(range(operand.bits)) - used)
    if unused:
        bits = ", ".join(_code_bit(bit, operand.bits) for bit in unused)
        body += [f"wire unused = &{{1'b0, {bits}}}; // these say nothing about the value"]
    outputs = tuple((output, width) for output, (width, _) in words.items())
    return Decoder(name, outputs, module(name, ports, body, comment=[comment]))


def _word(output: str, functions: Sequence[BitFunction], code_bits: int) -> list[str]:
    """Drive one output: wires, and one table for each set of bits looked at."""
    tables: dict[tuple[int, ...], list[int]] = {}
    source: dict[int, str] = {}
    for bit, function in enumerate(functions):
        if len(function.support) > 1:
            tables.setdefault(function.support, []).append(bit)
        elif not function.support:
            source[bit] = f"1'b{function.outputs[0]}"
        else:
            negation = "~" if function.outputs == (1, 0) else ""
            source[bit] = negation + _code_bit(function.support[0], code_bits)
    lines: list[str] = []
    for number, (support, bits) in enumerate(tables.items()):
        if len(support) > _LARGEST_TABLE:
            raise UnavailableError(f"{output} would be a table over {len(support)} bits")
        register = f"{output}_table" if len(tables) == 1 else f"{output}_table{number}"
        lines += _table(register, support, [functions[bit] for bit in bits], code_bits)
        for position, bit in enumerate(bits):
            source[bit] = f"{register}[{position}]" if len(bits) > 1 else register
    parts = [source[bit] for bit in reversed(range(len(functions)))]
    wired = parts[0] if len(parts) == 1 else "{" + ", ".join(_merged(parts)) + "}"
    return [*lines, f"assign {output} = {wired};"]


def _table(
    register: str, support: Sequence[int], functions: Sequence[BitFunction], code_bits: int
) -> list[str]:
    width = len(functions)
    size = f"[{width - 1}:0] " if width > 1 else ""
    subject = _merged([_code_bit(bit, code_bits) for bit in support])
    chosen = subject[0] if len(subject) == 1 else "{" + ", ".join(subject) + "}"
    lines = [f"reg {size}{register};", "always @* begin", f"    case ({chosen})"]
    for index in range(2 ** len(support)):
        word = sum(function.outputs[index] << i for i, function in enumerate(functions))
        # The last one as default, so that no path leaves the register without a value.
        label = "default" if index == 2 ** len(support) - 1 else literal(index, len(support))
        lines.append(f"        {label}: {register} = {literal(word, width)};")
    return [*lines, "    endcase", "end"]


def _code_bit(bit: int, code_bits: int) -> str:
    return f"code[{bit}]" if code_bits > 1 else "code"


def _merged(parts: Sequence[str]) -> list[str]:
    """Write runs such as ``code[3], code[2]`` as ``code[3:2]``."""
    merged: list[str] = []
    run: tuple[str, int, int] | None = None
    for part in [*parts, ""]:
        name, _, index = part.removesuffix("]").rpartition("[")
        plain = part.endswith("]") and not part.startswith("~")
        if run and plain and (name, int(index)) == (run[0], run[2] - 1):
            run = (name, run[1], int(index))
            continue
        if run:
            high, low = run[1], run[2]
            merged.append(f"{run[0]}[{high}]" if high == low else f"{run[0]}[{high}:{low}]")
            run = None
        if plain:
            run = (name, int(index), int(index))
        elif part:
            merged.append(part)
    return merged
