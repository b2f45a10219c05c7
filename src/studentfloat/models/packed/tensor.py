"""A tensor that stands where a model's weight was, and holds it packed.

It has the weight's shape and type. Products (``linear``, ``matmul``, ``embedding``, grouped
experts) are done by the kernels; whoever else reads it gets its numbers, dequantized. The
module around it keeps its class and its ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.packed import operators
from studentfloat.models.packed.packing import Packing, find_packing

__all__ = ["PackedTensor"]

# What torch's functions, and the operators beneath them, do with one; see products.py.
FUNCTIONS: dict[Any, Callable[..., Any]] = {}
OPERATORS: dict[Any, Callable[..., Any]] = {}


class PackedTensor(torch.Tensor):
    """A packed weight, or one expert's matrix of it, or its transpose.

    Made by :meth:`of`. Calling the class with one of these gives another that shares its
    numbers, as ``nn.Parameter`` does.

    Attributes
    ----------
    handle
        Stands for the numbers, in compiled graphs too: the one inner tensor.
    member
        Which expert's matrix it is; None for all of the weight.
    turned
        Whether a row of it is a column of the matrix that was quantized.
    axes
        How many it has.
    """

    handle: Tensor
    member: int | None
    turned: bool
    axes: int
    _packing: Packing | None

    def __new__(cls, data: PackedTensor, requires_grad: bool = False) -> PackedTensor:
        """Share another's numbers."""
        return data._like(data.shape, data.dtype)

    def __init__(self, data: PackedTensor, requires_grad: bool = False) -> None:
        """Nothing is left to do."""

    @classmethod
    def of(cls, packing: Packing, dtype: torch.dtype) -> PackedTensor:
        """Stand for a weight, in the type that the model computes in."""
        turned = packing.stored.orientation is packing.stored.orientation.TRANSPOSED
        return make(
            packing.handle, packing.stored.shape, dtype, packing.device, turned, packing=packing
        )

    @property
    def packing(self) -> Packing:
        """The numbers."""
        if self._packing is None:
            self._packing = find_packing(self.handle)
        return self._packing

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """The stored tensors by suffix: codes under "", scales, tables, factors ..."""
        return self.packing.parts()

    @property
    def packed_bytes(self) -> int:
        """Bytes that the stored tensors take."""
        return self.packing.nbytes

    def dequantize(self) -> Tensor:
        """The numbers as an ordinary tensor, of this shape and type."""
        if torch.compiler.is_compiling() or self._packing is None:
            return operators.dense(self)
        return operators.dense_now(self)

    def _like(
        self,
        shape: Any,
        dtype: torch.dtype,
        *,
        member: int | None = None,
        turned: bool | None = None,
    ) -> PackedTensor:
        return make(
            self.handle,
            shape,
            dtype,
            self.device,
            self.turned if turned is None else turned,
            member=self.member if member is None else member,
            packing=self._packing,
        )

    def transposed(self) -> PackedTensor:
        """Its last two axes exchanged, the numbers shared."""
        shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
        return self._like(shape, self.dtype, turned=not self.turned)

    def is_matrix(self) -> bool:
        """Whether products with it are products with one quantized matrix."""
        return self.axes == 2

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """For compilers: the inner tensor, and what else makes the tensor."""
        return ["handle"], (self.dtype, self.device, self.turned, self.member)

    def _stable_hash_for_caching(self) -> str:
        """For torch's cache of compiled graphs, which hold no weight."""
        return repr((tuple(self.shape), self.dtype, self.turned, self.member))

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], rest: Any, size: Any, _: Any) -> Tensor:
        """For compilers: the way back."""
        dtype, device, turned, member = rest
        return make(inner["handle"], size, dtype, device, turned, member=member)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedTensor:
        """Another tensor with numbers of its own; ties among what is copied hold."""
        import copy

        if id(self) not in memo:
            packing = copy.deepcopy(self.packing, memo)
            memo[id(self)] = _rebuild(*self._state(packing))
        return cast(PackedTensor, memo[id(self)])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickling, and so for ``torch.save``."""
        return _rebuild, self._state(self.packing)

    def _state(self, packing: Packing) -> tuple[Any, ...]:
        is_parameter = isinstance(self, nn.Parameter)
        rest = (tuple(self.shape), self.dtype, self.turned, self.member)
        return (packing, *rest, is_parameter)

    def __repr__(self) -> str:  # type: ignore[override]
        if self._packing is None:
            return f"PackedTensor(shape={tuple(self.shape)}, dtype={self.dtype})"
        scheme = self._packing.stored.scheme
        return (
            f"PackedTensor(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device}, "
            f"format={scheme.format_name}, block_size={scheme.block_size})"
        )

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Products by the kernels; everything else as torch does it."""
        found = FUNCTIONS.get(func)
        if found is not None:
            result = found(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What reaches torch's own operators: copies and moves, else the numbers."""
        kwargs = kwargs or {}
        found = OPERATORS.get(func)
        if found is not None:
            result = found(*args, **kwargs)
            if result is not NotImplemented:
                return result
        _refuse_changes(func, args)
        return func(*_dense(args, func), **_dense(kwargs, func))


def make(
    handle: Tensor,
    shape: Any,
    dtype: torch.dtype,
    device: Any,
    turned: bool,
    *,
    member: int | None = None,
    packing: Packing | None = None,
) -> PackedTensor:
    made: Any = torch.Tensor._make_wrapper_subclass(
        PackedTensor, shape, dtype=dtype, device=device, requires_grad=False
    )
    made.handle, made.turned, made.member, made._packing = handle, turned, member, packing
    # Asking the tensor would go through torch's dispatch, at every product.
    made.axes = len(shape)
    return cast(PackedTensor, made)


def _rebuild(
    packing: Packing,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    turned: bool,
    member: int | None,
    is_parameter: bool,
) -> PackedTensor:
    made = make(
        packing.handle, shape, dtype, packing.device, turned, member=member, packing=packing
    )
    return cast(PackedTensor, nn.Parameter(made, requires_grad=False)) if is_parameter else made


def _dense(value: Any, func: Any) -> Any:
    """Dequantize what is packed among arguments."""
    if isinstance(value, PackedTensor):
        if value._packing is not None:
            value._packing.say(str(func).removeprefix("aten.").partition(".")[0])
        return value.dequantize()
    if isinstance(value, (list, tuple)):
        return type(value)([_dense(one, func) for one in value])
    if isinstance(value, dict):
        return {key: _dense(one, func) for key, one in value.items()}
    return value


def _refuse_changes(func: Any, args: tuple[Any, ...]) -> None:
    """What is packed cannot be changed number by number: the change would be lost."""
    for argument, value in zip(func._schema.arguments, args, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(value, PackedTensor):
            name = value._packing.name if value._packing is not None else ""
            raise ModelError(
                f"{name or 'a packed weight'} cannot be changed by {func}: it is packed. "
                "model.dequantize() gives a model whose weights can"
            )
