"""What packed layers compute, as operators that ``torch.compile`` can put into its graphs.

Traced through, a product would end in code that torch cannot see into: a graph for every layer, and
another for every address. A graph holds a layer's number instead; a copy of the layer has another.
"""

from __future__ import annotations

import itertools
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from studentfloat.errors import ModelError

__all__ = ["enroll", "linear", "rows"]

_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()
_library: Any = torch.library.Library("studentfloat", "DEF")  # type: ignore[no-untyped-call]
_library.define("packed_linear(Tensor x, int layer, SymInt out_features) -> Tensor")
_library.define("packed_linear_gradient(Tensor gradient, int layer, SymInt in_features) -> Tensor")
_library.define("packed_rows(Tensor indices, int layer, SymInt width, ScalarType dtype) -> Tensor")


def enroll(layer: Any) -> int:
    """A number for a packed layer, valid while the layer lives."""
    number = next(_numbers)
    _layers[number] = layer
    return number


def linear(x: Tensor, layer: int, out_features: int) -> Tensor:
    """``x Wᵀ`` by the layer of that number, with a gradient for `x`."""
    return cast(Tensor, torch.ops.studentfloat.packed_linear(x, layer, out_features))


def rows(indices: Tensor, layer: int, width: int, dtype: torch.dtype) -> Tensor:
    """Embeddings by the layer of that number, of shape ``(*indices.shape, width)``."""
    return cast(Tensor, torch.ops.studentfloat.packed_rows(indices, layer, width, dtype))


def _layer(number: int) -> Any:
    found = _layers.get(number)
    if found is None:
        raise ModelError(f"packed layer {number} of a compiled graph is gone: keep its model")
    return found


def _linear(x: Tensor, layer: int, out_features: int) -> Tensor:
    return cast(Tensor, _layer(layer).product(x))


def _linear_shape(x: Tensor, layer: int, out_features: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


def _gradient(gradient: Tensor, layer: int, in_features: int) -> Tensor:
    return cast(Tensor, _layer(layer).product_transposed(gradient.contiguous()))


def _rows(indices: Tensor, layer: int, width: int, dtype: torch.dtype) -> Tensor:
    return cast(Tensor, _layer(layer).embeddings(indices))


def _rows_shape(indices: Tensor, layer: int, width: int, dtype: torch.dtype) -> Tensor:
    return indices.new_empty(*indices.shape, width, dtype=dtype)


def _remember(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
    x, ctx.layer, _ = inputs
    ctx.in_features = x.shape[-1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    found = torch.ops.studentfloat.packed_linear_gradient(gradient, ctx.layer, ctx.in_features)
    return found, None, None


for _name, _function, _shape in (
    ("packed_linear", _linear, _linear_shape),
    ("packed_linear_gradient", _gradient, _linear_shape),
    ("packed_rows", _rows, _rows_shape),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"studentfloat::{_name}", _shape, lib=_library)
torch.library.register_autograd(
    "studentfloat::packed_linear", _backward, setup_context=_remember, lib=_library
)
