"""Loading tasks once, and scoring models on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from studentfloat.errors import MissingDependencyError
from studentfloat.evaluate.tasks.asked import TaskOptions
from studentfloat.evaluate.tasks.definitions import TASKS, TaskKind
from studentfloat.evaluate.tasks.images import load_image_task
from studentfloat.evaluate.tasks.sentences import load_sentence_task
from studentfloat.models import LoadedModel
from studentfloat.records import TaskScore

__all__ = ["LoadedTasks", "load_tasks", "score_tasks"]


class LoadedTask(Protocol):
    """A task that is ready to be put to any number of models."""

    @property
    def name(self) -> str:
        """As in :data:`~studentfloat.evaluate.tasks.TASKS`."""

    @property
    def source(self) -> str:
        """Where the items come from: ``hub: ...`` or ``file: ...``."""

    @property
    def sha256(self) -> str:
        """Hash of all that is asked, as rendered."""

    def __len__(self) -> int: ...

    def score(
        self, model: LoadedModel, *, batch_size: int, tick: Callable[[], None]
    ) -> tuple[TaskScore, ...]:
        """Every measure of the task; `tick` is called after each item."""


@dataclass(frozen=True, eq=False)
class LoadedTasks:
    """Tasks with their prompts built, for any number of models.

    Attributes
    ----------
    options
        What was asked for.
    tasks
        In the same order.
    """

    options: TaskOptions
    tasks: tuple[LoadedTask, ...]

    @property
    def sha256(self) -> dict[str, str]:
        """For each task's name the hash of what is asked, as rendered."""
        return {task.name: task.sha256 for task in self.tasks}

    @property
    def sources(self) -> dict[str, str]:
        """For each task's name where its items come from."""
        return {task.name: task.source for task in self.tasks}

    def __len__(self) -> int:
        """How many items there are: how often scoring a model ticks."""
        return sum(len(task) for task in self.tasks)


def load_tasks(options: TaskOptions) -> LoadedTasks:
    """Find the items of tasks and build their prompts; needs no model.

    Raises
    ------
    DataError
        If items are not to be had, or a local file is not sound: the message names file,
        line and field.
    MissingDependencyError
        Without the extra ``tasks``.
    """
    return LoadedTasks(options, tuple(_load(name, options) for name in options.tasks))


def _load(name: str, options: TaskOptions) -> LoadedTask:
    if TASKS[name].kind is TaskKind.LANGUAGE:
        try:
            from studentfloat.evaluate.tasks.language import load_language_task
        except ModuleNotFoundError as error:
            if error.name in ("lm_eval", "datasets"):
                raise MissingDependencyError.for_extra(str(error.name), "tasks") from None
            raise
        return load_language_task(name, options)
    if TASKS[name].kind is TaskKind.SENTENCES:
        return load_sentence_task(name, options)
    return load_image_task(name, options)


def score_tasks(
    model: LoadedModel, tasks: LoadedTasks, *, tick: Callable[[], None] = lambda: None
) -> tuple[TaskScore, ...]:
    """Put tasks to a model as it is now.

    Parameters
    ----------
    model
        Of the kind that the tasks ask: a causal language model for language tasks.
    tasks
        From :func:`load_tasks`; not changed.
    tick
        Called after each item, ``len(tasks)`` times in all.

    Returns
    -------
    tuple of TaskScore
        Every measure of every task, tasks in order; one of each task is primary.

    Raises
    ------
    ConfigError
        If the model is of another kind.
    DataError
        If it gives NaN or infinity.
    """
    size = tasks.options.batch_size
    return tuple(
        score for task in tasks.tasks for score in task.score(model, batch_size=size, tick=tick)
    )
