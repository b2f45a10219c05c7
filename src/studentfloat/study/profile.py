"""Which laws a model's tensors follow: models walked, numbers sketched, laws fitted."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studentfloat.errors import (
    ConfigError,
    DataError,
    FailureError,
    ModelError,
    PickledWeightsError,
)
from studentfloat.models.roles import layer_of, role_of
from studentfloat.models.sources import ModelSource, Trust, find_model
from studentfloat.models.stream import (
    StoredTensor,
    fingerprint,
    list_tensors,
)
from studentfloat.progress import Progress, silent
from studentfloat.records import (
    LawFits,
    Profile,
    ProfileSummary,
    SkippedTensor,
    TensorProfile,
)
from studentfloat.statistics import (
    Sketch,
    fit_laws,
    histogram_of,
    quantiles_of,
    record_of,
    shape_of,
    sketch_blocks,
    sketch_rows,
)
from studentfloat.study.profile_file import tensor_from_json, tensor_to_json
from studentfloat.study.provenance import machine_facts, package_versions

__all__ = [
    "ActivationSettings",
    "ProfileSettings",
    "activation_profile",
    "profile_model",
    "profile_of_sketch",
    "summarize",
]

_NO_TRUST = Trust()
_GPT2_TRANSPOSED = ("c_attn", "c_proj", "c_fc", "q_attn")


@dataclass(frozen=True)
class ActivationSettings:
    """Which activations to profile, and on what.

    Attributes
    ----------
    text
        A UTF-8 file, or None for the text that every CPython carries.
    images
        For a vision model: a ``.npy`` file of shape ``(n, channels, height, width)`` as the
        model takes them, or None for noise of the standard normal law.
    windows, window_length
        How many, and tokens in each; a text too short for them gives what it has. Of
        images as many as windows.
    capture
        Of :data:`~studentfloat.models.capture.CAPTURE_KINDS`.
    keep_sketches
        Whether the profile holds the sketches too, to be merged with that of another text.
        Shards always do.
    """

    text: str | None = None
    images: str | None = None
    windows: int = 8
    window_length: int = 512
    capture: tuple[str, ...] = ("linear",)
    keep_sketches: bool = False

    def __post_init__(self) -> None:
        if self.windows < 1 or self.window_length < 2:
            raise ConfigError(
                f"{self.windows} windows of {self.window_length} tokens: at least 1 of 2 tokens"
            )
        from studentfloat.models.capture import CAPTURE_KINDS  # with torch, needed from here on

        for kind in self.capture:
            if kind not in CAPTURE_KINDS:
                raise ConfigError(f"cannot capture {kind!r}: known are {', '.join(CAPTURE_KINDS)}")


@dataclass(frozen=True)
class ProfileSettings:
    """What to profile.

    Attributes
    ----------
    free_location
        Whether to fit the center too; else it is 0.
    block_size
        Also fit the numbers over the largest magnitude of their block of this size.
    channels
        Also fit the numbers over the root mean square of their row.
    shard
        ``(i, n)``: only every n-th weight, and every n-th window of the activations' text,
        from the i-th (1 to n), for n machines.
    activations
        None for weights only.
    """

    free_location: bool = False
    block_size: int | None = None
    channels: bool = False
    shard: tuple[int, int] = (1, 1)
    activations: ActivationSettings | None = None

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 2:
            raise ConfigError(f"a block size of {self.block_size}: at least 2")
        index, of = self.shard
        if not 1 <= index <= of:
            raise ConfigError(f"shard {index}/{of}: the first number is between 1 and the second")


def profile_model(
    name: str,
    settings: ProfileSettings = ProfileSettings(),
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
    done, skipped = _weights(source, settings, _Journal(journal, source, settings), progress, notes)
    if settings.activations is not None:
        from studentfloat.study.activations import profile_activations

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
            raise ModelError(f"model {name} has no *.safetensors file to profile")
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
    journal: _Journal,
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
    transposed = _has_transposed_layers(source)
    profiles = []
    for step, tensor in enumerate(wanted):
        # By count, not by bytes: the fits take as long as the reading.
        progress(step / len(wanted) * (0.3 if settings.activations else 1.0), "weights")
        profile = journal.done.get(tensor.name)
        if profile is None:
            profile = _weight(tensor, settings, transposed)
            journal.add(profile)
        profiles.append(profile)
    return profiles, skipped


def _missing_shards(source: ModelSource, seen: set[str]) -> list[str]:
    index = source.directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{index.name} cannot be read: whether shards are missing is not known"]
    return [f"the shard {name} is missing" for name in sorted(wanted - seen)]


def _has_transposed_layers(source: ModelSource) -> bool:
    try:
        return source.config.get("model_type") == "gpt2"
    except FailureError:
        return False


def _weight(tensor: StoredTensor, settings: ProfileSettings, transposed: bool) -> TensorProfile:
    values = None
    blocks = channels = None
    try:
        values = tensor.read()
        sketch = Sketch.of(values)
        problem = None
    except (ModelError, DataError) as error:
        sketch, problem = Sketch(), str(error)
    if values is not None:
        matrix = _matrix(values, transposed and tensor.role in _GPT2_TRANSPOSED)
        if settings.block_size is not None:
            blocks = _laws_or_none(sketch_blocks(matrix, settings.block_size))
        if settings.channels:
            channels = _laws_or_none(sketch_rows(matrix))
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


def _matrix(values: npt.NDArray[np.floating[Any]], transposed: bool) -> npt.NDArray[Any]:
    """See a weight as rows along which a layer sums: a convolution's kernel is one row."""
    if transposed:
        return values.T
    return (
        values.reshape(values.shape[0], -1)
        if values.ndim > 3
        else values.reshape(-1, values.shape[-1])
    )


