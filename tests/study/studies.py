"""Twelve cells on a tiny model, long enough to be interrupted, and what they hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from studentfloat.study.sweep.claims import Holder
from studentfloat.study.sweep.store import Store

FORMATS = ("int4", "e2m1-i", "e2m1-b", "e2m1", "e2m1+sr", "e2m1+sp", "e3m0", "apot4", "nf4", "sf4")
CELLS = 12
"""Ten formats, one of them calibrated, and the original."""

STUDY = """
name = "twelve"
models = [{{ id = "{model}", name = "tiny" }}]
formats = {formats}
methods = ["rtn", "gptq"]
schemes = [{{ block_size = 16 }}]

[quality]
texts = ["pydoc"]
windows = {windows}
window_length = 120

[calibration]
windows = 4
window_length = 32

[[exclude]]
method = "gptq"
format = {others}
"""


def write_study(directory: Path, model: Path, *, windows: int = 60) -> Path:
    """The study file; a cell takes some tenths of a second."""
    file = directory / "twelve.toml"
    formats, others = json.dumps(list(FORMATS)), json.dumps(list(FORMATS[:-1]))
    file.write_text(STUDY.format(model=model, formats=formats, others=others, windows=windows))
    return file


def cells_of(directory: Path) -> dict[str, bytes]:
    """Every cell's bytes by its file's name; nothing else may be there."""
    files = [file for file in (directory / "cells").rglob("*") if file.is_file()]
    assert all(file.suffix == ".json" and not file.name.startswith(".") for file in files)
    return {file.name: file.read_bytes() for file in files}


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A driver, or a worker, as its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "studentfloat", "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> int:
    said, _ = process.communicate(timeout=400)
    print(said)
    return process.returncode


def stop_mid_cell(directory: Path, *, done: int = 1, timeout: float = 400) -> tuple[str, Holder]:
    """Freeze a worker that is computing a cell: its address, and the worker.

    Waits until some cells are done, so that it is a computation that is met, not a start.
    """
    store = Store(directory)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        claims = store.claims()
        names = [name for name in claims.names() if not name.startswith("shared")]
        for name in names if len(store.done()) >= done else []:
            holder = claims.holder(name)
            if holder is None or holder.is_dead():
                continue
            os.kill(holder.pid, signal.SIGSTOP)
            # Frozen: what is so now stays so.
            if not store.has(name) and claims.holder(name) == holder:
                return name, holder
            os.kill(holder.pid, signal.SIGCONT)
        time.sleep(0.02)
    raise AssertionError("no worker was met in the middle of a cell")


def events(directory: Path, kind: str) -> list[dict]:
    return [line for line in Store(directory).log_lines() if line["event"] == kind]
