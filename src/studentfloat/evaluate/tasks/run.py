"""A model that was found, on tasks that are loaded."""

from __future__ import annotations

from dataclasses import replace

from studentfloat.evaluate.tasks.definitions import TASKS, TaskKind
from studentfloat.evaluate.tasks.score import LoadedTasks, score_tasks
from studentfloat.models import LoadedModel, ModelSource, load_model
from studentfloat.progress import Progress, silent
from studentfloat.records import TaskScore

__all__ = ["evaluate_model"]


def evaluate_model(
    source: ModelSource,
    tasks: LoadedTasks,
    *,
    progress: Progress = silent,
) -> tuple[TaskScore, ...]:
    """Load a model as its tasks need it, and score it.

    An image classifier is loaded with its classification head. A packed model that names a
    format for its key-value cache is scored with its cache in that.

    Parameters
    ----------
    source
        From :func:`~studentfloat.models.find_model`, packed ones too.
    tasks
        From :func:`~studentfloat.evaluate.tasks.load_tasks`.
    progress
        Told about every item.

    Returns
    -------
    tuple of TaskScore
        As of :func:`~studentfloat.evaluate.tasks.score_tasks`.

    Raises
    ------
    StudentFloatError
        If the model cannot be loaded, or cannot do such tasks.
    """
    progress(0.0, f"loading {source.name}")
    of_images = any(TASKS[task.name].kind is TaskKind.IMAGES for task in tasks.tasks)
    model = load_model(source, classifier=of_images)
    done = 0
    names = [task.name for task in tasks.tasks for _ in range(len(task))]

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done / len(names), names[min(done, len(names) - 1)])

    if not _names_a_cache(model):
        return score_tasks(model, tasks, tick=tick)
    from studentfloat.models.integration import packed_kv_cache

    with packed_kv_cache(model.module) as report:
        scores = score_tasks(model, tasks, tick=tick)
    notes = tuple(dict.fromkeys(report.notes.values()))
    return tuple(replace(score, notes=(*score.notes, *notes)) for score in scores)


def _names_a_cache(model: LoadedModel) -> bool:
    quantization = getattr(model.module.config, "quantization_config", None)
    companions = getattr(quantization, "companions", None)
    return getattr(companions, "kv_cache", None) is not None
