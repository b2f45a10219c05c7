"""GGUF files dequantized to a directory that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studentfloat.errors import MissingDependencyError, ModelError
from studentfloat.models.quiet import quiet_transformers

__all__ = ["convert_gguf", "quantization_of_gguf"]

_SHARD = "5GB"


def quantization_of_gguf(path: Path) -> str:
    """Types of the matrices in a GGUF file, most frequent first: "Q4_1, F32".

    Raises
    ------
    ModelError
        If it is no GGUF file or a damaged one.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("gguf", "models") from error
    try:
        reader = GGUFReader(path)
        counts: dict[str, int] = {}
        for tensor in reader.tensors:
            if len(tensor.shape) > 1:
                kind = tensor.tensor_type.name
                counts[kind] = counts.get(kind, 0) + int(tensor.n_elements)
    except (OSError, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not a sound GGUF file: {_one_line(error)}") from error
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
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
            change(model)
            _save(model, directory)
            tokenizer.save_pretrained(directory)
    except (OSError, ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise ModelError(f"cannot read the GGUF file {path}: {_one_line(error)}") from error


def _save(model: Any, directory: Path) -> None:
    from huggingface_hub import save_torch_model

    config = model.config.to_dict()
    # What is written is dense: transformers refuses to save a model that it thinks quantized.
    config.pop("quantization_config", None)
    config["architectures"] = [type(model).__name__]
    (directory / "config.json").write_text(json.dumps(config, indent=1, default=str))
    save_torch_model(model, directory, max_shard_size=_SHARD)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
