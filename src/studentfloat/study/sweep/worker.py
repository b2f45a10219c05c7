"""The work loop that every executor runs: claim a cell, compute it, write it, go on."""

from __future__ import annotations

import os
import platform
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from studentfloat.errors import StudentFloatError
from studentfloat.records import StudyCell
from studentfloat.records.provenance import machine_facts
from studentfloat.study.laboratory import Laboratory
from studentfloat.study.plan import Plan, PlannedCell, make_plan
from studentfloat.study.sweep.claims import Claims
from studentfloat.study.sweep.settings import WorkSettings
from studentfloat.study.sweep.shared import SharedOutputs
from studentfloat.study.sweep.store import Store, StoreError

__all__ = ["Queue", "Worked", "laboratory", "work"]

_AS_USUAL = WorkSettings()
_IDLE = 0.5
_LOOKED_AT = 8
_LONGEST_ERROR = 2000


@dataclass
class Worked:
    """What a worker did: numbers of cells that it computed, and that failed on it."""

    computed: int = 0
    failed: int = 0


class _Leave(BaseException):
    """Somebody wants the worker to end: not an error, and never a cell's."""


class Computes(Protocol):
    """What a worker needs of a :class:`Laboratory`."""

    @property
    def model(self) -> str | None:
        """Name of the model in memory."""

    def compute(self, cell: PlannedCell) -> StudyCell:
        """What the cell holds."""

    def leave(self) -> None:
        """Forget the state that the model is in."""


Make = Callable[[Plan, Store, Claims, Callable[..., None]], Computes]


def laboratory(plan: Plan, store: Store, claims: Claims, say: Callable[..., None]) -> Laboratory:
    """A laboratory that shares originals' outputs with other workers of the store."""
    return Laboratory(plan, share=SharedOutputs(store, claims), say=say)


def work(
    directory: Path,
    settings: WorkSettings = _AS_USUAL,
    make: Make = laboratory,
) -> Worked:
    """Compute cells of a study until none is left that nobody else computes.

    Any number of workers, on any number of machines, may work on one study. A cell that fails
    is recorded and the loop goes on.

    Parameters
    ----------
    make
        Makes what computes the cells.

    Raises
    ------
    StoreError
        If the store cannot be written (a full disk): the cell at hand is not lost to others.
    """
    store = Store(directory)
    options, resolution = store.load_study()
    plan = make_plan(options, resolution, only=settings.only)
    name = f"{platform.node()}-{os.getpid()}"
    worked = Worked()
    with _leaving_on_signals():
        claims = store.claims(
            patience=settings.patience,
            beat=settings.beat,
            orphaned=_end_this_process if settings.with_parent else None,
        )
        with claims:
            loop = _Loop(plan, store, claims, settings, name)
            loop.run(worked, make(plan, store, claims, loop.say))
    return worked


class _Loop:
    """One worker's way through the cells."""

    def __init__(
        self, plan: Plan, store: Store, claims: Claims, settings: WorkSettings, name: str
    ) -> None:
        self._plan, self._store, self._claims = plan, store, claims
        self._settings, self._name = settings, name
        self._worked = Worked()
        self._queue = Queue(plan)

    def run(self, worked: Worked, laboratory: Computes) -> None:
        """Until nothing is left, or somebody wants the worker to end; counts in `worked`."""
        self._worked, self._laboratory = worked, laboratory
        try:
            self.say(
                event="began", machine=machine_facts(), threads=os.environ.get("OMP_NUM_THREADS")
            )
            self._queue.drop(self._store.done() | self._given_up(self._store.failed()))
            while (cell := self._next()) is not None:
                self._compute(cell)
            self.say(event="ended", **vars(self._worked))
        except _Leave:
            self.say(event="left", **vars(self._worked))

    def _next(self) -> PlannedCell | None:
        """Claim a cell; None once every cell is done or has failed."""
        lost = 0
        while self._queue:
            names = self._claims.names()
            # After a race that was lost, somewhere else: the more races, the farther away.
            skip = random.randrange(1 << min(lost, 12))
            for cell in self._queue.candidates(names, self._laboratory.model, skip=skip):
                if self._settled(cell.address):
                    self._queue.drop({cell.address})
                    continue
                if not self._claims.take(cell.address):
                    lost += 1
                    break
                # It may have been finished between the look and the claim.
                if not self._settled(cell.address):
                    return cell
                self._claims.release(cell.address)
                self._queue.drop({cell.address})
            else:
                self._wait(names)
        return None

    def _wait(self, names: set[str]) -> None:
        """All that is left is claimed: look after those whose holders are dead, and wait."""
        if not self._break_dead(names):
            # Of many that wait each looks at some claims, so that together they see all.
            time.sleep(_IDLE * (1 + random.random()))
            self._queue.drop(self._store.done() | self._given_up(self._store.failed()))

    def _settled(self, address: str) -> bool:
        return self._store.has(address) or bool(self._given_up({address}))

    def _given_up(self, addresses: set[str]) -> set[str]:
        failures = ((address, self._store.read_failure(address)) for address in addresses)
        return {a for a, f in failures if f is not None and f.attempts >= self._settings.attempts}

    def _break_dead(self, names: set[str]) -> bool:
        """Take cells away from holders that are dead; whether there was one."""
        broken = False
        claimed = self._queue.claimed(names)
        for cell in random.sample(claimed, min(len(claimed), _LOOKED_AT)):
            dead = self._claims.break_dead(cell.address)
            if dead is not None:
                broken = True
                self.say(event="dead", cell=cell.address, holder=vars(dead))
                # One that is frozen did not die of the cell.
                if dead.is_dead() or not dead.is_here:
                    self._store.note_death(cell)
        return broken

    def _compute(self, cell: PlannedCell) -> None:
        started = time.monotonic()
        self.say(event="cell", cell=cell.address, **_described(cell))
        try:
            done = self._laboratory.compute(cell)
            kept = self._store.write_cell(done)
            self._store.forget_failures({cell.address})
            self._worked.computed += kept
            seconds = time.monotonic() - started
            # Late is who was frozen until the claim was taken away, and another did the cell.
            event = "done" if kept else "late"
            self.say(event=event, cell=cell.address, seconds=seconds, **_described(cell))
        except (StoreError, _Leave):
            raise
        except Exception as error:
            # Whatever it is, it is this cell's; the others must not suffer for it.
            if not self._store.has(cell.address):
                self._store.write_failure(cell, _in_a_line(error))
                self._worked.failed += 1
            self.say(event="failed", cell=cell.address, error=_in_a_line(error))
            self._laboratory.leave()
            if not self._given_up({cell.address}):
                self._queue.postpone(cell)
                return
        finally:
            self._claims.release(cell.address)
        self._queue.drop({cell.address}, begun=cell.group)

    def say(self, **what: Any) -> None:
        """Add a line to the worker's log."""
        self._store.log(self._name, **what)


