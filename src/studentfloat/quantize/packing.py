"""Codes of 2 to 8 bits packed into bytes, low bits first."""

from __future__ import annotations

import torch
from torch import Tensor

from studentfloat.errors import DataError

__all__ = ["pack_codes", "packed_width", "unpack_codes"]

_GROUP = 8  # eight codes of b bits fill b bytes exactly


def packed_width(count: int, bits: int) -> int:
    """Bytes that a row of `count` codes takes: rows end on whole bytes."""
    return -(-count * bits // 8)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes row by row.

    Parameters
    ----------
    codes
        uint8, of shape ``(rows, count)``, each below ``2**bits``.
    bits
        2 to 8.

    Returns
    -------
    Tensor
        uint8, of shape ``(rows, packed_width(count, bits))``. Code ``i`` of a row takes
        bits ``i * bits`` to ``(i + 1) * bits - 1`` of the row read as one little-endian
        number; what is left of the last byte is zero.
    """
    rows, count = codes.shape
    if 8 % bits == 0:
        return _pack_within_bytes(codes, bits)
    groups = -(-count // _GROUP)
    padded = torch.nn.functional.pad(codes, (0, groups * _GROUP - count))
    shifts = torch.arange(_GROUP, device=codes.device) * bits
    words = (padded.reshape(rows, groups, _GROUP).long() << shifts).sum(dim=-1)
    byte_shifts = torch.arange(bits, device=codes.device) * 8
    octets = (words[..., None] >> byte_shifts) & 0xFF
    return octets.to(torch.uint8).reshape(rows, -1)[:, : packed_width(count, bits)].contiguous()


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo :func:`pack_codes`: uint8 codes of shape ``(rows, count)``."""
    rows, width = packed.shape
    if width != packed_width(count, bits):
        raise DataError(
            f"packed rows have {width} bytes, but {count} codes of {bits} bits take "
            f"{packed_width(count, bits)}"
        )
    if 8 % bits == 0:
        return _unpack_within_bytes(packed, bits, count)
    groups = -(-count // _GROUP)
    padded = torch.nn.functional.pad(packed, (0, groups * bits - width))
    byte_shifts = torch.arange(bits, device=packed.device) * 8
    words: Tensor = (padded.reshape(rows, groups, bits).long() << byte_shifts).sum(dim=-1)
    shifts = torch.arange(_GROUP, device=packed.device) * bits
    codes = (words[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.to(torch.uint8).reshape(rows, -1)[:, :count].contiguous()


def _pack_within_bytes(codes: Tensor, bits: int) -> Tensor:
    """Widths of 2, 4 and 8 bits, where no code straddles bytes: cheaper than whole words."""
    per_byte = 8 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % per_byte))
    packed = padded[:, 0::per_byte].clone()
    for place in range(1, per_byte):
        packed.bitwise_or_(padded[:, place::per_byte] << (place * bits))
    return packed


def _unpack_within_bytes(packed: Tensor, bits: int, count: int) -> Tensor:
    per_byte = 8 // bits
    codes = torch.empty(
        (packed.shape[0], packed.shape[1] * per_byte), dtype=torch.uint8, device=packed.device
    )
    for place in range(per_byte):
        codes[:, place::per_byte] = (packed >> (place * bits)) & ((1 << bits) - 1)
    return codes[:, :count].contiguous()
