"""Writes a packed checkpoint shard by shard, each whole or not at all, and completes it.

Until the last shard is done the directory has no ``config.json``, so nothing loads half a
model. What is known of finished shards lies in ``.studentfloat`` inside of it.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from studentfloat.errors import ConfigError, FailureError
from studentfloat.models.cache import changed_since_hashed
from studentfloat.models.cache import sha256_of as sha256_of_file
from studentfloat.models.packed_files import (
    CONFIG_KEY,
    INDEX,
    MANIFEST,
    NO_COMPANIONS,
    Companions,
    sha256_of,
    sha256_of_settings,
    write_layout,
)
from studentfloat.models.side_files import (
    copy_file,
    copy_side_files,
    decides_outputs,
    side_files,
)
from studentfloat.models.sources import ModelSource
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import (
    PackedModel,
    SkippedTensor,
    TensorQuantization,
    read_json,
    record_from_json,
    record_to_json,
    write_json,
)
from studentfloat.records.temporary import sweep, temporary_beside

__all__ = [
    "REPORT",
    "WORK",
    "PackWriter",
    "Shard",
    "is_free",
    "merge_parts",
    "save_shard",
]

REPORT = "quantization-report.json"
WORK = ".studentfloat"
_SIDE_FILES = "side-files"
_PLAN = "plan.json"


@dataclass(frozen=True)
class Shard:
    """What goes into one shard.

    Attributes
    ----------
    weights
        Quantized ones, with what describes them, by name in the checkpoint.
    plain
        Tensors as they are.
    records, skipped
        What was done to the former, and why the latter were left.
    changed
        Names of plain tensors that the method changed: norms that scales were folded into.
    """

    weights: Mapping[str, tuple[StoredWeight, QuantizedWeight]]
    plain: Mapping[str, Tensor]
    records: tuple[TensorQuantization, ...]
    skipped: tuple[SkippedTensor, ...]
    changed: tuple[str, ...] = ()


class PackWriter:
    """A packed checkpoint in the making.

    Parameters
    ----------
    directory
        New, empty, or that of the same run interrupted.
    identity
        All that decides the bytes of the result, as JSON data.
    shards
        How many there will be.
    source
        Whose configuration and tokenizer go along.
    companions
        What else the model wants done.
    untied
        Whether embedding and head are two tables although the source's configuration ties them;
        the configuration written says so.

    Raises
    ------
    ConfigError
        If the directory holds something else.
    FailureError
        If it cannot be written to.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        shards: int,
        source: ModelSource,
        companions: Companions = NO_COMPANIONS,
        *,
        untied: bool = False,
    ) -> None:
        self.directory, self._source = directory, source
        self._plan: dict[str, Any] = {
            "shards": shards,
            "identity": dict(identity),
            "companions": companions.to_json(),
        }
        if untied:
            self._plan["untied"] = True
        work = directory / WORK
        sweep(directory)
        sweep(work)
        if (directory / MANIFEST).is_file():
            if _finished_plan(directory) != self._plan:
                raise ConfigError(
                    f"{directory} holds another packed model, or this one made otherwise: "
                    "choose another directory or delete it"
                )
            shutil.rmtree(work, ignore_errors=True)
            return
        if (work / _PLAN).is_file():
            if read_json(work / _PLAN) != self._plan:
                raise ConfigError(
                    f"{directory} holds an unfinished run with other settings or of another "
                    "model: choose another directory or delete it"
                )
        elif not is_free(directory):
            raise ConfigError(f"{directory} exists and is not empty: choose another directory")
        else:
            # Before anything else: by it the next run knows this directory.
            write_json(work / _PLAN, self._plan)
        copy_side_files(source.directory, work / _SIDE_FILES, code=source.trust.remote_code)

    def finished(self) -> PackedModel | None:
        """The record of a model that is complete, else None."""
        if not (self.directory / MANIFEST).is_file():
            return None
        return _read_report(self.directory)

    def is_done(self, number: int) -> bool:
        """Whether a shard, counted from 1, is there."""
        return _facts_file(self.directory, number).is_file()

    def write(self, number: int, shard: Shard) -> None:
        """Write a shard and then what is known of it."""
        tensors: dict[str, Tensor] = dict(shard.plain)
        for name, (stored, weight) in shard.weights.items():
            its = weight.tensors()
            stored.check(its, name)
            tensors |= {name + suffix: tensor for suffix, tensor in its.items()}
        file = self.directory / _shard_name(number, self._plan["shards"])
        save_shard(tensors, file)
        write_json(
            _facts_file(self.directory, number),
            {
                "layout": write_layout({n: stored for n, (stored, _) in shard.weights.items()}),
                "sha256": {name: sha256_of(tensor) for name, tensor in sorted(tensors.items())},
                "bytes": file.stat().st_size,
                "bits": sum(weight.bits for _, weight in shard.weights.values()),
                "weights": sum(math.prod(stored.shape) for stored, _ in shard.weights.values()),
                "plain": sum(tensor.numel() for tensor in shard.plain.values()),
                "records": [record_to_json(_with_speed(r, shard)) for r in shard.records],
                "skipped": [record_to_json(skip) for skip in shard.skipped],
                "changed": list(shard.changed),
            },
        )

    def shard(self, number: int) -> tuple[Path, dict[str, Any]]:
        """A finished shard: its file, and what is known of it."""
        file = self.directory / _shard_name(number, self._plan["shards"])
        facts: dict[str, Any] = read_json(_facts_file(self.directory, number))
        return file, facts

    def finish(self) -> PackedModel:
        """Complete the model.

        Raises
        ------
        FailureError
            If shards are missing, the message counts them; or if the source's files are not
            what they were when this run began.
        """
        changed = changed_since_hashed(self._source.weight_files)
        if changed is not None:
            raise FailureError(
                f"{changed} changed while the model was being quantized: delete {self.directory} "
                "and run the command again"
            )
        return _finish(self.directory, self._plan)


