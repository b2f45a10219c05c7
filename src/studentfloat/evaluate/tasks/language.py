"""Language tasks by lm-evaluation-harness's own definitions, on the hub's items or local ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from studentfloat.errors import DataError
from studentfloat.evaluate.tasks.asked import TaskOptions
from studentfloat.evaluate.tasks.definitions import TASKS, TaskDefinition
from studentfloat.evaluate.tasks.local import read_rows, task_file
from studentfloat.evaluate.tasks.measures import measure
from studentfloat.evaluate.tasks.scorer import StudentFloatLM
from studentfloat.models import LoadedModel
from studentfloat.models.quiet import quiet_logger
from studentfloat.records import TaskScore

__all__ = ["LanguageTask", "load_language_task"]

_DEFINITIONS = Path(lm_eval.__file__).parent / "tasks"


@dataclass(frozen=True, eq=False)
class _Item:
    """One document, and what is asked of a model about it."""

    document: Any
    requests: tuple[Instance, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """One definition with its items; a task is one of these, or one for each subject."""

    definition: Any
    items: tuple[_Item, ...]


@dataclass(frozen=True, eq=False)
class LanguageTask:
    """A task with its prompts built.

    Attributes
    ----------
    name
        As in :data:`~studentfloat.evaluate.tasks.TASKS`.
    source
        Where the items come from: ``hub: ...`` or ``file: ...``.
    sha256
        Hash of all that is asked, as rendered, and of what is right.
    limit, shots
        As they were asked for.
    """

    name: str
    source: str
    limit: int | None
    shots: int
    _parts: tuple[_Part, ...] = field(repr=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for part in self._parts:
            for item in part.items:
                target = part.definition.doc_to_target(item.document)
                asked = [[r.request_type, *r.args] for r in item.requests]
                text = json.dumps([self.name, asked, target], ensure_ascii=False, default=str)
                digest.update(text.encode() + b"\n")
        object.__setattr__(self, "sha256", digest.hexdigest())

    def __len__(self) -> int:
        return sum(len(part.items) for part in self._parts)

    @property
    def requests(self) -> list[Instance]:
        """All that is asked, in order, as lm-evaluation-harness has it."""
        return [r for part in self._parts for item in part.items for r in item.requests]

    def score(
        self, model: LoadedModel, *, batch_size: int, tick: Callable[[], None]
    ) -> tuple[TaskScore, ...]:
        """Every measure of the task; `tick` is called after each item."""
        scorer = StudentFloatLM(model, batch_size=batch_size, tick=tick)
        responses = iter(self._responses(scorer))
        found: dict[str, list[Any]] = {}
        for part in self._parts:
            for item in part.items:
                answers = [next(responses) for _ in item.requests]
                result = part.definition.process_results(item.document, answers)
                for name, value in result.items():
                    found.setdefault(name, []).append(value)
        definition = self._parts[0].definition
        return tuple(
            TaskScore(
                task=self.name,
                metric=metric,
                **measure(metric, values),
                higher_is_better=bool(definition.higher_is_better()[metric]),
                primary=metric == TASKS[self.name].primary,
                limit=self.limit,
                shots=self.shots,
                source=self.source,
                data_sha256=self.sha256,
                notes=scorer.notes,
            )
            for metric, values in found.items()
        )

    def _responses(self, scorer: StudentFloatLM) -> list[Any]:
        if self._parts[0].definition.OUTPUT_TYPE == "loglikelihood_rolling":
            return scorer.loglikelihood_rolling(self.requests)
        return scorer.loglikelihood(self.requests)


def load_language_task(name: str, options: TaskOptions) -> LanguageTask:
    """Find a task's items and build its prompts.

    Raises
    ------
    DataError
        If the items are not to be had, or are not sound.
    """
    definition = TASKS[name]
    with _quiet():
        if options.data is None:
            parts = [_from_hub(name, file, options) for file in _definition_files(definition)]
            source = f"hub: {parts[0].DATASET_PATH}"
        else:
            file = task_file(options.data, name, definition.split)
            parts = _from_file(name, definition, file, options)
            source = f"file: {file.relative_to(options.data)}"
        built = tuple(_Part(part, tuple(_items(part, options))) for part in parts)
    return LanguageTask(name, source, options.limit, options.shots, built)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and warnings of the harness and of datasets: what matters is raised."""
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with quiet_logger("lm_eval"), quiet_logger("datasets"):
            yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _definition_files(definition: TaskDefinition) -> list[Path]:
    """The definitions themselves: an index of all that there are takes most of a minute."""
    pattern = definition.definition.format(subject="*")
    return sorted(_DEFINITIONS.glob(pattern))


def _settings(file: Path, options: TaskOptions) -> dict[str, Any]:
    settings: dict[str, Any] = load_yaml(file)
    if not options.shots:
        # Else it reads and holds every training item, which nothing would use.
        settings["training_split"] = None
        settings.pop("fewshot_split", None)
    settings["num_fewshot"] = options.shots
    return settings


def _from_hub(name: str, file: Path, options: TaskOptions) -> Any:
    settings = _settings(file, options)
    try:
        return ConfigurableTask(config=settings)
    except Exception as error:
        # datasets raises whatever it meets; the user needs the set and the reason.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"the items of task {name} ({settings['dataset_path']} on the hub) cannot be had: "
            f"{reason}; go online once, or give local files with --data"
        ) from error


def _from_file(
    name: str, definition: TaskDefinition, file: Path, options: TaskOptions
) -> list[Any]:
    rows = read_rows(file, name, definition)
    examples = []
    if options.shots:
        assert options.data is not None
        place = task_file(options.data, name, definition.examples)
        examples = read_rows(place, name, definition)
        if len(examples) < options.shots:
            raise DataError(
                f"{place} has {len(examples)} solved examples, too few for {options.shots} shots"
            )
    files = _definition_files(definition)
    if "{subject}" not in definition.definition:
        return [_from_rows(files[0], rows, examples, definition, options)]
    known = {f.stem.removeprefix("mmlu_"): f for f in files}
    parts = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        if subject not in known:
            raise DataError(f"{file}: {name} has no subject {subject!r}, only {', '.join(known)}")
        mine = [row for row in rows if row["subject"] == subject]
        its = [row for row in examples if row["subject"] == subject]
        if len(its) < options.shots:
            raise DataError(
                f"{name} has {len(its)} solved examples of {subject}, too few for "
                f"{options.shots} shots"
            )
        parts.append(_from_rows(known[subject], mine, its, definition, options))
    return parts


def _from_rows(
    file: Path,
    rows: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    definition: TaskDefinition,
    options: TaskOptions,
) -> Any:
    splits = {definition.split: datasets.Dataset.from_list(rows)}
    if examples:
        splits[definition.examples] = datasets.Dataset.from_list(examples)
    settings = _settings(file, options)
    settings["custom_dataset"] = lambda **_: splits
    for key in ("training_split", "validation_split", "test_split"):
        if settings.get(key) not in splits:
            settings[key] = None
    return ConfigurableTask(config=settings)


def _items(task: Any, options: TaskOptions) -> Iterator[_Item]:
    task.set_fewshot_seed(options.seed)
    for index, document in task.doc_iterator(limit=options.limit):
        context = task.fewshot_context(
            doc=document, num_fewshot=options.shots, gen_prefix=task.doc_to_prefix(document)
        )
        requests = task.construct_requests(
            doc=document, ctx=context, metadata=(task.task_name, index, 1)
        )
        asked: Sequence[Instance] = requests if isinstance(requests, list) else [requests]
        yield _Item(document, tuple(asked))
