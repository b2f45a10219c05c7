"""Profiles of single tensors from their sketches, and the paper's row over many of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from studentfloat.errors import DataError
from studentfloat.models.roles import layer_of, role_of
from studentfloat.records import LawFits, ProfileSummary, TensorProfile
from studentfloat.statistics import (
    Sketch,
    fit_laws,
    histogram_of,
    quantiles_of,
    record_of,
    shape_of,
)

__all__ = ["activation_profile", "laws_or_none", "profile_of_sketch", "summarize"]


def laws_or_none(sketch: Sketch) -> LawFits | None:
    """Fit the laws to a sketch; None where none can be fitted."""
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
