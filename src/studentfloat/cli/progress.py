"""Progress on stderr: a bar with an estimate in a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from studentfloat.progress import Progress, silent

__all__ = ["progress_on_stderr"]

_LEAST_SECONDS_BETWEEN_LINES = 10.0
# After so many lines, a change of the work gets one only every second: models have thousands of
# tensors.
_LINES_AT_ONCE = 20


@contextmanager
def progress_on_stderr(*, quiet: bool = False) -> Iterator[Progress]:
    """Give a function that takes the share done (0 to 1) and what is being done."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        # An estimate over the last minutes: formats differ little, the machine's load much.
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), speed_estimate_period=120, transient=True
    ) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda share, what: progress.update(task, completed=share, description=what)


class _Lines:
    """A line when the work changes, and every few seconds while it goes on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._what = ""
        self._lines = 0
        self._said = -_LEAST_SECONDS_BETWEEN_LINES

    def __call__(self, share: float, what: str) -> None:
        elapsed = time.monotonic() - self._started
        pause = _LEAST_SECONDS_BETWEEN_LINES
        if what != self._what:
            pause = 0.0 if self._lines < _LINES_AT_ONCE else 1.0
        if elapsed - self._said < pause:
            return
        self._what, self._said = what, elapsed
        self._lines += 1
        left = f", about {elapsed * (1 - share) / share:.0f} s left" if share > 0.05 else ""
        print(f"{share:4.0%} {what} ({elapsed:.0f} s{left})", file=sys.stderr, flush=True)
