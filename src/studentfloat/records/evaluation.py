"""What a model scored on tasks: the result of ``studentfloat evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studentfloat.records.provenance import Provenance
from studentfloat.records.rows import TaskScore

__all__ = ["Evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """One model on some tasks.

    Attributes
    ----------
    model
        As it was asked for.
    scores
        Every measure of every task, tasks in the order in which they were asked for.
    cautions
        What to bear in mind with every result on this model.
    """

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2

    model: str
    scores: tuple[TaskScore, ...]
    provenance: Provenance
    seconds: float
    cautions: tuple[str, ...] = ()
