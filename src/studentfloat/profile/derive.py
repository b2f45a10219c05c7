"""From a profile to a format: the codebook for this model's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from studentfloat.errors import ConfigError, DataError, FormatError
from studentfloat.formats import Format, block_optimal, lloyd_max, student_float
from studentfloat.records import Profile, TensorProfile
from studentfloat.statistics import StudentT

__all__ = ["CRITERIA", "GROUPS", "DeriveOptions", "derive_formats", "pooled_histogram"]

CRITERIA = ("quantile", "lloyd", "block-optimal")
GROUPS = ("model", "kind", "layer")


@dataclass(frozen=True)
class DeriveOptions:
    """Which format to derive.

    Attributes
    ----------
    bits
        2 to 8.
    criterion
        "quantile": Student Float for the group's median ν. "lloyd": least squared error
        when each tensor is scaled by its root mean square, rescaled to end at 1.
        "block-optimal": least squared error when each block is scaled by its largest
        magnitude.
    source
        "law": the t law of the group's median ν. "histogram": its numbers themselves,
        each tensor in units of its root mean square. The quantile criterion has the law only.
    per
        One format for the "model", or for each "kind" of layer, or for each "layer".
    numbers
        "weight", or "activation".
    block_size, scale_rule
        Of the block-optimal criterion.
    """

    bits: int = 4
    criterion: str = "quantile"
    source: str = "law"
    per: str = "model"
    numbers: str = "weight"
    block_size: int = 128
    scale_rule: str = "absmax"

    def __post_init__(self) -> None:
        _one_of("criterion", self.criterion, CRITERIA)
        _one_of("source", self.source, ("law", "histogram"))
        _one_of("per", self.per, GROUPS)
        _one_of("numbers", self.numbers, ("weight", "activation"))
        if self.criterion == "quantile" and self.source == "histogram":
            raise ConfigError(
                "the quantile criterion takes the law: use lloyd or block-optimal with a histogram"
            )


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{what} {value!r}: known are {', '.join(known)}")


def derive_formats(profile: Profile, options: DeriveOptions) -> dict[str, Format]:
    """The format of each group of tensors, by the group's name ("" for the whole model).

    Embeddings and heads take no part.

    Raises
    ------
    DataError
        If the profile has no fitted tensors of that sort.
    FormatError
        If there is no such format (a histogram with too few cells, ν ≤ 2 with a
        criterion of squared error).
    """
    part = "linear"
    tensors = [
        tensor
        for tensor in profile.tensors
        if tensor.kind == options.numbers and tensor.part == part and tensor.laws is not None
    ]
    if not tensors:
        raise DataError(
            f"the profile of {profile.model} has no fitted {options.numbers}s of linear layers"
            + (": profile with --activations" if options.numbers == "activation" else "")
        )
    by: dict[str, Callable[[TensorProfile], str]] = {
        "model": lambda tensor: "",
        "kind": lambda tensor: tensor.role,
        "layer": lambda tensor: "outside" if tensor.layer is None else f"layer{tensor.layer}",
    }
    groups: dict[str, list[TensorProfile]] = {}
    for tensor in tensors:
        groups.setdefault(by[options.per](tensor), []).append(tensor)
    return {
        name: _derive(profile.model, name, members, options) for name, members in groups.items()
    }


def _derive(model: str, group: str, tensors: list[TensorProfile], options: DeriveOptions) -> Format:
    nu = _median_nu(tensors)
    name = "-".join(
        part
        for part in (
            {"quantile": "sf", "lloyd": "lloyd", "block-optimal": "bo"}[options.criterion]
            + str(options.bits),
            group.replace("_", "-"),
            f"nu{nu:.3g}" if options.source == "law" else "histogram",
            *_unusual(options),
        )
        if part
    )
    what = f"{len(tensors)} {options.numbers}s" + (f" of {group}" if group else "") + f" of {model}"
    if options.criterion == "quantile":
        derived = student_float(options.bits, nu, name=name)
        how = f"quantiles of t with ν = {nu:.4g}, the median over {what}"
    else:
        # The codebooks of formats/ take any law with these methods: ours are quick.
        source = StudentT(0.0, 1.0, nu) if options.source == "law" else pooled_histogram(tensors)
        basis = f"t with ν = {nu:.4g}, the median" if options.source == "law" else "the histogram"
        if options.criterion == "lloyd":
            derived = _to_one(lloyd_max(source, options.bits, pinned=(0.0,), name=name))
            how = f"least squared error for {basis} over {what}"
        else:
            derived = block_optimal(
                source, options.bits, options.block_size, options.scale_rule, name=name
            )
            how = (
                f"least squared error in blocks of {options.block_size} by {options.scale_rule} "
                f"for {basis} over {what}"
            )
    return replace(derived, description=how)


def _unusual(options: DeriveOptions) -> list[str]:
    """What tells formats of one group apart in a table: settings that are not the default."""
    words = [] if options.numbers == DeriveOptions.numbers else [f"{options.numbers}s"]
    if options.criterion == "block-optimal":
        if options.block_size != DeriveOptions.block_size:
            words.append(f"blocks{options.block_size}")
        if options.scale_rule != DeriveOptions.scale_rule:
            words.append(options.scale_rule)
    return words


def _median_nu(tensors: list[TensorProfile]) -> float:
    values = [
        tensor.laws.student_t.degrees_of_freedom
        for tensor in tensors
        if tensor.laws is not None and tensor.laws.student_t.degrees_of_freedom is not None
    ]
    middle = float(np.quantile(values, 0.5, method="lower"))  # infinite ones take part
    return middle if math.isfinite(middle) else math.inf


def pooled_histogram(tensors: list[TensorProfile]) -> tuple[list[float], list[float]]:
    """Counts and edges over all tensors, each in units of its root mean square."""
    histograms = [tensor.histogram for tensor in tensors if tensor.histogram is not None]
    if not histograms:
        raise DataError("the profile holds no histograms to derive a format from")
    per_unit = histograms[0].per_unit
    if any(histogram.per_unit != per_unit for histogram in histograms):
        raise DataError("the profile's histograms have cells of different widths")
    first = min(histogram.first for histogram in histograms)
    last = max(histogram.first + len(histogram.counts) for histogram in histograms)
    counts = np.zeros(last - first)
    for histogram in histograms:
        at = histogram.first - first
        counts[at : at + len(histogram.counts)] += histogram.counts
    edges = np.sinh(np.arange(first, last + 1) / per_unit)
    return counts.tolist(), edges.tolist()


def _to_one(derived: Format) -> Format:
    largest = max(abs(level) for level in derived.levels)
    if not largest > 0:
        raise FormatError("all levels of the derived format are zero")
    return Format.from_values(
        [level / largest for level in derived.levels],
        name=derived.name,
        bits=derived.bits,
        source=derived.source,
    )
