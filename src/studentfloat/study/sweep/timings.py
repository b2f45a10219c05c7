"""How long cells take, from the logs: for the estimate of the time left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from studentfloat.study.plan import HARDWARE, LAWS, PlannedCell

__all__ = ["Timings"]

# Before anything was measured: seconds for a small model, only to weigh cells by.
_FIRST_GUESS = {LAWS: 30.0, HARDWARE: 10.0}
_OTHERWISE = 60.0


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
            if line.get("event") == "done":
                alike = (line["evaluation"], line["model"], line["method"])
                for key in (alike, alike[:2], alike[:1]):
                    self._seconds[key].append(float(line["seconds"]))

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
