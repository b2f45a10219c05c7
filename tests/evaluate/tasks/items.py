"""A few items of each task in its local layout, written for these tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def _science(question: str, answer: str, *others: str) -> dict[str, Any]:
    texts = [*others, answer]
    labels = list("ABCDE"[: len(texts)])
    choices = {"text": texts, "label": labels}
    return {"question": question, "choices": choices, "answerKey": labels[-1]}


SCIENCE: Rows = [
    _science("What do bees gather from flowers?", "nectar", "gravel", "rain water", "smoke"),
    _science("Which of these melts at room temperature?", "ice cubes", "iron", "glass"),
    _science("What turns by day to face the sun?", "the earth", "a mountain", "a cloud", "fog"),
    _science("Which tool measures weight?", "a kitchen scale", "a ruler", "a clock", "a lamp"),
]

PIQA: Rows = [
    {
        "goal": "To keep bread fresh,",
        "sol1": "put the bread into a closed box in a dry place.",
        "sol2": "put the bread into a closed box full of water.",
        "label": 0,
    },
    {"goal": "Open a jar", "sol1": "Shout at its lid ", "sol2": "Twist its lid", "label": 1},
    {"goal": "Dry a wet shirt.", "sol1": "Hang it", "sol2": "Bury it in wet sand", "label": 0},
]

WINOGRANDE: Rows = [
    {
        "sentence": "The cup did not fit into the box because the _ was too small for it.",
        "option1": "cup",
        "option2": "box",
        "answer": "2",
    },
    {
        "sentence": "Ada lent Tom a pen, since _ had none.",
        "option1": "Ada",
        "option2": "Tom",
        "answer": "2",
    },
    {
        "sentence": "The lamp outshone the candle, for the _ was weak.",
        "option1": "lamp",
        "option2": "candle",
        "answer": "2",
    },
]

LAMBADA: Rows = [
    {"text": "She looked for her key in every pocket, but nowhere was there any key"},
    {"text": 'The dog barked at the gate. "Quiet," said Tom to the dog'},
    {"text": "First they painted the door red, then the window, and then again the door"},
]

BOOLQ: Rows = [
    {
        "passage": "Rivers carry water from hills to the sea. Most of them flow all year, fed by "
        "springs and by rain; a few, in dry countries, are there after storms alone.",
        "question": "do most rivers flow all year",
        "label": 1,
    },
    {"passage": "A brick does not float.", "question": "do bricks float", "label": 0},
]

HELLASWAG: Rows = [
    {
        "activity_label": "Cooking",
        "ctx_a": "A man cuts onions.",
        "ctx_b": "then he",
        "endings": ["fries them in a pan.", "flies them to the moon.", "sings.", "[step] sleeps."],
        "label": "0",
    },
    {
        "activity_label": "Roof repair",
        "ctx_a": "A woman climbs a ladder.",
        "ctx_b": "",
        "endings": ["She swims.", "She mends the roof.", "She is a fish.", "She drinks the rope."],
        "label": "1",
    },
]

MMLU: Rows = [
    {
        "question": " Which bone is in the leg?",
        "subject": "anatomy",
        "choices": ["the femur", "the skull", "the ulna", "the rib"],
        "answer": 0,
    },
    {
        "question": "Which planet is nearest to the sun?",
        "subject": "astronomy",
        "choices": ["Mars", "Venus", "Mercury", "Earth"],
        "answer": 2,
    },
    {
        "question": "Which organ pumps blood?",
        "subject": "anatomy",
        "choices": ["the liver", "the heart", "the lung", "the skin"],
        "answer": 1,
    },
]

WIKITEXT: Rows = [
    {"page": " \n = Stone bridge = \n \n A bridge made of stone . \n It lasts . \n"},
    {"page": " \n = Ferry = \n \n A ferry carries people , carts and goats @-@ like things . \n"},
]

OPENBOOKQA: Rows = [
    {"question_stem": row["question"], **{k: row[k] for k in ("choices", "answerKey")}}
    for row in SCIENCE
]

FILES: dict[str, Rows] = {
    "piqa/validation.jsonl": PIQA,
    "winogrande/validation.jsonl": WINOGRANDE,
    "lambada_openai/test.jsonl": LAMBADA,
    "arc_easy/test.jsonl": SCIENCE,
    "arc_challenge/test.jsonl": SCIENCE[:2],
    "openbookqa/test.jsonl": OPENBOOKQA,
    "boolq/validation.jsonl": BOOLQ,
    "hellaswag/validation.jsonl": HELLASWAG,
    "mmlu/test.jsonl": MMLU,
    "wikitext/test.jsonl": WIKITEXT,
}

LANGUAGE_TASKS = tuple(name.partition("/")[0] for name in FILES)


def write(directory: Path, files: dict[str, Rows] = FILES) -> Path:
    """All items as files below a directory."""
    for name, rows in files.items():
        place = directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
