"""Items from local files: found, read and checked row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studentfloat.errors import DataError
from studentfloat.evaluate.tasks.definitions import TaskDefinition
from studentfloat.untrusted import parse_json, read_text

__all__ = ["read_rows", "task_file"]

Row = dict[str, Any]

_LARGEST_SET = 1 << 30

# The official raw file, which other tools keep under the set's own name.
_WIKITEXT_RAW = "wikitext2/wiki.test.raw"


def task_file(data: str, name: str, split: str) -> Path:
    """Where a task's items lie.

    Raises
    ------
    DataError
        If they do not; the message says where they should.
    """
    places = [f"{name}/{split}.jsonl", f"{name}/{split}.tsv"]
    if name == "wikitext":
        places.append(_WIKITEXT_RAW)
    for place in places:
        if (Path(data) / place).is_file():
            return Path(data) / place
    raise DataError(f"task {name} has no items under {data}: put {' or '.join(places)} there")


def read_rows(file: Path, name: str, definition: TaskDefinition) -> list[Row]:
    """All rows of a file, with the task's fields and no others.

    Raises
    ------
    DataError
        If the file cannot be read or has no rows, or a row lacks a field or has a wrong one:
        the message names file, line and field.
    """
    text = read_text(file, error=DataError, largest=_LARGEST_SET)
    if file.suffix == ".raw":
        rows = [{"page": page} for page in _pages(text)]
    elif file.suffix == ".tsv":
        rows = list(_table(file, text, name, definition))
    else:
        # Not splitlines(): JSON strings may hold other line breaks than \n as they are.
        lines = enumerate(text.split("\n"), start=1)
        rows = [
            _checked(_parsed(s, f"{file}, line {n}", name), f"{file}, line {n}", name, definition)
            for n, s in lines
            if s.strip()
        ]
    if not rows:
        raise DataError(f"{file} is empty: it has no items for task {name}")
    return rows


def _table(file: Path, text: str, name: str, definition: TaskDefinition) -> Iterator[Row]:
    """Rows of a table with a line of names; numbers where a text is no sound value."""
    header, *lines = text.rstrip("\n").split("\n")
    names = header.rstrip("\r").split("\t")
    for n, line in enumerate(lines, start=2):
        cells = line.rstrip("\r").split("\t")
        where = f"{file}, line {n}"
        if len(cells) != len(names):
            raise DataError(f"{where} has {len(cells)} cells, its first line {len(names)}")
        row: Row = dict(zip(names, cells, strict=True))
        for field, wanted in definition.fields.items():
            if field in row and not wanted.holds(row[field]):
                row[field] = _number(row[field])
        yield _checked(row, where, name, definition)


def _number(text: str) -> float | str:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def _parsed(line: str, where: str, name: str) -> Row:
    row = parse_json(line, where, error=DataError)
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object: task {name} needs one item a line")
    return row


def _checked(row: Row, where: str, name: str, definition: TaskDefinition) -> Row:
    for field, wanted in definition.fields.items():
        if field not in row:
            needed = ", ".join(definition.fields)
            raise DataError(f"{where} has no field {field!r}: task {name} needs {needed}")
        if not wanted.holds(row[field]):
            shown = json.dumps(row[field])[:60]
            raise DataError(f"{where}: the field {field!r} is {shown}, not {wanted.meaning}")
    problem = definition.check(row)
    if problem:
        raise DataError(f"{where}: {problem}")
    return {field: _bare(row[field]) for field in definition.fields}


def _bare(value: Any) -> Any:
    """Choices without what else may stand beside them, which could differ in type by row."""
    if isinstance(value, dict):
        return {"text": value["text"], "label": value["label"]}
    return value


def _pages(text: str) -> Iterator[str]:
    """Articles of the raw WikiText file: each begins at a line ``= Title =``.

    So that scores are those of the set on the hub, a line is a title if it begins with one
    equals sign and a space, once pairs of spaced signs are closed up.
    """
    page: list[str] = []
    for line in text.split("\n"):
        closed = line.replace("= = =", "===").replace("= =", "==").strip()
        if closed.startswith("= ") and closed.endswith(" ="):
            if "".join(page).strip():
                yield "\n".join(page)
            page = []
        page.append(line)
    if "".join(page).strip():
        yield "\n".join(page)
