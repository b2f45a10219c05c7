"""Which laws a model's tensors follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from studentfloat.records.tensors import SkippedTensor

__all__ = [
    "Histogram",
    "LawFit",
    "LawFits",
    "Profile",
    "ProfileSummary",
    "QuantilePairs",
    "TensorProfile",
]


@dataclass(frozen=True)
class LawFit:
    """A law at its most likely parameters.

    Attributes
    ----------
    scale, location
        In the unit of the numbers; the location is 0 unless it was fitted.
    degrees_of_freedom, degrees_of_freedom_interval
        Of Student's t: ν and its 95 % profile-likelihood interval. Infinity (null in JSON)
        is the normal law. None for the other laws.
    shape
        Exponent of the generalized normal law, None for the others.
    log_likelihood
        Mean per number, nats.
    aic
        Akaike's criterion.
    ks
        Kolmogorov-Smirnov distance between the numbers and the law.
    anderson_darling
        A² over the count.
    standard_errors
        By parameter, from the observed information.
    """

    scale: float
    ks: float
    anderson_darling: float
    log_likelihood: float
    aic: float
    location: float = 0.0
    degrees_of_freedom: float | None = None
    degrees_of_freedom_interval: tuple[float, float] | None = None
    shape: float | None = None
    standard_errors: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class LawFits:
    """All laws on one set of numbers.

    Attributes
    ----------
    best
        Name of the law of least AIC.
    best_p_value
        How likely its lead over `runner_up` is if neither were better.
    ks_difference
        KS distance of the normal law less that of t: above 0 where t fits better.
    notes
        What a reader must know, such as zeros left out.
    """

    count: int
    student_t: LawFit
    normal: LawFit
    laplace: LawFit
    generalized_normal: LawFit
    logistic: LawFit
    best: str
    runner_up: str
    best_p_value: float
    best_is_significant: bool
    ks_difference: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """Counts over cells that are even in ``asinh(x / unit)``, `per_unit` to 1.

    Attributes
    ----------
    unit
        Root mean square of the numbers.
    first
        Index of the first cell; cell k reaches from ``unit sinh(k / per_unit)`` to
        ``unit sinh((k + 1) / per_unit)``.
    """

    unit: float
    per_unit: int
    first: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class QuantilePairs:
    """A Q-Q plot: quantiles at the same probabilities, in units of the root mean square."""

    numbers: tuple[float, ...]
    student_t: tuple[float, ...]
    normal: tuple[float, ...]


@dataclass(frozen=True)
class TensorProfile:
    """What the numbers of one weight or activation look like.

    Attributes
    ----------
    name
        Of the weight as in the checkpoint, or of the place that an activation enters.
    kind
        "weight" or "activation".
    role, layer
        Module within its block (``q_proj``), and the block's index.
    part
        "linear" for weights of linear layers and convolutions and for what enters them,
        "embedding" for embeddings and heads, "kv-cache", "scores", "residual".
    laws
        Fits to the numbers as they are; None where there is none, and `problem` says why.
    blocks, channels
        Fits to the numbers over the largest magnitude of their block (without that one),
        and over the root mean square of their row; None where they were not asked for.
    sketch
        Of an activation in a part that is still to be merged: all that was counted, by
        which parts add up exactly. None elsewhere.
    """

    name: str
    kind: str
    role: str
    part: str
    layer: int | None
    shape: tuple[int, ...]
    dtype: str
    count: int
    zeros: int
    nans: int
    infinities: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    root_mean_square: float | None = None
    excess_kurtosis: float | None = None
    laws: LawFits | None = None
    blocks: LawFits | None = None
    channels: LawFits | None = None
    histogram: Histogram | None = None
    quantiles: QuantilePairs | None = None
    problem: str | None = None
    sketch: str | None = None


@dataclass(frozen=True)
class ProfileSummary:
    """The paper's row for one model and one kind of tensor, over linear layers only.

    Attributes
    ----------
    tensors
        How many were fitted.
    mean_degrees_of_freedom, mean_degrees_of_freedom_paper
        Mean ν over the tensors whose ν is finite (`normal` counts the others).
    median_degrees_of_freedom, low_degrees_of_freedom, high_degrees_of_freedom
        Median and tenth and ninetieth percentile of ν, infinite ones included.
    mean_ks_student_t, mean_ks_normal, mean_ks_difference
        Means of the KS distances; the difference is normal less t.
    student_t_fits_better
        Share of tensors whose KS distance to t is the lesser.
    best
        How many tensors each law describes best.
    """

    kind: str
    tensors: int
    normal: int
    mean_degrees_of_freedom: float | None
    median_degrees_of_freedom: float | None
    low_degrees_of_freedom: float | None
    high_degrees_of_freedom: float | None
    mean_ks_student_t: float
    mean_ks_normal: float
    mean_ks_difference: float
    student_t_fits_better: float
    best: dict[str, int]


@dataclass(frozen=True)
class Profile:
    """Which laws a model's tensors follow: the result of ``studentfloat profile``.

    Attributes
    ----------
    weights
        Hash by which parts of one model know each other: see
        :func:`~studentfloat.models.stream.fingerprint`.
    windows
        A hash of each window of the text (or each image) that the activations are of.
    """

    KIND: ClassVar[str] = "profile"
    VERSION: ClassVar[int] = 1

    model: str
    tensors: tuple[TensorProfile, ...]
    summary: tuple[ProfileSummary, ...]
    source: str
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    created: str
    seconds: float
    skipped: tuple[SkippedTensor, ...] = ()
    cautions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: str = ""
    windows: tuple[str, ...] = ()
