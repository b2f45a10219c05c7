"""Ways to build the product of two codes.

Each function returns a :class:`Multiplier` for a pair of operands, or raises
:class:`~studentfloat.hardware.decoders.UnavailableError` where the operands do not lend themselves
to it. None wins everywhere, so all are synthesized and the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from studentfloat.hardware.decoders import (
    Decoder,
    UnavailableError,
    float_decoder,
    magnitude_support,
    sign_decoder,
    sign_magnitude_decoder,
    twos_complement_decoder,
)
from studentfloat.hardware.operands import Operand, signed_width
from studentfloat.hardware.verilog import literal, module, place, signed_literal

__all__ = ["ARCHITECTURES", "Multiplier", "build_multiplier", "product_range"]

_LARGEST_PRODUCT_TABLE = 8
"""Most input bits of a flat table of products: 256 entries."""


@dataclass(frozen=True)
class Multiplier:
    """Decoders of two operands and the product of what they decode.

    Attributes
    ----------
    architecture
        Key of :data:`ARCHITECTURES`.
    decoder_a, decoder_b
        The same object where both operands are decoded alike; None where the
        product is looked up from the codes themselves.
    name, text
        The multiplying module. Its inputs are the decoders' outputs with ``_a`` or ``_b``
        added, or the codes ``a`` and ``b``.
    product_bits
        Width of its output.
    signed
        True: the output is ``product`` in two's complement. False: it is
        ``magnitude`` and ``negative``.
    """

    architecture: str
    decoder_a: Decoder | None
    decoder_b: Decoder | None
    name: str
    text: str
    product_bits: int
    signed: bool

    @property
    def modules(self) -> str:
        """Verilog of the decoders (once each) and the multiplying module."""
        decoders = {d.name: d.text for d in (self.decoder_a, self.decoder_b) if d}
        return "\n".join([*decoders.values(), self.text])

    @property
    def inputs(self) -> tuple[tuple[str, int], ...]:
        """Name and width of each input that comes from a decoder."""
        return tuple(
            (f"{output}_{side}", width)
            for side, decoder in (("a", self.decoder_a), ("b", self.decoder_b))
            if decoder
            for output, width in decoder.outputs
        )


def product_range(a: Operand, b: Operand) -> tuple[int, int]:
    """Least and greatest product."""
    corners = [x * y for x in (a.minimum, a.maximum) for y in (b.minimum, b.maximum)]
    return min(corners), max(corners)


def build_multiplier(architecture: str, a: Operand, b: Operand) -> Multiplier:
    """Build one architecture for two operands.

    Raises
    ------
    UnavailableError
        If the operands do not lend themselves to it.
    """
    return ARCHITECTURES[architecture](a, b)


def _pair(make: Callable[[Operand], Decoder], a: Operand, b: Operand) -> tuple[Decoder, Decoder]:
    decoder_a = make(a)
    return decoder_a, decoder_a if b == a else make(b)


def _stem(a: Operand, b: Operand, kind: str) -> str:
    names = a.identifier if a == b else f"{a.identifier}_by_{b.identifier}"
    return f"{names}_{kind}"


def _sum(rows: Sequence[str], width: int, target: str) -> list[str]:
    lines = [f"wire {_size(width)}row{i} = {row};" for i, row in enumerate(rows)]
    return [*lines, f"assign {target} = {' + '.join(f'row{i}' for i in range(len(rows)))};"]


def _size(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def _bit(name: str, index: int, width: int) -> str:
    return f"{name}[{index}]" if width > 1 else name


def _gated(name: str, width: int, gate: str) -> tuple[int, str]:
    """All bits of a word, or zero."""
    return width, f"{name} & {{{width}{{{gate}}}}}" if width > 1 else f"{name} & {gate}"


def _inputs(a: Decoder, b: Decoder) -> list[tuple[str, str, int]]:
    return [
        ("input  wire", f"{output}_{side}", width)
        for side, decoder in (("a", a), ("b", b))
        for output, width in decoder.outputs
    ]


def _baugh_wooley(a: Operand, b: Operand) -> Multiplier:
    """Two's complement array of Baugh and Wooley (IEEE Trans. Computers C-22, 1973)."""
    decoder_a, decoder_b = _pair(twos_complement_decoder, a, b)
    bits_a, bits_b = a.signed_bits, b.signed_bits
    low, high = product_range(a, b)
    width = signed_width(low, high)
    top_a, top_b = bits_a - 1, bits_b - 1
    rows = []
    for j in range(bits_b):
        gate = f"number_b[{j}]"
        corner = f"number_a[{top_a}] & {gate}"
        rest = f"number_a[{top_a - 1}:0] & {{{top_a}{{{gate}}}}}"
        pieces = [
            (1, f"~({corner})" if j < top_b else corner),
            (top_a, f"~({rest})" if j == top_b else rest),
        ]
        rows.append(place(pieces, j, width))
    # What the inverted terms add too much, modulo the width.
    correction = (1 << top_a) + (1 << top_b) + (1 << (bits_a + bits_b - 1))
    rows.append(literal(correction, width))
    name = _stem(a, b, "multiply_baugh_wooley")
    text = module(
        name,
        [*_inputs(decoder_a, decoder_b), ("output wire", "product", width)],
        _sum(rows, width, "product"),
        comment=["Two's complement array (Baugh-Wooley): a row of partial products for each bit",
                 "of b, its negative terms inverted, and a constant that makes up for that."],
    )  # fmt: skip
    return Multiplier("baugh-wooley", decoder_a, decoder_b, name, text, width, signed=True)


