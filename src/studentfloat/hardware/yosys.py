"""Yosys in a process of its own: a crash, a hang or Ctrl-C cannot take us along."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from studentfloat.errors import FailureError, MissingDependencyError

__all__ = ["LimitError", "run_abc", "run_yosys", "yosys_version"]

_WORKER = Path(__file__).with_name("worker.py")
_OLDEST = (0, 70)  # what it was run with
_CLOCK_PER_LIMIT = 20


class LimitError(FailureError):
    """A program that needed more processor time than it was given."""


def yosys_version() -> str:
    """Version of the pyosys wheel.

    Raises
    ------
    MissingDependencyError
        If it is not installed or older than what the commands here need.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise MissingDependencyError.for_extra("pyosys", "hardware")
    version = importlib.metadata.version("pyosys")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise MissingDependencyError(
            f"pyosys {version} is too old: {'.'.join(map(str, _OLDEST))} or newer, "
            "pip install -U 'studentfloat[hardware]'"
        )
    return version


def run_yosys(commands: Iterable[str], directory: Path, limit_s: float = 300.0) -> str:
    """Run Yosys commands in a directory and return what Yosys printed.

    Parameters
    ----------
    limit_s
        Processor time, in seconds, that it may use.

    Raises
    ------
    LimitError
        If it needs more processor time than that.
    FailureError
        If a command fails; the message has Yosys's own words.
    """
    yosys_version()
    script = "\n".join(commands) + "\n"
    done = _run([sys.executable, "-P", str(_WORKER)], script, directory, limit_s, "Yosys")
    if done.returncode:
        said = re.findall(r"^ERROR: (.*)", done.stdout + "\n" + done.stderr, re.MULTILINE)
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise FailureError(f"Yosys failed: {reason}")
    return done.stdout


def run_abc(commands: Iterable[str], directory: Path, limit_s: float = 300.0) -> str:
    """Run commands of the ABC that comes with Yosys, and return what it printed.

    Parameters
    ----------
    limit_s
        Processor time, in seconds, that it may use.

    Raises
    ------
    LimitError
        If it needs more processor time than that.
    FailureError
        If it is not there.
    """
    yosys_version()
    spec = importlib.util.find_spec("pyosys")
    program = Path(spec.origin if spec and spec.origin else "").with_name("yosys-abc")
    if not program.is_file():
        raise FailureError(f"cannot run {program}: no such file")
    command = [str(program), "-q", "; ".join(commands)]
    return _run(command, "", directory, limit_s, "ABC").stdout


def _run(
    command: list[str], script: str, directory: Path, limit_s: float, name: str
) -> subprocess.CompletedProcess[str]:
    """Run a program under a limit of its processor time.

    Time on the clock would make a verdict depend on what else the machine does. It bounds only
    a program that waits for ever.
    """
    limit = max(1, math.ceil(limit_s))
    limited = ["/bin/sh", "-c", f'ulimit -S -t {limit} && exec "$0" "$@"', *command]
    try:
        done = subprocess.run(
            limited,
            input=script,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CLOCK_PER_LIMIT * limit + 600,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LimitError(f"{name} did not end in {error.timeout:g} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise LimitError(f"{name} needs more than {limit} s of processor time")
    return done
