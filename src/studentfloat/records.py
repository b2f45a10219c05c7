"""Results as frozen records, and their JSON on disk.

Units are in the names. A record file carries ``"schema": "<kind>/<version>"``;
readers refuse a kind or version that they do not know.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

from studentfloat.errors import FailureError

__all__ = [
    "Baseline",
    "Comparison",
    "FormatHardware",
    "FormatQuality",
    "Frontier",
    "FrontierPoint",
    "PackedModel",
    "PairedDifference",
    "Provenance",
    "SkippedTensor",
    "Standing",
    "TensorError",
    "TensorQuantization",
    "Verification",
    "read_json",
    "record_from_json",
    "record_to_json",
    "write_json",
    "write_text_atomically",
]

T = TypeVar("T")


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all: under a temporary name, then renamed.

    Raises
    ------
    FailureError
        If the file cannot be written; what stood there before still stands.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the reason worth telling is the first one
        raise FailureError(f"cannot write {target}: {error.strerror or error}") from error


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, as JSON has neither."""
    write_text_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises
    ------
    FailureError
        If it cannot be read or is not JSON; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FailureError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise FailureError(f"{path} is not valid JSON: {error}") from error


def record_to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON data: tuples as lists, numbers that are not finite as null."""
    data = {"schema": f"{record.KIND}/{record.VERSION}"} if hasattr(record, "KIND") else {}
    return {**data, **_plain(dataclasses.asdict(record))}


def record_from_json(kind: type[T], data: Any, *, where: str = "record") -> T:
    """Rebuild a record from what :func:`record_to_json` made of it.

    Fields that the record does not know are ignored, so that a newer minor writer does
    not break an older reader; another kind or version is refused.

    Raises
    ------
    FailureError
        If `data` is no such record; the message says what is wrong and where.
    """
    if hasattr(kind, "KIND"):
        wanted, found = f"{kind.KIND}/{kind.VERSION}", _get(data, "schema")  # type: ignore[attr-defined]
        if found != wanted:
            raise FailureError(f"{where} is of schema {found!r}, this version reads {wanted!r}")
    try:
        return cast(T, _build(kind, data))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FailureError(f"{where} is not a sound {kind.__name__}: {error}") from error


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _build(kind: Any, data: Any) -> Any:
    """`data` as `kind`: a record class, a tuple, a union with None, or a plain type."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(  # type: ignore[operator]
            **{
                f.name: _build(hints[f.name], data[f.name])
                for f in dataclasses.fields(kind)
                if f.name in data
            }
        )
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple:
        return tuple(_build(parts[0], item) for item in data)
    if origin is UnionType and NoneType in parts:
        inner = [part for part in parts if part is not NoneType]
        return None if data is None or len(inner) > 1 else _build(inner[0], data)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: enough to make it again.

    Attributes
    ----------
    versions
        Package name to version, Python among them.
    seed
        Of the bootstrap and everything else that draws.
    model_sha256, text_sha256
        Of the weights files and of the text.
    model_source
        In words: for the embedded model, that its weights were 4-bit before.
    machine
        Processor, cores, platform.
    created
        ISO 8601, UTC.
    settings
        All that was asked for.
    """

    versions: dict[str, str]
    seed: int
    model_sha256: str
    model_source: str
    text_sha256: str | None
    text_source: str | None
    machine: dict[str, Any]
    created: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorError:
    """What quantizing one tensor did to it.

    Attributes
    ----------
    name
        As in the checkpoint.
    layer
        Index of the decoder or encoder block, None outside of one.
    kind
        Last part of the module's name: ``q_proj``, ``down_proj`` ...
    nmse
        Sum of squared error over sum of squares.
    snr_db
        ``-10 log10(nmse)``, None for a tensor without error.
    bits_per_weight
        All bits stored for the tensor over its number of weights.
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    nmse: float
    snr_db: float | None
    bits_per_weight: float


@dataclass(frozen=True)
class TensorQuantization:
    """How one weight was quantized by a method, and what that did to it.

    Attributes
    ----------
    name, layer, kind, shape
        As in :class:`TensorError`; the shape is the matrix's, inputs last.
    method
        What was really done; "rtn" where a calibrated method could not be, with a note.
    format
        Names of the formats, ``|`` between alternatives.
    weight_nmse
        Squared error of the effective weight over its squares; None where the weight before
        quantization is not known, as in a checkpoint that another tool quantized.
    weight_nmse_nearest
        The same if it were rounded to nearest under the same scheme.
    output_nmse, output_nmse_nearest
        Squared error of the layer's output on the calibration inputs over the output's
        squares, and the same for rounding to nearest; None without calibration.
    scale_least, scale_median, scale_greatest
        Of the magnitudes of the block scales.
    negative_scales
        Share of block scales below zero.
    tokens
        Calibration inputs that the layer saw.
    notes
        What differed from what was asked for: damping raised, dead channels, no tokens.
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    method: str
    format: str
    bits_per_weight: float
    weight_nmse: float | None
    weight_nmse_nearest: float | None
    scale_least: float
    scale_median: float
    scale_greatest: float
    negative_scales: float
    output_nmse: float | None = None
    output_nmse_nearest: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SkippedTensor:
    """A tensor that was left as it was, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class PackedModel:
    """What a packed checkpoint is and how it was made.

    Attributes
    ----------
    directory
        Where it is.
    bits_per_weight
        All bits stored for quantized weights over their number.
    quantized_weights, plain_weights
        How many numbers are quantized, and how many are stored as they were.
    bytes
        Of all shards.
    tensors, skipped
        Every tensor of the source is in one of these.
    """

    KIND: ClassVar[str] = "studentfloat.packed-model"
    VERSION: ClassVar[int] = 1

    directory: str
    bits_per_weight: float
    quantized_weights: int
    plain_weights: int
    bytes: int
    tensors: tuple[TensorQuantization, ...]
    skipped: tuple[SkippedTensor, ...]