def is_free(directory: Path) -> bool:
    """Whether a run may begin in a directory: it is new or empty, or a run ended before its plan.

    Raises
    ------
    FailureError
        If the directory cannot be read.
    """
    try:
        if not directory.exists():
            return True
        if not directory.is_dir():
            return False
        inside = list(directory.iterdir())
        return all(entry.name == WORK and not any(entry.iterdir()) for entry in inside)
    except OSError as error:
        raise FailureError(f"cannot read {directory}: {error.strerror or error}") from error


def _finished_plan(directory: Path) -> Any:
    manifest = read_json(directory / MANIFEST)
    return manifest.get("plan") if isinstance(manifest, dict) else None


def merge_parts(directory: Path, parts: Iterable[Path] = ()) -> PackedModel:
    """Complete a model whose shards were made separately, by moving them together.

    Parameters
    ----------
    directory
        Where the model goes; may hold one part already.
    parts
        Directories with the other parts.

    Raises
    ------
    ConfigError
        If a directory holds no part, or one of another run.
    FailureError
        If shards are missing still.
    """
    others = [part for part in parts if part.resolve() != directory.resolve()]
    places = [p for p in (directory, *others) if p in others or (p / WORK / _PLAN).is_file()]
    plans = []
    for place in places:
        if not (place / WORK / _PLAN).is_file():
            raise ConfigError(f"{place} holds no unfinished part of a packed model")
        plans.append(read_json(place / WORK / _PLAN))
        if plans[-1] != plans[0]:
            raise ConfigError(f"{place} is part of another run than {places[0]}")
    if not plans:
        raise ConfigError(f"{directory} holds no unfinished part of a packed model")
    if (directory / MANIFEST).is_file() and _finished_plan(directory) == plans[0]:
        shutil.rmtree(directory / WORK, ignore_errors=True)
        return _read_report(directory)
    if directory not in places:
        sweep(directory / WORK)
        if not is_free(directory):
            raise ConfigError(f"{directory} exists and is not empty: choose another directory")
        copy_file(places[0] / WORK / _PLAN, directory / WORK / _PLAN)
    for place in (p for p in places if p != directory):
        _copy_tree(place / WORK / _SIDE_FILES, directory / WORK / _SIDE_FILES)
        _move_shards(place, directory, plans[0]["shards"])
    return _finish(directory, plans[0])


def _read_report(directory: Path) -> PackedModel:
    return record_from_json(PackedModel, read_json(directory / REPORT), where=REPORT)


def _copy_tree(source: Path, target: Path) -> None:
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            copy_file(file, target / file.relative_to(source))


