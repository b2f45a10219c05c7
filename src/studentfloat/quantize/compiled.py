"""Where quantizing and dequantizing may take the compiled way, and how it is called."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studentfloat.formats import Format
from studentfloat.kernels.arrays import empty_like
from studentfloat.kernels.codec import SCALE_TYPES, CodeBook, Encoded, ScaleRule, decode, encode
from studentfloat.kernels.dispatch import native, warn_slow
from studentfloat.quantize.scheme import ScaleDtype, Scheme

__all__ = ["can_decode", "can_encode", "decode_rows", "encode_rows", "value_table"]

_MOST_BITS = 4
_RULES = {
    "absmax": ScaleRule.ABSMAX,
    "published": ScaleRule.MAGNITUDE,
    "signed-absmax": ScaleRule.SIGNED_PEAK,
}
_SHORT_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def can_encode(rows: Tensor, scheme: Scheme) -> bool:
    """Whether the compiled kernels quantize such rows by such a scheme."""
    warn_slow()
    return (
        native() is not None
        and rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and isinstance(scheme.code, Format)
        and not scheme.has_choice
        and _rule(scheme) is not None
        and isinstance(scheme.scale_dtype, ScaleDtype)
        and scheme.scale_dtype.name in SCALE_TYPES
        and _code_book(scheme.format).fits
    )


def encode_rows(rows: Tensor, scheme: Scheme, block_size: int) -> Encoded | None:
    """Codes and scales of contiguous rows; None where numbers or scales are not finite."""
    rule = _rule(scheme)
    assert rule is not None
    return encode(
        rows.detach(),
        _code_book(scheme.format),
        rule=rule,
        scale_type=scheme.scale_dtype_name,
        rounds_away=scheme.scale_rule.rounds_away,
        block_size=block_size,
    )


def can_decode(packed: Tensor, number_format: Format, dtype: torch.dtype) -> bool:
    """Whether the compiled kernels turn such codes into numbers of such a type."""
    return (
        native() is not None
        and packed.device.type == "cpu"
        and number_format.bits <= _MOST_BITS
        and dtype in _SHORT_FLOATS
    )


def decode_rows(
    packed: Tensor,
    scales: Tensor,
    number_format: Format,
    *,
    columns: int,
    block_size: int,
    dtype: torch.dtype,
) -> Tensor:
    """Value times scale: of shape ``(rows, columns)``."""
    kind = str(dtype).removeprefix("torch.")
    out: Tensor = empty_like(packed, (packed.shape[0], columns), kind)
    decode(
        packed.contiguous(),
        scales.contiguous(),
        value_table(number_format),
        out,
        bits=number_format.bits,
        block_size=block_size,
    )
    return out


def _rule(scheme: Scheme) -> ScaleRule | None:
    rule = None if scheme.scale_rule.searches else _RULES.get(scheme.scale_rule.name)
    # For a symmetric format the sign of the scale gains nothing.
    is_plain = rule is ScaleRule.SIGNED_PEAK and scheme.format.is_symmetric
    return ScaleRule.ABSMAX if is_plain else rule


@lru_cache(maxsize=512)
def _code_book(number_format: Format) -> CodeBook:
    return CodeBook(
        bits=number_format.bits,
        thresholds=np.asarray(number_format.rounding_thresholds(np.float32), dtype=np.float32),
        level_codes=np.array(number_format.level_codes, dtype=np.uint8),
        maximum=number_format.maximum,
        minimum=number_format.minimum,
        peak=number_format.long_side_extreme,
    )


@lru_cache(maxsize=512)
def value_table(number_format: Format) -> npt.NDArray[np.float32]:
    """The value of each of 16 codes, NaN where there is none."""
    table = np.full(1 << _MOST_BITS, np.nan, dtype=np.float32)
    table[: len(number_format.decode_table)] = number_format.decode_table
    return table