@dataclass(frozen=True)
class Verification:
    """What checking a packed checkpoint found.

    Attributes
    ----------
    weights, tensors
        How many packed weights and stored tensors were read.
    hashed
        How many tensors had a hash on record to compare with.
    compared_with
        The source that names and shapes were held against, if one was given.
    problems
        One line each; none means that all is well.
    """

    KIND: ClassVar[str] = "studentfloat.verification"
    VERSION: ClassVar[int] = 1

    directory: str
    weights: int
    tensors: int
    hashed: int
    compared_with: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class FormatQuality:
    """One row of a comparison: a format under a scheme on a model.

    Quality figures are None where they were not measured (weights only) or are not
    defined (perplexity of an encoder).

    Attributes
    ----------
    weight_nmse
        Over all quantized weights: sum of squared error over sum of squares.
    perplexity, perplexity_se
        exp of the mean negative log-likelihood per token (nats), and its standard error
        over windows.
    kl, kl_se
        Mean over positions of KL(original ‖ quantized) of the next-token distribution, nats.
    top1_agreement, top1_agreement_se
        Share of positions where both have the same most likely token.
    output_nmse, output_nmse_se
        For models without a token distribution: squared error of the last hidden state
        over its squares.
    lookup_bits
        Where not the format's exact values were measured but those that the silicon beside it
        holds: the width of the fixed-point numbers that they were rounded to.
    rank
        1 + the number of formats that are significantly better; equal ranks are ties.
    weights
        How each weight was quantized, for methods beyond rounding to nearest.
    """

    name: str
    method: str
    block_size: int | str
    scale_rule: str
    scale_dtype: str
    bits: int
    bits_per_weight: float
    weight_nmse: float
    values: tuple[float, ...]
    perplexity: float | None = None
    perplexity_se: float | None = None
    kl: float | None = None
    kl_se: float | None = None
    top1_agreement: float | None = None
    top1_agreement_se: float | None = None
    output_nmse: float | None = None
    output_nmse_se: float | None = None
    lookup_bits: int | None = None
    rank: int | None = None
    note: str = ""
    seconds: float = 0.0
    tensors: tuple[TensorError, ...] = ()
    window_nll: tuple[float, ...] = ()
    window_kl: tuple[float, ...] = ()
    window_agreement: tuple[float, ...] = ()
    window_output_nmse: tuple[float, ...] = ()
    weights: tuple[TensorQuantization, ...] = ()


@dataclass(frozen=True)
class PairedDifference:
    """Difference of a measure between two formats on the same windows.

    Attributes
    ----------
    difference
        Mean of `first` minus `second`; for a measure where less is better, negative
        means that `first` is better.
    low, high
        95 % interval of the studentized paired bootstrap.
    p_value
        Two-sided, of the studentized paired bootstrap, Holm-adjusted over all pairs.
    """

    measure: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float
    significant: bool


@dataclass(frozen=True)
class Baseline:
    """The original model on the same windows."""

    perplexity: float | None
    perplexity_se: float | None = None
    window_nll: tuple[float, ...] = ()


class Standing(Enum):
    """Where a format stands with respect to a Pareto frontier."""

    FRONTIER = "frontier"
    WITHIN_NOISE = "within noise"
    DOMINATED = "dominated"


@dataclass(frozen=True)
class FrontierPoint:
    """A format on the map of quality against a cost; `standing` is a :class:`Standing`."""

    name: str
    cost: float
    cost_error: float
    loss: float
    loss_error: float
    standing: str


@dataclass(frozen=True)
class Frontier:
    """Quality against one cost.

    Attributes
    ----------
    cost, loss
        What the axes are: ``area``, ``energy_fj``, ``bits_per_weight``; ``kl`` ...
    cost_unit
        ``GE`` (gate equivalents), ``um2``, ``fJ``, ``bits``.
    points
        In ascending order of cost.
    """

    cost: str
    cost_unit: str
    loss: str
    points: tuple[FrontierPoint, ...]


@dataclass(frozen=True)
class FormatHardware:
    """What a multiply-accumulate unit of one row's format costs in silicon.

    Attributes
    ----------
    name
        Of the row.
    lookup_bits
        Width of the fixed-point numbers that the format's values are rounded to in the
        unit, None where they are exact.
    area, area_spread
        In `area_unit`; the spread over synthesis recipes is the noise bar.
    area_relative_to_int4
        Over int4's area in the same unit and library.
    delay_ns, energy_fj, energy_spread_fj
        Shortest clock period; per clock cycle on uniform codes, and half its range over the
        recipes.
    energy_real_fj, codes
        On the pairs of codes that meet in real layers, and in which.
    proved
        Whether Verilog and netlist were shown equal to the format's values.
    """

    name: str
    unit: str
    library: str
    lookup_bits: int | None
    area: float
    area_unit: str
    area_spread: float
    area_relative_to_int4: float | None
    delay_ns: float
    energy_fj: float | None
    proved: bool
    energy_spread_fj: float | None = None
    energy_real_fj: float | None = None
    codes: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What each format costs a model: the result of ``studentfloat compare``."""

    KIND: ClassVar[str] = "comparison"
    VERSION: ClassVar[int] = 1

    model: str
    formats: tuple[FormatQuality, ...]
    baseline: Baseline
    provenance: Provenance
    ranked_by: str
    differences: tuple[PairedDifference, ...] = ()
    skipped: tuple[SkippedTensor, ...] = ()
    cautions: tuple[str, ...] = ()
    hardware: tuple[FormatHardware, ...] = ()
    frontiers: tuple[Frontier, ...] = ()


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
