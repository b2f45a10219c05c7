from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studentfloat.errors import DataError
from studentfloat.quantize import pack_codes, unpack_codes


@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_round_trip_and_layout(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    packed = pack_codes(torch.from_numpy(codes), bits)
    assert torch.equal(unpack_codes(packed, bits, count), torch.from_numpy(codes))
    # The layout, said once more: a row is one little-endian number, code i at bit i * bits.
    for row, octets in zip(codes, packed, strict=True):
        number = sum(int(code) << (i * bits) for i, code in enumerate(row))
        assert bytes(octets.tolist()) == number.to_bytes(-(-count * bits // 8), "little")


def test_wrong_width_is_named() -> None:
    with pytest.raises(DataError, match="3 bytes, but 4 codes of 4 bits take 2"):
        unpack_codes(torch.zeros(1, 3, dtype=torch.uint8), 4, 4)
