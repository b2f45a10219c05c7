"""Check a packed checkpoint, and make a dense one of it again, one tensor at a time."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ConfigError, FailureError, ModelError
from studentfloat.models.companions import companion_files, copy_file
from studentfloat.models.conversions import ParameterSource, find_sources
from studentfloat.models.pack_writer import WORK, is_free, save_shard
from studentfloat.models.packed_files import (
    CONFIG_KEY,
    INDEX,
    MANIFEST,
    PackedCheckpoint,
    read_raw,
    sha256_of,
    sha256_of_settings,
)
from studentfloat.models.skeleton import skeleton
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import StoredTensor, fingerprint, list_tensors
from studentfloat.progress import Progress, silent
from studentfloat.records import Verification, read_json, write_json
from studentfloat.records.temporary import sweep

__all__ = ["dequantize_checkpoint", "verify_checkpoint"]

_DONE = "dequantized.json"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def verify_checkpoint(
    directory: Path,
    *,
    source: ModelSource | None = None,
    progress: Progress = silent,
) -> Verification:
    """Read every tensor of a packed checkpoint and check all that can be checked.

    Parameters
    ----------
    directory
        The packed model.
    source
        What it was made of: every tensor of it must be there, of its shape, and those that
        are not quantized must have the same bytes.
    progress
        Told about every weight.

    Returns
    -------
    Verification
        All problems, not only the first.

    Raises
    ------
    ModelError
        If it cannot be opened at all: a header that lies, a layout of another version.
    """
    checkpoint = PackedCheckpoint.open(directory)
    problems: list[str] = []
    manifest = _manifest(directory, problems)
    hashes = _recorded_hashes(manifest, problems)
    problems += _changed_settings(checkpoint, manifest)
    if hashes:
        problems += [
            f"{n} is on record but not in the shards"
            for n in hashes.keys() - checkpoint.files.keys()
        ]
        problems += [
            f"{n} is in the shards but not on record"
            for n in checkpoint.files.keys() - hashes.keys()
        ]
    steps = max(1, len(checkpoint.weights) + len(checkpoint.files))
    for done, name in enumerate(checkpoint.weights):
        progress(done / steps, name)
        _collect(problems, checkpoint.weight, name)
    for done, (name, tensor) in enumerate(checkpoint.files.items(), len(checkpoint.weights)):
        progress(done / steps, name)
        if name in hashes:
            _collect(problems, _check_hash, tensor, hashes[name])
    if source is not None:
        problems += _compare(checkpoint, source, _names(manifest.get("changed")))
    return Verification(
        directory=str(directory),
        weights=len(checkpoint.weights),
        tensors=len(checkpoint.files),
        hashed=len(hashes.keys() & checkpoint.files.keys()),
        compared_with=None if source is None else source.name,
        problems=tuple(dict.fromkeys(problems)),
    )


def dequantize_checkpoint(
    directory: Path,
    out: Path,
    *,
    dtype: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Write a dense checkpoint that any tool loads.

    Parameters
    ----------
    directory
        A packed model.
    out
        New, empty, or that of the same run interrupted, which goes on.
    dtype
        "float32", "float16" or "bfloat16" for all; by default each weight has the type
        that it was quantized from.
    progress
        Told about every tensor.

    Raises
    ------
    ConfigError
        On another type, or if `out` holds something else.
    ModelError
        If the checkpoint is damaged; the message names the tensor.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype!r}: one of {', '.join(_DTYPES)}")
    checkpoint = PackedCheckpoint.open(directory)
    shards = _by_shard(checkpoint)
    plan = {"of": _identity(checkpoint), "dtype": dtype, "shards": len(shards)}
    if _claim(out, plan):
        return out
    names: dict[str, str] = {}
    done = 0
    for number, (_, members) in enumerate(sorted(shards.items()), 1):
        file = out / f"model-{number:05}-of-{len(shards):05}.safetensors"
        names |= dict.fromkeys(members, file.name)
        if file.is_file():
            done += len(members)
            continue
        tensors = {}
        for name in members:
            progress(done / max(1, len(checkpoint.files)), name)
            tensors[name] = _dense(checkpoint, name, None if dtype is None else _DTYPES[dtype])
            done += 1
        save_shard(tensors, file)
    size = sum((out / file).stat().st_size for file in set(names.values()))
    write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": names})
    for companion in companion_files(directory, code=True):
        if companion != Path("config.json"):
            copy_file(directory / companion, out / companion)
    config = {key: value for key, value in checkpoint.config.items() if key != CONFIG_KEY}
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    write_json(out / "config.json", config)
    write_json(out / _DONE, plan)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return out


def _claim(out: Path, plan: dict[str, Any]) -> bool:
    """Begin a run in a directory, or go on with the same one; True if it was finished before."""
    marker = out / WORK / "plan.json"
    sweep(out)
    sweep(out / WORK)
    if (out / _DONE).is_file():
        if read_json(out / _DONE) != plan:
            raise ConfigError(
                f"{out} holds another model that was dequantized, or this one otherwise: choose "
                "another directory or delete it"
            )
        shutil.rmtree(out / WORK, ignore_errors=True)
        return True
    if marker.is_file():
        if read_json(marker) != plan:
            raise ConfigError(f"{out} holds an unfinished run of another kind: delete it")
        return False
    if not is_free(out):
        raise ConfigError(f"{out} exists and is not empty: choose another directory")
    write_json(marker, plan)
    return False


def _identity(checkpoint: PackedCheckpoint) -> dict[str, Any]:
    """By the bytes of the shards and of the configuration."""
    shards = sorted({tensor.shard for tensor in checkpoint.files.values()})
    return {"weights": fingerprint(shards), "config": sha256_of_settings(checkpoint.config)}


def _by_shard(checkpoint: PackedCheckpoint) -> dict[str, list[str]]:
    """Names of the dense tensors, by the shard that they, or their codes, are in."""
    shards: dict[str, list[str]] = {}
    for name in (*checkpoint.weights, *checkpoint.plain_names()):
        shards.setdefault(checkpoint.files[name].shard.name, []).append(name)
    return shards


def _dense(checkpoint: PackedCheckpoint, name: str, dtype: torch.dtype | None) -> Tensor:
    stored = checkpoint.weights.get(name)
    if stored is None:
        plain = read_raw(checkpoint.files[name])
        return plain.to(dtype) if dtype is not None and plain.is_floating_point() else plain
    matrix = checkpoint.weight(name).dequantize(dtype)
    return stored.orientation.from_matrix(matrix, stored.shape)


def _manifest(directory: Path, problems: list[str]) -> dict[str, Any]:
    manifest = directory / MANIFEST
    if not manifest.is_file():
        problems.append(f"{MANIFEST} is missing: no hashes to compare with")
        return {}
    try:
        data = read_json(manifest)
    except (FailureError, RecursionError):
        data = None
    if not isinstance(data, dict):
        problems.append(f"{MANIFEST} is damaged: it is not a table")
        return {}
    return data


def _recorded_hashes(manifest: dict[str, Any], problems: list[str]) -> dict[str, str]:
    table = manifest.get("sha256")
    if manifest and not isinstance(table, dict):
        problems.append(f"{MANIFEST} is damaged: it has no table 'sha256'")
    return _strings(table)


def _strings(table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        return {}
    return {str(name): str(digest) for name, digest in table.items()}


def _changed_settings(checkpoint: PackedCheckpoint, manifest: dict[str, Any]) -> list[str]:
    """Keys of the configuration, and files beside it, that are not what was written.

    Models written before these were on record have nothing to be compared with.
    """
    wanted, files = _strings(manifest.get("config")), _strings(manifest.get("files"))
    found = sha256_of_settings(checkpoint.config) if wanted else {}
    problems = [
        f"config.json: {key} is not what was written"
        for key in sorted({*wanted, *found})
        if wanted.get(key) != found.get(key)
    ]
    for name, digest in files.items():
        file = checkpoint.directory / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            problems.append(f"{MANIFEST} names {name!r}, which is outside of the directory")
        elif not file.is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            problems.append(f"{name} is not what was written")
    return problems


def _check_hash(tensor: StoredTensor, wanted: str) -> None:
    if sha256_of(read_raw(tensor)) != wanted:
        raise ModelError(f"{tensor.name} in {tensor.shard.name} has changed: its hash differs")


def _collect(problems: list[str], check: Callable[..., object], *arguments: object) -> None:
    try:
        check(*arguments)
    except ModelError as error:
        problems.append(str(error))


def _is_tied(checkpoint: PackedCheckpoint, tensor: StoredTensor) -> bool:
    """Whether a table of embeddings or a head is stored under the name that it is tied to."""
    if not tensor.is_embedding_or_head or not checkpoint.config.get("tie_word_embeddings", True):
        return False
    packed = {name: stored.shape for name, stored in checkpoint.weights.items()}
    shapes = {name: file.shape for name, file in checkpoint.files.items()} | packed
    return any(
        checkpoint.files[name].is_embedding_or_head and shape == tensor.shape
        for name, shape in shapes.items()
    )


def _made_of_several(
    checkpoint: PackedCheckpoint, source: ModelSource, tensors: list[StoredTensor]
) -> dict[str, ParameterSource]:
    """Tensors that the source does not have, and that transformers makes of those it has."""
    names = {tensor.name for tensor in tensors}
    unknown = {n for n in (*checkpoint.weights, *checkpoint.plain_names()) if n not in names}
    if not unknown:
        return {}
    try:
        sources = find_sources(skeleton(source), tensors)
    except ModelError:
        return {}  # then they are reported as not of the source
    return {name: its for name, its in sources.items() if name in unknown}


def _compare_made(checkpoint: PackedCheckpoint, its: ParameterSource, name: str) -> list[str]:
    try:
        value = its.read()
    except ModelError as error:
        return [str(error)]
    stored = checkpoint.weights.get(name)
    shape = checkpoint.files[name].shape if stored is None else stored.shape
    if shape != tuple(value.shape):
        return [f"{name} has the shape {list(shape)}, the source's tensors {list(value.shape)}"]
    if stored is None and sha256_of(read_raw(checkpoint.files[name])) != sha256_of(value):
        return [f"{name} is not quantized and yet not what the source's tensors make"]
    return []


def _names(data: Any) -> set[str]:
    return {str(name) for name in data} if isinstance(data, list) else set()


def _compare(checkpoint: PackedCheckpoint, source: ModelSource, changed: set[str]) -> list[str]:
    tensors, damaged = list_tensors(source.weight_files)
    problems = list(damaged.values())
    made = _made_of_several(checkpoint, source, tensors)
    used = {tensor.name for its in made.values() for tensor, _ in its.tensors}
    for name, its in made.items():
        problems += _compare_made(checkpoint, its, name)
    for tensor in tensors:
        stored = checkpoint.weights.get(tensor.name)
        found = checkpoint.files.get(tensor.name)
        if found is None and (tensor.name in used or _is_tied(checkpoint, tensor)):
            continue
        if found is None:
            problems.append(f"{tensor.name} of {source.name} is missing")
        elif stored is not None and stored.shape != tensor.shape:
            problems.append(
                f"{tensor.name} has the shape {list(stored.shape)}, in {source.name} "
                f"{list(tensor.shape)}"
            )
        elif tensor.name in changed:
            if found.shape != tensor.shape:
                problems.append(f"{tensor.name} has another shape than in {source.name}")
        elif stored is None and sha256_of(read_raw(found)) != sha256_of(read_raw(tensor)):
            problems.append(f"{tensor.name} is not quantized and yet not that of {source.name}")
    shapes_gone = {tensor.shape for tensor in tensors if tensor.name not in checkpoint.files}
    known = {tensor.name for tensor in tensors} | made.keys()
    tied = {n for n, w in checkpoint.weights.items() if w.shape in shapes_gone}
    tied |= {
        name
        for name, file in checkpoint.files.items()
        if file.is_embedding_or_head and file.shape in shapes_gone
    }
    present = (*checkpoint.weights, *checkpoint.plain_names())
    extra = [name for name in present if name not in known and name not in tied]
    return problems + [f"{name} is not in {source.name}" for name in extra]
