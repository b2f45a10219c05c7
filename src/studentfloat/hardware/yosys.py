"""Yosys in a process of its own: a crash, a hang or Ctrl-C cannot take us along."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from studentfloat.errors import FailureError, MissingDependencyError

__all__ = ["run_abc", "run_yosys", "yosys_version"]

_WORKER = Path(__file__).with_name("worker.py")
_OLDEST = (0, 70)  # what it was run with


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


def run_yosys(commands: Iterable[str], directory: Path, timeout_s: float = 300.0) -> str:
    """Run Yosys commands in a directory and return what Yosys printed.

    Raises
    ------
    FailureError
        If a command fails or the time is up; the message has Yosys's own words.
    """
    yosys_version()
    script = "\n".join(commands) + "\n"
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_WORKER)],
            input=script,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FailureError(f"Yosys took longer than {timeout_s:g} s") from None
    if done.returncode:
        said = re.findall(r"^ERROR: (.*)", done.stdout + "\n" + done.stderr, re.MULTILINE)
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise FailureError(f"Yosys failed: {reason}")
    return done.stdout


def run_abc(commands: Iterable[str], directory: Path, timeout_s: float = 300.0) -> str:
    """Run commands of the ABC that comes with Yosys, and return what it printed.

    Raises
    ------
    FailureError
        If it is not there, or the time is up.
    """
    yosys_version()
    spec = importlib.util.find_spec("pyosys")
    program = Path(spec.origin if spec and spec.origin else "").with_name("yosys-abc")
    try:
        done = subprocess.run(
            [str(program), "-q", "; ".join(commands)],
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FailureError(f"ABC took longer than {timeout_s:g} s") from None
    except OSError as error:
        raise FailureError(f"cannot run {program}: {error.strerror}") from error
    return done.stdout
