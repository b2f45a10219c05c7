"""Tasks as a study sees them: each a cell of its own, under the hash of what is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studentfloat.errors import ConfigError, StudentFloatError
from studentfloat.evaluate.tasks import TaskOptions
from studentfloat.study.options import StudyOptions

if TYPE_CHECKING:
    from studentfloat.evaluate.tasks import LoadedTasks

__all__ = ["check_tasks", "load_task", "task_hashes"]


def check_tasks(options: StudyOptions) -> None:
    """Raise for a task that there is not, or shots that it does not take."""
    if options.tasks is not None:
        if not options.tasks.names:
            raise ConfigError("tasks: 'names' is empty")
        for name in options.tasks.names:
            _options(options, name)


def task_hashes(options: StudyOptions) -> tuple[dict[str, str], dict[str, str]]:
    """By task, the hash of its items; and why those of others cannot be had."""
    hashes: dict[str, str] = {}
    problems: dict[str, str] = {}
    assert options.tasks is not None
    for name in options.tasks.names:
        try:
            hashes[name] = load_task(options, name).sha256[name]
        except StudentFloatError as error:
            problems[name] = str(error)
    return hashes, problems


def load_task(options: StudyOptions, name: str) -> LoadedTasks:
    """The items of one task.

    Raises
    ------
    StudentFloatError
        If they cannot be had.
    """
    from studentfloat.evaluate.tasks import load_tasks

    return load_tasks(_options(options, name))


def _options(options: StudyOptions, name: str) -> TaskOptions:
    settings = options.tasks
    assert settings is not None
    return TaskOptions(
        tasks=(name,),
        data=settings.data,
        limit=settings.limit,
        shots=settings.shots,
        seed=options.seed,
    )