def _laws_or_none(sketch: Sketch) -> LawFits | None:
    try:
        return record_of(fit_laws(sketch))
    except DataError:
        return None  # what is the matter shows in the fit of the tensor itself


def profile_of_sketch(
    sketch: Sketch, /, *, location: float | None = 0.0, problem: str | None = None, **fields: Any
) -> TensorProfile:
    """Fit the laws to a sketch; where none can be fitted, the profile says why.

    Parameters
    ----------
    sketch
        Of all of the tensor's numbers.
    location
        Where the center is known to be; None to fit it.
    problem
        What went wrong before.
    fields
        Name, kind and so on of the :class:`~studentfloat.records.TensorProfile`.
    """
    laws = histogram = quantiles = None
    if problem is None:
        try:
            fits = fit_laws(sketch, location=location)
            laws, quantiles = record_of(fits), quantiles_of(fits)
            histogram = histogram_of(sketch)
        except DataError as error:
            problem = str(error)
    seen = sketch.count > 0
    shape = shape_of(sketch) if laws else {}
    return TensorProfile(
        **fields,
        mean=shape.get("mean"),
        root_mean_square=shape.get("root_mean_square"),
        excess_kurtosis=shape.get("excess_kurtosis"),
        count=sketch.count,
        zeros=sketch.zeros,
        nans=sketch.nans,
        infinities=sketch.infinities,
        minimum=sketch.minimum if seen else None,
        maximum=sketch.maximum if seen else None,
        laws=laws,
        histogram=histogram,
        quantiles=quantiles,
        problem=problem,
    )


def activation_profile(
    sketch: Sketch, *, name: str, part: str, free_location: bool, windows: int, keep: bool
) -> TensorProfile:
    """Fit the laws to what passed one place in a model.

    Parameters
    ----------
    name, part
        Of the place, and of :data:`~studentfloat.models.capture.CAPTURE_KINDS`.
    windows
        How many were run, to be told where none of them came by.
    keep
        Whether the profile holds the sketch itself.
    """
    seen = sketch.count + sketch.nans + sketch.infinities
    problem = None
    if seen == 0:
        problem = f"its hook never fired: nothing entered {name} in {windows} windows"
    # Scores may all be shifted without a change of the softmax: 0 is no center of theirs.
    centered = not free_location and part != "scores"
    return profile_of_sketch(
        sketch,
        name=name,
        kind="activation",
        role=role_of(name),
        part=part,
        layer=layer_of(name),
        shape=(),
        dtype="float32",
        location=0.0 if centered else None,
        problem=problem,
        blocks=None,
        channels=None,
        sketch=sketch.to_text() if keep else None,
    )


def summarize(tensors: Iterable[TensorProfile]) -> tuple[ProfileSummary, ...]:
    """The paper's row for each kind of tensor that is there, embeddings left out."""
    groups: dict[str, list[LawFits]] = {}
    for tensor in tensors:
        if tensor.laws is not None and tensor.part != "embedding":
            kind = tensor.kind if tensor.part == "linear" else tensor.part
            groups.setdefault(kind, []).append(tensor.laws)
    return tuple(_summary(kind, fits) for kind, fits in groups.items())


def _summary(kind: str, fits: list[LawFits]) -> ProfileSummary:
    nu = np.array([fit.student_t.degrees_of_freedom for fit in fits], dtype=np.float64)
    finite = nu[np.isfinite(nu)]
    # Percentiles by rank, so that infinite ones take part.
    low, median, high = (float(np.quantile(nu, q, method="lower")) for q in (0.1, 0.5, 0.9))
    ks_t = np.array([fit.student_t.ks for fit in fits])
    ks_normal = np.array([fit.normal.ks for fit in fits])
    best = [fit.best for fit in fits]
    return ProfileSummary(
        kind=kind,
        tensors=len(fits),
        normal=int(nu.size - finite.size),
        mean_degrees_of_freedom=float(finite.mean()) if finite.size else None,
        median_degrees_of_freedom=median,
        low_degrees_of_freedom=low,
        high_degrees_of_freedom=high,
        mean_ks_student_t=float(ks_t.mean()),
        mean_ks_normal=float(ks_normal.mean()),
        mean_ks_difference=float((ks_normal - ks_t).mean()),
        student_t_fits_better=float(np.mean(ks_t < ks_normal)),
        best={law: best.count(law) for law in sorted(set(best))},
    )


class _Journal:
    """Tensors done so far, a line each, so that a run that was killed can go on."""

    def __init__(self, path: Path | None, source: ModelSource, settings: ProfileSettings) -> None:
        self.path = path
        self.done: dict[str, TensorProfile] = {}
        if path is None:
            return
        files = [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns]
            for file in source.weight_files
        ]
        wanted = {"files": files, "settings": json.loads(json.dumps(asdict(settings)))}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines and _parsed(lines[0]) == wanted:
            for line in lines[1:]:
                data = _parsed(line)
                if data is not None:  # the last line of a run that was killed may be cut
                    self.done[data["name"]] = tensor_from_json(data)
            path.write_text("".join(f"{line}\n" for line in lines if _parsed(line) is not None))
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
            except OSError as error:
                raise FailureError(f"cannot write {path}: {error.strerror}") from error

    def add(self, profile: TensorProfile) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(tensor_to_json(profile)) + "\n")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
