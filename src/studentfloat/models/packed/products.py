"""What a packed tensor does when torch asks: products, copies, moves; by function and operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.packed import operators
from studentfloat.models.packed.packing import Packing
from studentfloat.models.packed.tensor import FUNCTIONS, OPERATORS, PackedTensor, make

__all__: list[str] = []


# Arguments have torch's names: models may spell them out.


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(weight, PackedTensor) or isinstance(input, PackedTensor):
        return NotImplemented
    if not weight.is_matrix():
        return NotImplemented
    out = operators.product(input, weight, weight.turned)
    return out if bias is None else out + bias.to(out.dtype)


def _matmul(input: Any, other: Any, *, out: Any = None) -> Any:
    if out is not None:
        return NotImplemented
    if isinstance(input, PackedTensor):
        # W x is (xᵀ Wᵀ)ᵀ.
        if isinstance(other, PackedTensor) or not input.is_matrix() or other.dim() != 2:
            return NotImplemented
        return operators.product(other.t(), input, input.turned).t()
    if not isinstance(other, PackedTensor) or not other.is_matrix():
        return NotImplemented
    return operators.product(input, other, not other.turned)


def _mm(input: Any, mat2: Any, *, out: Any = None) -> Any:
    return _matmul(input, mat2, out=out)


def _addmm(
    input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1, out: Any = None
) -> Any:
    if beta != 1 or alpha != 1 or isinstance(input, PackedTensor):
        return NotImplemented
    product = _matmul(mat1, mat2, out=out)
    return product if product is NotImplemented else product + input.to(product.dtype)


def _embedding(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: Any = 2.0,
    scale_grad_by_freq: Any = False,
    sparse: Any = False,
) -> Any:
    if not isinstance(weight, PackedTensor) or weight.turned or max_norm is not None:
        return NotImplemented
    return operators.rows(input, weight)


def _get_item(weight: Any, index: Any) -> Any:
    if not isinstance(weight, PackedTensor):
        return NotImplemented
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return NotImplemented
    is_number = isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0)
    if weight.dim() == 3 and weight.member is None:
        count = weight.shape[0]
        if is_number:
            return weight._like(weight.shape[1:], weight.dtype, member=int(index) % count)
        if isinstance(index, Tensor) and index.dim() == 1:
            return torch.stack([weight[i].dequantize() for i in index.tolist()])
    elif weight.dim() == 2 and not weight.turned and isinstance(index, Tensor):
        return operators.rows(index % weight.shape[0], weight)
    return NotImplemented


def _grouped(x: Any, weight: Any, offs: Any = None, **kwargs: Any) -> Any:
    """Rows of `x` between two offsets are multiplied by one expert's matrix."""
    fits = isinstance(weight, PackedTensor) and weight.dim() == 3 and x.dim() == 2
    if not fits or offs is None or any(value is not None for value in kwargs.values()):
        return NotImplemented
    return operators.grouped(x, weight, offs, not weight.turned)


def _transpose(input: Any, dim0: Any = -2, dim1: Any = -1) -> Any:
    if not isinstance(input, PackedTensor):
        return NotImplemented
    axes = {dim0 % input.dim(), dim1 % input.dim()}
    last = {input.dim() - 2, input.dim() - 1}
    return input.transposed() if axes == last and input.dim() in (2, 3) else NotImplemented


def _swap(input: Any, axis0: Any, axis1: Any) -> Any:
    return _transpose(input, axis0, axis1)


def _turn(input: Any) -> Any:
    return input.transposed() if input.dim() == 2 else NotImplemented


def _turn_last(weight: Any) -> Any:
    return weight.transposed() if weight.dim() in (2, 3) else NotImplemented


def _set_data(weight: Any, new: Any) -> Any:
    """``p.data = other``, where both are packed or neither is."""
    if not isinstance(weight, PackedTensor):
        return NotImplemented
    if not isinstance(new, PackedTensor):
        raise ModelError(
            f"{weight.packing.name or 'a packed weight'} cannot take an ordinary tensor's numbers: "
            "model.dequantize() gives a model whose weights can"
        )
    with torch._C.DisableTorchFunctionSubclass():
        torch.Tensor.data.__set__(weight, new)  # type: ignore[attr-defined]
    for field in ("handle", "turned", "member", "axes", "_packing"):
        setattr(weight, field, getattr(new, field))
    return None


