"""Rotating tensors: the compiled kernel where it runs, sums and differences in torch elsewhere."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

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
    if torch.compiler.is_compiling():
        held: Tensor = _operator(x, rotation.width, rotation.block, rotation.seed, inverse)
        return held
    if x.requires_grad and torch.is_grad_enabled():
        if x.dtype == torch.float64:
            return _in_torch(x, rotation, inverse=inverse)
        return _in_torch(x.float(), rotation, inverse=inverse).to(x.dtype)
    return _without_gradient(x, rotation, inverse=inverse)


def _without_gradient(x: Tensor, rotation: Rotation, *, inverse: bool) -> Tensor:
    if x.dtype == torch.float64:
        return _in_torch(x, rotation, inverse=inverse)
    if x.device.type == "cpu":
        rows = x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if rotation.apply(rows, inverse=inverse, threads=torch.get_num_threads()):
            return rows if x.dtype == torch.float32 else rows.to(x.dtype)
    return _in_torch(x.float(), rotation, inverse=inverse).to(x.dtype)


@torch.library.custom_op("studentfloat::rotate", mutates_args=())
def _operator(x: Tensor, width: int, block: int, seed: int, inverse: bool) -> Tensor:
    """What compiled graphs hold: the rotation by its numbers."""
    return _without_gradient(x, _known(width, block, seed), inverse=inverse)


@_operator.register_fake
def _(x: Tensor, width: int, block: int, seed: int, inverse: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _remember(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, ctx.width, ctx.block, ctx.seed, ctx.inverse = inputs


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    # Of an orthogonal matrix the transpose is the way back.
    back = _operator(gradient, ctx.width, ctx.block, ctx.seed, not ctx.inverse)
    return back, None, None, None, None


_operator.register_autograd(_backward, setup_context=_remember)


@lru_cache(maxsize=256)
def _known(width: int, block: int, seed: int) -> Rotation:
    return Rotation(width, block, seed)


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
