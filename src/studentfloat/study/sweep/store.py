"""A study on disk: one file a cell is the truth; all else can be made again from it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError
from studentfloat.records import (
    StudyCell,
    StudyFailure,
    read_json,
    record_from_json,
    record_to_json,
    write_json,
    write_text_atomically,
)
from studentfloat.study.options import StudyOptions
from studentfloat.study.plan import PlannedCell
from studentfloat.study.resolve import Resolution
from studentfloat.study.sweep.claims import Claims, StoreError
from studentfloat.untrusted import parse_json, table

__all__ = ["Store", "StoreError"]

_DEATHS = 5
"""Workers that may die of one cell before it counts as failed."""
_ABANDONED_SECONDS = 3600.0


class Store:
    """Cells, failures, claims and logs of a study.

    Parameters
    ----------
    root
        The study's directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen: dict[str, tuple[int, set[str]]] = {}

    # -- what is asked for ---------------------------------------------------------------

    def save_study(self, options: StudyOptions, resolution: Resolution, text: str | None) -> None:
        """Keep the study: its file as given (where there is one), and as resolved here."""
        data = {"options": record_to_json(options), "resolution": record_to_json(resolution)}
        if text is not None:
            self._write(lambda: write_text_atomically(self.root / "study.toml", text))
        self._write(lambda: write_json(self.root / "resolved.json", data))

    def load_study(self) -> tuple[StudyOptions, Resolution]:
        """The study as it was resolved.

        Raises
        ------
        ConfigError
            If the directory holds none.
        """
        file = self.root / "resolved.json"
        if not file.is_file():
            raise ConfigError(f"{self.root} holds no study: it has no resolved.json")
        data = table(read_json(file), str(file))
        return (
            record_from_json(StudyOptions, data.get("options"), where=f"{file}: options"),
            record_from_json(Resolution, data.get("resolution"), where=f"{file}: resolution"),
        )

    def holds_study(self) -> bool:
        """Whether a study was begun here."""
        return (self.root / "resolved.json").is_file()

    # -- cells ---------------------------------------------------------------------------

    def cell_file(self, address: str) -> Path:
        """Where the cell of an address is, or will be."""
        return self.root / "cells" / address[:2] / f"{address}.json"

    def has(self, address: str) -> bool:
        """Whether a cell is done."""
        return self.cell_file(address).exists()

    def write_cell(self, cell: StudyCell) -> bool:
        """Keep a cell, whole or not at all, unless it is done: the first result stands.

        Returns
        -------
        bool
            Whether it was kept.

        Raises
        ------
        StoreError
            If it cannot be written, such as on a full disk.
        """
        file = self.cell_file(cell.address)
        if self.read_cell(cell.address) is not None:
            return False
        self._write(lambda: write_json(file, record_to_json(cell)))
        return True

    def read_cell(self, address: str) -> StudyCell | None:
        """A cell; None if it is not done.

        A file that is damaged is set aside, so that a later run does the cell again.
        """
        file = self.cell_file(address)
        if not file.exists():
            return None
        try:
            return record_from_json(StudyCell, read_json(file), where=str(file))
        except FailureError:
            file.replace(file.with_name(f".{file.name}.damaged"))
            return None

    def done(self) -> set[str]:
        """Addresses of all cells that are done; only folders that changed are read again."""
        found: set[str] = set()
        try:
            folders = list(os.scandir(self.root / "cells"))
        except FileNotFoundError:
            return found
        for folder in folders:
            changed = folder.stat().st_mtime_ns
            before = self._seen.get(folder.name)
            # A folder that changed this very moment may change again within a clock's tick.
            if before is None or before[0] != changed or time.time_ns() - changed < 2_000_000_000:
                names = {e.name[:-5] for e in os.scandir(folder.path) if _is_cell(e.name)}
                before = self._seen[folder.name] = (changed, names)
            found |= before[1]
        return found

    # -- failures ------------------------------------------------------------------------

    def _failure_file(self, address: str) -> Path:
        return self.root / "failures" / f"{address}.json"

    def write_failure(self, cell: PlannedCell, error: str) -> StudyFailure:
        """Keep that a cell ended in an error, and how often it did."""
        before = self.read_failure(cell.address)
        failure = StudyFailure(
            address=cell.address,
            configuration=cell.configuration,
            evaluation=cell.evaluation,
            error=error,
            attempts=1 + (before.attempts if before else 0),
        )
        file = self._failure_file(cell.address)
        self._write(lambda: write_json(file, record_to_json(failure)))
        return failure

    def read_failure(self, address: str) -> StudyFailure | None:
        """How a cell failed; None if it did not."""
        file = self._failure_file(address)
        try:
            return record_from_json(StudyFailure, read_json(file), where=str(file))
        except FailureError:
            return None

    def failed(self) -> set[str]:
        """Addresses of all failures."""
        return self._names("failures")

    def forget_failures(self, addresses: set[str]) -> None:
        """Let failed cells be tried again."""
        for address in addresses:
            self._failure_file(address).unlink(missing_ok=True)
            for file in (self.root / "deaths").glob(f"{address}.*"):
                file.unlink(missing_ok=True)

    def note_death(self, cell: PlannedCell) -> None:
        """A worker died while it had the cell: a cell that always kills ends as failed."""
        directory = self.root / "deaths"
        self._write(lambda: write_text_atomically(directory / f"{cell.address}.{_token()}", ""))
        count = len(list(directory.glob(f"{cell.address}.*")))
        if count >= _DEATHS:
            self.write_failure(cell, f"{count} workers died while they computed it: out of memory?")

    # -- claims, shared files, logs ------------------------------------------------------

    def claims(self, **options: Any) -> Claims:
        """The store's claims."""
        return Claims(self.root / "claims", **options)

    @property
    def shared(self) -> Path:
        """Originals' outputs, each computed once and read by all workers."""
        return self.root / "shared"

    def log(self, worker: str, **what: Any) -> None:
        """Add a line to a worker's log; the log is no truth, so a full disk does not matter."""
        line = json.dumps({"time": round(time.time(), 3), "worker": worker, **what})
        try:
            (self.root / "log").mkdir(parents=True, exist_ok=True)
            with (self.root / "log" / f"{worker}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError:
            pass

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """All lines of all workers, each with its event; what a kill cut short is left out."""
        for file in sorted((self.root / "log").glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    data = table(parse_json(line, file.name), file.name)
                except FailureError:
                    continue
                if isinstance(data.get("event"), str):
                    yield data

    def sweep(self) -> None:
        """Remove what killed writers left behind, long ago."""
        for folder in ("cells/*", "failures", "claims", "shared", "."):
            for file in self.root.glob(f"{folder}/.*"):
                try:
                    if time.time() - file.stat().st_mtime <= _ABANDONED_SECONDS:
                        continue
                    if file.is_dir() and folder == "shared":
                        shutil.rmtree(file, ignore_errors=True)
                    elif file.is_file():
                        file.unlink()
                except OSError:
                    continue

    def _names(self, folder: str) -> set[str]:
        try:
            return {e.name[:-5] for e in os.scandir(self.root / folder) if _is_cell(e.name)}
        except FileNotFoundError:
            return set()

    def _write(self, write: Any) -> None:
        try:
            write()
        except FailureError as error:
            raise StoreError(str(error)) from error


def _is_cell(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _token() -> str:
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"
