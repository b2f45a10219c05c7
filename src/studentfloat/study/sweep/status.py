"""How far a study is: what is done, at work, failed, and how long the rest will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studentfloat.records import StudyFailure
from studentfloat.study.plan import Plan
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.timings import Timings

__all__ = ["Counts", "Running", "StudyStatus", "study_status"]


@dataclass(frozen=True)
class Counts:
    """Cells of a model under an evaluation; hardware cells have no model."""

    model: str
    evaluation: str
    planned: int
    done: int
    failed: int


@dataclass(frozen=True)
class Running:
    """A cell that somebody has claimed, who, and seconds since the last sign of life."""

    model: str
    name: str
    evaluation: str
    host: str
    pid: int
    silent_seconds: float


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is.

    Attributes
    ----------
    planned, done, failed
        Numbers of cells, each address once.
    share
        Of the work that is done, by measured times where there are any.
    seconds_left
        With as many workers as there are claims; None before anything was measured.
    """

    KIND: ClassVar[str] = "study-status"
    VERSION: ClassVar[int] = 1

    name: str
    planned: int
    done: int
    failed: int
    share: float
    seconds_left: float | None
    counts: tuple[Counts, ...]
    running: tuple[Running, ...]
    failures: tuple[StudyFailure, ...]
    notes: tuple[str, ...] = ()


def study_status(plan: Plan, store: Store) -> StudyStatus:
    """Look at a store, which may be at work."""
    cells = plan.by_address
    done = store.done() & cells.keys()
    failed = store.failed() & (cells.keys() - done)
    timings = Timings(store.log_lines())
    seconds = {address: timings.seconds(cell) for address, cell in cells.items()}
    total = sum(seconds.values())
    left = sum(s for address, s in seconds.items() if address not in done | failed)
    claims = store.claims()
    running = []
    for address in claims.names() & cells.keys():
        holder, age = claims.holder(address), claims.age(address)
        if holder is not None and age is not None and not holder.is_dead():
            cell = cells[address]
            its = cell.configuration
            running.append(
                Running(its.model, its.name, cell.evaluation, holder.host, holder.pid, age)
            )
    counts: dict[tuple[str, str], list[int]] = {}
    for address, cell in cells.items():
        row = counts.setdefault((cell.configuration.model, cell.evaluation), [0, 0, 0])
        row[0] += 1
        row[1] += address in done
        row[2] += address in failed
    return StudyStatus(
        name=plan.options.name,
        planned=len(cells),
        done=len(done),
        failed=len(failed),
        share=1.0 - left / total if total else 1.0,
        seconds_left=left / max(1, len(running)) if timings.measured else None,
        counts=tuple(Counts(*key, *row) for key, row in counts.items()),
        running=tuple(running),
        failures=tuple(f for a in sorted(failed) if (f := store.read_failure(a)) is not None),
        notes=(*plan.options.notes, *plan.notes),
    )
