"""A directory of packed weights: what is in it, read with nothing taken on trust."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import ModelError
from studentfloat.models.layout1 import as_layout_2
from studentfloat.models.stream import StoredTensor, list_sound_tensors, model_files
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.scheme_json import (
    LayoutTables,
    lone_scheme_from_json,
    lone_scheme_to_json,
)
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.untrusted import read_json, table

__all__ = [
    "CONFIG_KEY",
    "LAYOUT_VERSION",
    "MANIFEST",
    "NO_COMPANIONS",
    "TORCH_TYPES",
    "Companions",
    "PackedCheckpoint",
    "parse_layout",
    "read_raw",
    "sha256_of",
    "sha256_of_settings",
    "write_layout",
]

LAYOUT_VERSION = 2
_READ_VERSIONS = (1, LAYOUT_VERSION)
METHOD = "studentfloat"
CONFIG_KEY = "quantization_config"
MANIFEST = "studentfloat.json"
LAYOUT_KEYS = (
    *("quant_method", "version", "formats", "schemes", "methods", "tensors"),
    *("activations", "kv_cache"),
)
INDEX = "model.safetensors.index.json"

_DECIDES_NOTHING = ("_name_or_path", "transformers_version")
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def write_layout(tensors: Mapping[str, StoredWeight]) -> dict[str, Any]:
    """The ``quantization_config`` that describes these weights."""
    tables = LayoutTables()
    entries = {name: stored.to_json(tables) for name, stored in tensors.items()}
    return {
        "quant_method": METHOD,
        "version": LAYOUT_VERSION,
        **tables.to_json(),
        "tensors": entries,
    }


@dataclass(frozen=True)
class Companions:
    """What a packed model wants done beside multiplying by packed weights.

    Attributes
    ----------
    activations
        To what inputs of packed linear layers (the head's aside) are rounded, token by token.
    kv_cache
        Format of the key-value cache, for who keeps one so.
    """

    activations: Scheme | None = None
    kv_cache: Scheme | None = None

    def to_json(self) -> dict[str, Any]:
        """Keys of a ``quantization_config``."""
        found = {"activations": self.activations, "kv_cache": self.kv_cache}
        return {k: lone_scheme_to_json(s) for k, s in found.items() if s is not None}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Companions:
        """Read them; those that are not there are None.

        Raises
        ------
        ModelError
            On anything that is no scheme.
        """
        given = {key: config[key] for key in ("activations", "kv_cache") if config.get(key)}
        return cls(**{key: lone_scheme_from_json(data, key) for key, data in given.items()})


NO_COMPANIONS = Companions()


def parse_layout(config: Any) -> dict[str, StoredWeight]:
    """Read a ``quantization_config`` of this or an earlier layout.

    Raises
    ------
    ModelError
        If it is of another method or version, or anything in it is not what it must be.
    """
    if not isinstance(config, Mapping) or config.get("quant_method") != METHOD:
        raise ModelError(f"its {CONFIG_KEY} is not of quant_method {METHOD!r}")
    version = config.get("version")
    if version not in _READ_VERSIONS or isinstance(version, bool):
        raise ModelError(
            f"its packed layout has version {version!r}; this studentfloat reads "
            f"{' and '.join(map(str, _READ_VERSIONS))}"
        )
    for key in config:
        if key not in LAYOUT_KEYS:
            raise ModelError(f"its {CONFIG_KEY} has {key!r}, which this version does not know")
    Companions.from_json(config)
    data = as_layout_2(config) if version == 1 else config
    tables, tensors = LayoutTables.from_json(data), data.get("tensors")
    if not isinstance(tensors, Mapping):
        raise ModelError(f"its {CONFIG_KEY} lacks a table 'tensors'")
    return {
        str(name): StoredWeight.from_json(entry, tables, str(name))
        for name, entry in tensors.items()
    }


def read_raw(tensor: StoredTensor) -> Tensor:
    """Read a tensor as it is stored, of its own type and shape.

    Raises
    ------
    ModelError
        If the shard ends before it does, or its type is unknown.
    """
    dtype = TORCH_TYPES.get(tensor.dtype)
    if dtype is None:
        raise ModelError(f"{tensor.name} in {tensor.shard.name} is of unknown type {tensor.dtype}")
    size = math.prod(tensor.shape) * dtype.itemsize
    if size != tensor.bytes:
        raise ModelError(
            f"the shard {tensor.shard.name} is damaged: its header gives {tensor.name} "
            f"{tensor.bytes} bytes for {tensor.dtype} of shape {list(tensor.shape)}"
        )
    if size == 0:
        return torch.empty(tensor.shape, dtype=dtype)
    try:
        # Before anything is allocated: a header may claim any size.
        if tensor.offset + size > tensor.shard.stat().st_size:
            raise ModelError(
                f"the shard {tensor.shard.name} is truncated: {tensor.name} should end at byte "
                f"{tensor.offset + size}"
            )
        with tensor.shard.open("rb") as stream:
            stream.seek(tensor.offset)
            raw = np.fromfile(stream, dtype=np.uint8, count=size)
    except OSError as error:
        raise ModelError(f"cannot read the shard {tensor.shard}: {error.strerror}") from error
    if raw.size < size:
        raise ModelError(f"the shard {tensor.shard.name} is truncated: {tensor.name} is not whole")
    return torch.from_numpy(raw).view(dtype).reshape(tensor.shape)


def sha256_of(tensor: Tensor) -> str:
    """Hash of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()


def sha256_of_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """A hash for each key of a ``config.json``, and of its ``quantization_config``.

    Left out are the keys that decide no number: where a model came from, and which
    transformers wrote it.
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        if key == CONFIG_KEY and isinstance(value, Mapping):
            found |= {f"{key}.{inner}": _sha256_of_json(data) for inner, data in value.items()}
        elif key not in _DECIDES_NOTHING:
            found[key] = _sha256_of_json(value)
    return found


def _sha256_of_json(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PackedCheckpoint:
    """A packed model's files.

    Attributes
    ----------
    directory
        Holds ``config.json`` and the shards.
    config
        The model's configuration as it stands there.
    weights
        What is quantized, by name.
    files
        Every tensor in the shards, by name.
    """

    directory: Path
    config: dict[str, Any]
    weights: dict[str, StoredWeight]
    files: dict[str, StoredTensor]

    @classmethod
    def open(cls, directory: Path) -> PackedCheckpoint:
        """Open a directory; headers are read, weights are not.

        Raises
        ------
        ModelError
            If it is no packed checkpoint, or its headers do not fit what its configuration
            promises: the message names file and tensor.
        """
        config = _read_table(directory / "config.json")
        if CONFIG_KEY not in config:
            raise ModelError(f"{directory} is not packed: its config.json has no {CONFIG_KEY}")
        try:
            weights = parse_layout(config[CONFIG_KEY])
        except ModelError as error:
            raise ModelError(f"{directory}: {error}") from error
        files = {tensor.name: tensor for tensor in list_sound_tensors(_shards(directory))}
        checkpoint = cls(directory, config, weights, files)
        for name, stored in weights.items():
            for suffix, tensor_spec in stored.tensors.items():
                checkpoint._check_header(name + suffix, tensor_spec.dtype, tensor_spec.shape)
        return checkpoint

    def weight(self, name: str) -> QuantizedWeight:
        """Read one weight, checked in every number.

        Raises
        ------
        ModelError
            If a tensor of it is damaged or not what it must be; the message names it.
        """
        stored = self.weights[name]
        tensors = {s: read_raw(self.files[name + s]) for s in stored.tensors}
        stored.check(tensors, name)
        return stored.assemble(tensors)

    def plain_names(self) -> Iterator[str]:
        """Names of the tensors that are stored as they were."""
        packed = {name + s for name, w in self.weights.items() for s in w.tensors}
        return (name for name in self.files if name not in packed)

    def _check_header(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        found = self.files.get(name)
        if found is None:
            raise ModelError(f"{self.directory} lacks the tensor {name}")
        if TORCH_TYPES.get(found.dtype) != dtype or found.shape != shape:
            raise ModelError(
                f"{name} in {found.shard.name} is {found.dtype} of shape {list(found.shape)}; "
                f"its configuration says {str(dtype).removeprefix('torch.')} of shape {list(shape)}"
            )


def _shards(directory: Path) -> list[Path]:
    """The one file or the shards that the index names; none may lie outside of the directory."""
    shards = model_files(directory)
    if not shards:
        raise ModelError(f"{directory} has no weights: neither model.safetensors nor {INDEX}")
    for shard in shards:
        if not shard.is_file():
            raise ModelError(f"{directory} lacks the shard {shard.name}")
    return shards


def _read_table(file: Path) -> dict[str, Any]:
    # As transformers reads them: some of its configurations have Infinity.
    return table(read_json(file, error=ModelError, lenient=True), str(file), error=ModelError)
