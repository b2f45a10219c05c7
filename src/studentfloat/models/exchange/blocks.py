"""Codes and scales in and out of a quantized tensor, the same for every foreign layout."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.formats import Format
from studentfloat.models.quantized import weight_record
from studentfloat.quantize.packing import pack_codes, unpack_codes
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import TensorQuantization

__all__ = [
    "code_table",
    "codes_of",
    "exponents_of",
    "imported_record",
    "packed_tensor",
    "refuse_extras",
]

_E8M0_BIAS = 127


def packed_tensor(
    codes: Tensor, scales: Tensor, scheme: Scheme, dtype: torch.dtype, name: str
) -> QuantizedTensor:
    """A matrix made of codes and scales that another tool chose.

    Parameters
    ----------
    codes
        uint8, of shape ``(rows, columns)``.
    scales
        As they are stored: of the scheme's scale type (uint8 for E8M0), of shape ``(rows,
        blocks per row)``.
    scheme
        Blocks along the rows, one plain scale type.
    dtype
        Of the dequantized weight.
    name
        What to call the weight in an error.

    Raises
    ------
    ModelError
        If a scale is NaN or infinite.
    """
    rows, columns = codes.shape
    if scales.is_floating_point():
        if not bool(torch.isfinite(scales).all()):
            raise ModelError(f"{name}: a block's scale is NaN or infinite")
        empty = scales == 0
        if bool(empty.any()):
            # Other tools leave any code under a scale of zero; here it is that of zero.
            size = scheme.block_size if isinstance(scheme.block_size, int) else columns
            zero = int(scheme.format.encode([0.0])[0])
            codes = codes.masked_fill(empty[:, torch.arange(columns) // size], zero)
    return QuantizedTensor(
        packed=pack_codes(codes.contiguous(), scheme.format.bits),
        scales=scales.contiguous(),
        scheme=scheme,
        shape=(rows, columns),
        dtype=dtype,
    )


def codes_of(tensor: QuantizedTensor) -> Tensor:
    """The codes of a matrix: uint8, of shape ``(rows, columns)``."""
    return unpack_codes(tensor.packed, tensor.scheme.format.bits, tensor.row_length)


def code_table(given: Format, wanted: Format) -> Tensor:
    """The code in one format of what each code in another stands for.

    Parameters
    ----------
    given, wanted
        Every value of the former is one of the latter.

    Returns
    -------
    Tensor
        uint8, of shape ``(2**given.bits,)``; zero for codes without a value.
    """
    table = torch.zeros(1 << given.bits, dtype=torch.uint8)
    same = set(zip(wanted.values, wanted.codes, strict=True))
    for value, code in zip(given.values, given.codes, strict=True):
        # Where a value has two codes (E2M1's zeros) each keeps its own.
        keeps = (value, code) in same
        table[code] = code if keeps else int(wanted.encode([value])[0])
    return table


def exponents_of(scales: Tensor, name: str) -> Tensor:
    """Scales as E8M0: uint8 exponents, biased by 127.

    Raises
    ------
    SchemeError
        If one of them is no positive power of two.
    """
    mantissa, exponent = torch.frexp(scales)
    stored = exponent - 1 + _E8M0_BIAS
    exact = (mantissa == 0.5) & (stored >= 0) & (stored < 255)
    if not bool(exact.all()):
        raise SchemeError(
            f"MXFP4 has scales in e8m0: it cannot carry {name}, of whose scales "
            f"{int((~exact).sum())} of {exact.numel()} are no powers of two. Quantize with "
            "--scale-dtype e8m0"
        )
    return stored.to(torch.uint8)


def refuse_extras(
    name: str, stored: StoredWeight, route: str, *, carried: Collection[str] = ()
) -> None:
    """Refuse a weight that is more than one table of values times one scale per block.

    Parameters
    ----------
    carried
        Kinds of parts that the route carries too.

    Raises
    ------
    SchemeError
        With the reason and the nearest way that can carry it.
    """
    reason = stored.beyond_blocks(carried)
    if reason is not None:
        raise SchemeError(
            f"{route} cannot carry {name}: it {reason}. `studentfloat dequantize` makes a "
            "dense model that any tool loads"
        )


def imported_record(
    name: str, weight: QuantizedWeight, method: str, notes: tuple[str, ...] = ()
) -> TensorQuantization:
    """What is known of a weight that another tool quantized: all but its error."""
    return weight_record(
        name, weight, method, weight_nmse=None, weight_nmse_nearest=None, notes=notes
    )