def _sign_magnitude(a: Operand, b: Operand) -> Multiplier:
    """Unsigned array over the magnitudes; the signs by an exclusive or."""
    decoder_a, decoder_b = _pair(sign_magnitude_decoder, a, b)
    bits_a, bits_b = a.magnitude_bits, b.magnitude_bits
    width = _product_magnitude_bits(a, b)
    rows = [
        place([_gated("magnitude_a", bits_a, _bit("magnitude_b", j, bits_b))], j, width)
        for j in range(bits_b)
    ]
    name = _stem(a, b, "multiply_sign_magnitude")
    text = _magnitude_module(
        name, decoder_a, decoder_b, width, body=_sum(rows, width, "magnitude"),
        comment=["Product of the magnitudes, a row for each bit of b, and its sign."],
    )  # fmt: skip
    return Multiplier("sign-magnitude", decoder_a, decoder_b, name, text, width, signed=False)


def _float(a: Operand, b: Operand) -> Multiplier:
    """Product of the significands, shifted by the sum of the exponents."""
    decoder_a = _float_or_integer(a)
    decoder_b = decoder_a if b == a else _float_or_integer(b)
    if not (decoder_a.width("shift") or decoder_b.width("shift")):
        raise UnavailableError("neither operand has an exponent")
    width = _product_magnitude_bits(a, b)
    name_a, bits_a = _significand(decoder_a, "a")
    name_b, bits_b = _significand(decoder_b, "b")
    inner = bits_a + bits_b if min(bits_a, bits_b) > 1 else max(bits_a, bits_b)
    rows = [
        place([_gated(name_a, bits_a, _bit(name_b, j, bits_b))], j, inner) for j in range(bits_b)
    ]
    shifts = [
        (f"shift_{side}", decoder.width("shift"))
        for side, decoder in (("a", decoder_a), ("b", decoder_b))
        if decoder.width("shift")
    ]
    greatest = sum(_greatest_shift(operand, d) for operand, d in ((a, decoder_a), (b, decoder_b)))
    shift_bits = max(1, greatest.bit_length())
    amounts = [place([(size, text)], 0, shift_bits) for text, size in shifts]
    full = max(width, inner + greatest)
    body = [
        f"wire {_size(inner)}significand;",
        *_sum(rows, inner, "significand"),
        f"wire {_size(shift_bits)}shift = {' + '.join(amounts)};",
        f"wire {_size(full)}shifted = {place([(inner, 'significand')], 0, full)} << shift;",
    ]
    if full > width:
        body += [
            f"assign magnitude = shifted[{width - 1}:0];",
            f"wire unused = &{{1'b0, shifted[{full - 1}:{width}]}}; // always zero",
        ]
    else:
        body.append("assign magnitude = shifted;")
    name = _stem(a, b, "multiply_float")
    text = _magnitude_module(
        name, decoder_a, decoder_b, width, body=body,
        comment=["Product of the significands, shifted by the sum of the exponents, and its sign."],
    )  # fmt: skip
    return Multiplier("float", decoder_a, decoder_b, name, text, width, signed=False)


