"""Workers on a Ray cluster: tasks that run the same loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studentfloat.errors import FailureError, MissingDependencyError
from studentfloat.study.sweep.settings import WorkSettings

__all__ = ["RayExecutor"]

_WATCH = 1.0
_RESTARTS = 8


@dataclass(frozen=True)
class RayExecutor:
    """Runs workers as Ray tasks; Ray replaces one that dies.

    Attributes
    ----------
    workers
        How many.
    address
        Of the cluster; None starts one on this machine for the time of the run.
    threads
        Cores that each worker asks for and uses; None for one.
    """

    workers: int = 1
    address: str | None = None
    threads: int | None = None

    def run(self, directory: Path, settings: WorkSettings, watch: Callable[[], None]) -> None:
        """Run workers until all have ended.

        Raises
        ------
        MissingDependencyError
            Without the extra ``ray``.
        FailureError
            If the cluster cannot be reached, or workers could not go on.
        """
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingDependencyError.for_extra("ray", "ray") from error
        threads = self.threads or 1
        own = not ray.is_initialized()
        if own:
            self._connect(ray, threads)
        try:
            task = ray.remote(_work).options(num_cpus=threads, max_retries=_RESTARTS)
            root = str(directory.absolute())
            left = [task.remote(root, settings, threads) for _ in range(self.workers)]
            while left:
                ended, left = ray.wait(left, num_returns=len(left), timeout=_WATCH)
                ray.get(ended)
                watch()
        except ray.exceptions.RayError as error:
            raise FailureError(f"a Ray worker could not go on: {_reason(error)}") from error
        finally:
            if own:
                ray.shutdown()

    def _connect(self, ray: Any, threads: int) -> None:
        try:
            if self.address is None:
                ray.init(
                    num_cpus=self.workers * threads,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
            else:
                ray.init(address=self.address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise FailureError(f"cannot reach Ray at {self.address}: {error}") from error


def _work(directory: str, settings: WorkSettings, threads: int) -> None:
    import torch

    from studentfloat.study.sweep.worker import work

    torch.set_num_threads(threads)
    work(Path(directory), settings)


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return " ".join(str(cause).split())[-400:]
