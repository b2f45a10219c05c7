"""Quantizing tensors with any format: schemes, scales, rounding, packing.

:class:`Scheme` needs no torch; everything that touches tensors does, and loads it when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from studentfloat.errors import MissingDependencyError
from studentfloat.quantize.gptq_options import GPTQOptions
from studentfloat.quantize.method import METHOD_STEPS, Method, parse_method
from studentfloat.quantize.scheme import ROW, SCALE_DTYPES, SCALE_RULES, TENSOR, Scheme

if TYPE_CHECKING:
    from studentfloat.quantize.packing import pack_codes, unpack_codes
    from studentfloat.quantize.parts import InputScale, LowRank, Offsets, Outliers
    from studentfloat.quantize.rounding.gptq import GPTQResult, gptq
    from studentfloat.quantize.rounding.nearest import fake_quantize, quantize
    from studentfloat.quantize.scales import block_scales
    from studentfloat.quantize.tensor import QuantizedTensor
    from studentfloat.quantize.weight import QuantizedWeight

__all__ = [
    "METHOD_STEPS",
    "ROW",
    "SCALE_DTYPES",
    "SCALE_RULES",
    "TENSOR",
    "GPTQOptions",
    "GPTQResult",
    "InputScale",
    "LowRank",
    "Method",
    "Offsets",
    "Outliers",
    "QuantizedTensor",
    "QuantizedWeight",
    "Scheme",
    "block_scales",
    "fake_quantize",
    "gptq",
    "pack_codes",
    "parse_method",
    "quantize",
    "unpack_codes",
]

_HOMES = {
    "QuantizedTensor": "tensor",
    "quantize": "rounding.nearest",
    "fake_quantize": "rounding.nearest",
    "block_scales": "scales",
    "pack_codes": "packing",
    "unpack_codes": "packing",
    "GPTQResult": "rounding.gptq",
    "gptq": "rounding.gptq",
    "InputScale": "parts",
    "LowRank": "parts",
    "Offsets": "parts",
    "Outliers": "parts",
    "QuantizedWeight": "weight",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'studentfloat.quantize' has no attribute {name!r}")
    try:
        return getattr(import_module(f"studentfloat.quantize.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingDependencyError.for_extra("torch", "models") from None
        raise
