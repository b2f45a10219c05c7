"""The Triton kernels, run by Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from studentfloat.errors import DataError
from studentfloat.quantize import Scheme, quantize

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs triton and TRITON_INTERPRET=1: scripts/test-triton", allow_module_level=True)

from studentfloat.kernels.gpu import packed_dequantize, packed_matmul

CASES = [
    ("sf4", 64, 33, 130),
    ("nf4", 16, 70, 64),
    ("e2m1+sp", 128, 5, 300),
    ("int4", 96, 64, 96),
    ("sf3", 32, 20, 77),
    ("int8", 32, 9, 65),
]


def packed(name: str, block: int, rows: int, columns: int):
    torch.manual_seed(rows)
    tensor = quantize(torch.randn(rows, columns), Scheme(name, block_size=block))
    table = torch.from_numpy(tensor.scheme.format.decode_table.copy()).float().nan_to_num()
    return tensor, (tensor.packed, tensor.block_scales(), table)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_dequantize_is_exact(case) -> None:
    _, block, _, columns = case
    tensor, parts = packed(*case)
    bits = tensor.scheme.format.bits
    out = packed_dequantize(*parts, in_features=columns, block_size=block, bits=bits)
    assert torch.equal(out, tensor.dequantize())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_product(case, dtype: torch.dtype) -> None:
    _, block, _, columns = case
    tensor, parts = packed(*case)
    x = torch.randn(2, 9, columns).to(dtype)
    out = packed_matmul(x, *parts, block_size=block, bits=tensor.scheme.format.bits)
    assert out.dtype == dtype
    expected = (x.double() @ tensor.dequantize().double().T).to(dtype)
    rough = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(out, expected, rtol=rough, atol=rough)


def test_shapes_that_do_not_fit() -> None:
    _, parts = packed("sf4", 64, 33, 130)
    with pytest.raises(DataError, match="130"):
        packed_matmul(torch.randn(2, 130), *parts, block_size=32)
