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
    from studentfloat.models.activations import (
        ActivationScheme,
        calibrate_ranges,
        integer_linear,
        quantized_activations,
    )
    from studentfloat.models.calibration import Calibration, CalibrationWindows
    from studentfloat.models.driver import ModelQuantizer, quantize_model
    from studentfloat.models.kv_cache import KVCacheReport, KVCacheScheme, quantized_kv_cache
    from studentfloat.models.load import LoadedModel, ModelKind, load_model
    from studentfloat.models.pack import quantize_checkpoint
    from studentfloat.models.pack_calibrated import calibrate_checkpoint
    from studentfloat.models.pack_writer import merge_parts
    from studentfloat.models.packed_files import PackedCheckpoint
    from studentfloat.models.quantized import QuantizedBlock, QuantizedModel
    from studentfloat.models.unpack import dequantize_checkpoint, verify_checkpoint
    from studentfloat.models.walk import WeightKind, WeightSite, walk_weights

__all__ = [
    "ActivationScheme",
    "Calibration",
    "CalibrationWindows",
    "KVCacheReport",
    "KVCacheScheme",
    "LoadedModel",
    "ModelKind",
    "ModelQuantizer",
    "ModelSource",
    "PackedCheckpoint",
    "QuantizedBlock",
    "QuantizedModel",
    "Trust",
    "WeightKind",
    "WeightSite",
    "cache_directory",
    "calibrate_checkpoint",
    "calibrate_ranges",
    "dequantize_checkpoint",
    "find_model",
    "integer_linear",
    "load_model",
    "merge_parts",
    "quantize_checkpoint",
    "quantize_model",
    "quantized_activations",
    "quantized_kv_cache",
    "verify_checkpoint",
    "walk_weights",
]

_HOMES = {
    "calibrate_checkpoint": "pack_calibrated",
    "ActivationScheme": "activations",
    "calibrate_ranges": "activations",
    "integer_linear": "activations",
    "quantized_activations": "activations",
    "KVCacheReport": "kv_cache",
    "KVCacheScheme": "kv_cache",
    "quantized_kv_cache": "kv_cache",
    "quantize_checkpoint": "pack",
    "merge_parts": "pack_writer",
    "verify_checkpoint": "unpack",
    "dequantize_checkpoint": "unpack",
    "PackedCheckpoint": "packed_files",
    "LoadedModel": "load",
    "ModelKind": "load",
    "load_model": "load",
    "Calibration": "calibration",
    "CalibrationWindows": "calibration",
    "ModelQuantizer": "driver",
    "quantize_model": "driver",
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
