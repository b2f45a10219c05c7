"""Studies: many cells, each one configuration of a model under one evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from studentfloat.records.comparison import (
    Baseline,
    FormatHardware,
    FormatQuality,
    Frontier,
    PairedDifference,
)
from studentfloat.records.provenance import Provenance
from studentfloat.records.tensors import SkippedTensor

__all__ = [
    "LayerLaw",
    "StudyCell",
    "StudyConfiguration",
    "StudyFailure",
    "StudyModel",
    "StudyResult",
    "StudyRow",
    "TaskScore",
]


@dataclass(frozen=True)
class TaskScore:
    """How well a model did one task, by one measure.

    Attributes
    ----------
    task, metric
        As lm-evaluation-harness names them: ``piqa``, ``acc_norm``.
    standard_error
        Of `value`, over items; None for fewer than two.
    primary
        Whether comparisons go by this measure of the task.
    items
        The measure on each item, in the order of the set, for paired differences.
    limit, shots
        How many items were asked at most (None: all), and solved examples before each.
    source, data_sha256
        Where the items come from, and a hash of what was really asked.
    """

    KIND: ClassVar[str] = "task-score"
    VERSION: ClassVar[int] = 1

    task: str
    metric: str
    value: float
    standard_error: float | None
    higher_is_better: bool
    primary: bool
    items: tuple[float, ...]
    limit: int | None
    shots: int
    source: str
    data_sha256: str
    notes: tuple[str, ...] = ()


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
class StudyConfiguration:
    """What is done to a model; ``format`` is "original" where nothing is.

    Attributes
    ----------
    name
        Short and unique within the study's model, for tables: ``sf4 gptq``.
    format
        As the study file gives it: a name or a file, several joined by ``|``.
    """

    model: str
    name: str
    format: str
    method: str = "rtn"
    block_size: int | str = 128
    scale_rule: str = "absmax"
    scale_dtype: str = "float32"
    activations: str | None = None
    kv: str | None = None


@dataclass(frozen=True)
class StudyCell:
    """One configuration under one evaluation: one file of a study's store.

    The same cell has the same bytes wherever and whenever it is computed: times and machines
    are in the store's log.

    Attributes
    ----------
    address
        Hash of all that the cell's numbers depend on; its file's name.
    evaluation
        "quality", a task's name, "hardware" or "laws".
    bits_per_weight, quality, scores, hardware, laws
        What was found; those that the evaluation does not give are None or empty.
    baseline, skipped
        With "quality" of the original: its own perplexity, and what is not quantized.
    versions
        Of the packages that the address counts.
    """

    KIND: ClassVar[str] = "study-cell"
    VERSION: ClassVar[int] = 1

    address: str
    configuration: StudyConfiguration
    evaluation: str
    model_sha256: str | None = None
    bits_per_weight: float | None = None
    quality: FormatQuality | None = None
    scores: tuple[TaskScore, ...] = ()
    hardware: FormatHardware | None = None
    laws: tuple[LayerLaw, ...] = ()
    baseline: Baseline | None = None
    skipped: tuple[SkippedTensor, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyFailure:
    """A cell that could not be computed, and why."""

    KIND: ClassVar[str] = "study-failure"
    VERSION: ClassVar[int] = 1

    address: str
    configuration: StudyConfiguration
    evaluation: str
    error: str
    attempts: int = 1


@dataclass(frozen=True)
class StudyRow:
    """One configuration with all that was found about it.

    Attributes
    ----------
    cells
        Addresses of the cells that it is made of.
    """

    configuration: StudyConfiguration
    bits_per_weight: float | None
    quality: FormatQuality | None
    scores: tuple[TaskScore, ...]
    hardware: tuple[FormatHardware, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class StudyModel:
    """All rows of one model, and which differences between them are real.

    Attributes
    ----------
    differences
        Between rows, by their names; the measure is ``kl``, ``output_nmse``, or a task and
        its measure such as ``piqa acc_norm``. P-values are adjusted within a measure.
    original_scores
        Of the model as it was.
    """

    model: str
    rows: tuple[StudyRow, ...]
    baseline: Baseline | None
    original_scores: tuple[TaskScore, ...]
    differences: tuple[PairedDifference, ...]
    frontiers: tuple[Frontier, ...]
    laws: tuple[LayerLaw, ...]
    provenance: Provenance
    skipped: tuple[SkippedTensor, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """What a study has found so far: the result of ``studentfloat study export``.

    Attributes
    ----------
    planned, done
        Numbers of cells.
    failures
        Cells that ended in an error.
    settings
        The study file, as read.
    """

    KIND: ClassVar[str] = "study"
    VERSION: ClassVar[int] = 1

    name: str
    models: tuple[StudyModel, ...]
    planned: int
    done: int
    failures: tuple[StudyFailure, ...]
    settings: dict[str, Any] = field(default_factory=dict)
