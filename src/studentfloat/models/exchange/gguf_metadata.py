"""A transformers configuration as GGUF's keys."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studentfloat.errors import SchemeError
from studentfloat.models.quiet import quiet_transformers

__all__ = ["model_metadata", "rope_factors"]

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
