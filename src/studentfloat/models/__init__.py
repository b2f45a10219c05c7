"""Finding and loading models, and walking their weights.

Loading needs the extra ``models`` (torch, transformers); finding does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from studentfloat.errors import MissingDependencyError
from studentfloat.models.cache import cache_directory
from studentfloat.models.sources import ModelSource, Trust, find_model

if TYPE_CHECKING:
    from studentfloat.models.load import LoadedModel, ModelKind, load_model
    from studentfloat.models.quantized import QuantizedBlock, QuantizedModel
    from studentfloat.models.walk import WeightKind, WeightSite, walk_weights

__all__ = [
    "LoadedModel",
    "ModelKind",
    "ModelSource",
    "QuantizedBlock",
    "QuantizedModel",
    "Trust",
    "WeightKind",
    "WeightSite",
    "cache_directory",
    "find_model",
    "load_model",
    "walk_weights",
]

_HOMES = {
    "LoadedModel": "load",
    "ModelKind": "load",
    "load_model": "load",
    "QuantizedBlock": "quantized",
    "QuantizedModel": "quantized",
    "WeightKind": "walk",
    "WeightSite": "walk",
    "walk_weights": "walk",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'studentfloat.models' has no attribute {name!r}")
    try:
        return getattr(import_module(f"studentfloat.models.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingDependencyError.for_extra("torch", "models") from None
        raise