def _shift_add(a: Operand, b: Operand) -> Multiplier:
    """Bits of a magnitude that never occur together share one row.

    For powers of two that leaves one row, a shift; for sums of two powers of
    two (arXiv 1909.13144) two, added.
    """
    (classes_a, classes_b) = (_exclusive_classes(a), _exclusive_classes(b))
    over_b = len(classes_b) <= len(classes_a)
    classes, multiplicand, selector = (
        (classes_b, ("a", a.magnitude_bits), ("b", b.magnitude_bits))
        if over_b
        else (classes_a, ("b", b.magnitude_bits), ("a", a.magnitude_bits))
    )
    if len(classes) == selector[1]:
        raise UnavailableError("no two bits of a magnitude exclude each other")
    decoder_a, decoder_b = _pair(sign_magnitude_decoder, a, b)
    width = _product_magnitude_bits(a, b)
    side, bits = multiplicand
    rows = []
    for positions in classes:
        terms = []
        for j in positions:
            gate = _bit(f"magnitude_{selector[0]}", j, selector[1])
            terms.append(place([_gated(f"magnitude_{side}", bits, gate)], j, width))
        rows.append(" | ".join(terms))
    name = _stem(a, b, "multiply_shift_add")
    text = _magnitude_module(
        name, decoder_a, decoder_b, width, body=_sum(rows, width, "magnitude"),
        comment=[f"Product of the magnitudes: bits of {selector[0]} that never occur together",
         "share a row, which is then a choice among shifts."],
    )  # fmt: skip
    return Multiplier("shift-add", decoder_a, decoder_b, name, text, width, signed=False)


def _table(a: Operand, b: Operand) -> Multiplier:
    """Every product written out, by code."""
    if a.bits + b.bits > _LARGEST_PRODUCT_TABLE:
        raise UnavailableError(f"a table over {a.bits + b.bits} bits")
    low, high = product_range(a, b)
    width = signed_width(low, high)
    entries = [
        (code, x * y)
        for code, (x, y) in enumerate((x, y) for x in a.integers for y in b.integers)
        if x is not None and y is not None
    ]
    name = _stem(a, b, "multiply_table")
    body = [
        "always @* begin",
        "    case ({a, b})",
        *(
            f"        {literal(code, a.bits + b.bits)}: product = {signed_literal(value, width)};"
            for code, value in entries
        ),
        f"        default: product = {width}'d0;",
        "    endcase",
        "end",
    ]
    text = module(
        name,
        [
            ("input  wire", "a", a.bits),
            ("input  wire", "b", b.bits),
            ("output reg", "product", width),
        ],
        body,
        comment=["Every product, by the two codes."],
    )
    return Multiplier("table", None, None, name, text, width, signed=True)


