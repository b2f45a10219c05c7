"""GGUF files in: codes and scales as they are, under the names that transformers has."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.models.cache import sha256_of_files
from studentfloat.models.exchange.blocks import imported_record, packed_tensor
from studentfloat.models.exchange.gguf_blocks import BLOCK, BLOCK_TYPES, BlockType
from studentfloat.models.exchange.gguf_metadata import (
    ROPE_FACTORS,
    check_rope,
    check_whole,
    rope_of,
)
from studentfloat.models.exchange.gguf_names import Architecture, architecture_of, tensor_names
from studentfloat.models.gguf_file import open_gguf
from studentfloat.models.pack_writer import PackWriter, Shard
from studentfloat.models.packed_files import LAYOUT_VERSION
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.skeleton import skeleton
from studentfloat.models.sources import ModelSource
from studentfloat.progress import Progress, silent
from studentfloat.quantize.parts import Offsets
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import PackedModel, SkippedTensor

__all__ = ["import_gguf"]

_SHARD_BYTES = 1 << 29
_DENSE = ("F32", "F16", "BF16")
# llama.cpp's converters leave these in wider types; dense they are exact, and few.
_MAY_BE_DENSE = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class _Tensor:
    """One tensor in the file, by the name that transformers has for it."""

    name: str
    kind: str
    raw: Any
    order: Tensor | None


def import_gguf(path: Path, directory: Path, progress: Progress = silent) -> PackedModel:
    """Make a packed checkpoint of a GGUF file whose matrices are Q4_0, MXFP4, IQ4_NL or Q8_0.

    Parameters
    ----------
    path
        Of a model whose architecture is one of
        :data:`~studentfloat.models.exchange.gguf_names.ARCHITECTURES`.
    directory
        Where to: new, empty, or that of the same run interrupted, which goes on.
    progress
        Told about every tensor.

    Returns
    -------
    PackedModel
        Its weights dequantize to the very numbers that the package gguf makes of them. An
        embedding or head in another type is stored dense in float32, and said so.

    Raises
    ------
    SchemeError
        If a layer's matrix is of another type, or the architecture is another.
    ModelError
        If the file is damaged.
    """
    reader = _open(path)
    with tempfile.TemporaryDirectory() as place:
        source = _with_side_files(path, Path(place), reader)
        architecture = architecture_of(source.config.get("model_type"), path.name)
        tensors = _tensors(reader, source, architecture)
        _check_types(tensors, path)
        groups = _groups(tensors)
        identity = {
            "layout": LAYOUT_VERSION,
            "studentfloat": version("studentfloat"),
            "weights": sha256_of_files([path]),
            "route": "gguf",
        }
        writer = PackWriter(directory, identity, len(groups), source)
        if (finished := writer.finished()) is not None:
            return finished
        places = {tensor.name: n / len(tensors) for n, tensor in enumerate(tensors, 1)}
        for number, group in enumerate(groups, 1):
            if not writer.is_done(number):
                writer.write(number, _shard(group, lambda name: progress(places[name], name)))
        return writer.finish()


def _open(path: Path) -> Any:
    reader = open_gguf(path)
    check_whole(reader, path.name)
    return reader


def _with_side_files(path: Path, place: Path, reader: Any) -> ModelSource:
    """Configuration and tokenizer as transformers reads them from the file."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            architecture_of(config.model_type, path.name)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer.save_pretrained(place)
    except SchemeError:
        raise
    except Exception as error:
        # transformers raises whatever it meets; the user needs the file and the reason.
        raise ModelError(
            f"transformers cannot read the GGUF file {path}: {' '.join(str(error).split())[:240]}"
        ) from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    data = config.to_dict()
    data["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    data["dtype"] = "float32"
    # transformers leaves it at its default for some architectures.
    architecture = reader.get_field("general.architecture").contents()
    size = reader.get_field(f"{architecture}.attention.key_length")
    if size is not None:
        data["head_dim"] = int(size.contents())
    rope = rope_of(reader, config, path.name)
    if rope is not None:
        data["rope_parameters"] = rope
    (place / "config.json").write_text(json.dumps(data, indent=1, default=str))
    check_rope(reader, place, path.name)
    return ModelSource(str(path), place, f"GGUF file {path.name}")


def _tensors(reader: Any, source: ModelSource, architecture: Architecture) -> list[_Tensor]:
    layers = int(source.config["num_hidden_layers"])
    if layers > len(reader.tensors):
        raise ModelError(
            f"{source.name} claims {layers} layers and has {len(reader.tensors)} tensors"
        )
    model = skeleton(source)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = {theirs: name for name, theirs in tensor_names(shapes, architecture, layers).items()}
    found = []
    for tensor in reader.tensors:
        if tensor.name == ROPE_FACTORS:
            continue  # it is in the configuration
        name = ours.get(tensor.name)
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if name is None:
            raise SchemeError(
                f"{source.name} has a tensor {tensor.name}, which transformers' model has "
                "no place for: the other weights alone would not compute the same. Give the .gguf "
                "file as a model to see whether transformers reads it"
            )
        if shape != shapes[name]:
            raise ModelError(
                f"{source.name}: {tensor.name} has the shape {list(shape)}, its configuration "
                f"wants {list(shapes[name])}"
            )
        order = architecture.row_order(name, shape[0], source.config)
        kind = tensor.tensor_type.name
        found.append(_Tensor(name, kind, tensor, None if order is None else order.argsort()))
    tied = bool(source.config.get("tie_word_embeddings"))
    lacking = shapes.keys() - {t.name for t in found} - ({"lm_head.weight"} if tied else set())
    if lacking:
        raise ModelError(f"{source.name} lacks the tensor for {min(lacking)}")
    return found


def _check_types(tensors: list[_Tensor], path: Path) -> None:
    others: dict[str, int] = {}
    for tensor in tensors:
        if tensor.kind not in (*_DENSE, *BLOCK_TYPES) and tensor.raw.name not in _MAY_BE_DENSE:
            others[tensor.kind] = others.get(tensor.kind, 0) + 1
    if others:
        listed = ", ".join(f"{count} matrices in {kind}" for kind, count in others.items())
        raise SchemeError(
            f"{path.name} has {listed}: types with scales of scales in layouts of their "
            f"own, which no scheme describes ({', '.join(BLOCK_TYPES)} are "
            f"carried code by code). `studentfloat quantize {path} -o DIR` dequantizes it and "
            "quantizes again"
        )
    if not any(tensor.kind in BLOCK_TYPES for tensor in tensors):
        raise SchemeError(f"{path.name} is not quantized: `studentfloat quantize` packs it")


def _weight(tensor: _Tensor, kind: BlockType) -> QuantizedWeight:
    blocks = kind.unpack(tensor.raw.data)
    if tensor.order is not None:
        blocks = blocks.in_order(tensor.order)
    base = packed_tensor(blocks.codes, blocks.scales, kind.scheme, torch.float32, tensor.name)
    offsets = () if blocks.minima is None else (Offsets(blocks.minima, BLOCK),)
    return QuantizedWeight(base, offsets)


def _shard(group: list[_Tensor], tell: Callable[[str], None]) -> Shard:
    from gguf import dequantize

    weights: dict[str, tuple[StoredWeight, QuantizedWeight]] = {}
    plain: dict[str, Tensor] = {}
    records, skipped = [], []
    for tensor in group:
        kind = BLOCK_TYPES.get(tensor.kind)
        if kind is not None and len(tensor.raw.shape) == 2:
            weight = _weight(tensor, kind)
            method = f"gguf {tensor.kind}"
            weights[tensor.name] = (StoredWeight.of(weight, weight.shape, method=method), weight)
            records.append(imported_record(tensor.name, weight, method))
        else:
            values = _dense(tensor, dequantize)
            plain[tensor.name] = values if tensor.order is None else values[tensor.order]
            why = (
                f"{tensor.kind} in the GGUF file"
                if tensor.kind in _DENSE
                else f"{tensor.kind}, which no scheme describes: dequantized to float32"
            )
            skipped.append(SkippedTensor(tensor.name, tuple(values.shape), why))
        tell(tensor.name)
    return Shard(weights, plain, tuple(records), tuple(skipped))


def _dense(tensor: _Tensor, dequantize: Callable[..., Any]) -> Tensor:
    shape = [int(size) for size in reversed(tensor.raw.shape)]
    raw = np.array(tensor.raw.data)
    if tensor.kind == "BF16":
        return torch.from_numpy(raw).view(torch.bfloat16).reshape(shape)
    if tensor.kind not in _DENSE:
        raw = dequantize(raw, tensor.raw.tensor_type)
    return torch.from_numpy(raw).reshape(shape)


def _groups(tensors: list[_Tensor]) -> list[list[_Tensor]]:
    groups: list[list[_Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + int(tensor.raw.n_bytes) > _SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += int(tensor.raw.n_bytes)
    return groups
