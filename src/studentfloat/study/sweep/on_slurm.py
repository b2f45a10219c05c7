"""Workers on a Slurm cluster: an array job whose tasks run the same loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError, MissingDependencyError
from studentfloat.study.sweep.settings import WorkSettings

__all__ = ["SlurmExecutor"]

_POLL = 1.0
_LONGEST = 300


@dataclass(frozen=True)
class SlurmExecutor:
    """Submits workers as one array job, through submitit, and waits for it.

    Attributes
    ----------
    workers
        Tasks of the array.
    parameters
        Of the job, as submitit names them without their ``slurm_``: ``partition``, ``time``,
        ``cpus_per_task``, ``mem`` ...; ``cluster`` set to ``local`` or ``debug`` runs the same
        without Slurm.
    """

    workers: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)

    def run(self, directory: Path, settings: WorkSettings, watch: Callable[[], None]) -> None:
        """Submit, and wait until all tasks have ended.

        Raises
        ------
        MissingDependencyError
            Without the extra ``slurm``.
        FailureError
            If the job cannot be submitted, or a task could not go on.
        """
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise MissingDependencyError.for_extra("submitit", "slurm") from error
        parameters: dict[str, Any] = {
            key: int(value) if value.isdigit() else value for key, value in self.parameters.items()
        }
        # Left to itself submitit runs jobs on this machine where it finds no Slurm.
        cluster = parameters.pop("cluster", "slurm")
        try:
            executor = submitit.AutoExecutor(folder=directory / "log" / "slurm", cluster=cluster)
            executor.update_parameters(
                name="studentfloat", **{_of_slurm(key): v for key, v in parameters.items()}
            )
            jobs = executor.map_array(
                _work, [str(directory.absolute())] * self.workers, [settings] * self.workers
            )
        except (RuntimeError, OSError) as error:
            raise FailureError(f"cannot submit to Slurm: {error}") from error
        except (NameError, TypeError, ValueError) as error:
            words = " ".join(str(error).split())[:_LONGEST]
            raise ConfigError(f"--slurm: {words}") from error
        _wait(jobs, watch)


def _wait(jobs: list[Any], watch: Callable[[], None]) -> None:
    try:
        while not all(job.done() for job in jobs):
            watch()
            time.sleep(_POLL)
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel()
        raise
    problems = [error for job in jobs if (error := job.exception()) is not None]
    if problems:
        words = " ".join(str(problems[0]).split())[-400:]
        raise FailureError(f"{len(problems)} of {len(jobs)} Slurm tasks could not go on: {words}")


def _work(directory: str, settings: WorkSettings) -> None:
    from studentfloat.study.sweep.worker import work

    work(Path(directory), settings)


def _of_slurm(key: str) -> str:
    """Submitit's name of a parameter: its own are shared by all kinds of cluster."""
    shared = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
    return key if key in shared or key.startswith("slurm_") else f"slurm_{key}"
