"""Activations of a model on a text, sketched as they pass and fitted like weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from studentfloat.errors import DataError, StudentFloatError
from studentfloat.models import LoadedModel, ModelSource, load_model
from studentfloat.models.capture import ActivationSketches, capture_activations
from studentfloat.models.stream import layer_of, role_of
from studentfloat.models.text import EvaluationText, cut_windows, load_text
from studentfloat.models.walk import walk_weights
from studentfloat.records import TensorProfile
from studentfloat.study.profile import (
    ActivationSettings,
    ProfileSettings,
    Progress,
    profile_of_sketch,
)

__all__ = ["profile_activations"]

_FIRST_SHARE, _LAST_SHARE = 0.3, 0.9
_FEWEST_TOKENS = 2


def profile_activations(
    source: ModelSource, settings: ProfileSettings, say: Progress
) -> tuple[list[TensorProfile], list[str]]:
    """Run a model over windows of a text and fit laws to what enters its layers.

    Parameters
    ----------
    source
        The model.
    settings
        With :attr:`~studentfloat.study.profile.ProfileSettings.activations` set.
    say
        Told about every window.

    Returns
    -------
    profiles
        One for each place that was listened to; empty if the model could not be run.
    notes
        What could not be done, and why: the weights' profile stands without it.
    """
    wanted = settings.activations
    assert wanted is not None
    text = load_text(wanted.text)
    try:
        model = load_model(source)
        windows, notes = _windows(text, model, wanted)
    except StudentFloatError as error:
        return [], [f"no activations: {error}"]
    sketches = capture_activations(model.module, _batches(model, windows, say), wanted.capture)
    say(_LAST_SHARE, "fitting activations")
    location = None if settings.free_location else 0.0
    profiles = [
        _profile(name, sketches, location=location, windows=len(windows))
        for name in _wanted_places(model, sketches)
    ]
    return profiles, [*notes, *sketches.notes]


def _windows(
    text: EvaluationText, model: LoadedModel, wanted: ActivationSettings
) -> tuple[torch.Tensor, list[str]]:
    """The windows asked for, or as many and as long as model and text give."""
    if model.tokenizer is None:
        raise DataError(
            f"model {model.source.name} has no tokenizer and so takes no text; "
            "studentfloat.models.capture.capture_activations takes inputs of any kind"
        )
    length = min(wanted.window_length, model.longest_window or wanted.window_length)
    available = len(model.tokenizer(text.content, add_special_tokens=False)["input_ids"])
    if available < _FEWEST_TOKENS:
        raise DataError(
            f"the text ({text.source}) is too short: {available} tokens for {model.source.name}, "
            f"at least {_FEWEST_TOKENS} are needed"
        )
    notes = []
    if length < wanted.window_length:
        notes.append(f"windows of {length} tokens: {model.source.name} takes no longer ones")
    count = wanted.windows
    spare = 2  # an encoder's own first and last token
    if available < length:
        length, count = available, 1
        notes.append(
            f"the text ({text.source}) has only {available} tokens: one window of that length "
            f"instead of {wanted.windows} of {wanted.window_length}"
        )
    elif available // max(length - spare, 1) < count:
        count = max(1, available // length)
        notes.append(
            f"the text ({text.source}) has only {available} tokens: {count} windows instead of "
            f"{wanted.windows}"
        )
    return cut_windows(text, model, count=count, length=length), notes


def _batches(model: LoadedModel, windows: torch.Tensor, say: Progress) -> Iterator[dict[str, Any]]:
    two_sided = bool(getattr(model.module.config, "is_encoder_decoder", False))
    for index, window in enumerate(windows):
        share = _FIRST_SHARE + (_LAST_SHARE - _FIRST_SHARE) * index / len(windows)
        say(share, f"activations, window {index + 1} of {len(windows)}")
        batch: dict[str, Any] = {"input_ids": window[None]}
        if two_sided:
            batch["decoder_input_ids"] = window[None]
        elif hasattr(model.module.config, "use_cache"):
            batch["use_cache"] = False
        yield batch


def _wanted_places(model: LoadedModel, sketches: ActivationSketches) -> list[str]:
    """All but the output head's input: the paper's linear layers are those of the blocks."""
    sites, _ = walk_weights(model.module)
    layers = {site.name.removesuffix(".weight") for site in sites}
    return [name for name, kind in sketches.kinds.items() if kind != "linear" or name in layers]


def _profile(
    name: str, sketches: ActivationSketches, *, location: float | None, windows: int
) -> TensorProfile:
    sketch, kind = sketches.by_name[name], sketches.kinds[name]
    seen = sketch.count + sketch.nans + sketch.infinities
    problem = None
    if seen == 0:
        problem = f"its hook never fired: nothing entered {name} in {windows} windows"
    return profile_of_sketch(
        sketch,
        name=name,
        kind="activation",
        role=role_of(name),
        part=kind,
        layer=layer_of(name),
        shape=(),
        dtype="float32",
        # Scores may all be shifted without a change of the softmax: 0 is no center of theirs.
        location=None if kind == "scores" else location,
        problem=problem,
        blocks=None,
        channels=None,
    )
