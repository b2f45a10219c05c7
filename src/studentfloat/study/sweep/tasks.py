"""Tasks as a study sees them: the one place that calls the package that scores them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from studentfloat.errors import ConfigError, MissingDependencyError, StudentFloatError
from studentfloat.records import PairedDifference, TaskScore
from studentfloat.study.sweep.options import StudyOptions, TaskSettings

if TYPE_CHECKING:
    from studentfloat.models import LoadedModel

__all__ = ["check_tasks", "load_task", "score_task", "task_differences", "task_hashes"]

KNOWN_TASKS = (
    *("lambada_openai", "hellaswag", "winogrande", "piqa", "boolq", "arc_challenge", "arc_easy"),
    *("openbookqa", "mmlu", "wikitext"),
)


def check_tasks(settings: TaskSettings) -> None:
    """Raise for a task that does not exist; the message names the nearest."""
    if not settings.names:
        raise ConfigError("tasks: 'names' is empty")
    for name in settings.names:
        if name not in KNOWN_TASKS:
            near = difflib.get_close_matches(name, KNOWN_TASKS, n=1, cutoff=0.5)
            right = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KNOWN_TASKS)}"
            raise ConfigError(f"tasks: no task is called {name!r}: {right}")


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


def load_task(options: StudyOptions, name: str) -> Any:
    """The items of one task.

    Raises
    ------
    StudentFloatError
        If they cannot be had.
    """
    settings = options.tasks
    assert settings is not None
    module = _module()
    return module.load_tasks(
        module.TaskOptions(
            tasks=(name,),
            data=settings.data,
            limit=settings.limit,
            shots=settings.shots,
            seed=options.seed,
        )
    )


def score_task(
    model: LoadedModel, loaded: Any, tick: Callable[[], None] = lambda: None
) -> tuple[TaskScore, ...]:
    """Ask a model, as it is in memory, the items."""
    scores: tuple[TaskScore, ...] = _module().score_tasks(model, loaded, tick=tick)
    return scores


def task_differences(scores: Mapping[str, TaskScore], seed: int) -> tuple[PairedDifference, ...]:
    """Which differences between rows on the same items are real."""
    found: tuple[PairedDifference, ...] = _module().paired_task_differences(scores, seed)
    return found


def _module() -> Any:
    if find_spec("studentfloat.evaluate.tasks") is None:
        raise MissingDependencyError("this version of studentfloat scores no tasks")
    from importlib import import_module

    return import_module("studentfloat.evaluate.tasks")
