"""The tasks there are: where their definitions, prompts and files lie, and what they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["TASKS", "Field", "TaskDefinition", "TaskKind"]


class TaskKind(Enum):
    """What a task asks of a model."""

    LANGUAGE = "language"
    """A causal language model's log-likelihoods, by lm-evaluation-harness's definition."""
    SENTENCES = "sentences"
    """Similarity of two sentences' embeddings."""
    IMAGES = "images"
    """The class of an image."""


@dataclass(frozen=True)
class Field:
    """A field of a local file: what it must be, in words and as a test."""

    meaning: str
    holds: Callable[[Any], bool]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _choices(value: Any) -> bool:
    if not isinstance(value, dict) or not {"text", "label"} <= value.keys():
        return False
    texts, labels = value["text"], value["label"]
    return _texts(texts) and _texts(labels) and len(texts) == len(labels)


def _index(*, below: int) -> Field:
    def holds(value: Any) -> bool:
        return type(value) is int and 0 <= value < below

    return Field(f"a whole number from 0 to {below - 1}", holds)


_TEXT = Field("a text", lambda value: isinstance(value, str) and bool(value.strip()))
_ANY_TEXT = Field("a text, which may be empty", lambda value: isinstance(value, str))
_FOUR = Field("four texts", lambda value: _texts(value) and len(value) == 4)
_CHOICES = Field("a table of two lists as long as each other, text and label", _choices)
_ENDINGS = Field("a list of texts", _texts)
_BLANK = Field("a text with a blank (_)", lambda value: isinstance(value, str) and "_" in value)
_ONE_OR_TWO = Field('"1" or "2"', lambda value: value in ("1", "2"))
_TWO_WORDS = Field(
    "a text of two words or more",
    lambda value: isinstance(value, str) and len(value.split(" ")) > 1,
)
_DIGIT = Field(
    'the number of an ending, from "0" up',
    lambda value: isinstance(value, (str, int)) and str(value).isdecimal(),
)

_NUMBER = Field("a number", lambda value: type(value) in (int, float) and math.isfinite(value))


def _answer_is_a_choice(row: Mapping[str, Any]) -> str | None:
    labels = row["choices"]["label"]
    if row["answerKey"].lstrip() in labels:
        return None
    return f"the answerKey {row['answerKey']!r} is none of the labels {', '.join(labels)}"


def _label_is_an_ending(row: Mapping[str, Any]) -> str | None:
    if int(row["label"]) < len(row["endings"]):
        return None
    return f"the label {row['label']} is beyond the {len(row['endings'])} endings"


@dataclass(frozen=True)
class TaskDefinition:
    """One task.

    Attributes
    ----------
    kind
        What it asks.
    primary
        The measure that comparisons go by.
    split
        Name of the local file, without its ending; that of the split that is asked.
    fields
        What each row of a local file has.
    definition
        YAML file below ``lm_eval/tasks``; for mmlu one per subject, with ``{subject}``.
    check
        What is wrong with a row whose fields are right one by one, if anything is.
    examples
        The split that solved examples are taken from.
    hub
        Where the items are if not in `definition`.
    """

    kind: TaskKind
    primary: str
    split: str
    fields: Mapping[str, Field]
    definition: str = ""
    check: Callable[[Mapping[str, Any]], str | None] = lambda row: None
    examples: str = "train"
    hub: str = ""


def _language(definition: str, primary: str, split: str, **more: Any) -> TaskDefinition:
    return TaskDefinition(TaskKind.LANGUAGE, primary, split, definition=definition, **more)


_ARC = {"question": _TEXT, "choices": _CHOICES, "answerKey": _TEXT}

TASKS: Mapping[str, TaskDefinition] = {
    "lambada_openai": _language(
        "lambada/lambada_openai.yaml", "acc", "test", fields={"text": _TWO_WORDS}
    ),
    "hellaswag": _language(
        "hellaswag/hellaswag.yaml",
        "acc_norm",
        "validation",
        fields={
            "activity_label": _ANY_TEXT,
            "ctx_a": _ANY_TEXT,
            "ctx_b": _ANY_TEXT,
            "endings": _ENDINGS,
            "label": _DIGIT,
        },
        check=_label_is_an_ending,
    ),
    "winogrande": _language(
        "winogrande/default.yaml",
        "acc",
        "validation",
        fields={"sentence": _BLANK, "option1": _TEXT, "option2": _TEXT, "answer": _ONE_OR_TWO},
    ),
    "piqa": _language(
        "piqa/piqa.yaml",
        "acc_norm",
        "validation",
        fields={"goal": _ANY_TEXT, "sol1": _ANY_TEXT, "sol2": _ANY_TEXT, "label": _index(below=2)},
    ),
    "boolq": _language(
        "super_glue/boolq/default.yaml",
        "acc",
        "validation",
        fields={"passage": _TEXT, "question": _TEXT, "label": _index(below=2)},
    ),
    "arc_challenge": _language(
        "arc/arc_challenge.yaml", "acc_norm", "test", fields=_ARC, check=_answer_is_a_choice
    ),
    "arc_easy": _language(
        "arc/arc_easy.yaml", "acc", "test", fields=_ARC, check=_answer_is_a_choice
    ),
    "openbookqa": _language(
        "openbookqa/openbookqa.yaml",
        "acc_norm",
        "test",
        fields={"question_stem": _TEXT, "choices": _CHOICES, "answerKey": _TEXT},
        check=_answer_is_a_choice,
    ),
    "mmlu": _language(
        "mmlu/default/mmlu_{subject}.yaml",
        "acc",
        "test",
        fields={"question": _TEXT, "subject": _TEXT, "choices": _FOUR, "answer": _index(below=4)},
        examples="dev",
    ),
    "wikitext": _language(
        "wikitext/wikitext.yaml", "word_perplexity", "test", fields={"page": _TEXT}
    ),
    "stsb": TaskDefinition(
        TaskKind.SENTENCES,
        "spearman",
        "test",
        fields={"sentence1": _TEXT, "sentence2": _TEXT, "score": _NUMBER},
        hub="mteb/stsbenchmark-sts",
    ),
    "images": TaskDefinition(TaskKind.IMAGES, "top1", "", fields={}),
}
"""Every task by name. Measures are those that the paper's field reports: accuracy normalized by
the length of the answers where answers are sentences."""