def _finish(directory: Path, plan: dict[str, Any]) -> PackedModel:
    count = plan["shards"]
    missing = [n for n in range(1, count + 1) if not _facts_file(directory, n).is_file()]
    if missing:
        raise FailureError(
            f"{directory} lacks {len(missing)} of {count} shards, the first is number {missing[0]}"
        )
    facts = [read_json(_facts_file(directory, n)) for n in range(1, count + 1)]
    weight_map = {
        name: _shard_name(number, count)
        for number, fact in enumerate(facts, 1)
        for name in fact["sha256"]
    }
    size = sum(fact["bytes"] for fact in facts)
    write_json(directory / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    kept = directory / WORK / _SIDE_FILES
    beside = {}
    for file in side_files(kept, code=True):
        if file != Path("config.json"):
            copy_file(kept / file, directory / file)
            if decides_outputs(file):
                beside[file.as_posix()] = sha256_of_file(kept / file)
    report = _report(directory, facts)
    write_json(directory / REPORT, record_to_json(report))
    config = read_json(kept / "config.json")
    if plan.get("untied"):
        _untie(config)
    config[CONFIG_KEY] = {**_joined_layout(facts), **plan.get("companions", {})}
    write_json(directory / "config.json", config)
    manifest = {
        "plan": plan,
        "sha256": {name: digest for fact in facts for name, digest in fact["sha256"].items()},
        "changed": [name for fact in facts for name in fact.get("changed", ())],
        "config": sha256_of_settings(config),
        "files": beside,
    }
    write_json(directory / MANIFEST, manifest)
    shutil.rmtree(directory / WORK, ignore_errors=True)
    return report


def _untie(config: dict[str, Any]) -> None:
    """Say that embedding and head are two tables, wherever the configuration says otherwise."""
    config["tie_word_embeddings"] = False
    for value in config.values():
        if isinstance(value, dict) and "tie_word_embeddings" in value:
            value["tie_word_embeddings"] = False


def _joined_layout(facts: list[dict[str, Any]]) -> dict[str, Any]:
    from studentfloat.models.packed_files import parse_layout

    weights: dict[str, StoredWeight] = {}
    for fact in facts:
        weights |= parse_layout(fact["layout"])
    return write_layout(weights)


def _report(directory: Path, facts: list[dict[str, Any]]) -> PackedModel:
    weights = sum(fact["weights"] for fact in facts)
    return PackedModel(
        directory=str(directory),
        bits_per_weight=sum(fact["bits"] for fact in facts) / max(1, weights),
        quantized_weights=weights,
        plain_weights=sum(fact["plain"] for fact in facts),
        bytes=sum(fact["bytes"] for fact in facts),
        tensors=tuple(
            record_from_json(TensorQuantization, record)
            for fact in facts
            for record in fact["records"]
        ),
        skipped=tuple(
            record_from_json(SkippedTensor, skip) for fact in facts for skip in fact["skipped"]
        ),
    )


def _with_speed(record: TensorQuantization, shard: Shard) -> TensorQuantization:
    """A record that says so where products will dequantize the weight each time."""
    # A tied head's record may bear the embedding's name, or the other way round.
    stored = {name: stored for name, (stored, _) in shard.weights.items()}.get(record.name)
    reason = None if stored is None else stored.without_kernel()
    if stored is None or reason is None or len(stored.matrix_shape) != 2:
        return record
    return replace(record, notes=(*record.notes, f"dequantized for every product: {reason}"))


def save_shard(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file whole or not at all, the same bytes for the same tensors.

    Raises
    ------
    FailureError
        If it cannot be written; nothing is left of it then.
    """
    from safetensors.torch import save_file

    temporary = temporary_beside(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # One entry of metadata: several would come out in an order of their own each time.
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, {"format": "pt"})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        # The library makes it readable by its owner only.
        temporary.chmod(0o644)
        temporary.replace(file)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FailureError(f"cannot write {file}: {error.strerror or error}") from error
        if type(error).__name__ == "SafetensorError":
            raise FailureError(f"cannot write {file}: {error}") from error
        raise


def _move_shards(place: Path, directory: Path, count: int) -> None:
    for number in range(1, count + 1):
        facts = _facts_file(place, number)
        if not facts.is_file() or _facts_file(directory, number).is_file():
            continue
        name = _shard_name(number, count)
        waiting = directory / WORK / name
        try:
            # Of a run that was killed: the shard, whole, on its way or in its place already.
            if (place / name).is_file():
                shutil.move(place / name, waiting)
            if waiting.is_file():
                waiting.replace(directory / name)
        except OSError as error:
            raise FailureError(f"cannot move {place / name}: {error.strerror or error}") from error
        copy_file(facts, _facts_file(directory, number))


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:05}.safetensors"


def _facts_file(directory: Path, number: int) -> Path:
    return directory / WORK / f"shard-{number:05}.json"
