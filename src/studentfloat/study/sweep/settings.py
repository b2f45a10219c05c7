"""How workers go about a study, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studentfloat.study.sweep.claims import BEAT, PATIENCE

__all__ = ["WorkSettings"]


@dataclass(frozen=True)
class WorkSettings:
    """How a worker goes about it.

    Attributes
    ----------
    only
        Filters, as for :func:`~studentfloat.study.plan.make_plan`.
    attempts
        How often a cell may fail before it is left alone.
    patience, beat
        Of claims.
    with_parent
        Whether the worker ends when the process that started it does.
    """

    only: tuple[dict[str, Any], ...] = ()
    attempts: int = 1
    patience: float = PATIENCE
    beat: float = BEAT
    with_parent: bool = False
