"""What is asked of a model: which tasks, from where, how many items."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from studentfloat.errors import ConfigError
from studentfloat.evaluate.tasks.definitions import TASKS, TaskKind

__all__ = ["TaskOptions"]


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks to ask, and how.

    Attributes
    ----------
    tasks
        Names, of :data:`~studentfloat.evaluate.tasks.TASKS`.
    data
        Directory of local files, ``TASK/SPLIT.jsonl`` (docs/tasks.md); None for the
        Hugging Face hub.
    limit
        At most so many items of each task (of each subject, for mmlu, as lm-evaluation-harness
        counts); None for all.
    shots
        Solved examples before each item.
    seed
        Of the choice of those.
    batch_size
        Items that run through the model at a time.

    Raises
    ------
    ConfigError
        On a task that there is not (the message suggests the nearest), or a number that
        cannot be.
    """

    tasks: tuple[str, ...]
    data: str | None = None
    limit: int | None = None
    shots: int = 0
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("no tasks: give at least one, such as piqa,arc_easy")
        for i, name in enumerate(self.tasks):
            if name not in TASKS:
                near = get_close_matches(name, TASKS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(TASKS)}"
                raise ConfigError(f"there is no task {name!r}: {hint}")
            if name in self.tasks[:i]:
                raise ConfigError(f"task {name} is given twice")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"a limit of {self.limit} items: at least 1, or none for all")
        if self.shots < 0 or self.seed < 0:
            raise ConfigError(f"{self.shots} shots with seed {self.seed}: whole numbers from 0 up")
        for name in self.tasks if self.shots else ():
            if TASKS[name].kind is not TaskKind.LANGUAGE:
                raise ConfigError(f"task {name} takes no shots: {self.shots} were asked for")
        if self.batch_size < 1:
            raise ConfigError(f"batches of {self.batch_size} items: at least 1")
        if self.data is not None and not Path(self.data).is_dir():
            raise ConfigError(f"there is no directory {self.data} with tasks' files")
