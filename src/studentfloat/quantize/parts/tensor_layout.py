"""How a quantized tensor lies in a file: codes and scales, at any depth; shared by parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.packing import packed_width, unpack_codes
from studentfloat.quantize.parts.part import MatrixSpec, TensorSpec
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = [
    "assemble_tensor",
    "check_codes",
    "join_rows",
    "member_of",
    "tensor_fields",
    "tensor_specs",
    "tensors_of",
]

_SCALE_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "e8m0": torch.uint8,
}


def tensor_specs(matrix: MatrixSpec, suffix: str) -> dict[str, TensorSpec]:
    """Codes and scales of a matrix, by the suffixes of their names."""
    lead, scheme = matrix.lead, matrix.scheme
    width = packed_width(matrix.row_length, scheme.code_bits)
    codes = {suffix: TensorSpec(torch.uint8, (*lead, width))}
    if isinstance(scheme.scale_dtype, Scheme):
        return codes | tensor_specs(_scales_of(matrix), f"{suffix}_scale")
    dtype = _SCALE_TYPES[scheme.scale_dtype.name]
    return codes | {f"{suffix}_scale": TensorSpec(dtype, (*lead, matrix.blocks))}


def tensors_of(tensor: QuantizedTensor, suffix: str) -> dict[str, Tensor]:
    """The tensors that :func:`tensor_specs` describes."""
    lead = MatrixSpec(tensor.shape, tensor.scheme).lead
    codes = {suffix: tensor.packed.reshape(*lead, -1)}
    if isinstance(tensor.scales, QuantizedTensor):
        return codes | tensors_of(tensor.scales, f"{suffix}_scale")
    return codes | {f"{suffix}_scale": tensor.scales.reshape(*lead, -1)}


def tensor_fields(matrix: MatrixSpec, tensors: Mapping[str, Tensor], suffix: str) -> dict[str, Any]:
    """Codes and scales as :class:`QuantizedTensor` takes them."""
    scales: Tensor | QuantizedTensor
    if isinstance(matrix.scheme.scale_dtype, Scheme):
        scales = assemble_tensor(_scales_of(matrix), tensors, f"{suffix}_scale")
    else:
        scales = join_rows(tensors[f"{suffix}_scale"])
    return {"packed": join_rows(tensors[suffix]), "scales": scales}


def assemble_tensor(
    matrix: MatrixSpec, tensors: Mapping[str, Tensor], suffix: str
) -> QuantizedTensor:
    """The tensor that lies under a suffix."""
    fields = tensor_fields(matrix, tensors, suffix)
    return QuantizedTensor(scheme=matrix.scheme, shape=matrix.shape, dtype=matrix.dtype, **fields)


def check_codes(tensor: QuantizedTensor, name: str) -> None:
    """Codes must decode, and a block under a scale of zero must hold nothing.

    Raises
    ------
    ModelError
        The message begins with `name`.
    """
    scheme = tensor.scheme
    if isinstance(tensor.scales, QuantizedTensor):
        check_codes(tensor.scales, f"{name}_scale")
    bad = tensor.undecodable
    if bad:
        raise ModelError(f"{name} holds {bad} codes that stand for no number in their block")
    scales = tensor.block_scales()
    if not bool(torch.isfinite(scales).all()):
        raise ModelError(f"{name}: a block's scale is NaN or infinite")
    # Under a trellis, what zeros become depends on the numbers that share their ring.
    if isinstance(scheme.code, Format) and not scheme.has_choice and tensor.row_tables is None:
        _check_zero_scales(tensor, scales, name)


def join_rows(tensor: Tensor) -> Tensor:
    """A stored tensor with its rows along one axis."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def member_of(tensor: QuantizedTensor, number: int) -> QuantizedTensor:
    """One matrix of those stacked along the first axis.

    Raises
    ------
    SchemeError
        If blocks do not run along the rows of each.
    """
    scheme = tensor.scheme
    if not MatrixSpec(tensor.shape, scheme).blocks_run_along_rows:
        raise SchemeError(
            f"blocks of {scheme.block_size} along axis {scheme.axis} of a tensor of shape "
            f"{tensor.shape} do not keep its matrices apart: the last axis does"
        )
    rows = tensor.shape[-2]
    chosen = torch.arange(number * rows, (number + 1) * rows, device=tensor.packed.device)
    return tensor.select_rows(chosen)


def _scales_of(matrix: MatrixSpec) -> MatrixSpec:
    """The scales where they are quantized themselves: one row, in row-major order."""
    assert isinstance(matrix.scheme.scale_dtype, Scheme)
    return MatrixSpec((1, matrix.rows * matrix.blocks), matrix.scheme.scale_dtype)


def _check_zero_scales(tensor: QuantizedTensor, scales: Tensor, name: str) -> None:
    empty = scales == 0
    if not bool(empty.any()):
        return
    wanted = int(tensor.scheme.format.encode([0.0])[0])
    rows = torch.nonzero(empty.any(dim=1)).flatten()
    codes = unpack_codes(tensor.packed[rows], tensor.scheme.format.bits, tensor.row_length)
    size = tensor.scheme.block_size if isinstance(tensor.scheme.block_size, int) else codes.shape[1]
    of_column = torch.arange(codes.shape[1]) // size
    wrong = empty[rows][:, of_column] & (codes != wanted)
    if bool(wrong.any()):
        raise ModelError(f"{name}: a block's scale is zero, but its codes are not those of zeros")
