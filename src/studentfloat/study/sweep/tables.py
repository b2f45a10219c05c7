"""The table of a paper, in LaTeX or Markdown: a row for each configuration, columns for quality
and each task.
"""

from __future__ import annotations

from collections.abc import Callable

from studentfloat.records import (
    METRICS,
    Baseline,
    Comparison,
    Metric,
    PairedDifference,
    Row,
    StudyResult,
    TaskScore,
)
from studentfloat.records.metrics import InPapers

__all__ = ["latex_tables", "markdown_tables"]

_SPECIAL = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
}  # fmt: skip


def latex_tables(result: StudyResult) -> str:
    """One ``table`` for each model, for the packages ``booktabs`` and ``amsmath``.

    The best figure of a column is bold, and so is every one that no test tells from it.
    """
    preamble = "% \\usepackage{booktabs} in the preamble\n"
    return preamble + "\n".join(_latex(result.name, model) for model in result.models)


def markdown_tables(result: StudyResult) -> str:
    """One table for each model, with standard errors; bold as in :func:`latex_tables`."""
    return "\n".join(_markdown(model) for model in result.models)


class _Column:
    """A measure: its heading, the figure of a row with its standard error, and what is best."""

    def __init__(
        self,
        heading: str,
        value: Callable[[Row], float | None],
        show: str,
        *,
        error: Callable[[Row], float | None] = lambda row: None,
        measure: str = "",
        more_is_better: bool = False,
        original: float | None = None,
    ) -> None:
        self.heading, self.value, self.show, self.error = heading, value, show, error
        self.measure, self.more_is_better, self.original = measure, more_is_better, original

    def best(self, rows: tuple[Row, ...], pairs: tuple[PairedDifference, ...]) -> set[str]:
        """Names of the rows that are best, or not told from it, where that was tested."""
        values = {r.name: v for r in rows if (v := self.value(r)) is not None}
        pairs = tuple(pair for pair in pairs if pair.measure == self.measure)
        if not values or not pairs:
            return set()
        first = max(values, key=lambda name: values[name] * (1 if self.more_is_better else -1))
        tied = {
            name
            for pair in pairs
            if not pair.significant
            for name in (pair.first, pair.second)
            if first in (pair.first, pair.second)
        }
        return {first} | tied


def _columns(model: Comparison) -> list[_Column]:
    columns = [_Column("bits", lambda row: row.bits_per_weight, "{:.2f}")]
    columns += [
        _metric_column(model, metric, metric.paper)
        for metric in METRICS.values()
        if metric.paper and any(row.value(metric.key) for row in model.formats)
    ]
    scores = [score for row in model.formats for score in row.scores if score.primary]
    for task, metric in dict.fromkeys((score.task, score.metric) for score in scores):
        columns.append(_task_column(model, task, metric))
    units = dict.fromkeys(its.unit for row in model.formats for its in row.hardware)
    return columns + [_Column(f"area ({u})", _area(u), "{:.0f}") for u in units]


def _metric_column(model: Comparison, metric: Metric, shown: InPapers) -> _Column:
    def value(row: Row | Baseline) -> float | None:
        found = row.value(metric.key)
        return None if found is None else shown.factor * found[0]

    def error(row: Row) -> float | None:
        found = row.value(metric.key)
        return None if found is None or found[1] is None else shown.factor * found[1]

    original = value(model.baseline)
    return _Column(
        shown.heading,
        value,
        f"{{:.{shown.digits}f}}",
        error=error,
        measure=metric.key,
        more_is_better=metric.higher_is_better,
        original=metric.original if original is None else original,
    )


def _area(unit: str) -> Callable[[Row], float | None]:
    return lambda row: next((its.area for its in row.hardware if its.unit == unit), None)


def _task_column(model: Comparison, task: str, metric: str) -> _Column:
    def find(scores: tuple[TaskScore, ...]) -> TaskScore | None:
        return next((s for s in scores if (s.task, s.metric) == (task, metric)), None)

    def value(row: Row) -> float | None:
        score = find(row.scores)
        return None if score is None else factor * score.value

    def error(row: Row) -> float | None:
        score = find(row.scores)
        known = None if score is None else score.standard_error
        return None if known is None else factor * known

    original = find(model.original_scores)
    more = any(s.higher_is_better for row in model.formats if (s := find(row.scores)) is not None)
    factor = 100 if more else 1
    return _Column(
        task,
        value,
        "{:.1f}" if more else "{:.2f}",
        error=error,
        measure=f"{task} {metric}",
        more_is_better=more,
        original=None if original is None else factor * original.value,
    )


def _markdown(model: Comparison) -> str:
    columns = _columns(model)
    best = [column.best(model.formats, model.differences) for column in columns]
    lines = [
        " | ".join([model.model, *(column.heading for column in columns)]),
        "---|" * (1 + len(columns)),
        " | ".join(["original", *(_figure(c.original, c.show, "") for c in columns)]),
    ]
    for row in model.formats:
        name = row.name
        cells = [
            _figure(column.value(row), column.show, "**" * (name in winners), column.error(row))
            for column, winners in zip(columns, best, strict=True)
        ]
        lines.append(" | ".join([name.replace("|", "\\|"), *cells]))
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}" for line in lines) + "\n"


def _latex(name: str, model: Comparison) -> str:
    columns = _columns(model)
    best = [column.best(model.formats, model.differences) for column in columns]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(name)}: {_escaped(model.model)}. Bold: the best of a column, and "
        "what no paired test tells from it.}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["format", *(_heading(column) for column in columns)]) + r" \\",
        r"\midrule",
        " & ".join(["original", *(_typeset(c.original, c.show) for c in columns)]) + r" \\",
        r"\midrule",
    ]
    for row in model.formats:
        cells = [
            _typeset(column.value(row), column.show, bold=row.name in winners)
            for column, winners in zip(columns, best, strict=True)
        ]
        lines.append(" & ".join([_escaped(row.name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _figure(value: float | None, show: str, mark: str, error: float | None = None) -> str:
    if value is None:
        return "–"
    text = f"{mark}{show.format(value)}{mark}"
    return text if error is None else f"{text} ± {show.format(error)}"


def _heading(column: _Column) -> str:
    return _escaped(column.heading).replace("10⁻³", "$10^{-3}$")


def _typeset(value: float | None, show: str, *, bold: bool = False) -> str:
    if value is None:
        return "--"
    text = show.format(value)
    return rf"\textbf{{{text}}}" if bold else text


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
