"""GGUF files dequantized to a directory that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studentfloat.errors import ModelError, StudentFloatError
from studentfloat.models.exchange.gguf_metadata import (
    ROPE_FACTORS,
    check_rope,
    check_whole,
    rope_of,
)
from studentfloat.models.gguf_file import open_gguf
from studentfloat.models.quiet import quiet_transformers

__all__ = ["CONVERSION", "convert_gguf", "quantization_of_gguf"]

CONVERSION = 2
"""Raised whenever a conversion writes other files: older ones in the cache are not taken then."""

_SHARD = "5GB"


def quantization_of_gguf(path: Path) -> str:
    """Types of the matrices in a GGUF file, most frequent first: "Q4_1, F32".

    Raises
    ------
    ModelError
        If it is no GGUF file or a damaged one.
    """
    counts: dict[str, int] = {}
    for tensor in open_gguf(path).tensors:
        if len(tensor.shape) > 1:
            kind = tensor.tensor_type.name
            counts[kind] = counts.get(kind, 0) + int(tensor.n_elements)
    return ", ".join(sorted(counts, key=lambda kind: -counts[kind]))


def convert_gguf(
    path: Path, directory: Path, *, change: Callable[[Any], None] = lambda model: None
) -> None:
    """Dequantize a GGUF file to float32 safetensors, with configuration and tokenizer.

    Parameters
    ----------
    path
        A GGUF file of an architecture that transformers can read.
    directory
        Where the files go; exists.
    change
        Called with the model before it is written, to change it in place.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = str(path.parent), path.name
    reader = open_gguf(path)
    check_whole(reader, name)
    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=name, dtype=torch.float32, output_loading_info=True
            )
            _check_complete(path, model, report, reader)
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
            rope = rope_of(reader, model.config, name)
            change(model)
            _save(model, directory, rope)
            tokenizer.save_pretrained(directory)
    except StudentFloatError:
        raise
    except Exception as error:
        # transformers raises whatever it meets; the user needs the file and the reason.
        raise ModelError(f"cannot read the GGUF file {path}: {_one_line(error)}") from error
    check_rope(reader, directory, name)


def _check_complete(path: Path, model: Any, report: dict[str, Any], reader: Any) -> None:
    """Refuse what transformers would draw at random, or leave out."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = sorted(name for name in report.get("missing_keys", ()) if name not in tied)
    if missing:
        raise ModelError(
            f"the GGUF file {path} lacks {len(missing)} weights of its architecture, the first is "
            f"{missing[0]}"
        )
    left = [tensor.name for tensor in reader.tensors if _changes_rope(tensor.name)]
    if left:
        raise ModelError(
            f"the GGUF file {path} has the tensor {left[0]}, which transformers does not read: "
            "the model would compute something else"
        )


def _changes_rope(name: str) -> bool:
    """Whether a tensor scales angular frequencies in a way that is not read here."""
    return "rope_" in name and name != ROPE_FACTORS


def _save(model: Any, directory: Path, rope: dict[str, Any] | None) -> None:
    from huggingface_hub import save_torch_model

    config = model.config.to_dict()
    # What is written is dense: transformers refuses to save a model that it thinks quantized.
    config.pop("quantization_config", None)
    config["architectures"] = [type(model).__name__]
    if rope is not None:
        config["rope_parameters"] = rope
    (directory / "config.json").write_text(json.dumps(config, indent=1, default=str))
    # Of names that share a tensor the embedding's stays: other tools look for it there.
    ties = list(getattr(model, "all_tied_weights_keys", None) or {})
    save_torch_model(
        model, directory, max_shard_size=_SHARD, shared_tensors_to_discard=ties or None
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
