"""What formats cost a model: rows, which differences between them are real, and frontiers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from studentfloat.records.files import record_to_json
from studentfloat.records.hardware import FormatHardware
from studentfloat.records.provenance import Provenance
from studentfloat.records.rows import Baseline, Row, TaskScore
from studentfloat.records.tensors import SkippedTensor

__all__ = [
    "Comparison",
    "Frontier",
    "FrontierPoint",
    "LayerLaw",
    "PairedDifference",
    "Standing",
]


@dataclass(frozen=True)
class PairedDifference:
    """Difference of a measure between two rows on the same windows or items.

    Attributes
    ----------
    measure
        A metric's key, or a task and its measure such as ``piqa acc_norm``.
    difference
        Mean of `first` minus `second`; for a measure where less is better, negative
        means that `first` is better.
    low, high
        95 % interval of the studentized paired bootstrap.
    p_value
        Two-sided, of the studentized paired bootstrap, Holm-adjusted: over all pairs of rows with
        exact values, and over all other pairs.
    """

    measure: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float
    significant: bool


class Standing(Enum):
    """Where a row stands with respect to a Pareto frontier."""

    FRONTIER = "frontier"
    WITHIN_NOISE = "within noise"
    DOMINATED = "dominated"


@dataclass(frozen=True)
class FrontierPoint:
    """A row on the map of quality against a cost; `standing` is a :class:`Standing`."""

    name: str
    cost: float
    cost_error: float
    loss: float
    loss_error: float | None
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
        Of silicon: ``mac``, ``dot16``; None of bits.
    """

    cost: str
    cost_unit: str
    loss: str
    points: tuple[FrontierPoint, ...]
    unit: str | None = None


@dataclass(frozen=True)
class LayerLaw:
    """Student's t on one weight tensor.

    Attributes
    ----------
    degrees_of_freedom, degrees_of_freedom_interval
        ν and its 95 % likelihood interval; None is infinity, the normal law.
    ks_difference
        Kolmogorov-Smirnov distance of the normal law less that of t.
    """

    name: str
    layer: int | None
    role: str
    degrees_of_freedom: float | None
    degrees_of_freedom_low: float | None
    degrees_of_freedom_high: float | None
    ks_difference: float
    best: str


@dataclass(frozen=True)
class Comparison:
    """What each format costs a model: the result of ``studentfloat compare``.

    A study of several models is one of these for each.

    Attributes
    ----------
    formats
        The rows, best first: every format under every method, and, where silicon is costed, a row
        more for each whose values it cannot hold, such as ``nf4-fixed8``.
    baseline, original_scores
        The original's own figures.
    ranked_by
        Key of the metric that ranks and frontiers are of.
    differences
        Which rows differ for certain, measure by measure.
    skipped
        Tensors that were left as they were.
    cautions
        What to bear in mind with every figure.
    frontiers
        Of `ranked_by` against area and energy of each unit, and against bits per weight.
    laws
        Which distribution each weight follows, where that was asked for.
    """

    KIND: ClassVar[str] = "comparison"
    VERSION: ClassVar[int] = 2

    model: str
    formats: tuple[Row, ...]
    baseline: Baseline
    provenance: Provenance
    ranked_by: str
    differences: tuple[PairedDifference, ...] = ()
    skipped: tuple[SkippedTensor, ...] = ()
    cautions: tuple[str, ...] = ()
    frontiers: tuple[Frontier, ...] = ()
    original_scores: tuple[TaskScore, ...] = ()
    laws: tuple[LayerLaw, ...] = ()

    @property
    def hardware(self) -> tuple[FormatHardware, ...]:
        """The silicon of all rows."""
        return tuple(its for row in self.formats for its in row.hardware)

    def derived(self) -> dict[str, Any]:
        """Silicon again, in a list of its own, for readers of the JSON."""
        return {"hardware": [record_to_json(its) for its in self.hardware]}
