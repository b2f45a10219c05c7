"""What formats cost a model, in quality and in silicon."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from studentfloat.records.provenance import Provenance
from studentfloat.records.tensors import SkippedTensor, TensorError, TensorQuantization

__all__ = [
    "AreaBreakdown",
    "Baseline",
    "Comparison",
    "FormatHardware",
    "FormatQuality",
    "Frontier",
    "FrontierPoint",
    "PairedDifference",
    "Standing",
]


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
    unit
        Of silicon, where several were costed: ``mac``, ``dot16``.
    """

    cost: str
    cost_unit: str
    loss: str
    points: tuple[FrontierPoint, ...]
    unit: str | None = None


@dataclass(frozen=True)
class AreaBreakdown:
    """Where a unit's area goes, in the unit's area unit.

    Measured with the boundaries between the parts kept during synthesis, which costs some area:
    the parts add up to a little more than the whole.
    """

    decoder: float
    multiplier: float
    adder: float
    register: float


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
    area_breakdown
        By part of the unit, None where it was not taken.
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
    area_breakdown: AreaBreakdown | None = None


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
