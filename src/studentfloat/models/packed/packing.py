"""The numbers behind packed tensors: stored parts, and the kernel that multiplies by them.

A :class:`Packing` is one quantized weight. Its codes are held once: as they are stored, or, from
the first product on, as the kernel repacked them; asked for, they come back bit for bit.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.kernels import PackedMatrix
from studentfloat.kernels.packed_matrix import Compute
from studentfloat.models.activations import ActivationScheme
from studentfloat.quantize.packed_weight import PackedWeight, pack_weight
from studentfloat.quantize.parts import InputTransform
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight

__all__ = ["Packing", "find_packing"]

_log = logging.getLogger("studentfloat")
_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_numbers = itertools.count(1)
_alive: WeakValueDictionary[int, Packing] = WeakValueDictionary()


def find_packing(handle: Tensor) -> Packing:
    """The packing that a handle stands for.

    Raises
    ------
    ModelError
        If it is gone, with the model that a compiled graph was made of.
    """
    found = _alive.get(int(handle))
    if found is None:
        raise ModelError(f"packed weight {int(handle)} of a compiled graph is gone: keep its model")
    return found


class Packing:
    """One quantized weight: its stored tensors, or the kernels that took them over.

    Parameters
    ----------
    stored
        Describes the weight.
    parts
        Its stored tensors by suffix, as :meth:`StoredWeight.tensors` names them.
    name
        Of the parameter, for messages.

    Attributes
    ----------
    handle
        int64, one number: stands for this object in compiled graphs.
    compute
        Arithmetic of the kernel; None for the type of what is multiplied.
    activations
        What inputs of a linear layer are rounded to, or None.
    """

    def __init__(self, stored: StoredWeight, parts: Mapping[str, Tensor], name: str = "") -> None:
        self.stored, self.name = stored, name
        self.compute: Compute | None = None
        self.activations: ActivationScheme | None = None
        self._parts = dict(parts)
        self._kernels: list[PackedMatrix | PackedWeight] = []
        self._transforms: dict[int | None, tuple[InputTransform, ...]] = {}
        self.members = stored.matrix_shape[0] if len(stored.matrix_shape) == 3 else None
        one = stored if self.members is None else replace(stored, shape=stored.shape[1:])
        self.why_slow = one.without_kernel()
        self._said: set[str] = set()
        self._enroll()

    def _enroll(self) -> None:
        number = next(_numbers)
        self.handle = torch.tensor(number)
        _alive[number] = self

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self._parts[""].device

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes."""
        return sum(part.nbytes for part in self._parts.values())

    @property
    def kernels(self) -> tuple[PackedMatrix | PackedWeight, ...]:
        """What holds the codes now: one per matrix; none before the first product."""
        return tuple(self._kernels)

    def parts(self) -> dict[str, Tensor]:
        """The stored tensors by suffix, the codes taken back from the kernel where it has them."""
        if not self._kernels:
            return dict(self._parts)
        codes = [torch.from_numpy(kernel.packed()) for kernel in self._kernels]
        shape = self._parts[""].shape
        return {**self._parts, "": torch.stack(codes).reshape(shape)}

    def take(self, parts: Mapping[str, Tensor]) -> None:
        """Put other numbers where these are."""
        self._parts, self._kernels, self._transforms = dict(parts), [], {}

    def map(self, change: Callable[[Tensor], Tensor]) -> Packing:
        """Another packing, of what a function gives for each stored tensor."""
        made = Packing(self.stored, {k: change(v) for k, v in self.parts().items()}, self.name)
        made.compute, made.activations = self.compute, self.activations
        return made

    def on(self, device: Any) -> Packing:
        """The same on a device; itself if it is there."""
        wanted = torch.device(device)
        if all(part.device == wanted for part in self._parts.values()):
            return self
        return self.map(lambda part: part.to(wanted))

    def weight(self, member: int | None = None) -> QuantizedWeight:
        """The weight, or one matrix of it, put together."""
        whole = self.stored.assemble(self.parts())
        return whole if member is None else whole.member(member)

    def dense(self, dtype: torch.dtype, member: int | None = None) -> Tensor:
        """The numbers, in the model's shape: by how inputs are multiplied, scaled or not."""
        matrix = self.weight(member).dequantize(dtype)
        shape = self.stored.shape if member is None else self.stored.shape[1:]
        return self.stored.orientation.from_matrix(matrix, shape)

    def rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows of a matrix, of shape ``(*indices.shape, columns)``."""
        weight = self.weight()
        flat = indices.reshape(-1)
        rows = weight.rows(flat).dequantize(dtype) if weight.has_rows else self.dense(dtype)[flat]
        return rows.reshape(*indices.shape, rows.shape[-1])

    def multiply(self, x: Tensor, member: int | None = None) -> Tensor:
        """``x @ matrix.T``, of the type of `x`: by the kernel where there is one."""
        if self.stored.transforms:
            for transform in self._transforms_of(member):
                x = transform.transform(x)
        if self.activations is not None:
            x = self.activations.apply(x)
        kernel = self._kernel_for(x, member)
        if kernel is None:
            return nn.functional.linear(x, self._matrix(x.dtype, member))
        if x.dtype == torch.float16:
            # Half precision has no kernel of its own; float32 holds all of it.
            return cast(Tensor, kernel.matmul(x.float(), compute=self.compute)).half()
        return cast(Tensor, kernel.matmul(x, compute=self.compute))

    def multiply_transposed(self, x: Tensor, member: int | None = None) -> Tensor:
        """``x @ matrix``, of the type of `x`: what the gradient of a product needs, too."""
        kernel = self._kernel_for(x, member)
        if kernel is None:
            out = x @ self._matrix(x.dtype, member)
        else:
            short = x.float() if x.dtype == torch.float16 else x
            out = cast(Tensor, kernel.matmul_transposed(short)).to(x.dtype)
        return self._back(out, member) if self.stored.transforms else out

    def _back(self, gradient: Tensor, member: int | None) -> Tensor:
        """Through the transposes of the input transforms, which are linear."""
        with torch.enable_grad():
            start = torch.zeros_like(gradient, requires_grad=True)
            end: Tensor = start
            for transform in self._transforms_of(member):
                end = transform.transform(end)
        (back,) = torch.autograd.grad(end, start, gradient)
        return back

    def _transforms_of(self, member: int | None) -> tuple[InputTransform, ...]:
        if member not in self._transforms:
            self._transforms[member] = self.weight(member).transforms
        return self._transforms[member]

    def _matrix(self, dtype: torch.dtype, member: int | None) -> Tensor:
        """By what inputs are multiplied once they are transformed."""
        return self.weight(member).product_matrix().to(dtype)

    def _kernel_for(self, x: Tensor, member: int | None) -> PackedMatrix | PackedWeight | None:
        if self.why_slow is not None or not (
            x.is_cpu and x.dtype in _KERNEL_DTYPES and x.numel() > 0
        ):
            return None
        if not self._kernels:
            self._hand_over()
        return self._kernels[member or 0]

    def _hand_over(self) -> None:
        """Repack the codes; only the kernels have them from then on."""
        if self.members is None:
            self._kernels = [pack_weight(self.weight())]
        else:
            whole = self.weight()
            self._kernels = [pack_weight(whole.member(i)) for i in range(self.members)]
        codes = self._parts[""]
        # Type, shape and device as they were, and no memory.
        self._parts[""] = codes.new_zeros(1).expand(codes.shape)

    def say(self, use: str) -> None:
        """Say once that the numbers are read by something that no kernel does."""
        if use not in self._said:
            self._said.add(use)
            _log.info("%s is dequantized for each %s", self.name or "a packed weight", use)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __getstate__(self) -> dict[str, Any]:
        """As it is stored: another machine may repack it otherwise."""
        left_out = ("handle", "_parts", "_kernels", "_transforms")
        kept = {k: v for k, v in vars(self).items() if k not in left_out}
        return {**kept, "parts": self.parts()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = state.pop("parts")
        vars(self).update(state, _parts=parts, _kernels=[], _transforms={})
        self._enroll()
