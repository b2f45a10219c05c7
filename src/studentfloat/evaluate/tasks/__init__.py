"""Tasks: what a model can still do, with lm-evaluation-harness's own prompts and scores.

::

    from studentfloat.evaluate.tasks import TaskOptions, load_tasks, score_tasks
    from studentfloat.models import find_model, load_model

    tasks = load_tasks(TaskOptions(("piqa", "arc_easy"), limit=200))   # once; needs no model
    model = load_model(find_model("smollm2-135m"))
    scores = score_tasks(model, tasks)                                 # any number of times

:func:`load_tasks` finds items (on the hub, or below ``TaskOptions.data`` as
``TASK/SPLIT.jsonl``), checks them and builds prompts. ``LoadedTasks.sha256`` has for each task
a hash of all that is asked, as rendered; ``len(tasks)`` is the number of items, and of calls of
`tick`. :func:`score_tasks` puts them to a model as it is now and gives a
:class:`~studentfloat.records.TaskScore` for every measure of every task, one of each task
`primary`. Nothing of a model is kept between calls. :func:`evaluate_model` does the same from a
model that was found, packed ones too. :func:`paired_task_differences` takes the
same task's scores by format and says which differences are real. :data:`TASKS` names the tasks;
:class:`StudentFloatLM` is the model for those who call ``lm_eval`` themselves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from studentfloat.errors import MissingDependencyError
from studentfloat.evaluate.tasks.asked import TaskOptions
from studentfloat.evaluate.tasks.definitions import TASKS
from studentfloat.evaluate.tasks.differences import paired_task_differences

if TYPE_CHECKING:
    from studentfloat.evaluate.tasks.run import evaluate_model
    from studentfloat.evaluate.tasks.score import LoadedTasks, load_tasks, score_tasks
    from studentfloat.evaluate.tasks.scorer import StudentFloatLM

__all__ = [
    "TASKS",
    "LoadedTasks",
    "StudentFloatLM",
    "TaskOptions",
    "evaluate_model",
    "load_tasks",
    "paired_task_differences",
    "score_tasks",
]

_HOMES = {
    "LoadedTasks": ("score", "models"),
    "evaluate_model": ("run", "models"),
    "load_tasks": ("score", "models"),
    "score_tasks": ("score", "models"),
    "StudentFloatLM": ("scorer", "tasks"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'studentfloat.evaluate.tasks' has no attribute {name!r}")
    home, extra = _HOMES[name]
    try:
        return getattr(import_module(f"studentfloat.evaluate.tasks.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "lm_eval", "datasets"):
            missing = "models" if error.name == "torch" else extra
            raise MissingDependencyError.for_extra(str(error.name), missing) from None
        raise
