"""How long the hardware table takes: ``python benchmarks/hardware.py [FORMAT ...] [--unit UNIT]``.

The whole command in a process of its own, by default all eleven formats of arXiv 2405.03103 as a
MAC, proved: once with an empty cache, then from the cache (median of three). The cache is a
folder that is deleted afterwards, not the user's own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 3


def seconds(formats: list[str], unit: str, cache: str) -> tuple[float, float, str]:
    """Clock and processor time of one run of the command, and what it printed."""
    entry = Path(sys.executable).with_name("studentfloat")
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    command = [str(entry), "hardware", *formats, "--unit", unit, "--lookup-bits", "8", "--json"]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    clock, after = time.perf_counter() - start, os.times()
    processor = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return clock, processor, done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", help="default: the paper's eleven")
    parser.add_argument("--unit", default="mac")
    arguments = parser.parse_args()
    print(
        f"pyosys {importlib.metadata.version('pyosys')}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as cache:
        cold, processor, printed = seconds(arguments.formats, arguments.unit, cache)
        warm = [seconds(arguments.formats, arguments.unit, cache)[0] for _ in range(REPEATS)]
    rows = json.loads(printed)["formats"]
    proved = sum(row["proved"] for row in rows)
    print(f"{arguments.unit}: {len(rows)} formats, {proved} proved")
    print(
        f"cold {cold:.1f} s ({processor:.1f} s of processor time), from the cache "
        f"{statistics.median(warm):.2f} s"
    )


if __name__ == "__main__":
    main()
