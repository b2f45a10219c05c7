"""Drive a study: resolve it, start workers by an executor, and watch until all is done."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from studentfloat.errors import ConfigError
from studentfloat.progress import Progress, silent
from studentfloat.study.options import StudyOptions
from studentfloat.study.plan import Plan, make_plan
from studentfloat.study.resolve import resolve
from studentfloat.study.sweep.settings import WorkSettings
from studentfloat.study.sweep.status import StudyStatus, study_status
from studentfloat.study.sweep.store import Store

__all__ = ["Executor", "RunSettings", "begin_study", "open_study", "run_study"]

_LOOKING = 20.0


class Executor(Protocol):
    """Starts workers on a store, and waits for them.

    ``run`` returns when no worker is left, for whatever reason: the store says what is done.
    It calls `watch` every second or so.
    """

    def run(self, directory: Path, settings: WorkSettings, watch: Callable[[], None]) -> None:
        """Run workers until they end."""


@dataclass(frozen=True)
class RunSettings:
    """How a study is run: by what, which cells, and how often a cell may fail."""

    executor: Executor
    only: tuple[dict[str, Any], ...] = ()
    attempts: int = 1
    retry_failed: bool = False
    work: WorkSettings = field(default_factory=WorkSettings)


def begin_study(
    options: StudyOptions,
    directory: Path,
    *,
    text: str | None = None,
    progress: Progress = silent,
) -> Plan:
    """Make a directory the store of a study, or go on with the one that it holds.

    Models, texts and sets are found and hashed.

    Parameters
    ----------
    text
        The study file, to be kept beside the results.

    Raises
    ------
    ConfigError
        If the directory holds another study.
    """
    store = Store(directory)
    before = None
    if store.holds_study():
        known, before = store.load_study()
        if known.name != options.name:
            raise ConfigError(
                f"{directory} holds the study {known.name!r}, not {options.name!r}: give another -o"
            )
    progress(0.0, "finding models, texts and sets")
    resolution = resolve(options, before)
    store.save_study(options, resolution, text)
    return make_plan(options, resolution)


def open_study(directory: Path, *, only: Sequence[dict[str, Any]] = ()) -> tuple[Plan, Store]:
    """The study that a directory holds.

    Raises
    ------
    ConfigError
        If it holds none.
    """
    store = Store(directory)
    options, resolution = store.load_study()
    return make_plan(options, resolution, only=only), store


def run_study(
    directory: Path,
    settings: RunSettings,
    progress: Progress = silent,
) -> StudyStatus:
    """Work on a study until every cell is done or has failed, or the workers are gone.

    Any number of processes may call this on the same directory at once.
    """
    plan, store = open_study(directory, only=settings.only)
    store.sweep()
    if settings.retry_failed:
        store.forget_failures(store.failed() & plan.by_address.keys())
    status = study_status(plan, store)
    if _is_open(status, plan, store, settings):
        progress(status.share, _said(status))

        again = 0.0

        def watch() -> None:
            # A look at a large study takes a while: it must not cost more than the work.
            nonlocal again
            started = time.monotonic()
            if started >= again:
                now = study_status(plan, store)
                progress(now.share, _said(now))
                again = time.monotonic() + _LOOKING * (time.monotonic() - started)

        work = WorkSettings(
            only=settings.only,
            attempts=settings.attempts,
            patience=settings.work.patience,
            beat=settings.work.beat,
        )
        with _interrupted_by_sigterm():
            settings.executor.run(directory, work, watch)
        status = study_status(plan, store)
    if status.done == status.planned and not settings.only:
        shutil.rmtree(store.shared, ignore_errors=True)
    progress(status.share, _said(status))
    return status


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """A driver that is told to end lets its workers give their claims back, as on Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_open(status: StudyStatus, plan: Plan, store: Store, settings: RunSettings) -> bool:
    """Whether there is a cell that is neither done nor given up."""
    if status.done + status.failed < status.planned:
        return True
    return any(failure.attempts < settings.attempts for failure in status.failures)


def _said(status: StudyStatus) -> str:
    words = f"{status.done} of {status.planned} cells"
    if status.failed:
        words += f", {status.failed} failed"
    if status.seconds_left is not None and status.done < status.planned:
        words += f", about {_duration(status.seconds_left)} left"
    return words


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
