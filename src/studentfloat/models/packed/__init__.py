"""Packed weights in any model: a tensor that has a weight's shape and type, and multiplies packed.

``packing`` holds the numbers, ``tensor`` is what a module has as its parameter, ``products`` and
``operators`` say how it multiplies, eagerly and compiled, ``modules`` puts it into models.
"""

from __future__ import annotations

# Products register themselves with the tensor.
from studentfloat.models.packed import products  # noqa: F401
from studentfloat.models.packed.modules import packed_tensors, packed_weights
from studentfloat.models.packed.packing import Packing
from studentfloat.models.packed.tensor import PackedTensor

__all__ = ["PackedTensor", "Packing", "packed_tensors", "packed_weights"]
