"""The dequantizer of weight-only use: a code times its block's scale, as a 16-bit float."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ConfigError
from studentfloat.hardware.decoders import Decoder, tabulated_decoder
from studentfloat.hardware.netlist import Netlist
from studentfloat.hardware.operands import Operand, odd_part
from studentfloat.hardware.proof import Proof
from studentfloat.hardware.simulation import next_states, pack, settle, unpack
from studentfloat.hardware.verilog import literal, module, place, vector

__all__ = ["FLOATS", "Dequantizer", "FloatType", "dequantize", "dequantizer", "prove_dequantizer"]

_CHUNK = 1 << 18


@dataclass(frozen=True)
class FloatType:
    """A 16-bit float: exponent and fraction bits."""

    name: str
    exponent_bits: int
    fraction_bits: int

    @property
    def highest_exponent(self) -> int:
        """Exponent field of infinity and NaN."""
        return (1 << self.exponent_bits) - 1

    @property
    def bias(self) -> int:
        """Exponent field of one."""
        return self.highest_exponent // 2


FLOATS = MappingProxyType({"bf16": FloatType("bf16", 8, 7), "fp16": FloatType("fp16", 5, 10)})


@dataclass(frozen=True)
class Dequantizer:
    """Verilog of a dequantizer. Ports: ``clk``, ``code``, ``scale``, ``value`` (registered)."""

    top: str
    verilog: str
    operand: Operand
    scale: FloatType
    decoder: Decoder
    architecture: str = "normalized"


def dequantizer(operand: Operand, scale: str = "bf16") -> Dequantizer:
    """Build a dequantizer.

    ``value`` is ``integer(code) * scale``, rounded to nearest even; the format's step belongs
    into the stored scale. A scale of zero or below the normal range gives zero, a
    product beyond the range infinity; the scale must not be infinite or NaN.

    Parameters
    ----------
    scale
        Type of scale and result: ``bf16`` or ``fp16``.
    """
    if scale not in FLOATS:
        raise ConfigError(f"scale type {scale!r}: {' or '.join(FLOATS)}")
    kind = FLOATS[scale]
    decoder = _decoder(operand)
    top = f"{operand.identifier}_dequantize_{scale}"
    text = module(
        top,
        [
            ("input  wire", "clk", 1),
            ("input  wire", "code", operand.bits),
            ("input  wire", "scale", 16),
            ("output reg", "value", 16),
        ],
        _body(kind, decoder),
        comment=[
            f"{operand.name} code times a {scale} scale, rounded to nearest even, as {scale}.",
            "The scale holds the format's step too; it must not be infinite or NaN.",
        ],
    )
    return Dequantizer(top, f"{decoder.text}\n{text}", operand, kind, decoder)


def _decoder(operand: Operand) -> Decoder:
    """Sign, whether it is zero, the significand with its leading one, and the exponent."""
    width = max(1, *(odd_part(value).bit_length() for value in operand.numbers))
    significands: list[int | None] = []
    exponents: list[int | None] = []
    for value in operand.integers:
        size = abs(value).bit_length() if value else 0
        shift = width - size
        magnitude = abs(value or 0)
        scaled = magnitude << shift if shift >= 0 else magnitude >> -shift
        significands.append(scaled if value else None)
        exponents.append(size - 1 if value else None)
    exponent_bits = max(1, max(e or 0 for e in exponents).bit_length())
    return tabulated_decoder(
        f"{operand.identifier}_to_normalized",
        operand,
        {
            "sign": (1, [None if not v else int(v < 0) for v in operand.integers]),
            "zero": (1, [None if v is None else int(v == 0) for v in operand.integers]),
            "significand": (width, significands),
            "exponent": (exponent_bits, exponents),
        },
        f"{operand.name} code to sign, significand (leading one first) and exponent.",
    )


def _body(kind: FloatType, decoder: Decoder) -> list[str]:
    fraction, width = kind.fraction_bits, decoder.width("significand")
    total = fraction + 1 + width
    sum_bits = kind.exponent_bits + 2
    lines = [f"wire {vector(size)}{name};" for name, size in decoder.outputs]
    pins = ", ".join(f".{name}({name})" for name, _ in decoder.outputs)
    lines += [
        f"{decoder.name} decode (.code(code), {pins});",
        f"wire [{fraction}:0] scale_significand = {{1'b1, scale[{fraction - 1}:0]}};",
        f"wire [{kind.exponent_bits - 1}:0] scale_exponent = scale[14:{fraction}];",
    ]
    names = []
    for j in range(width):
        bit = f"significand[{j}]" if width > 1 else "significand"
        gated = (fraction + 1, f"scale_significand & {{{fraction + 1}{{{bit}}}}}")
        lines.append(f"wire [{total - 1}:0] row{j} = {place([gated], j, total)};")
        names.append(f"row{j}")
    lines += [
        f"wire [{total - 1}:0] product = {' + '.join(names)};",
        "// The product of two significands is 1 to 4: bring its leading one to the top.",
        f"wire high = product[{total - 1}];",
        f"wire [{total - 1}:0] aligned = high ? product : {{product[{total - 2}:0], 1'b0}};",
        f"wire [{fraction}:0] kept = aligned[{total - 1}:{width}];",
    ]
    sticky = "1'b0" if width == 1 else f"|aligned[{width - 2}:0]"
    exponent = place([(decoder.width("exponent"), "exponent")], 0, sum_bits)
    top = literal(kind.highest_exponent, sum_bits)
    lines += [
        f"wire round_up = aligned[{width - 1}] & (({sticky}) | kept[0]);",
        f"wire [{fraction + 1}:0] rounded = {{1'b0, kept}} + {{{fraction + 1}'b0, round_up}};",
        f"wire carry = rounded[{fraction + 1}];",
        f"wire [{sum_bits - 1}:0] sum = {{2'b0, scale_exponent}} + {exponent}",
        f"    + {{{sum_bits - 1}'b0, high}} + {{{sum_bits - 1}'b0, carry}};",
        f"wire overflow = sum >= {top};",
        f"wire nothing = zero | (scale_exponent == {kind.exponent_bits}'b0);",
        f"wire unused = rounded[{fraction}]; // the leading one, which a float does not store",
        "always @(posedge clk)",
        "    value <= nothing ? 16'b0",
        f"        : overflow ? {{sign ^ scale[15], {{{kind.exponent_bits}{{1'b1}}}}, "
        f"{fraction}'b0}}",
        f"        : {{sign ^ scale[15], sum[{kind.exponent_bits - 1}:0], "
        f"rounded[{fraction - 1}:0]}};",
    ]
    return lines


def dequantize(
    integers: npt.NDArray[np.int64], scales: npt.NDArray[np.int64], kind: FloatType
) -> npt.NDArray[np.int64]:
    """What a dequantizer must give, by double precision arithmetic.

    Parameters
    ----------
    integers
        Integers of the codes, of any shape.
    scales
        Bit patterns of the scales, of the same shape, neither infinite nor NaN.

    Returns
    -------
    ndarray of int64
        Bit patterns of the values.
    """
    fraction = kind.fraction_bits
    exponents = scales >> fraction & kind.highest_exponent
    significands = (scales & 2**fraction - 1) + 2**fraction
    # Exact: an integer of at most 36 bits, few of them odd, times one of at most 11 bits.
    magnitudes = np.abs(integers).astype(np.float64) * significands
    mantissas, sizes = np.frexp(magnitudes)
    kept = np.rint(np.ldexp(mantissas, fraction + 1)).astype(np.int64)  # half to even
    carried = kept >> (fraction + 1)
    kept = np.where(carried == 1, kept >> 1, kept)
    fields = exponents + (sizes + carried).astype(np.int64) - (fraction + 1)
    overflow = fields >= kind.highest_exponent
    finite = fields << fraction | kept & 2**fraction - 1
    values = np.where(overflow, kind.highest_exponent << fraction, finite)
    signs = (integers < 0) ^ (scales >> 15 == 1)
    nothing = (integers == 0) | (exponents == 0)
    return np.where(nothing, 0, values | signs.astype(np.int64) << 15)


def prove_dequantizer(unit: Dequantizer, netlist: Netlist) -> Proof:
    """Compare a mapped netlist with double precision on every code and every scale."""
    method = "all codes and scales (gate-level simulation)"
    valid = [s for s in range(2**16) if s >> unit.scale.fraction_bits & unit.scale.highest_exponent
             != unit.scale.highest_exponent]  # fmt: skip
    codes, scales = (
        grid.ravel()
        for grid in np.meshgrid(
            np.array(unit.operand.valid, dtype=np.int64), np.array(valid, dtype=np.int64)
        )
    )
    extra = -codes.size % 64
    codes, scales = np.append(codes, codes[:extra]), np.append(scales, scales[:extra])
    table = np.array([value or 0 for value in unit.operand.integers], dtype=np.int64)
    for start in range(0, codes.size, _CHUNK):
        some_codes, some_scales = codes[start : start + _CHUNK], scales[start : start + _CHUNK]
        expected = dequantize(table[some_codes], some_scales, unit.scale)
        actual = _simulate(unit, netlist, some_codes, some_scales)
        wrong = np.flatnonzero(actual != expected)
        if wrong.size:
            code, scale = int(some_codes[wrong[0]]), int(some_scales[wrong[0]])
            return Proof(False, method, f"code {code} and scale {scale:#06x} give a wrong value")
    return Proof(True, method)


def _simulate(
    unit: Dequantizer,
    netlist: Netlist,
    codes: npt.NDArray[np.int64],
    scales: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    words = np.zeros(codes.size // 64, dtype=np.uint64)
    sources = dict.fromkeys(netlist.inputs["clk"], words)
    for flop in netlist.flops:
        sources |= {
            flop.nets[pin.name]: words for pin in flop.cell.outputs if pin.name in flop.nets
        }
    for port, numbers, width in (("code", codes, unit.operand.bits), ("scale", scales, 16)):
        bits = (numbers[None] >> np.arange(width)[:, None] & 1).astype(bool)
        sources |= dict(zip(netlist.inputs[port], pack(bits), strict=True))
    states = next_states(netlist, settle(netlist, sources))
    value = np.zeros(codes.size, dtype=np.int64)
    for position, net in enumerate(netlist.outputs["value"]):
        if isinstance(net, int):
            value |= unpack(states[net]).astype(np.int64) << position
    return value
