"""Weights straight from safetensors shards, one tensor at a time, without building the model.

Needs neither torch nor transformers, and memory for one tensor only, so a checkpoint of
any size can be read. A damaged shard costs its own tensors and no others.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ModelError
from studentfloat.models.cache import sha256_of
from studentfloat.models.roles import layer_of, role_of
from studentfloat.models.safetensors_header import read_header
from studentfloat.untrusted import read_json, shown, table, typed

__all__ = [
    "StoredTensor",
    "fingerprint",
    "list_sound_tensors",
    "list_tensors",
    "model_files",
    "natural_order",
    "spellings",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_LARGEST_HEADER = 100 << 20
_KERNEL_AXES = 4
_FLOAT_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output_projection|classifier|score|cls|fc)\.")
_EMBEDDINGS = re.compile(r"embed|(^|\.)(wte|wpe|shared|relative_attention_bias)\.|_token$|_tokens$")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a shard, not read yet.

    Attributes
    ----------
    name, dtype, shape
        As the shard's header has them (dtype "F32", "BF16", "I8" ...).
    shard
        The file.
    offset, bytes
        Where in the file its data are, and how many there should be.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    offset: int
    bytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def layer(self) -> int | None:
        """Index of the block that it is in: the first number in its name."""
        return layer_of(self.name)

    @property
    def role(self) -> str:
        """What it is within its block: ``q_proj``, ``intermediate.dense``."""
        return role_of(self.name)

    @property
    def is_embedding_or_head(self) -> bool:
        """Whether its name is that of a table of embeddings or of an output head.

        A kernel of a convolution is neither, even where it cuts images into patches.
        """
        return len(self.shape) < _KERNEL_AXES and bool(
            _EMBEDDINGS.search(self.name) or _HEADS.search(self.name)
        )

    def why_not_real(self) -> str | None:
        """Why its numbers follow no law: None for floating point of two or more axes, not empty."""
        if self.dtype not in _FLOAT_DTYPES:
            return f"type {self.dtype}: codes or indices, not real numbers"
        if len(self.shape) < 2:
            return "vector (norm, bias or scale)"
        if self.count == 0:
            return "no elements"
        return None

    def read(self) -> Floats:
        """Read it, of its own shape; bfloat16 becomes float32, which is exact.

        Raises
        ------
        ModelError
            If the shard ends before it does, or its dtype is not floating point.
        """
        if self.dtype not in _FLOAT_DTYPES:
            raise ModelError(
                f"{self.name} in {self.shard.name} is {self.dtype}: not floating point"
            )
        try:
            with self.shard.open("rb") as stream:
                stream.seek(self.offset)
                raw = np.fromfile(stream, dtype=np.uint8, count=self.bytes)
        except OSError as error:
            raise ModelError(f"cannot read the shard {self.shard}: {error.strerror}") from error
        if raw.size < self.bytes:
            raise ModelError(
                f"the shard {self.shard.name} is truncated: {self.name} should have "
                f"{self.bytes} bytes, {raw.size} are there"
            )
        if self.dtype == "BF16":
            wide = raw.view("<u2").astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32).reshape(self.shape)
        kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[self.dtype]
        return raw.view(kind).reshape(self.shape)


def list_tensors(shards: list[Path]) -> tuple[list[StoredTensor], dict[str, str]]:
    """What the shards hold, by their headers, in natural order of the names.

    Returns
    -------
    tensors
        Also those whose data a truncated file lacks: reading them says so.
    damaged
        File name to what is wrong with it, for shards whose header cannot be used.
    """
    tensors: list[StoredTensor] = []
    damaged: dict[str, str] = {}
    for shard in shards:
        try:
            tensors += _of_shard(shard, whole=False)
        except ModelError as error:
            damaged[shard.name] = str(error)
    return _in_order(tensors), damaged


def list_sound_tensors(shards: list[Path]) -> list[StoredTensor]:
    """The same, where one damaged shard spoils it all.

    Raises
    ------
    ModelError
        If a header cannot be used, a file is cut, or two shards hold a tensor of one name; the
        message names the file.
    """
    tensors = _in_order([tensor for shard in shards for tensor in _of_shard(shard, whole=True)])
    for one, next_one in pairwise(tensors):
        if one.name == next_one.name:
            raise ModelError(
                f"{one.name} is in two shards: {one.shard.name} and {next_one.shard.name}"
            )
    return tensors


def spellings(name: str, prefix: str) -> tuple[str, ...]:
    """How a model and its checkpoint may spell a tensor's name: with the base's prefix or without.

    Parameters
    ----------
    name
        By either.
    prefix
        The model's ``base_model_prefix``.
    """
    return name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")


def model_files(directory: Path, stem: str = "model.safetensors") -> list[Path]:
    """The files that hold a model's weights, as transformers finds them.

    Parameters
    ----------
    directory
        The model's.
    stem
        Name of the one file, or of the index's with ``.index.json`` after it.

    Returns
    -------
    list of Path
        The one file; else the shards that the index names, in order of name, whether they are
        there or not; empty where there is neither.

    Raises
    ------
    ModelError
        If the index is damaged, or names what is not beside it.
    """
    if (directory / stem).is_file():
        return [directory / stem]
    index = directory / f"{stem}.index.json"
    if not index.is_file():
        return []
    data = table(read_json(index, error=ModelError), str(index), error=ModelError)
    where = f"{index} is damaged: its weight_map"
    weight_map = typed(dict[str, str], data.get("weight_map"), where=where, error=ModelError)
    if not weight_map:
        raise ModelError(f"{where} is empty")
    names = sorted(set(weight_map.values()))
    for name in names:
        sound = name.isprintable() and Path(name).name == name
        if not sound or Path(name).suffix != Path(stem).suffix:
            raise ModelError(f"{index} names {shown(name)}, which is not a shard beside it")
    return [directory / name for name in names]


def fingerprint(shards: list[Path]) -> str:
    """Hash of the shards' names and of all their bytes; one that cannot be read counts as such."""
    total = hashlib.sha256()
    for shard in sorted(shards, key=lambda file: file.name):
        try:
            total.update(f"{shard.name} {sha256_of(shard)}\n".encode())
        except OSError:
            total.update(f"{shard.name} cannot be read\n".encode())
    return total.hexdigest()


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts ``experts.10`` after ``experts.9``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _of_shard(shard: Path, *, whole: bool) -> list[StoredTensor]:
    return [
        StoredTensor(e.name, e.dtype, e.shape, shard, e.begin, e.end - e.begin)
        for e in read_header(shard, whole=whole)
    ]


def _in_order(tensors: list[StoredTensor]) -> list[StoredTensor]:
    return sorted(tensors, key=lambda tensor: natural_order(tensor.name))
