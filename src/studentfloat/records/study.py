"""Studies: many cells, each one configuration of a model under one evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from studentfloat.records.comparison import Comparison, LayerLaw
from studentfloat.records.rows import Baseline, Configuration, Row
from studentfloat.records.tensors import SkippedTensor

__all__ = ["StudyCell", "StudyFailure", "StudyResult"]


@dataclass(frozen=True)
class StudyCell:
    """One configuration under one evaluation: one file of a store, a study's or ``compare``'s.

    The same cell has the same bytes wherever and whenever it is computed: times and machines
    are in the store's log.

    Attributes
    ----------
    address
        Hash of all that the cell's numbers depend on; its file's name.
    evaluation
        "quality", a task's name, "hardware" or "laws".
    row
        What was found about the configuration.
    text
        SHA-256 of the text that quality was measured on.
    baseline, skipped
        With "quality" of the original: its own figures, and what is not quantized.
    laws
        With "laws": of each weight.
    versions
        Of the packages that the address counts.
    notes
        What to bear in mind with all rows.
    """

    KIND: ClassVar[str] = "study-cell"
    VERSION: ClassVar[int] = 2

    address: str
    evaluation: str
    row: Row
    text: str | None = None
    model_sha256: str | None = None
    laws: tuple[LayerLaw, ...] = ()
    baseline: Baseline | None = None
    skipped: tuple[SkippedTensor, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyFailure:
    """A cell that could not be computed, and why."""

    KIND: ClassVar[str] = "study-failure"
    VERSION: ClassVar[int] = 2

    address: str
    configuration: Configuration
    evaluation: str
    error: str
    attempts: int = 1


@dataclass(frozen=True)
class StudyResult:
    """What a study has found so far: the result of ``studentfloat study export``.

    Attributes
    ----------
    models
        One comparison for each.
    planned, done
        Numbers of cells.
    failures
        Cells that ended in an error.
    settings
        The study file, as read.
    """

    KIND: ClassVar[str] = "study"
    VERSION: ClassVar[int] = 2

    name: str
    models: tuple[Comparison, ...]
    planned: int
    done: int
    failures: tuple[StudyFailure, ...]
    settings: dict[str, Any] = field(default_factory=dict)
