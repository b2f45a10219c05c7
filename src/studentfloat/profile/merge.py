"""One profile of parts: of shards of a model, or of its activations on several texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from studentfloat.errors import ConfigError, DataError
from studentfloat.profile.fitted import activation_profile, summarize
from studentfloat.records import Profile, TensorProfile
from studentfloat.statistics import Sketch

__all__ = ["merge_profiles"]

_OWN_TEXT = ("text", "images", "windows", "window_length")
"""Settings in which parts with activations may differ: each has a text of its own."""


def merge_profiles(profiles: Sequence[Profile]) -> Profile:
    """One profile of the parts that several machines made.

    Weights of shards stand side by side. Activations of one place add up, sketch by sketch:
    what comes out is what one machine would have found on all windows.

    Parameters
    ----------
    profiles
        Shards of one run, or whole profiles of one model on different texts with their
        sketches kept.

    Raises
    ------
    ConfigError
        If they are of different models, settings or numbers of shards, overlap, or hold no
        sketches.
    """
    first = profiles[0]
    for other in profiles[1:]:
        _check_pair(first, other)
    weights = _weights(profiles)
    activations = _activations(profiles)
    tensors = sorted(
        (*weights, *activations),
        key=lambda tensor: (tensor.kind != "weight", tensor.layer is None, tensor.layer or 0),
    )
    notes = dict.fromkeys(note for part in profiles for note in part.notes)
    whole = int(first.settings["shard"][1])
    given = {int(part.settings["shard"][0]) for part in profiles}
    missing = [n for n in range(1, whole + 1) if n not in given]
    if missing:
        notes[f"of {whole} shards these are missing: {', '.join(map(str, missing))}"] = None
    return replace(
        first,
        tensors=tuple(tensors),
        summary=summarize(tensors),
        settings=_settings(profiles),
        seconds=sum(part.seconds for part in profiles),
        notes=tuple(notes),
        windows=tuple(window for part in profiles for window in part.windows),
    )


def _check_pair(first: Profile, other: Profile) -> None:
    mine, theirs = _common(first), _common(other)
    if theirs != mine:
        raise ConfigError(f"parts with different settings do not add up: {theirs} and {mine}")
    if other.weights != first.weights:
        raise ConfigError(
            f"parts of different models do not add up: {other.model} and {first.model} "
            "have other weight files"
        )
    if other.settings["shard"][1] != first.settings["shard"][1]:
        raise ConfigError(
            "parts of different divisions do not add up: shards "
            + " and ".join("{}/{}".format(*part.settings["shard"]) for part in (other, first))
        )


def _common(profile: Profile) -> dict[str, Any]:
    """Settings that all parts must share."""
    common = {key: value for key, value in profile.settings.items() if key != "shard"}
    if common.get("activations") and _is_whole(profile):
        own = common["activations"]
        common["activations"] = {key: own[key] for key in own if key not in _OWN_TEXT}
    return common


def _is_whole(profile: Profile) -> bool:
    return int(profile.settings["shard"][1]) == 1


def _settings(profiles: Sequence[Profile]) -> dict[str, Any]:
    """Of all together: not a shard, and all the texts."""
    settings = {**profiles[0].settings, "shard": [1, 1]}
    each = [part.settings.get("activations") or {} for part in profiles]
    if any(own != each[0] for own in each):
        texts = dict.fromkeys(str(own["text"] or own["images"] or "built-in") for own in each)
        settings["activations"] = {
            **each[0],
            "text": " + ".join(texts),
            "windows": sum(own["windows"] for own in each),
        }
    return settings


def _weights(profiles: Sequence[Profile]) -> list[TensorProfile]:
    """Each weight once; whole profiles of different texts have the same ones."""
    found: dict[str, TensorProfile] = {}
    shared = all(_is_whole(part) and part.windows for part in profiles)
    for part in profiles:
        for tensor in part.tensors:
            if tensor.kind != "weight":
                continue
            if tensor.name in found and not (shared and tensor == found[tensor.name]):
                raise ConfigError(f"{tensor.name} is in more than one part: give each shard once")
            found[tensor.name] = tensor
    return list(found.values())


def _activations(profiles: Sequence[Profile]) -> list[TensorProfile]:
    """Each place's sketches added up, and fitted anew."""
    windows = [window for part in profiles for window in part.windows]
    twice = sorted({window for window in windows if windows.count(window) > 1})
    if twice:
        raise ConfigError(f"window {twice[0]} of the text is in more than one part: give it once")
    sketches: dict[tuple[str, str], Sketch] = {}
    for part in profiles:
        for tensor in part.tensors:
            if tensor.kind == "activation":
                whole = sketches.setdefault((tensor.part, tensor.name), Sketch())
                whole.merge(_sketch_of(tensor, part.model))
    settings = profiles[0].settings
    kept = bool((settings.get("activations") or {}).get("keep_sketches"))
    return [
        activation_profile(
            sketch,
            name=name,
            part=place,
            free_location=bool(settings["free_location"]),
            windows=len(windows),
            keep=kept,
        )
        for (place, name), sketch in sketches.items()
    ]


def _sketch_of(tensor: TensorProfile, model: str) -> Sketch:
    if tensor.sketch is None:
        raise ConfigError(
            f"a part of {model} holds no sketch of {tensor.name} to add up: profile it with "
            "--shard I/N, or with --keep-sketches"
        )
    try:
        return Sketch.from_text(tensor.sketch)
    except DataError as error:
        raise DataError(f"{tensor.name} in a part of {model}: {error}") from error
