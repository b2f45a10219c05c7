"""Profiles as JSON: the contract of ``studentfloat profile --json``, both ways."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError
from studentfloat.records import (
    Profile,
    TensorProfile,
    read_json,
    record_from_json,
    record_to_json,
)
from studentfloat.statistics import LAWS
from studentfloat.untrusted import shown, table, typed

__all__ = ["SEVERAL", "profile_from_json", "profile_to_json", "read_profile", "tensor_from_json"]

SEVERAL = "profiles/1"
"""Schema of a file with the profiles of several models."""

_LAWS_KEYS = (
    *LAWS,
    *("best", "runner_up", "best_p_value", "best_is_significant", "ks_difference", "notes"),
)


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
    tensors = table(data, where).get("tensors")
    if not isinstance(tensors, list):
        raise FailureError(f"{where}: tensors must be a list, not {shown(tensors)}")
    rows = [_nested(row, f"{where}: tensors[{i}]") for i, row in enumerate(tensors)]
    return record_from_json(Profile, {**data, "tensors": rows}, where=where)


def tensor_from_json(data: Any, where: str = "a tensor's profile") -> TensorProfile:
    """One tensor back from JSON.

    Raises
    ------
    FailureError
        If a field is missing or of another type; the message names it.
    """
    return typed(TensorProfile, _nested(data, where), where=where)


def _nested(data: Any, where: str) -> dict[str, Any]:
    """A tensor's laws under one key again, as the record has them."""
    rest = dict(table(data, where))
    laws = {key: rest.pop(key) for key in _LAWS_KEYS if key in rest}
    laws["count"] = rest.pop("fitted", None)
    rest["laws"] = _with_infinities(laws) if laws.get("best") is not None else None
    return rest | {key: _with_infinities(rest.get(key)) for key in ("blocks", "channels")}


def _with_infinities(laws: Any) -> Any:
    """JSON has no infinity: null is the normal end of Student's t's range."""
    fit = laws.get("student_t") if isinstance(laws, dict) else None
    if not isinstance(fit, dict):
        return laws
    ends = fit.get("degrees_of_freedom_interval")
    return {
        **laws,
        "student_t": {
            **fit,
            "degrees_of_freedom": _or_infinity(fit.get("degrees_of_freedom")),
            "degrees_of_freedom_interval": list(map(_or_infinity, ends))
            if isinstance(ends, list)
            else ends,
        },
    }


def _or_infinity(value: Any) -> Any:
    return math.inf if value is None else value
