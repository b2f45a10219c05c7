"""Profiles as JSON: the contract of ``studentfloat profile --json``, both ways."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError
from studentfloat.records import (
    Histogram,
    LawFit,
    LawFits,
    Profile,
    ProfileSummary,
    QuantilePairs,
    SkippedTensor,
    TensorProfile,
    read_json,
    record_to_json,
)
from studentfloat.statistics import LAWS

__all__ = ["SEVERAL", "profile_from_json", "profile_to_json", "read_profile", "tensor_from_json"]

SEVERAL = "profiles/1"
"""Schema of a file with the profiles of several models."""


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """A profile as JSON data. Infinite ν is null; a tensor's laws stand beside its name."""
    data = record_to_json(profile)
    data["tensors"] = [tensor_to_json(tensor) for tensor in profile.tensors]
    return data


def tensor_to_json(tensor: TensorProfile) -> dict[str, Any]:
    """One tensor, its laws flattened into it as the contract has them."""
    data = record_to_json(tensor)
    laws = data.pop("laws") or dict.fromkeys((*LAWS, "best"))
    return {**data, "fitted": laws.pop("count", None), **laws}


def read_profile(path: str | Path, model: str | None = None) -> Profile:
    """Read a profile that ``studentfloat profile -o`` wrote.

    Parameters
    ----------
    model
        Which one, by its name, of a file with the profiles of several models.

    Raises
    ------
    ConfigError
        If the file holds several models and none was named, or not the one named.
    FailureError
        If the file cannot be read or is no profile of a version that is known.
    """
    data, where = read_json(path), str(path)
    if _schema(data) == SEVERAL:
        return profile_from_json(_chosen(data, model, where), where)
    profile = profile_from_json(data, where)
    if model not in (None, profile.model):
        raise ConfigError(f"{where} is the profile of {profile.model}, not of {model}")
    return profile


def _schema(data: Any) -> Any:
    return data.get("schema") if isinstance(data, dict) else None


def _chosen(data: dict[str, Any], model: str | None, where: str) -> Any:
    """The one profile that is wanted out of a file of several."""
    parts = data.get("models")
    names = [part.get("model") for part in parts if isinstance(part, dict)] if parts else []
    if not parts or len(names) != len(parts):
        raise FailureError(f"{where} holds no profile: none of its models could be run")
    if model is None and len(parts) == 1:
        return parts[0]
    if model not in names:
        asked = "name one" if model is None else f"{model} is not among them"
        raise ConfigError(
            f"{where} holds the profiles of several models: {asked} (--model NAME): "
            + ", ".join(map(str, names))
        )
    return parts[names.index(model)]


def profile_from_json(data: Any, where: str = "the data") -> Profile:
    """The profile that :func:`profile_to_json` wrote."""
    schema = _schema(data)
    wanted = f"{Profile.KIND}/{Profile.VERSION}"
    if schema != wanted:
        raise FailureError(f"{where} is no profile: its schema is {schema!r}, not {wanted!r}")
    try:
        known = {key: value for key, value in data.items() if key != "schema"}
        return Profile(
            **{
                **known,
                "tensors": tuple(tensor_from_json(tensor) for tensor in data["tensors"]),
                "summary": tuple(ProfileSummary(**row) for row in data["summary"]),
                "skipped": tuple(
                    SkippedTensor(**{**row, "shape": tuple(row["shape"])})
                    for row in data["skipped"]
                ),
                "cautions": tuple(data["cautions"]),
                "notes": tuple(data["notes"]),
                "windows": tuple(data.get("windows", ())),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FailureError(f"{where} is a damaged profile: {error}") from error


def tensor_from_json(data: dict[str, Any]) -> TensorProfile:
    """One tensor back from JSON."""
    rest = dict(data)
    fitted = rest.pop("fitted")
    flat = {
        key: rest.pop(key)
        for key in (*LAWS, "best", "runner_up", "best_p_value", "best_is_significant",
                    "ks_difference", "notes")
        if key in rest
    }  # fmt: skip
    laws = None
    if flat.get("best") is not None:
        laws = _laws({**flat, "count": fitted})
    histogram, quantiles = rest.pop("histogram"), rest.pop("quantiles")
    return TensorProfile(
        **{
            **rest,
            "shape": tuple(rest["shape"]),
            "laws": laws,
            "blocks": _laws(rest["blocks"]) if rest["blocks"] else None,
            "channels": _laws(rest["channels"]) if rest["channels"] else None,
            "histogram": Histogram(**{**histogram, "counts": tuple(histogram["counts"])})
            if histogram
            else None,
            "quantiles": QuantilePairs(**{key: tuple(row) for key, row in quantiles.items()})
            if quantiles
            else None,
        }
    )


def _laws(data: dict[str, Any]) -> LawFits:
    fits = {name: _law(data[name], is_t=name == "student_t") for name in LAWS}
    return LawFits(**{**data, **fits, "notes": tuple(data["notes"])})


def _law(data: dict[str, Any], *, is_t: bool) -> LawFit:
    fields = dict(data)
    if is_t:  # JSON has no infinity: null is the normal end of the range
        interval = fields["degrees_of_freedom_interval"]
        fields["degrees_of_freedom"] = _or_infinity(fields["degrees_of_freedom"])
        fields["degrees_of_freedom_interval"] = tuple(_or_infinity(end) for end in interval)
    return LawFit(**fields)


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else float(value)
