"""Workers on this machine: processes of their own, each with its share of the cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from studentfloat.errors import FailureError
from studentfloat.study.sweep.settings import WorkSettings

__all__ = ["LocalExecutor", "default_workers"]

_CORES_PER_WORKER = 4
_POLL, _WATCH = 0.1, 1.0
_GRACE = 20.0
_RESTARTS = 8
"""More workers than that do not die by chance."""

_FAILED = 1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def default_workers() -> int:
    """One for every four cores that this process may use."""
    return max(1, _cores() // _CORES_PER_WORKER)


@dataclass(frozen=True)
class LocalExecutor:
    """Runs workers as processes; one that is killed is replaced.

    Attributes
    ----------
    workers
        How many.
    threads
        Of each; None shares the cores out evenly.
    """

    workers: int = 1
    threads: int | None = None

    def run(self, directory: Path, settings: WorkSettings, watch: Callable[[], None]) -> None:
        """Run workers until all have ended.

        Raises
        ------
        FailureError
            If a worker could not go on (a full disk), or too many died.
        """
        (directory / "log").mkdir(parents=True, exist_ok=True)
        processes = [self._start(directory, settings) for _ in range(self.workers)]
        deaths, problem, watched = 0, "", 0.0
        try:
            while processes:
                for process in list(processes):
                    code = process.poll()
                    if code is None:
                        continue
                    processes.remove(process)
                    if code == _FAILED:
                        problem = problem or _last_words(directory, process.pid)
                    elif code != 0:
                        deaths += 1
                        if deaths <= _RESTARTS:
                            processes.append(self._start(directory, settings))
                if time.monotonic() - watched > _WATCH:
                    watched = time.monotonic()
                    watch()
                time.sleep(_POLL)
        finally:
            _end(processes)
        if problem:
            raise FailureError(problem)
        if deaths > _RESTARTS:
            raise FailureError(
                f"{deaths} workers died: see {directory / 'log'}; `studentfloat study resume` "
                "goes on"
            )

    def _start(self, directory: Path, settings: WorkSettings) -> subprocess.Popen[bytes]:
        threads = self.threads or max(1, _cores() // self.workers)
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        asked = {**asdict(settings), "with_parent": True}
        command = [sys.executable, "-m", "studentfloat", "study", "work", str(directory)]
        log = directory / "log" / f".starting-{time.time_ns()}"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, "--settings", json.dumps(asked)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        log.rename(_log_file(directory, process.pid))
        return process


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _log_file(directory: Path, pid: int) -> Path:
    return directory / "log" / f"worker-{pid}.txt"


def _last_words(directory: Path, pid: int) -> str:
    lines = _log_file(directory, pid).read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"a worker failed: see {_log_file(directory, pid)}"


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask workers to leave, which gives their claims back; then end them."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
