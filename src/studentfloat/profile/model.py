"""Profile one model: its tensors read, sketched, and laws fitted to them."""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from studentfloat.errors import (
    DataError,
    FailureError,
    ModelError,
    PickledWeightsError,
)
from studentfloat.models.roles import orientation_of
from studentfloat.models.sources import ModelSource, Trust, find_model
from studentfloat.models.stream import (
    StoredTensor,
    fingerprint,
    list_tensors,
)
from studentfloat.profile.fitted import laws_or_none, profile_of_sketch, summarize
from studentfloat.profile.journal import Journal
from studentfloat.profile.settings import ProfileSettings
from studentfloat.progress import Progress, silent
from studentfloat.records import (
    Profile,
    SkippedTensor,
    TensorProfile,
)
from studentfloat.records.provenance import machine_facts, package_versions
from studentfloat.statistics import (
    Sketch,
    sketch_blocks,
    sketch_rows,
)
from studentfloat.untrusted import read_json, table, typed

__all__ = ["profile_model"]

_NO_TRUST = Trust()
_AS_USUAL = ProfileSettings()


def profile_model(
    name: str,
    settings: ProfileSettings = _AS_USUAL,
    *,
    trust: Trust = _NO_TRUST,
    journal: Path | None = None,
    progress: Progress = silent,
) -> Profile:
    """Profile a model's weights, and its activations if they are asked for.

    Parameters
    ----------
    name
        As for :func:`~studentfloat.models.find_model`; a directory may have damaged shards,
        whose tensors are then reported as such.
    settings
        What to profile.
    journal
        Where to note each tensor as it is done; a later call with the same journal goes on
        from there. Deleted at the end.
    progress
        Called before each step.

    Raises
    ------
    ModelError
        If there is no such model, or not one tensor in it can be read.
    """
    start = time.perf_counter()
    source = _find(name, trust)
    notes: list[str] = []
    windows: tuple[str, ...] = ()
    done, skipped = _weights(source, settings, Journal(journal, source, settings), progress, notes)
    if settings.activations is not None:
        from studentfloat.profile.activations import profile_activations

        profiles, more, windows = profile_activations(source, settings, progress)
        done += profiles
        notes += more
    if not done:
        raise ModelError(
            f"nothing in {name} could be profiled: {notes[0] if notes else 'it has no weights'}"
        )
    if journal is not None:
        journal.unlink(missing_ok=True)
    return Profile(
        model=name,
        tensors=tuple(done),
        summary=summarize(done),
        source=source.description,
        settings=json.loads(json.dumps(asdict(settings))),
        versions=package_versions(),
        machine=machine_facts(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - start,
        skipped=tuple(skipped),
        cautions=source.cautions,
        notes=tuple(notes),
        weights=fingerprint(source.weight_files),
        windows=windows,
    )


def _find(name: str, trust: Trust) -> ModelSource:
    """Find a model; a directory is taken as it is, damaged shards and all.

    Pickles cannot be read a tensor at a time: no trust makes them weights here.
    """
    trust = replace(trust, pickle=False)
    directory = Path(name).expanduser()
    if name.strip() and directory.is_dir():
        source = ModelSource(name, directory, f"directory {directory.name}", (), trust)
        if not source.weight_files:
            pickles = replace(source, trust=replace(trust, pickle=True)).weight_files
            if pickles:
                raise _pickled_only(f"{name} ({pickles[0].name})")
            raise ModelError(
                f"model {name} has nothing to profile: neither model.safetensors nor "
                "model.safetensors.index.json"
            )
        return source
    try:
        return find_model(name, trust)
    except PickledWeightsError as error:
        raise _pickled_only(name) from error


def _pickled_only(what: str) -> ModelError:
    return ModelError(
        f"model {what} has pickled weights only: profile reads safetensors only: convert it first"
    )


def _weights(
    source: ModelSource,
    settings: ProfileSettings,
    journal: Journal,
    progress: Progress,
    notes: list[str],
) -> tuple[list[TensorProfile], list[SkippedTensor]]:
    tensors, damaged = list_tensors(source.weight_files)
    notes += [f"{reason}; its tensors are not in this profile" for reason in damaged.values()]
    notes += _missing_shards(source, {tensor.shard.name for tensor in tensors} | set(damaged))
    wanted, skipped = [], []
    for tensor in tensors:
        reason = tensor.why_not_real()
        if reason is None:
            wanted.append(tensor)
        else:
            skipped.append(SkippedTensor(tensor.name, tensor.shape, reason))
    index, of = settings.shard
    wanted = wanted[index - 1 :: of]
    model_type = _model_type(source)
    profiles = []
    for step, tensor in enumerate(wanted):
        # By count, not by bytes: the fits take as long as the reading.
        progress(step / len(wanted) * (0.3 if settings.activations else 1.0), "weights")
        profile = journal.done.get(tensor.name)
        if profile is None:
            profile = _weight(tensor, settings, model_type)
            journal.add(profile)
        profiles.append(profile)
    return profiles, skipped


def _missing_shards(source: ModelSource, seen: set[str]) -> list[str]:
    index = source.directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        data = table(read_json(index), index.name)
        wanted = set(typed(dict[str, str], data.get("weight_map"), where=index.name).values())
    except FailureError:
        return [f"{index.name} cannot be read: whether shards are missing is not known"]
    return [f"the shard {name} is missing" for name in sorted(wanted - seen)]


def _model_type(source: ModelSource) -> str | None:
    try:
        return source.config.get("model_type")
    except FailureError:
        return None


def _weight(
    tensor: StoredTensor, settings: ProfileSettings, model_type: str | None
) -> TensorProfile:
    values = None
    blocks = channels = None
    try:
        values = tensor.read()
        sketch = Sketch.of(values)
        problem = None
    except (ModelError, DataError) as error:
        sketch, problem = Sketch(), str(error)
    if values is not None:
        orientation = orientation_of(tensor.name, values.ndim, model_type)
        matrix = orientation.to_matrix(values)
        matrix = matrix.reshape(-1, matrix.shape[-1])
        if settings.block_size is not None:
            blocks = laws_or_none(sketch_blocks(matrix, settings.block_size))
        if settings.channels:
            channels = laws_or_none(sketch_rows(matrix))
    return profile_of_sketch(
        sketch,
        name=tensor.name,
        kind="weight",
        role=tensor.role,
        part="embedding" if tensor.is_embedding_or_head else "linear",
        layer=tensor.layer,
        shape=tensor.shape,
        dtype=tensor.dtype,
        location=None if settings.free_location else 0.0,
        blocks=blocks,
        channels=channels,
        problem=problem,
    )
