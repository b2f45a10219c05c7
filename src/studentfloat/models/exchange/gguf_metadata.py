"""A transformers configuration as GGUF's keys."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ModelError, SchemeError
from studentfloat.models.quiet import quiet_transformers

__all__ = [
    "ROPE_FACTORS",
    "check_rope",
    "check_whole",
    "model_metadata",
    "rope_factors",
    "rope_of",
]

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor that llama.cpp divides the angular frequencies by."""

_ANY_CONTEXT = 8192

_ROPES = ("default", "linear", "llama3")


def model_metadata(writer: Any, directory: Path, kinds: list[str]) -> None:
    """Tell a GGUF writer a model's sizes.

    Parameters
    ----------
    writer
        A ``gguf.GGUFWriter``.
    directory
        With the model's ``config.json``.
    kinds
        The type of every tensor; the most frequent names the file's.

    Raises
    ------
    SchemeError
        If the model computes what GGUF's architecture does not.
    """
    from gguf import GGML_QUANT_VERSION, LlamaFileType, RopeScalingType

    config = _config(directory)
    if getattr(config, "hidden_act", "silu") != "silu":
        raise SchemeError(f"GGUF cannot carry activation {config.hidden_act!r}: silu only")
    if getattr(config, "use_sliding_window", False):
        raise SchemeError("GGUF's Llama-like architectures have no sliding window")
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(directory.resolve().name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    rope = _rope(directory)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_vocab_size(config.vocab_size)
    main = Counter(kind for kind in kinds if kind not in ("F32", "F16", "BF16")).most_common(1)
    names = {"MXFP4": "MOSTLY_MXFP4_MOE"}
    if main:
        writer.add_file_type(LlamaFileType[names.get(main[0][0], f"MOSTLY_{main[0][0]}")])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def rope_factors(directory: Path) -> npt.NDArray[np.float32] | None:
    """What llama.cpp divides each angular frequency by: float32, of half a head's size.

    For Llama 3.1's scaling of the slow ones; None for a model without. The formula is that of
    transformers' ``modeling_rope_utils``, "llama3".
    """
    rope = _rope(directory)
    if rope["rope_type"] != "llama3":
        return None
    config = _config(directory)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / float(rope["rope_theta"]) ** (np.arange(0, size, 2) / size)
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns = float(rope["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divisors: npt.NDArray[np.float32] = (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)
    return divisors


def _rope_of_factors(
    factors: npt.NDArray[np.float32], theta: float, where: str
) -> dict[str, Any] | None:
    """The inverse of :func:`rope_factors`: transformers' ``rope_parameters`` of type "llama3".

    The divisors fix the scaling up to a common factor of its two bounds and the original
    context; with Llama 3.1's own bounds, 1 and 4, where those fit.

    Parameters
    ----------
    factors
        Of shape ``(head_dim / 2,)``.
    theta
        The rope's base.
    where
        The file, for messages.

    Returns
    -------
    dict or None
        None where nothing is scaled.

    Raises
    ------
    ModelError
        If they are no such scaling.
    """
    divisors = factors.astype(np.float64)
    greatest = float(divisors.max())
    if not np.isfinite(divisors).all() or divisors.min() <= 0:
        raise ModelError(f"{where}: {ROPE_FACTORS} holds what is no divisor of a frequency")
    if np.allclose(divisors, 1.0):
        return None
    frequencies = theta ** (-np.arange(len(divisors)) / len(divisors))
    blend = (1 / divisors - 1 / greatest) / (1 - 1 / greatest)
    inside = (blend > 1e-3) & (blend < 1 - 1e-3)
    turns = 2 * math.pi / frequencies[inside]
    if not inside.any():
        raise ModelError(f"{where}: {ROPE_FACTORS} has a step, which is no scaling known here")
    low, high = 1.0, 4.0
    contexts = (low + blend[inside] * (high - low)) * turns
    context = round(float(np.median(contexts)))
    if not np.allclose(contexts, context, rtol=1e-3):
        slope, offset = (float(x) for x in np.polyfit(frequencies[inside], blend[inside], 1))
        # blend = (context * frequency / 2 pi - low) / (high - low), and any context will do.
        context = _ANY_CONTEXT
        low = -offset * context / (2 * math.pi * slope)
        high = low + context / (2 * math.pi * slope)
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": float(np.float32(greatest)),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def rope_of(reader: Any, config: Any, name: str) -> dict[str, Any] | None:
    """The ``rope_parameters`` of a file that has :data:`ROPE_FACTORS`; None for one without.

    Raises
    ------
    ModelError
        If they are no scaling that transformers has.
    """
    factors = _factors(reader)
    if factors is None:
        return None
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        raise ModelError(f"{name} has {ROPE_FACTORS}, and its architecture has no rope for it")
    return _rope_of_factors(factors, float(rope["rope_theta"]), name)


def _factors(reader: Any) -> Any:
    found = next((t for t in reader.tensors if t.name == ROPE_FACTORS), None)
    return None if found is None else np.array(found.data, dtype=np.float32).reshape(-1)


def check_rope(reader: Any, directory: Path, name: str) -> None:
    """Refuse a configuration that does not give back the very factors that the file has.

    Raises
    ------
    ModelError
        If there are factors, and those of the ``config.json`` in `directory` are others.
    """
    factors = _factors(reader)
    if factors is None:
        return
    ours = rope_factors(directory)
    ours = np.ones_like(factors) if ours is None else ours
    if ours.shape != factors.shape or not np.allclose(ours, factors, rtol=1e-4):
        raise ModelError(
            f"{name} scales its rope by {ROPE_FACTORS} as no scaling known to transformers does"
        )


def check_whole(reader: Any, where: str) -> None:
    """Refuse one part of a model that was split over several files.

    Raises
    ------
    ModelError
        That says how parts become one file.
    """
    field = reader.get_field("split.count")
    count = 1 if field is None else int(field.contents())
    if count > 1:
        number = reader.get_field("split.no")
        which = "a part" if number is None else f"part {int(number.contents()) + 1}"
        raise ModelError(
            f"{where} is {which} of {count} and not the whole model: "
            "`llama-gguf-split --merge FIRST-PART WHOLE.gguf` makes one file of them"
        )


def _config(directory: Path) -> Any:
    from transformers import AutoConfig

    with quiet_transformers():
        return AutoConfig.from_pretrained(directory, local_files_only=True)


def _rope(directory: Path) -> dict[str, Any]:
    rope = dict(_config(directory).rope_parameters)
    if rope.get("rope_type", "default") not in _ROPES:
        raise SchemeError(
            f"GGUF export knows rope of type {', '.join(_ROPES)}, not {rope['rope_type']!r}"
        )
    return {"rope_type": "default", **rope}
