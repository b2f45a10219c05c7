"""How studies grow: planning 100,000 cells, and the claim protocol with up to 256 workers.

    python benchmarks/study_growth.py
    python benchmarks/study_growth.py --times quick --shrink 20

The cluster is simulated in one way only: in place of computing a cell, a worker sleeps. All else
is real: as many processes as workers, one store on disk, the loop that `studentfloat study work`
runs, claims, heartbeats, cells written and synced, logs. How long a cell sleeps is drawn from the
times in the log of a study that was run (--times), divided by --shrink so that the benchmark ends
soon; what the protocol costs weighs that much more. Without --times each cell sleeps --seconds.

All workers have read the study and laid out its cells before the first may claim one: on a cluster
each has a processor for that, here they share a few. What that costs a worker is printed beside.

Each worker has --cells cells to do on average, three to a configuration. Printed are the
speed-up (the sum of all sleeps over the time from the first claim to the last cell written), the
share of the workers' time that was work, and what a cell costs beside its work: processor time,
and time in all, by which a worker waits for processor, disk and others too.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from studentfloat.records import Row, StudyCell, TextSource
from studentfloat.study.plan import Plan, PlannedCell, make_plan
from studentfloat.study.resolve import Resolution, ResolvedModel
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.study_file import parse_study
from studentfloat.study.sweep.worker import work

EVALUATIONS = '[quality]\n[tasks]\nnames = ["piqa", "arc_easy"]\n'


class Sleeper:
    """Sleeps for as long as a cell would take, and hands in an empty one."""

    model = "m0"

    def __init__(self, directory: Path, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self.start = time.process_time()
        (directory / f"ready-{os.getpid()}").touch()
        while not (directory / "go").exists():
            time.sleep(0.05)
        self.begun = time.process_time()

    def compute(self, cell: PlannedCell) -> StudyCell:
        time.sleep(self._seconds[cell.address])
        return StudyCell(cell.address, cell.evaluation, Row.of(cell.configuration))

    def leave(self) -> None:
        pass


def study(configurations: int, models: int = 1) -> tuple[Plan, str]:
    """A plan of so many configurations on each of so many models, which were all found."""
    names = [f"m{i}" for i in range(models)]
    formats = [f"sf4-nu{2 + i / 100:g}" for i in range(configurations)]
    text = f"models = {names}\nformats = {formats}\n{EVALUATIONS}"
    options = parse_study(text)
    found = tuple(ResolvedModel(name, sha256=name, bytes=1) for name in names)
    return make_plan(options, Resolution(models=found, texts=(TextSource("t", "t"),))), text


def planning() -> None:
    begun, before = time.perf_counter(), time.process_time()
    plan, _ = study(333, models=100)
    seconds, processor = time.perf_counter() - begun, time.process_time() - before
    print(
        f"planning {len(plan.by_address):,} cells: {processor:.1f} s of processor time, "
        f"{seconds:.1f} s in all\n"
    )


def simulate(workers: int, cells: int, times: Sequence[float]) -> None:
    """Run workers as processes on one store, and print what came of it."""
    plan, _ = study(max(1, workers * cells // 3))
    draw = random.Random(workers)
    seconds = {address: draw.choice(times) for address in plan.by_address}
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        store.save_study(plan.options, plan.resolution, None)
        children = [_forked(Path(directory), seconds) for _ in range(workers)]
        while len(list(Path(directory).glob("ready-*"))) < workers:
            time.sleep(0.05)
        (Path(directory) / "go").touch()
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        lines = list(store.log_lines())
        assert store.done() == set(seconds)
    done = [line for line in lines if line["event"] == "done"]
    assert len(done) == len(seconds), "a cell was done twice"
    begun = min(line["time"] for line in lines if line["event"] == "cell")
    span = max(line["time"] for line in done) - begun
    total = sum(seconds.values())
    spent = [line for line in lines if line["event"] == "spent"]
    processor, start = (sum(line[key] for line in spent) for key in ("loop", "start"))
    names = {line["worker"] for line in done}
    idle = sum(_idle(lines, name) for name in names)
    beside = (idle + sum(line["seconds"] for line in done) - total) / len(done)
    print(
        f"{workers:7} {len(done):6} {span:8.1f} {total / span:9.1f} {total / span / workers:8.1%} "
        f"{1000 * processor / len(done):8.1f} {1000 * beside:10.1f} {1000 * start / workers:8.0f}",
        flush=True,
    )


def _forked(directory: Path, seconds: dict[str, float]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before, sleepers = time.process_time(), []

            def begin(*_: object) -> Sleeper:
                sleepers.append(Sleeper(directory, seconds))
                return sleepers[0]

            work(directory, make=begin)
            start, loop = sleepers[0].start - before, time.process_time() - sleepers[0].begun
            Store(directory).log(f"spent-{os.getpid()}", event="spent", start=start, loop=loop)
            code = 0
        finally:
            os._exit(code)
    return child


def _idle(lines: list[dict], worker: str) -> float:
    """Seconds of a worker between handing in a cell and beginning the next."""
    its = [line for line in lines if line["worker"] == worker]
    pairs = pairwise(its)
    return sum(
        after["time"] - before["time"]
        for before, after in pairs
        if (before["event"], after["event"]) == ("done", "cell")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=Path, help="directory of a study that was run")
    parser.add_argument("--shrink", type=float, default=20.0, help="divisor of those times")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each cell, without --times")
    parser.add_argument("--cells", type=int, default=9, help="for each worker")
    parser.add_argument("--workers", default="1,4,16,64,256")
    given = parser.parse_args()
    planning()
    times = [given.seconds]
    if given.times is not None:
        lines = Store(given.times).log_lines()
        times = [line["seconds"] / given.shrink for line in lines if line["event"] == "done"]
        print(f"{len(times)} times of {given.times}, mean {sum(times) / len(times):.2f} s "
              f"after division by {given.shrink:g}")  # fmt: skip
    print(f"{'workers':>7} {'cells':>6} {'seconds':>8} {'speed-up':>9} {'of ideal':>8} "
          f"{'CPU ms':>8} {'beside ms':>10} {'start ms':>8}")  # fmt: skip
    for workers in map(int, given.workers.split(",")):
        simulate(workers, given.cells, times)


if __name__ == "__main__":
    main()
