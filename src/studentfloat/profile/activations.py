"""Activations of a model on a text or on images, sketched as they pass and fitted like weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from studentfloat.errors import DataError, StudentFloatError
from studentfloat.models import LoadedModel, ModelSource, load_model
from studentfloat.models.capture import ActivationSketches, capture_activations
from studentfloat.models.text import EvaluationText, cut_windows, load_text
from studentfloat.models.walk import walk_weights
from studentfloat.profile.fitted import activation_profile
from studentfloat.profile.settings import ActivationSettings, ProfileSettings
from studentfloat.progress import Progress
from studentfloat.records import TensorProfile

__all__ = ["profile_activations"]

_FIRST_SHARE, _LAST_SHARE = 0.3, 0.9
_FEWEST_TOKENS = 2
_USUAL_IMAGE = 224
_IMAGE_AXES = 4


def profile_activations(
    source: ModelSource, settings: ProfileSettings, say: Progress
) -> tuple[list[TensorProfile], list[str], tuple[str, ...]]:
    """Run a model over windows of a text, or over images, and fit laws to what enters its layers.

    Parameters
    ----------
    source
        The model.
    settings
        With :attr:`~studentfloat.profile.ProfileSettings.activations` set.
    say
        Told about every window.

    Returns
    -------
    profiles
        One for each place that was listened to; empty if the model could not be run.
    notes
        What could not be done, and why: the weights' profile stands without it.
    windows
        A hash of each window or image.
    """
    wanted = settings.activations
    assert wanted is not None
    text = load_text(wanted.text)
    index, of = settings.shard
    try:
        model = load_model(source)
        inputs, notes = _inputs(text, model, wanted)
    except StudentFloatError as error:
        return [], [f"no activations: {error}"], ()
    own = inputs[index - 1 :: of]
    if not len(own):
        return [], [*notes, f"no activations: no window falls to shard {index}/{of}"], ()
    sketches = capture_activations(model.module, _batches(model, own, say), wanted.capture)
    say(_LAST_SHARE, "fitting activations")
    profiles = [
        activation_profile(
            sketches.by_name[name],
            name=name,
            part=sketches.kinds[name],
            free_location=settings.free_location,
            windows=len(own),
            keep=wanted.keep_sketches or of > 1,
        )
        for name in _wanted_places(model, sketches)
    ]
    return profiles, [*notes, *sketches.notes], tuple(_hash(window) for window in own)


def _hash(window: torch.Tensor) -> str:
    return hashlib.sha256(window.numpy().tobytes()).hexdigest()[:16]


def _inputs(
    text: EvaluationText, model: LoadedModel, wanted: ActivationSettings
) -> tuple[torch.Tensor, list[str]]:
    """What the model is run on, one along the first axis for each forward pass."""
    takes = getattr(model.module, "main_input_name", "input_ids")
    if takes == "pixel_values":
        return _images(model, wanted)
    if takes != "input_ids":
        raise DataError(
            f"model {model.source.name} takes {takes}, neither text nor images; "
            "studentfloat.models.capture.capture_activations takes inputs of any kind"
        )
    return _windows(text, model, wanted)


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


def _images(model: LoadedModel, wanted: ActivationSettings) -> tuple[torch.Tensor, list[str]]:
    """The user's images, or noise of the shape that the model takes."""
    config: Any = model.module.config
    channels = int(getattr(config, "num_channels", 3))
    if wanted.images is not None:
        return _stored_images(wanted.images, channels, wanted.windows)
    side: Any = getattr(config, "image_size", None) or _USUAL_IMAGE
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((wanted.windows, channels, height, width), generator=generator)
    return noise, [
        f"activations of {wanted.windows} images of noise, {channels} x {height} x {width}: "
        "give --images for those of real ones"
    ]


def _stored_images(file: str, channels: int, most: int) -> tuple[torch.Tensor, list[str]]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the images {file}: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != _IMAGE_AXES or array.dtype.kind != "f":
        found = getattr(array, "shape", type(array).__name__), getattr(array, "dtype", "")
        raise DataError(
            f"the images {file} are {found[0]} {found[1]}: an array of floating point of shape "
            "(n, channels, height, width) is needed, normalized as the model takes them"
        )
    if array.shape[1] != channels or not len(array):
        raise DataError(
            f"the images {file} are of shape {array.shape}: one or more of {channels} channels "
            "are needed"
        )
    notes = []
    if len(array) < most:
        notes.append(f"the images {file} are only {len(array)}, instead of {most}")
    return torch.from_numpy(np.array(array[:most], dtype=np.float32)), notes


def _batches(model: LoadedModel, inputs: torch.Tensor, say: Progress) -> Iterator[dict[str, Any]]:
    takes = getattr(model.module, "main_input_name", "input_ids")
    two_sided = bool(getattr(model.module.config, "is_encoder_decoder", False))
    for index, window in enumerate(inputs):
        share = _FIRST_SHARE + (_LAST_SHARE - _FIRST_SHARE) * index / len(inputs)
        say(share, f"activations, window {index + 1} of {len(inputs)}")
        batch: dict[str, Any] = {takes: window[None]}
        if two_sided:
            batch["decoder_input_ids"] = window[None]
        elif takes == "input_ids" and hasattr(model.module.config, "use_cache"):
            batch["use_cache"] = False
        yield batch


def _wanted_places(model: LoadedModel, sketches: ActivationSketches) -> list[str]:
    """All but the output head's input: the paper's linear layers are those of the blocks."""
    sites, _ = walk_weights(model.module)
    layers = {site.name.removesuffix(".weight") for site in sites}
    return [name for name, kind in sketches.kinds.items() if kind != "linear" or name in layers]
