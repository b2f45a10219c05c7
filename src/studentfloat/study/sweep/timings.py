"""How long cells take, from the logs: for the estimate of the time left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from studentfloat.errors import FailureError
from studentfloat.study.plan import HARDWARE, LAWS, PlannedCell
from studentfloat.untrusted import typed

__all__ = ["Timings"]

# Before anything was measured: seconds for a small model, only to weigh cells by.
_FIRST_GUESS = {LAWS: 30.0, HARDWARE: 10.0}
_OTHERWISE = 60.0


@dataclass(frozen=True)
class _Done:
    evaluation: str
    model: str
    method: str
    seconds: float


class Timings:
    """Mean seconds of cells like a given one, by what was measured of the most alike.

    Parameters
    ----------
    lines
        Of the store's logs.
    """

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for line in lines:
            if line.get("event") != "done":
                continue
            try:
                done = typed(_Done, line, where="a line of the log")
            except FailureError:
                continue  # the log is no truth
            alike = (done.evaluation, done.model, done.method)
            for key in (alike, alike[:2], alike[:1]):
                self._seconds[key].append(done.seconds)

    def seconds(self, cell: PlannedCell) -> float:
        """What the cell will take, about."""
        configuration = cell.configuration
        alike = (cell.evaluation, configuration.model, configuration.method)
        for key in (alike, alike[:2], alike[:1]):
            if key in self._seconds:
                measured = self._seconds[key]
                return sum(measured) / len(measured)
        return _FIRST_GUESS.get(cell.evaluation, _OTHERWISE)

    @property
    def measured(self) -> bool:
        """Whether there is anything to estimate from."""
        return bool(self._seconds)