def _copy_(weight: Any, source: Any, non_blocking: bool = False) -> Any:
    if not isinstance(weight, PackedTensor) or not isinstance(source, PackedTensor):
        return NotImplemented
    mine, other = weight.packing, source.packing
    if mine.stored != other.stored or (weight.turned, weight.member) != (
        source.turned,
        source.member,
    ):
        raise ModelError(
            f"{mine.name or 'a packed weight'} is stored otherwise than what is to be copied there"
        )
    mine.take({suffix: part.to(mine.device, copy=True) for suffix, part in other.parts().items()})
    return weight


def _alias(weight: Any) -> Any:
    return weight._like(weight.shape, weight.dtype)


def _clone(weight: Any, *, memory_format: Any = None) -> Any:
    if weight._packing is None:
        return _alias(weight)
    return _with(weight, weight.packing.map(torch.clone), weight.dtype)


def _to_copy(weight: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    kind = weight.dtype if dtype is None else dtype
    if not kind.is_floating_point:
        return NotImplemented
    if weight._packing is None:
        return weight._like(weight.shape, kind)
    packing = weight.packing
    return _with(weight, packing if device is None else packing.on(device), kind)


def _with(weight: PackedTensor, packing: Packing, dtype: torch.dtype) -> PackedTensor:
    return make(
        packing.handle,
        weight.shape,
        dtype,
        packing.device,
        weight.turned,
        member=weight.member,
        packing=packing,
    )


def _likeness(func: Any) -> Callable[..., Any]:
    """Operators that ask for shape and type alone."""

    def like(weight: Any, *args: Any, **kwargs: Any) -> Any:
        stub = torch.empty((), dtype=weight.dtype, device=weight.device).expand(weight.shape)
        return func(stub, *args, **kwargs)

    return like


_ATEN = torch.ops.aten
FUNCTIONS |= {
    nn.functional.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _mm,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.mm: _mm,
    torch.Tensor.__matmul__: _matmul,
    torch.addmm: _addmm,
    nn.functional.embedding: _embedding,
    torch.Tensor.__getitem__: _get_item,
    torch.transpose: _transpose,
    torch.Tensor.transpose: _transpose,
    torch.Tensor.swapaxes: _swap,
    torch.t: _turn,
    torch.Tensor.t: _turn,
    torch.Tensor.T.__get__: _turn,  # type: ignore[attr-defined]
    torch.Tensor.mT.__get__: _turn_last,  # type: ignore[attr-defined]
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.data_ptr: lambda weight: weight.handle.data_ptr(),
}
for _owner, _name in ((torch, "_grouped_mm"), (nn.functional, "grouped_mm")):
    if hasattr(_owner, _name):
        FUNCTIONS[getattr(_owner, _name)] = _grouped
OPERATORS |= {
    _ATEN.detach.default: _alias,
    _ATEN.alias.default: _alias,
    _ATEN.clone.default: _clone,
    _ATEN._to_copy.default: _to_copy,
    _ATEN.copy_.default: _copy_,
    _ATEN.t.default: _turn,
    _ATEN.transpose.int: _transpose,
    _ATEN.mm.default: _mm,
    _ATEN.addmm.default: _addmm,
    _ATEN.linear.default: _linear,
    **{
        func: _likeness(func)
        for func in (
            *(_ATEN.empty_like.default, _ATEN.zeros_like.default, _ATEN.ones_like.default),
            *(_ATEN.full_like.default, _ATEN.rand_like.default, _ATEN.randn_like.default),
            *(_ATEN.new_empty.default, _ATEN.new_zeros.default, _ATEN.new_ones.default),
            *(_ATEN.new_full.default, _ATEN.new_empty_strided.default),
        )
    },
}
