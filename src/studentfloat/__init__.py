"""studentfloat: what a number format costs a large language model.

Formats of 2 to 8 bits, quantization with any of them, and what that does to a real model.
Importing this package loads neither torch nor SciPy's distributions; both come when needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studentfloat.formats import Format, get_format, resolve_format
    from studentfloat.models import quantize_model
    from studentfloat.quantize import (
        QuantizedTensor,
        Scheme,
        fake_quantize,
    )
    from studentfloat.study import compare

__version__ = "0.1.0"

_HOMES = {
    "Format": "studentfloat.formats",
    "get_format": "studentfloat.formats",
    "resolve_format": "studentfloat.formats",
    "QuantizedTensor": "studentfloat.quantize",
    "Scheme": "studentfloat.quantize",
    "fake_quantize": "studentfloat.quantize",
    "compare": "studentfloat.study",
    "quantize_model": "studentfloat.models",
}

__all__ = [
    "Format",
    "QuantizedTensor",
    "Scheme",
    "__version__",
    "compare",
    "fake_quantize",
    "get_format",
    "quantize_model",
    "resolve_format",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'studentfloat' has no attribute {name!r}")
