"""Texts from data sets: on the hub, or in a directory laid out as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from studentfloat.errors import ConfigError, DataError, MissingDependencyError

__all__ = ["HUB_PREFIX", "DataSet", "parse_data_set", "read_data_set"]

HUB_PREFIX = "hub:"
_SETTINGS = ("config", "split", "field", "rows", "revision")
_EXAMPLE = "hub:Salesforce/wikitext,config=wikitext-2-raw-v1,split=train,field=text"


@dataclass(frozen=True)
class DataSet:
    """Where a data set is and which part of it is read.

    Attributes
    ----------
    path
        ``owner/name`` on the hub, or a directory with files in parquet, JSON lines, CSV or text.
    config, split, revision
        As for ``datasets.load_dataset``.
    field
        The column that holds text.
    rows
        How many rows at most, from the first on.
    """

    path: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    rows: int | None = None
    revision: str | None = None


def parse_data_set(spec: str) -> DataSet:
    """Read ``hub:owner/name,config=...,split=...,field=...,rows=...,revision=...``.

    Raises
    ------
    ConfigError
        For a setting that does not exist, or a number of rows that is none.
    """
    path, *parts = spec.removeprefix(HUB_PREFIX).split(",")
    given: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in _SETTINGS or not equals or not value:
            raise ConfigError(
                f"data set {spec!r}: {part!r} is none of {', '.join(_SETTINGS)} with a value, as "
                f"in {_EXAMPLE}"
            )
        given[key] = value
    if not path:
        raise ConfigError(f"data set {spec!r} has no name: {_EXAMPLE}")
    if "rows" in given:
        if not given["rows"].isdecimal() or int(given["rows"]) < 1:
            raise ConfigError(f"data set {spec!r}: rows={given['rows']} is no number from 1 up")
        given["rows"] = int(given["rows"])
    return DataSet(path, **given)


@cache
def read_data_set(wanted: DataSet, limit: int) -> str:
    """The texts of a data set, joined by empty lines.

    Rows are streamed, so that of a large data set only what is used is fetched; empty ones
    are left out. Code that comes with a data set is never run.

    Parameters
    ----------
    limit
        Characters to read at most.

    Raises
    ------
    MissingDependencyError
        Without the package ``datasets``.
    DataError
        If the data set cannot be reached or read, or has no such part, column or text.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError.for_extra("datasets", "datasets") from error
    found: list[str] = []
    size = 0
    try:
        stream = datasets.load_dataset(
            wanted.path,
            wanted.config,
            split=wanted.split,
            revision=wanted.revision,
            streaming=True,
        )
        for text in _texts(stream, wanted):
            found.append(text)
            size += len(text)
            if size >= limit:
                break
    except DataError:
        raise
    except Exception as error:  # the library raises whatever its readers and servers do
        lines = str(error).strip().splitlines()
        said = lines[0] if lines else type(error).__name__
        raise DataError(f"cannot read the data set {_shown(wanted)}: {said}") from error
    if not found:
        raise DataError(f"the data set {_shown(wanted)} has no text in column {wanted.field!r}")
    return "\n\n".join(found)


def _texts(stream: Iterable[dict[str, Any]], wanted: DataSet) -> Iterable[str]:
    for number, row in enumerate(stream):
        if number == wanted.rows:
            return
        value = row.get(wanted.field)
        if not isinstance(value, str):
            columns = ", ".join(sorted(key for key, held in row.items() if isinstance(held, str)))
            raise DataError(
                f"the data set {_shown(wanted)} has no text in column {wanted.field!r} of row "
                f"{number + 1}: give field=..., columns with text are {columns or 'none'}"
            )
        if value.strip():
            yield value


def _shown(wanted: DataSet) -> str:
    parts = (wanted.path, wanted.config, wanted.split)
    return " ".join(part for part in parts if part)
