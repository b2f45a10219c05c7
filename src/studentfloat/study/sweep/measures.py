"""A study's cells as a long table: a row for each measure of each configuration."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studentfloat.errors import FailureError
from studentfloat.progress import Progress, silent
from studentfloat.records import METRICS, StudyCell
from studentfloat.study.plan import Plan
from studentfloat.study.sweep.store import Store

__all__ = ["COLUMNS", "index_study", "measure_rows"]

COLUMNS = (
    *("model", "name", "format", "method", "block_size", "scale_rule", "scale_dtype"),
    *("activations", "kv", "lookup_bits", "exact", "bits_per_weight", "evaluation", "measure"),
    *("unit", "value"),
    *("standard_error", "higher_is_better", "address"),
)
"""Of the long table; `unit` is the silicon's, `value` is in the unit that the measure names."""

_MEASURED = ("measure", "unit", "value", "standard_error", "higher_is_better")
_INDEX_VERSION = 2


def measure_rows(plan: Plan, store: Store, progress: Progress = silent) -> Iterator[dict[str, Any]]:
    """Rows of :data:`COLUMNS` in the plan's order, of all cells that are done.

    What cells hold comes from the index, which is brought up to date first.
    """
    index = index_study(plan, store, progress)
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as connection:
        for cell in plan.cells:
            found = connection.execute(
                f"SELECT bits_per_weight, {', '.join(_MEASURED)} FROM measures "
                "WHERE address = ? ORDER BY position",
                (cell.address,),
            )
            for bits, *measured in found:
                yield {
                    **asdict(cell.configuration),
                    "bits_per_weight": bits,
                    "evaluation": cell.evaluation,
                    **dict(zip(_MEASURED, measured, strict=True)),
                    "address": cell.address,
                }


def index_study(plan: Plan, store: Store, progress: Progress = silent) -> Path:
    """Bring ``index.sqlite`` up to date with the cells: it may be deleted at any time.

    Only cells that it lacks are read. It is written under another name and renamed, so that
    no lock is needed, which network file systems do not keep.

    Raises
    ------
    FailureError
        If it cannot be written.
    """
    index = store.root / "index.sqlite"
    temporary = store.root / f".index.{secrets.token_hex(6)}"
    done = store.done()
    try:
        sound = _is_sound(index)
        if sound and done & plan.by_address.keys() <= _indexed(index):
            return index
        if sound:
            temporary.write_bytes(index.read_bytes())
        with closing(sqlite3.connect(temporary)) as connection:
            _create(connection)
            known = _addresses(connection)
            new = [a for a in plan.by_address if a in done and a not in known]
            for i, address in enumerate(new):
                progress(i / len(new), "reading cells")
                _add(connection, store.read_cell(address))
            connection.commit()
        temporary.replace(index)
    except (OSError, sqlite3.Error) as error:
        raise FailureError(f"cannot write {index}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return index


def _is_sound(index: Path) -> bool:
    if not index.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (sound,) = connection.execute("PRAGMA quick_check").fetchone()
            return bool(version == _INDEX_VERSION and sound == "ok")
    except sqlite3.Error:
        return False


def _indexed(index: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as connection:
        return _addresses(connection)


def _addresses(connection: sqlite3.Connection) -> set[str]:
    return {a for (a,) in connection.execute("SELECT DISTINCT address FROM measures")}


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS measures (address TEXT, position INTEGER, "
        "bits_per_weight REAL, measure TEXT, unit TEXT, value REAL, standard_error REAL, "
        "higher_is_better INTEGER, PRIMARY KEY (address, position)) WITHOUT ROWID"
    )
    connection.execute(f"PRAGMA user_version = {_INDEX_VERSION}")


def _add(connection: sqlite3.Connection, cell: StudyCell | None) -> None:
    if cell is None:
        return
    connection.executemany(
        "INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (cell.address, position, cell.row.bits_per_weight, *measured)
            for position, measured in enumerate(_measured(cell))
        ],
    )


Measured = tuple[str, str | None, float, float | None, bool]


def _measured(cell: StudyCell) -> Iterator[Measured]:
    """Measure, unit of silicon, value, standard error, whether more is better."""
    for found in (*(cell.baseline.measures if cell.baseline else ()), *cell.row.measures):
        metric = METRICS.get(found.metric)
        better = metric is not None and metric.higher_is_better
        yield found.metric, None, found.value, found.standard_error, better
    for score in cell.row.scores:
        yield score.metric, None, score.value, score.standard_error, score.higher_is_better
    for its in cell.row.hardware:
        yield f"area_{its.area_unit.lower()}", its.unit, its.area, its.area_spread, False
        yield "delay_ns", its.unit, its.delay_ns, None, False
        if its.energy_fj is not None:
            yield "energy_fj", its.unit, its.energy_fj, its.energy_spread_fj, False
    for law in cell.laws:
        # Infinity, the normal law, is no number that every reader of a table takes.
        if law.degrees_of_freedom is not None:
            yield f"degrees_of_freedom {law.name}", None, law.degrees_of_freedom, None, False
