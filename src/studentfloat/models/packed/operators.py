"""Products with packed tensors, directly and as operators that ``torch.compile`` keeps whole.

A graph holds a weight's handle, a tensor of one number that is an input like any other: the graph
of one block serves all blocks of its kind.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from studentfloat.models.packed.packing import Packing, find_packing

__all__ = ["dense", "dense_now", "grouped", "product", "rows"]

# No expert chosen: the weight is one matrix.
_WHOLE = -1

_library: Any = torch.library.Library("studentfloat", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    "packed_linear(Tensor x, Tensor handle, int member, bool turned, SymInt width) -> Tensor"
)
_library.define(
    "packed_grouped(Tensor x, Tensor offsets, Tensor handle, bool turned, SymInt width) -> Tensor"
)
_library.define(
    "packed_rows(Tensor indices, Tensor handle, SymInt width, ScalarType dtype) -> Tensor"
)
_library.define(
    "packed_dense(Tensor handle, SymInt[] shape, ScalarType dtype, Device device, int member, "
    "bool turned) -> Tensor"
)


def product(x: Tensor, weight: Any, turned: bool) -> Tensor:
    """``x Wᵀ`` of the matrix that was quantized, or ``x W`` where `turned`; `x` gets a gradient."""
    packing: Packing | None = weight._packing
    if torch.compiler.is_compiling() or packing is None:
        member = _WHOLE if weight.member is None else weight.member
        width = weight.shape[0] if turned == weight.turned else weight.shape[1]
        return cast(
            Tensor,
            torch.ops.studentfloat.packed_linear(x, weight.handle, member, turned, width),
        )
    if x.requires_grad and torch.is_grad_enabled():
        return cast(
            Tensor,
            _Product.apply(x, packing, weight.member, turned),  # type: ignore[no-untyped-call]
        )
    if x.requires_grad:
        x = x.detach()
    if turned:
        return packing.multiply_transposed(x, weight.member)
    return packing.multiply(x, weight.member)


def grouped(x: Tensor, weight: Any, offsets: Tensor, turned: bool) -> Tensor:
    """Rows of `x` up to each offset times that expert's matrix; `x` gets a gradient."""
    width = weight.shape[2]
    return cast(
        Tensor,
        torch.ops.studentfloat.packed_grouped(x, offsets, weight.handle, turned, width),
    )


def rows(indices: Tensor, weight: Any) -> Tensor:
    """Rows of a table, of shape ``(*indices.shape, columns)`` and the table's type."""
    if torch.compiler.is_compiling() or weight._packing is None:
        return cast(
            Tensor,
            torch.ops.studentfloat.packed_rows(
                indices, weight.handle, weight.shape[1], weight.dtype
            ),
        )
    return cast(Tensor, weight._packing.rows(indices, weight.dtype))


def dense(weight: Any) -> Tensor:
    """All numbers, in a graph."""
    member = _WHOLE if weight.member is None else weight.member
    return cast(
        Tensor,
        torch.ops.studentfloat.packed_dense(
            weight.handle, weight.shape, weight.dtype, weight.device, member, weight.turned
        ),
    )


def dense_now(weight: Any) -> Tensor:
    """All numbers."""
    return _numbers(weight.packing, weight.dtype, weight.member, weight.turned)


def _numbers(packing: Packing, dtype: torch.dtype, member: int | None, turned: bool) -> Tensor:
    values = packing.dense(dtype, member)
    stands = packing.stored.orientation is packing.stored.orientation.TRANSPOSED
    return values if turned == stands else values.transpose(-1, -2)


class _Product(torch.autograd.Function):
    """A product with a gradient for its input and none for the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing, member: int | None, turned: bool) -> Tensor:
        ctx.packing, ctx.member, ctx.turned = packing, member, turned
        return packing.multiply_transposed(x, member) if turned else packing.multiply(x, member)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0].contiguous()
        if ctx.turned:
            return ctx.packing.multiply(gradient, ctx.member), None, None, None
        return ctx.packing.multiply_transposed(gradient, ctx.member), None, None, None


def _linear(x: Tensor, handle: Tensor, member: int, turned: bool, width: int) -> Tensor:
    packing, which = find_packing(handle), None if member == _WHOLE else member
    return packing.multiply_transposed(x, which) if turned else packing.multiply(x, which)


def _linear_shape(x: Tensor, handle: Tensor, member: int, turned: bool, width: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], width)


def _grouped(x: Tensor, offsets: Tensor, handle: Tensor, turned: bool, width: int) -> Tensor:
    packing = find_packing(handle)
    out = x.new_zeros(len(x), width)
    first = 0
    for member, last in enumerate(offsets.tolist()):
        if last > first:
            its = x[first:last]
            multiply = packing.multiply_transposed if turned else packing.multiply
            out[first:last] = multiply(its, member)
        first = last
    return out


def _grouped_shape(x: Tensor, offsets: Tensor, handle: Tensor, turned: bool, width: int) -> Tensor:
    return x.new_empty(x.shape[0], width)


def _rows(indices: Tensor, handle: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    return find_packing(handle).rows(indices, dtype)


def _rows_shape(indices: Tensor, handle: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    return indices.new_empty(*indices.shape, width, dtype=dtype)


def _dense(
    handle: Tensor, shape: Any, dtype: torch.dtype, device: Any, member: int, turned: bool
) -> Tensor:
    which = None if member == _WHOLE else member
    return _numbers(find_packing(handle), dtype, which, turned).contiguous()


def _dense_shape(
    handle: Tensor, shape: Any, dtype: torch.dtype, device: Any, member: int, turned: bool
) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def _remember(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, handle, ctx.member, ctx.turned, _ = inputs
    ctx.save_for_backward(handle)
    ctx.width = x.shape[-1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (handle,) = ctx.saved_tensors
    found = torch.ops.studentfloat.packed_linear(
        gradient.contiguous(), handle, ctx.member, not ctx.turned, ctx.width
    )
    return found, None, None, None, None


def _remember_groups(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, offsets, handle, ctx.turned, _ = inputs
    ctx.save_for_backward(offsets, handle)
    ctx.width = x.shape[-1]


def _backward_groups(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    offsets, handle = ctx.saved_tensors
    found = torch.ops.studentfloat.packed_grouped(
        gradient.contiguous(), offsets, handle, not ctx.turned, ctx.width
    )
    return found, None, None, None, None


for _name, _function, _shape in (
    ("packed_linear", _linear, _linear_shape),
    ("packed_grouped", _grouped, _grouped_shape),
    ("packed_rows", _rows, _rows_shape),
    ("packed_dense", _dense, _dense_shape),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"studentfloat::{_name}", _shape, lib=_library)
torch.library.register_autograd(
    "studentfloat::packed_linear", _backward, setup_context=_remember, lib=_library
)
torch.library.register_autograd(
    "studentfloat::packed_grouped", _backward_groups, setup_context=_remember_groups, lib=_library
)