def _magnitude_table(a: Operand, b: Operand) -> Multiplier:
    """The magnitudes' products written out, over the bits of the codes that matter for them."""
    support_a, support_b = magnitude_support(a), magnitude_support(b)
    looked_at = len(support_a) + len(support_b)
    if looked_at > _LARGEST_PRODUCT_TABLE:
        raise UnavailableError(f"a table over {looked_at} bits")
    decoder_a, decoder_b = _pair(sign_decoder, a, b)
    width = _product_magnitude_bits(a, b)
    products: dict[int, int] = {}
    for code_a in a.valid:
        for code_b in b.valid:
            index = _gather(code_a, support_a) << len(support_b) | _gather(code_b, support_b)
            x, y = a.integers[code_a], b.integers[code_b]
            assert x is not None
            assert y is not None
            products[index] = abs(x * y)
    subject = ", ".join([f"a[{i}]" for i in support_a] + [f"b[{i}]" for i in support_b])
    body = [
        "wire sign_a;",
        "wire sign_b;",
        f"{decoder_a.name} decode_a (.code(a), .sign(sign_a));",
        f"{decoder_b.name} decode_b (.code(b), .sign(sign_b));",
        "always @* begin",
        f"    case ({{{subject}}})",
        *(
            f"        {literal(index, looked_at)}: magnitude = {literal(value, width)};"
            for index, value in sorted(products.items())
        ),
        f"        default: magnitude = {width}'d0;",
        "    endcase",
        "end",
        "assign negative = sign_a ^ sign_b;",
    ]
    name = _stem(a, b, "multiply_magnitude_table")
    table = module(
        name,
        [
            ("input  wire", "a", a.bits),
            ("input  wire", "b", b.bits),
            ("output reg", "magnitude", width),
            ("output wire", "negative", 1),
        ],
        body,
        comment=[
            "Every product of magnitudes, by the bits of the codes that matter; and its sign."
        ],
    )
    decoders = {decoder_a.name: decoder_a.text, decoder_b.name: decoder_b.text}
    text = "\n".join([*decoders.values(), table])
    return Multiplier("magnitude-table", None, None, name, text, width, signed=False)


ARCHITECTURES: Mapping[str, Callable[[Operand, Operand], Multiplier]] = MappingProxyType(
    {
        "baugh-wooley": _baugh_wooley,
        "sign-magnitude": _sign_magnitude,
        "float": _float,
        "shift-add": _shift_add,
        "table": _table,
        "magnitude-table": _magnitude_table,
    }
)
"""Name to builder."""


def _product_magnitude_bits(a: Operand, b: Operand) -> int:
    low, high = product_range(a, b)
    return max(1, max(-low, high).bit_length())


def _magnitude_module(
    name: str,
    a: Decoder,
    b: Decoder,
    width: int,
    *,
    body: Sequence[str],
    comment: Sequence[str],
) -> str:
    return module(
        name,
        [*_inputs(a, b), ("output wire", "magnitude", width), ("output wire", "negative", 1)],
        [*body, "assign negative = sign_a ^ sign_b;"],
        comment=comment,
    )


def _float_or_integer(operand: Operand) -> Decoder:
    try:
        return float_decoder(operand)
    except UnavailableError:
        return sign_magnitude_decoder(operand)


def _significand(decoder: Decoder, side: str) -> tuple[str, int]:
    kind = "significand" if decoder.width("significand") else "magnitude"
    return f"{kind}_{side}", decoder.width(kind)


def _greatest_shift(operand: Operand, decoder: Decoder) -> int:
    if not decoder.width("shift"):
        return 0
    return operand.magnitude_bits - decoder.width("significand")


def _exclusive_classes(operand: Operand) -> list[list[int]]:
    """Positions of the magnitude's bits, grouped so that no number has two bits of one group."""
    magnitudes = [abs(value) for value in operand.numbers]
    classes: list[list[int]] = []
    for position in reversed(range(operand.magnitude_bits)):
        for group in classes:
            if not any(m >> position & 1 and m >> other & 1 for m in magnitudes for other in group):
                group.append(position)
                break
        else:
            classes.append([position])
    return [sorted(group) for group in classes]


def _gather(code: int, bits: Sequence[int]) -> int:
    """The number that some bits of a code spell."""
    value = 0
    for bit in bits:
        value = value << 1 | code >> bit & 1
    return value
