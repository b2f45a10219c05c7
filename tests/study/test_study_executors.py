"""The same loop under Ray and Slurm; a Ray worker killed in the middle of a cell."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from shutil import which

import pytest

from studentfloat.errors import ConfigError, FailureError
from studentfloat.study.sweep.drive import begin_study
from studentfloat.study.sweep.local import LocalExecutor
from studentfloat.study.sweep.on_slurm import SlurmExecutor
from studentfloat.study.sweep.settings import WorkSettings
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.study_file import read_study_file
from tests.study.studies import (
    cells_of,
    events,
    finish,
    start,
    stop_mid_cell,
)


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_ray_workers_one_of_them_killed_mid_cell(study, undisturbed, tmp_path) -> None:
    driver = start("run", study, "-o", tmp_path, "--executor", "ray", "--workers", "2", "-q")
    address, holder = stop_mid_cell(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    assert not Store(tmp_path).has(address)
    assert finish(driver) == 0
    assert cells_of(tmp_path) == undisturbed
    assert [line["cell"] for line in events(tmp_path, "dead")] == [address]
    done = [line["cell"] for line in events(tmp_path, "done")]
    assert sorted(done) == sorted(name[:-5] for name in undisturbed)
    assert len({line["worker"] for line in events(tmp_path, "began")}) >= 2
    assert Store(tmp_path).claims().names() == set()


@pytest.mark.skipif(find_spec("submitit") is None, reason="the extra 'slurm' is not installed")
def test_an_array_job(study, undisturbed, tmp_path) -> None:
    """Submitit's own processes in place of Slurm's: the pickled call and the loop are the same."""
    begin_study(read_study_file(study), tmp_path)
    looked = 0

    def watch() -> None:
        nonlocal looked
        looked += 1

    SlurmExecutor(2, {"cluster": "local", "timeout_min": "5"}).run(tmp_path, WorkSettings(), watch)
    assert looked
    assert cells_of(tmp_path) == undisturbed
    assert len(list((tmp_path / "log" / "slurm").glob("*_submitted.pkl"))) == 2


@pytest.mark.skipif(find_spec("submitit") is None, reason="the extra 'slurm' is not installed")
@pytest.mark.skipif(which("srun") is not None, reason="here is a Slurm cluster")
def test_where_there_is_no_slurm(tmp_path) -> None:
    with pytest.raises(FailureError, match="cannot submit to Slurm"):
        SlurmExecutor(1).run(tmp_path, WorkSettings(), lambda: None)


@pytest.mark.skipif(find_spec("submitit") is None, reason="the extra 'slurm' is not installed")
def test_a_slurm_parameter_that_there_is_not(tmp_path) -> None:
    with pytest.raises(ConfigError, match="--slurm: Unknown argument 'partitoin'"):
        SlurmExecutor(1, {"cluster": "local", "partitoin": "gpu"}).run(
            tmp_path, WorkSettings(), lambda: None
        )


def test_a_worker_that_cannot_write_says_why(study, tmp_path) -> None:
    begin_study(read_study_file(study), tmp_path)
    (tmp_path / "claims").touch()  # where a directory must be
    with pytest.raises(FailureError, match=r"cannot read .*claims: Not a directory"):
        LocalExecutor(1).run(tmp_path, WorkSettings(), lambda: None)
