"""Whatever is killed, and whenever: every cell ends in the store once, with the same bytes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from studentfloat.study.sweep.claims import PATIENCE, Claims
from studentfloat.study.sweep.drive import RunSettings, begin_study, run_study
from studentfloat.study.sweep.settings import WorkSettings
from studentfloat.study.sweep.store import Store, StoreError
from studentfloat.study.sweep.study_file import read_study_file
from studentfloat.study.sweep.worker import Worked, laboratory, work
from tests.study.studies import (
    CELLS,
    cells_of,
    events,
    finish,
    start,
    stop_mid_cell,
)


def test_two_drivers_and_a_worker_killed_mid_cell(study, undisturbed, tmp_path) -> None:
    drivers = [start("run", study, "-o", tmp_path, "--threads", "1", "-q") for _ in range(2)]
    address, holder = stop_mid_cell(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    assert not Store(tmp_path).has(address)
    assert [finish(driver) for driver in drivers] == [0, 0]
    assert cells_of(tmp_path) == undisturbed
    # The cell was begun by the one that was killed, and done by another.
    assert [line["cell"] for line in events(tmp_path, "dead")] == [address]
    done = [line["cell"] for line in events(tmp_path, "done")]
    assert sorted(done) == sorted(name[:-5] for name in undisturbed)
    (finisher,) = [line["worker"] for line in events(tmp_path, "done") if line["cell"] == address]
    assert not finisher.endswith(f"-{holder.pid}")
    assert len({line["worker"] for line in events(tmp_path, "done")}) > 1
    assert Store(tmp_path).claims().names() == set()


def test_a_killed_driver_takes_its_workers_along_and_resume_goes_on(
    study, undisturbed, tmp_path
) -> None:
    driver = start("run", study, "-o", tmp_path, "--threads", "1", "-q")
    address, holder = stop_mid_cell(tmp_path)
    driver.kill()
    finish(driver)
    os.kill(holder.pid, signal.SIGCONT)
    deadline = time.monotonic() + 60
    while not holder.is_dead():
        assert time.monotonic() < deadline, "the worker outlived its driver"
        time.sleep(0.05)
    # It left in the middle of its work, and gave its cell back.
    assert events(tmp_path, "left")
    assert Store(tmp_path).claims().names() == set()
    before = cells_of(tmp_path)
    assert 0 < len(before) < CELLS
    assert finish(start("resume", tmp_path, "--threads", "1", "-q")) == 0
    assert cells_of(tmp_path) == undisturbed
    again = [line["cell"] for line in events(tmp_path, "done")]
    assert sorted(again) == sorted(set(again))
    assert address in again


class InThisProcess:
    """An executor without processes: for what must be patched."""

    def run(self, directory: Path, settings, watch) -> None:
        work(directory, settings)
        watch()


def test_a_full_disk_stops_the_worker_and_loses_nothing(
    study, undisturbed, tmp_path, monkeypatch
) -> None:
    begin_study(read_study_file(study), tmp_path)
    written, fsync = 0, os.fsync

    def full_once(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_once)
    with pytest.raises(StoreError, match="No space left on device"):
        work(tmp_path)
    assert len(cells_of(tmp_path)) == 4  # and no half one
    assert Store(tmp_path).claims().names() == set()
    assert Store(tmp_path).failed() == set()
    status = run_study(tmp_path, RunSettings(InThisProcess()))
    assert (status.done, status.failed) == (CELLS, 0)
    assert cells_of(tmp_path) == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A disk that a few cells fill; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can make a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(ballast: Path) -> None:
    """Write until there is no space left."""
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
    assert os.statvfs(ballast.parent).f_bavail == 0


def test_a_disk_that_is_really_full(study, undisturbed, small_disk) -> None:
    begin_study(read_study_file(study), small_disk)
    settings = RunSettings(InThisProcess(), only=({"format": ["original", "nf4"]},))
    run_study(small_disk, settings)
    some = cells_of(small_disk)
    ballast = small_disk / "ballast"
    fill(ballast)
    with pytest.raises(StoreError, match="No space left on device"):
        work(small_disk)
    assert cells_of(small_disk) == some
    ballast.unlink()
    assert work(small_disk).failed == 0
    assert cells_of(small_disk) == undisturbed


def test_a_failing_cell_is_recorded_and_stops_nothing(study, undisturbed, tmp_path, monkeypatch):
    from studentfloat.study.bench import Bench

    quantize = Bench.quantize
    broken = True

    def failing(self, scheme, *arguments, **options):
        if broken and scheme.format_name == "nf4":
            # Weights are half changed when it happens.
            self.sites[0].parameter.data.zero_()
            raise ZeroDivisionError("not this one")
        return quantize(self, scheme, *arguments, **options)

    monkeypatch.setattr(Bench, "quantize", failing)
    begin_study(read_study_file(study), tmp_path)
    run = RunSettings(InThisProcess())
    status = run_study(tmp_path, run)
    assert (status.done, status.failed) == (CELLS - 1, 1)
    (failure,) = status.failures
    assert (failure.configuration.name, failure.evaluation) == ("nf4", "quality")
    assert failure.error == "ZeroDivisionError: not this one"
    assert failure.attempts == 1
    run_study(tmp_path, run)  # it is left alone,
    assert Store(tmp_path).read_failure(failure.address).attempts == 1
    run_study(tmp_path, RunSettings(InThisProcess(), attempts=3))  # or tried again,
    assert Store(tmp_path).read_failure(failure.address).attempts == 3
    broken = False
    status = run_study(tmp_path, RunSettings(InThisProcess(), retry_failed=True))
    assert (status.done, status.failed) == (CELLS, 0)  # and in the end it is as all others.
    assert Store(tmp_path).failed() == set()
    assert cells_of(tmp_path) == undisturbed


def test_a_cell_that_kills_its_workers_ends_as_failed(study, tmp_path) -> None:
    plan = begin_study(read_study_file(study), tmp_path)
    store, cell = Store(tmp_path), plan.cells[3]
    for _ in range(4):
        store.note_death(cell)
        assert store.failed() == set()
    store.note_death(cell)
    assert "5 workers died" in store.read_failure(cell.address).error
    store.forget_failures({cell.address})
    store.note_death(cell)
    assert store.failed() == set()


class Frozen:
    """A laboratory that is frozen in the middle of one cell, which others do meanwhile."""

    def __init__(self, meanwhile, address: str, ending: Exception | None) -> None:
        self._real = None
        self._meanwhile, self._address, self._ending = meanwhile, address, ending

    def __call__(self, *arguments) -> Frozen:
        self._real = laboratory(*arguments)
        return self

    @property
    def model(self) -> str | None:
        return self._real.model

    def leave(self) -> None:
        self._real.leave()

    def compute(self, cell):
        done = self._real.compute(cell)
        if cell.address == self._address:
            self._meanwhile()
            if self._ending is not None:
                raise self._ending
            return replace(done, notes=("late",))
        return done


@pytest.mark.parametrize("ending", [None, ZeroDivisionError("late")])
def test_the_result_of_a_worker_that_was_frozen_too_long_is_discarded(
    study, undisturbed, tmp_path, ending
) -> None:
    plan = begin_study(read_study_file(study), tmp_path)
    address = plan.cells[2].address
    claim = tmp_path / "claims" / address

    def meanwhile() -> None:
        # No sign of life for the documented 120 seconds.
        os.utime(claim, (time.time() - PATIENCE + 5,) * 2)
        other = Claims(claim.parent)
        assert other.break_dead(address) is None
        os.utime(claim, (time.time() - PATIENCE - 5,) * 2)
        others.append(work(tmp_path))

    others: list[Worked] = []
    worked = work(tmp_path, WorkSettings(beat=1e9), Frozen(meanwhile, address, ending))
    (other,) = others
    assert (worked.computed + other.computed, worked.failed + other.failed) == (CELLS, 0)
    assert cells_of(tmp_path) == undisturbed
    assert [line["cell"] for line in events(tmp_path, "dead")] == [address]
    assert Store(tmp_path).failed() == set()
    assert not list(tmp_path.glob("deaths/*"))
    late = [line["cell"] for line in events(tmp_path, "late")]
    assert late == ([] if ending else [address])
    assert Store(tmp_path).claims().names() == set()
