"""GGUF files out: codes and scales as they are, for llama.cpp to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studentfloat.errors import ConfigError, FailureError, MissingDependencyError, SchemeError
from studentfloat.models.exchange.blocks import refuse_extras
from studentfloat.models.exchange.gguf_blocks import (
    BLOCK_TYPES,
    BlockType,
    Bytes,
    fitting_type,
    split_blocks,
)
from studentfloat.models.exchange.gguf_metadata import ROPE_FACTORS, model_metadata, rope_factors
from studentfloat.models.exchange.gguf_names import Architecture, architecture_of, tensor_names
from studentfloat.models.exchange.gguf_tokenizer import tokenizer_metadata
from studentfloat.models.packed_files import PackedCheckpoint, read_raw
from studentfloat.progress import Progress, silent
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.parts import Offsets
from studentfloat.records.temporary import temporary_beside

__all__ = ["export_gguf"]

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_DENSE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Entry:
    """A tensor to write: its name here and there, its type there."""

    name: str
    target: str
    kind: str


def export_gguf(checkpoint: PackedCheckpoint, out: Path, progress: Progress = silent) -> Path:
    """Write a packed Llama-like model as a GGUF file.

    Parameters
    ----------
    checkpoint
        Whose weights all fit one of GGUF's types exactly.
    out
        The file; must not exist.
    progress
        Told about every tensor.

    Returns
    -------
    Path
        `out`. Its weights dequantize to the same float32 numbers.

    Raises
    ------
    SchemeError
        If a weight, the architecture, its rope or its tokenizer cannot be carried.
    ConfigError
        If the file exists.
    """
    try:
        from gguf import GGUFWriter
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("gguf", "models") from error
    if out.exists():
        raise ConfigError(f"{out} exists: choose another file")
    config = checkpoint.config
    architecture = architecture_of(config.get("model_type"), str(checkpoint.directory))
    entries = _entries(checkpoint, architecture, progress)
    temporary = temporary_beside(out)
    writer = GGUFWriter(temporary, architecture.name)
    model_metadata(writer, checkpoint.directory, [entry.kind for entry in entries])
    tokenizer_metadata(writer, checkpoint.directory, int(config["vocab_size"]))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(writer, checkpoint, architecture, entries, progress)
        temporary.replace(out)
    except OSError as error:
        raise FailureError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _write(
    writer: Any,
    checkpoint: PackedCheckpoint,
    architecture: Architecture,
    entries: list[_Entry],
    progress: Progress,
) -> None:
    from gguf import GGMLQuantizationType

    factors = rope_factors(checkpoint.directory)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for entry in entries:
        shape = _byte_shape(checkpoint, entry)
        size = int(np.prod(shape))
        kind = GGMLQuantizationType[entry.kind]
        writer.add_tensor_info(entry.target, shape, np.dtype(np.uint8), size, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for done, entry in enumerate(entries):
            progress(0.5 + done / len(entries) / 2, entry.name)
            writer.write_tensor_data(_bytes(checkpoint, architecture, entry))
    finally:
        writer.close()


def _entries(
    checkpoint: PackedCheckpoint, architecture: Architecture, progress: Progress
) -> list[_Entry]:
    """Every tensor with its type; each weight is read to see whether its scales fit."""
    names = [*checkpoint.weights, *checkpoint.plain_names()]
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    targets = tensor_names(names, architecture, int(checkpoint.config["num_hidden_layers"]))
    if tied and _HEAD in targets.values():
        # A checkpoint of a tied pair may hold either; in GGUF it is the embedding.
        head = next(name for name, target in targets.items() if target == _HEAD)
        if _EMBEDDING in targets.values():
            names.remove(head)
        else:
            targets[head] = _EMBEDDING
    entries = []
    for done, name in enumerate(names):
        progress(done / len(names) / 2, name)
        stored = checkpoint.weights.get(name)
        if stored is None:
            kind = _dense_kind(checkpoint, name)
        else:
            refuse_extras(name, stored, "GGUF", carried=(Offsets.kind,))
            if stored.orientation is not Orientation.PLAIN or len(stored.shape) != 2:
                raise SchemeError(f"GGUF cannot carry {name}: it is not a plain matrix")
            kind = fitting_type(checkpoint.weight(name), name).name
        entries.append(_Entry(name, targets[name], kind))
    return entries


def _dense_kind(checkpoint: PackedCheckpoint, name: str) -> str:
    tensor = checkpoint.files[name]
    if tensor.dtype not in _DENSE:
        raise SchemeError(f"GGUF cannot carry {name}: it is of type {tensor.dtype}")
    # llama.cpp multiplies by vectors in float32 only.
    return "F32" if len(tensor.shape) < 2 else tensor.dtype


def _byte_shape(checkpoint: PackedCheckpoint, entry: _Entry) -> tuple[int, ...]:
    stored = checkpoint.weights.get(entry.name)
    if stored is None:
        shape = checkpoint.files[entry.name].shape
        return (*shape[:-1], shape[-1] * _DENSE[entry.kind].itemsize)
    kind = BLOCK_TYPES[entry.kind]
    return (stored.shape[0], stored.shape[1] // 32 * kind.block_bytes)


def _bytes(checkpoint: PackedCheckpoint, architecture: Architecture, entry: _Entry) -> Bytes:
    name, config = entry.name, checkpoint.config
    if name not in checkpoint.weights:
        values = read_raw(checkpoint.files[name]).to(_DENSE[entry.kind])
        order = architecture.row_order(name, len(values), config)
        values = values if order is None else values[order]
        raw: Bytes = values.contiguous().view(torch.uint8).numpy()
        return raw
    kind: BlockType = BLOCK_TYPES[entry.kind]
    blocks = split_blocks(checkpoint.weight(name), kind, name)
    order = architecture.row_order(name, len(blocks.codes), config)
    if order is not None:
        blocks = blocks.in_order(order)
    return kind.pack(*blocks)
