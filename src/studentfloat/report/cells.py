"""One table of rows, which the terminal and the page render each in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studentfloat.records import FormatHardware, Metric
from studentfloat.report.points import Point, PointMap

__all__ = ["SILICON_HEADINGS", "Cell", "Line", "figure", "lines_of", "silicon_cells"]

SILICON_HEADINGS = ("area/int4", "delay ns", "fJ uniform", "fJ real", "proved")


@dataclass(frozen=True)
class Cell:
    """A number with its error; None where there is none."""

    value: float
    error: float | None
    metric: Metric

    def text(self, *, narrow: bool = False) -> str:
        """As it is read; `narrow` leaves out errors that a terminal has no room for."""
        error = None if narrow and not self.metric.narrow_error else self.error
        return figure(self.value, error, self.metric.digits)


@dataclass(frozen=True)
class Line:
    """A row's cells, one for each column.

    Attributes
    ----------
    index
        Of the row among all points of the map.
    """

    index: int
    point: Point
    cells: tuple[Cell | None, ...]


def lines_of(points: PointMap, model: str, columns: Sequence[Metric]) -> list[Line]:
    """A model's rows in their order; what silicon holds of a format stands below the format."""
    found = [
        Line(index, point, tuple(_cell(point, metric) for metric in columns))
        for index, point in enumerate(points.points)
        if point.model == model
    ]
    names = {line.point.name for line in found}
    below: dict[str, list[Line]] = {}
    for line in found:
        if line.point.exact in names:
            below.setdefault(str(line.point.exact), []).append(line)
    return [
        each
        for line in found
        if line.point.exact not in names
        for each in (line, *below.get(line.point.name, ()))
    ]


def _cell(point: Point, metric: Metric) -> Cell | None:
    found = point.measures.get(metric.key) or point.costs.get(metric.key)
    return None if found is None else Cell(*found, metric)


def figure(value: float, error: float | None, digits: int) -> str:
    """A number, and its error if it has one."""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error else "")


def silicon_cells(row: FormatHardware) -> list[str]:
    """Area and its spread, then :data:`SILICON_HEADINGS`."""
    relative, energy = row.area_relative_to_int4, row.energy_fj
    return [
        figure(row.area, row.area_spread, 0),
        "-" if relative is None else f"{relative:.2f}",
        f"{row.delay_ns:.2f}",
        "-" if energy is None else figure(energy, row.energy_spread_fj, 0),
        "-" if row.energy_real_fj is None else f"{row.energy_real_fj:.0f}",
        "yes" if row.proved else "no",
    ]
