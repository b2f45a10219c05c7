"""Rotating tensors: the compiled kernel where it runs, sums and differences in torch elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from studentfloat.kernels.hadamard import Rotation

__all__ = ["rotate"]


def rotate(x: Tensor, rotation: Rotation, *, inverse: bool = False) -> Tensor:
    """``x R``, or ``x R^T`` with `inverse`: of x's type; in float32 where that has fewer bits.

    Parameters
    ----------
    x
        Floating point, of shape ``(..., width)``, on any device. Gradients flow.
    """
    if x.dtype == torch.float64:
        return _in_torch(x, rotation, inverse=inverse)
    compiled = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if compiled and not (x.requires_grad and torch.is_grad_enabled()):
        rows = x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if rotation.apply(rows, inverse=inverse, threads=torch.get_num_threads()):
            return rows if x.dtype == torch.float32 else rows.to(x.dtype)
    return _in_torch(x.float(), rotation, inverse=inverse).to(x.dtype)


def _in_torch(x: Tensor, rotation: Rotation, *, inverse: bool) -> Tensor:
    signs = torch.from_numpy(rotation.signs).to(x)
    if not inverse:
        x = x * signs
    shape = x.shape
    x = x.reshape(-1, rotation.block)
    size = rotation.block // rotation.order
    h = 1
    while h < size:
        pairs = x.reshape(-1, 2, h)
        x = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], dim=1)
        h *= 2
    if rotation.order > 1:
        factor = torch.from_numpy(rotation.factor).to(x)
        x = (factor if inverse else factor.T) @ x.reshape(-1, rotation.order, size)
    x = x.reshape(shape) / math.sqrt(rotation.block)
    return x * signs if inverse else x
