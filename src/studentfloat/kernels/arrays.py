"""torch's and NumPy's arrays alike, without importing torch."""

from __future__ import annotations

import os
import sys
from functools import cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

from studentfloat.errors import DataError
from studentfloat.kernels.dispatch import native

__all__ = [
    "Array",
    "address",
    "default_threads",
    "dtype_name",
    "empty_like",
    "is_contiguous",
    "is_torch",
]

Array: TypeAlias = Any  # numpy.ndarray or torch.Tensor
_LARGE = 1 << 22


def is_torch(array: Array) -> bool:
    """Whether it is a torch tensor (anything else counts as NumPy's)."""
    kind: Any = type(array)
    return _is_tensor(kind)


@cache
def _is_tensor(kind: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.Tensor)


def dtype_name(array: Array) -> str:
    """The type's name without its library: "float32", "bfloat16" ..."""
    return _name(array.dtype)


@cache
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def is_contiguous(array: Array) -> bool:
    """Whether its numbers follow each other in memory, row by row."""
    return bool(array.is_contiguous() if is_torch(array) else array.flags.c_contiguous)


def address(array: Array, what: str) -> int:
    """Where the numbers of a contiguous array in main memory begin."""
    if is_torch(array):
        if not array.is_cpu:
            raise DataError(f"{what} is on {array.device}: the kernels are for the CPU")
        if not array.is_contiguous():
            raise DataError(f"{what} is not contiguous")
        return int(array.data_ptr())
    if not array.flags.c_contiguous:
        raise DataError(f"{what} is not contiguous")
    return int(array.ctypes.data)


def empty_like(array: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """A new array of the same library; a large one in memory that earlier ones have left."""
    torch = sys.modules["torch"] if is_torch(array) else None
    module = native()
    size = prod(shape) * _item_size(dtype)
    if module is not None and size > _LARGE and (torch is None or array.is_cpu):
        kept = module.pooled_bytes(size)
        if torch is None:
            return kept.view(dtype).reshape(shape)
        return torch.from_numpy(kept).view(getattr(torch, dtype)).view(shape)
    if torch is None:
        return np.empty(shape, dtype=dtype)
    if dtype == dtype_name(array):
        return array.new_empty(shape)
    return torch.empty(shape, dtype=getattr(torch, dtype))


@cache
def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def default_threads() -> int:
    """torch's number of threads where torch is in use, else the processors this process has."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
