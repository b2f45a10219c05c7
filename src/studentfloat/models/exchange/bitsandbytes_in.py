"""bitsandbytes 4-bit checkpoints in: their codes and their table, scale by scale.

The layout is that of ``bitsandbytes.functional.QuantState.as_dict(packed=True)``: beside the
codes ``X.weight`` lie ``X.weight.absmax``, ``X.weight.quant_map`` and a tensor of JSON text,
``X.weight.quant_state.bitsandbytes__nf4``; where scales are quantized too (QLoRA, arXiv
2305.14314) also ``nested_absmax`` and ``nested_quant_map``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import FormatError, ModelError, SchemeError
from studentfloat.formats import Format
from studentfloat.models.exchange.blocks import imported_record, packed_tensor
from studentfloat.models.pack_writer import PackWriter, Shard
from studentfloat.models.packed_files import LAYOUT_VERSION, read_raw
from studentfloat.models.skeleton import Piece, pieces_of_checkpoint
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import StoredTensor, fingerprint, list_sound_tensors
from studentfloat.progress import Progress, silent
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import PackedModel, SkippedTensor

__all__ = ["import_bitsandbytes", "is_bitsandbytes"]

_STATE = ".quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LARGEST_STATE = 1 << 16
# Blocks run over the flattened weight: where rows end inside of them they are cut, down to this.
_LEAST_BLOCK = 8


@dataclass(frozen=True)
class _State:
    """The JSON beside a weight."""

    file: StoredTensor
    shape: tuple[int, ...]
    dtype: str
    block_size: int
    nested_block_size: int | None
    nested_offset: float


def is_bitsandbytes(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration says that bitsandbytes quantized it."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and (
        quantization.get("quant_method") == "bitsandbytes"
        or quantization.get("load_in_4bit") is True
        or quantization.get("load_in_8bit") is True
    )


def import_bitsandbytes(
    source: ModelSource, directory: Path, progress: Progress = silent
) -> PackedModel:
    """Make a packed checkpoint of one with bitsandbytes NF4 or FP4 weights.

    Parameters
    ----------
    source
        A directory with such a checkpoint.
    directory
        Where to: new, empty, or that of the same run interrupted, which goes on.
    progress
        Told about every weight.

    Returns
    -------
    PackedModel
        Its weights dequantize to the very numbers that bitsandbytes makes of them. Scales that
        were quantized are stored dequantized, in float32, because their mean was taken off.

    Raises
    ------
    SchemeError
        If the weights are 8-bit ones, or blocks and rows have next to no common divisor.
    ModelError
        If the checkpoint is damaged; the message names the tensor.
    """
    tensors = list_sound_tensors(source.weight_files)
    files = {tensor.name: tensor for tensor in tensors}
    states = _states(files, source.name)
    sites = _sites(source, files, states)
    shards = sorted({tensor.shard for tensor in tensors})
    identity = {
        "layout": LAYOUT_VERSION,
        "studentfloat": version("studentfloat"),
        "weights": fingerprint(source.weight_files),
        "files": source.settings_sha256,
        "route": "bitsandbytes",
    }
    writer = PackWriter(directory, identity, len(shards), source)
    if (finished := writer.finished()) is not None:
        return finished
    beside = {name + part for name in states for part in _PARTS}
    beside |= {state.file.name for state in states.values()}
    done = 0
    for number, shard in enumerate(shards, 1):
        names = [t.name for t in tensors if t.shard == shard]
        if not writer.is_done(number):
            weights, plain, records, skipped = {}, {}, [], []
            for name in names:
                if name in states:
                    weight = _read(files, name, states[name])
                    site = sites[name]
                    shape = _shape_in_model(states[name].shape, site.orientation)
                    stored = StoredWeight.of(weight, shape, site.orientation, method="bitsandbytes")
                    weights[name] = (stored, weight)
                    records.append(imported_record(name, weight, "bitsandbytes"))
                elif name not in beside:
                    plain[name] = read_raw(files[name])
                    why = "bitsandbytes left it as it was"
                    skipped.append(SkippedTensor(name, files[name].shape, why))
                done += 1
                progress(done / len(tensors), name)
            writer.write(number, Shard(weights, plain, tuple(records), tuple(skipped)))
    return writer.finish()


def _states(files: Mapping[str, StoredTensor], where: str) -> dict[str, _State]:
    states = {}
    for name, tensor in files.items():
        weight, found, kind = name.partition(_STATE)
        if not found:
            continue
        if kind not in _KINDS or weight not in files:
            raise ModelError(f"{name} belongs to no 4-bit weight of {where}")
        states[weight] = _read_state(tensor)
    if not states:
        raise SchemeError(
            f"{where} has no 4-bit weights by bitsandbytes: its 8-bit ones (LLM.int8()) keep "
            "outlier columns beside codes, which no scheme here describes. Load it with "
            "transformers and save it dequantized (`model.dequantize()`)"
        )
    return states


def _read_state(tensor: StoredTensor) -> _State:
    if tensor.dtype != "U8" or tensor.bytes > _LARGEST_STATE:
        raise ModelError(f"{tensor.name} is {tensor.dtype}, {tensor.bytes} bytes: no JSON text")
    try:
        data = json.loads(bytes(read_raw(tensor).tolist()))
        shape = tuple(int(size) for size in data["shape"])
        nested = data.get("nested_blocksize")
        state = _State(
            file=tensor,
            shape=shape,
            dtype=str(data["dtype"]),
            block_size=int(data["blocksize"]),
            nested_block_size=None if nested is None else int(nested),
            nested_offset=float(data.get("nested_offset", 0.0)),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{tensor.name} is damaged: it is not the JSON it should be") from error
    sizes = (*state.shape, state.block_size, state.nested_block_size or 1)
    if len(shape) != 2 or min(sizes) < 1 or state.dtype not in _DTYPES:
        raise ModelError(
            f"{tensor.name} describes a weight of shape {list(shape)} in {state.dtype}, blocks of "
            f"{state.block_size}: not a matrix of floating-point numbers"
        )
    return state


def _sites(
    source: ModelSource, files: Mapping[str, StoredTensor], states: Mapping[str, _State]
) -> dict[str, Piece]:
    """How the model multiplies by each weight; its dense shape stands in for the codes."""
    dense = [
        StoredTensor(name, "F32", state.shape, files[name].shard, 0, 0)
        for name, state in states.items()
    ]
    pieces, _ = pieces_of_checkpoint(source, dense, embeddings=True, head=True, whole=False)
    for piece in pieces:
        if piece.kind is None or piece.source is not None:
            reason = piece.reason or "transformers makes it of several tensors"
            raise ModelError(f"{piece.name} of {source.name} cannot be packed: {reason}")
    return {piece.parts[0].name: piece for piece in pieces}


def _shape_in_model(shape: tuple[int, ...], orientation: Orientation) -> tuple[int, ...]:
    # bitsandbytes turns GPT-2's Conv1D into linear layers: its shapes are the matrix's.
    return shape[::-1] if orientation is Orientation.TRANSPOSED else shape


def _read(files: Mapping[str, StoredTensor], name: str, state: _State) -> QuantizedWeight:
    rows, columns = state.shape
    block = math.gcd(columns, state.block_size)
    if block < min(_LEAST_BLOCK, state.block_size):
        raise SchemeError(
            f"{name} has rows of {columns} numbers, and blocks of {state.block_size} run across "
            f"them: cut to fit they would have {block}. Load it with transformers and save it "
            "dequantized (`model.dequantize()`)"
        )
    count = rows * columns
    packed = _part(files, name, torch.uint8, -(-count // 2))
    # The first number of a pair has the high nibble.
    codes = torch.stack((packed >> 4, packed & 15), dim=1).flatten()[:count].reshape(rows, columns)
    starts = torch.arange(0, count, block) // state.block_size
    scales = _scales(files, name, state)[starts].reshape(rows, columns // block)
    scheme = Scheme(_format(files, name, state), block_size=block)
    return QuantizedWeight(packed_tensor(codes, scales, scheme, _DTYPES[state.dtype], name))


def _scales(files: Mapping[str, StoredTensor], name: str, state: _State) -> Tensor:
    """The scales as float32, in the order of the flattened weight."""
    blocks = -(-math.prod(state.shape) // state.block_size)
    if state.nested_block_size is None:
        return _part(files, f"{name}.absmax", torch.float32, blocks)
    codes = _part(files, f"{name}.absmax", torch.uint8, blocks)
    groups = -(-blocks // state.nested_block_size)
    above = _part(files, f"{name}.nested_absmax", torch.float32, groups)
    table = _part(files, f"{name}.nested_quant_map", torch.float32, 256)
    spread = above[torch.arange(blocks) // state.nested_block_size]
    return table[codes.int()] * spread + torch.tensor(state.nested_offset, dtype=torch.float32)


def _format(files: Mapping[str, StoredTensor], name: str, state: _State) -> Format:
    """The table that the checkpoint brings; that of NF4 is not quite the catalog's quantiles."""
    table = _part(files, f"{name}.quant_map", torch.float32, 16).tolist()
    kind = state.file.name.rpartition("__")[2]
    try:
        return Format.from_code_table(
            dict(enumerate(table)),
            name=f"bitsandbytes-{kind}",
            bits=4,
            source="bitsandbytes, quant_map",
        )
    except FormatError as error:
        raise ModelError(f"{name}.quant_map is no table of 16 numbers: {error}") from error


def _part(files: Mapping[str, StoredTensor], name: str, dtype: torch.dtype, count: int) -> Tensor:
    found = files.get(name)
    if found is None:
        raise ModelError(f"the checkpoint lacks the tensor {name}")
    values = read_raw(found).flatten()
    if values.dtype != dtype or values.numel() != count:
        raise ModelError(
            f"{name} holds {values.numel()} numbers of type {found.dtype}, not {count} of "
            f"{str(dtype).removeprefix('torch.')}"
        )
    return values
