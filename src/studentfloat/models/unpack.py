"""Check a packed checkpoint, and make a dense one of it again, one tensor at a time."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ConfigError, FailureError, ModelError, printable
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
from studentfloat.models.side_files import copy_file, side_files
from studentfloat.models.skeleton import map_checkpoint
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
        problems=tuple(dict.fromkeys(map(printable, problems))),
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
    for beside in side_files(directory, code=True):
        if beside != Path("config.json"):
            copy_file(directory / beside, out / beside)
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


def _names(data: Any) -> set[str]:
    return {str(name) for name in data} if isinstance(data, list) else set()


def _compare(checkpoint: PackedCheckpoint, source: ModelSource, changed: set[str]) -> list[str]:
    """Hold what is packed against the source, parameter by parameter, as a model loads them."""
    tensors, damaged = list_tensors(source.weight_files)
    problems = list(damaged.values())
    mapped = map_checkpoint(source, tensors)
    packed = find_sources(mapped.module, _as_dense(checkpoint))
    used = {t.name for its in mapped.sources.values() for t, _ in its.tensors}
    found = {t.name for its in packed.values() for t, _ in its.tensors}
    seen: set[int] = set()
    for name, its in mapped.sources.items():
        if id(its) in seen:
            continue
        seen.add(id(its))
        if name in packed:
            problems += _compare_one(checkpoint, packed[name], its, source, changed)
        else:
            problems.append(f"{its.stored.name} of {source.name} is missing")
    for tensor in tensors:
        if tensor.name in used or tensor.name not in checkpoint.files:
            if tensor.name not in used:
                problems.append(f"{tensor.name} of {source.name} is missing")
            continue
        if sha256_of(read_raw(checkpoint.files[tensor.name])) != sha256_of(read_raw(tensor)):
            problems.append(f"{tensor.name} is not quantized and yet not that of {source.name}")
    known = found | {tensor.name for tensor in tensors}
    present = (*checkpoint.weights, *checkpoint.plain_names())
    return problems + [f"{name} is not in {source.name}" for name in present if name not in known]


def _as_dense(checkpoint: PackedCheckpoint) -> list[StoredTensor]:
    """The packed tensors by name and shape as if they were dense."""
    return [
        replace(checkpoint.files[name], shape=checkpoint.weights[name].shape)
        if name in checkpoint.weights
        else checkpoint.files[name]
        for name in (*checkpoint.weights, *checkpoint.plain_names())
    ]


def _compare_one(
    checkpoint: PackedCheckpoint,
    packed: ParameterSource,
    its: ParameterSource,
    source: ModelSource,
    changed: set[str],
) -> list[str]:
    """What is wrong with one parameter: its shape, or its numbers where they are dense."""
    ours = {tensor.name: tensor for tensor, _ in packed.tensors}
    theirs = {tensor.name: tensor for tensor, _ in its.tensors}
    if its.joined and packed.joined:
        # Made of the same tensors on both sides: those are compared one by one.
        pairs = [(name, theirs[name], ours.get(name)) for name in theirs]
    elif its.joined:
        return _compare_made(checkpoint, its, packed.stored.name)
    else:
        pairs = [(packed.stored.name, its.stored, packed.stored)]
    problems = []
    for name, tensor, found in pairs:
        if found is None:
            problems.append(f"{name} of {source.name} is missing")
        elif found.shape != tensor.shape:
            problems.append(
                f"{name} has the shape {list(found.shape)}, in {source.name} {list(tensor.shape)}"
            )
        elif name in checkpoint.weights or name in changed:
            continue
        elif sha256_of(read_raw(found)) != sha256_of(read_raw(tensor)):
            problems.append(f"{name} is not quantized and yet not that of {source.name}")
    return problems


def _compare_made(checkpoint: PackedCheckpoint, its: ParameterSource, name: str) -> list[str]:
    """What is wrong with a parameter that the source has in parts."""
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