class Queue:
    """Cells that are still to be done, and which of them to try first.

    A worker goes on with its group: the model is in that state already. Then come groups of
    the model in memory that nobody has begun, then those of other models, then what is left
    of groups that others are at.
    """

    def __init__(self, plan: Plan) -> None:
        self._cells = dict(plan.by_address)
        self._groups = {group.index: group for group in plan.groups}
        self._left: dict[int, dict[str, PlannedCell]] = {}
        for cell in self._cells.values():
            self._left.setdefault(cell.group, {})[cell.address] = cell
        self._begun: int | None = None

    def __bool__(self) -> bool:
        return bool(self._cells)

    def drop(self, addresses: set[str], *, begun: int | None = None) -> None:
        """These need not be done any more; `begun` is the group that the worker is at."""
        for address in addresses:
            cell = self._cells.pop(address, None)
            if cell is not None:
                left = self._left[cell.group]
                left.pop(address, None)
                if not left:
                    del self._left[cell.group]
        if begun is not None:
            self._begun = begun

    def postpone(self, cell: PlannedCell) -> None:
        """Try a cell again, with what is left of its group, but after all others."""
        self._left[cell.group] = self._left.pop(cell.group)
        self._begun = None

    def candidates(
        self, claimed: set[str], model: str | None, *, skip: int = 0
    ) -> Iterator[PlannedCell]:
        """Cells that nobody has claimed, the best first; `skip` fresh groups come last."""
        if self._begun in self._left:
            assert self._begun is not None
            yield from self._free(self._begun, claimed)
        at_work = {self._cells[name].group for name in claimed & self._cells.keys()}
        fresh = [index for index in self._left if index not in at_work]
        same = [index for index in fresh if self._groups[index].model == model]
        others = [index for index in fresh if self._groups[index].model != model]
        for part in (same, others):
            first = skip % len(part) if part else 0
            for index in part[first:] + part[:first]:
                yield from self._free(index, claimed)
        for index in at_work:
            yield from self._free(index, claimed)

    def claimed(self, names: set[str]) -> list[PlannedCell]:
        """Cells that somebody has claimed."""
        return [self._cells[name] for name in names & self._cells.keys()]

    def _free(self, index: int, claimed: set[str]) -> list[PlannedCell]:
        cells = self._left.get(index, {})
        return [c for a, c in cells.items() if a in self._cells and a not in claimed]


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the loop with its claims given back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray's and others' threads: their own signals are theirs
        return

    def leave(number: int, frame: object) -> None:
        del frame
        raise _Leave(number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Leave:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _described(cell: PlannedCell) -> dict[str, Any]:
    configuration = cell.configuration
    return {
        "model": configuration.model,
        "name": configuration.name,
        "method": configuration.method,
        "evaluation": cell.evaluation,
    }


def _in_a_line(error: Exception) -> str:
    text = (
        str(error) if isinstance(error, StudentFloatError) else f"{type(error).__name__}: {error}"
    )
    return " ".join(text.split())[:_LONGEST_ERROR]
