"""Metrics as values: all that a table, a rank, a page or an export must know of a number.

An entry of :data:`METRICS` names the quantity that it is taken of; what that quantity is on a
window of text is measured in :mod:`studentfloat.evaluate.quality`. Nothing else knows a metric by
its name.

>>> METRICS["kl"].label
'KL from the original (nats per token)'
>>> METRICS["kl_p99"].aggregate.of_text((), [np.arange(101.0)])
(99.0, None)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "METRICS",
    "Aggregation",
    "ExpMean",
    "InPapers",
    "Known",
    "Mean",
    "Measured",
    "Measurement",
    "Metric",
    "OnText",
    "Percentile",
    "mean_and_error",
    "measure",
    "over_texts",
    "sharpest",
]

Floats = npt.NDArray[np.float64]
Measured = tuple[float, float | None]
"""A value and its standard error; None where there is none to know."""


def mean_and_error(values: Sequence[float]) -> Measured:
    """Mean over windows and its standard error (None for fewer than two windows)."""
    array = np.asarray(values, dtype=np.float64)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None
    return float(array.mean()), error


class Aggregation(Protocol):
    """How a metric comes from what was measured.

    Attributes
    ----------
    by_window
        Whether it is a mean over windows, so that rows can be compared window by window.
    """

    @property
    def by_window(self) -> bool:
        """Whether rows can be compared window by window."""

    def of_text(self, windows: Sequence[float], tokens: Sequence[Floats]) -> Measured:
        """The value on one text, from means by window and the numbers of each window's tokens."""

    def of_texts(self, texts: Sequence[Measured]) -> Measured:
        """The value over several texts, each of the same weight."""


@dataclass(frozen=True)
class Mean:
    """Mean over windows, then over texts."""

    by_window: bool = True

    def of_text(self, windows: Sequence[float], tokens: Sequence[Floats]) -> Measured:
        """Mean of the means by window."""
        del tokens
        return mean_and_error(windows)

    def of_texts(self, texts: Sequence[Measured]) -> Measured:
        """Arithmetic mean; the errors of texts are independent."""
        if len(texts) == 1:
            return texts[0]
        return float(np.mean([value for value, _ in texts])), _joint([error for _, error in texts])


@dataclass(frozen=True)
class ExpMean:
    """exp of the mean over windows, as perplexity is; geometric mean over texts."""

    by_window: bool = True

    def of_text(self, windows: Sequence[float], tokens: Sequence[Floats]) -> Measured:
        """exp of the mean, and its standard error by the delta method."""
        del tokens
        mean, error = mean_and_error(windows)
        return math.exp(mean), None if error is None else math.exp(mean) * error

    def of_texts(self, texts: Sequence[Measured]) -> Measured:
        """exp of the mean over the texts' windows."""
        if len(texts) == 1:
            return texts[0]
        value = math.exp(float(np.mean([math.log(value) for value, _ in texts])))
        relative = _joint([None if error is None else error / v for v, error in texts])
        return value, None if relative is None else value * relative


@dataclass(frozen=True)
class Percentile(Mean):
    """A percentile over all tokens of a text, then the mean over texts; without an error."""

    percent: float = 50.0
    by_window: bool = False

    def of_text(self, windows: Sequence[float], tokens: Sequence[Floats]) -> Measured:
        """Linear between the two nearest ranks."""
        del windows
        return float(np.percentile(np.concatenate([*tokens]), self.percent)), None


def _joint(errors: Sequence[float | None]) -> float | None:
    """Standard error of a mean of independent values."""
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return math.sqrt(sum(error**2 for error in known)) / len(known)


@dataclass(frozen=True)
class Known:
    """A number of the weights alone: no text, no noise."""

    by_window: bool = False

    def of_text(self, windows: Sequence[float], tokens: Sequence[Floats]) -> Measured:
        """Never asked: no text is run for it."""
        raise NotImplementedError

    def of_texts(self, texts: Sequence[Measured]) -> Measured:
        """Never asked, likewise."""
        raise NotImplementedError


@dataclass(frozen=True)
class InPapers:
    """A column of LaTeX and Markdown tables: its heading, and what figures are multiplied by."""

    heading: str
    factor: int = 1
    digits: int = 2


@dataclass(frozen=True)
class Metric:
    """What a number is: of a row's quality, or of what the row costs.

    Attributes
    ----------
    key
        Its name in records and exports: ``kl``; ``piqa acc_norm``; ``area mac generic``.
    short
        Heading of a column, and part of file names.
    name, unit
        In words, for an axis; the unit of the value, "" for none.
    quantity
        What is measured on a text, a key of :data:`~studentfloat.evaluate.quality.QUANTITIES`;
        "" for a number that no text is run for.
    aggregate
        From windows and tokens to the value.
    higher_is_better
        The direction.
    digits
        After the decimal point, in tables.
    logarithmic
        Whether ratios of it say more than differences.
    narrow, narrow_error
        Heading in a terminal, where it is another, and whether the error has room there.
    explained
        A clause for the legend below a table; "" for none.
    sharpness
        Rows are ranked by the sharpest metric that they have; 0 ranks none.
    detail
        Whether it is shown only where details are asked for.
    original
        What the original has by definition, None where that is measured or not defined.
    paper
        How papers show it; None not at all.
    """

    key: str
    short: str
    name: str
    unit: str = ""
    quantity: str = ""
    aggregate: Aggregation = Known()
    higher_is_better: bool = False
    digits: int = 3
    logarithmic: bool = True
    narrow: str = ""
    narrow_error: bool = True
    explained: str = ""
    sharpness: int = 0
    detail: bool = False
    original: float | None = None
    paper: InPapers | None = None

    @property
    def label(self) -> str:
        """For an axis: the name with the unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def exact(self) -> bool:
        """Whether values have no noise, so that the least difference is one."""
        return isinstance(self.aggregate, Known)


def _kl_percentile(percent: float, key: str, short: str) -> Metric:
    return Metric(
        key,
        short,
        f"{short} over tokens",
        "nats per token",
        quantity="kl",
        aggregate=Percentile(percent=percent),
        detail=True,
    )


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "weight_nmse",
            "weight error",
            "weight error",
            digits=5,
            narrow="error",
            explained="error: of the weights, squared, over their squares",
            sharpness=1,
        ),
        Metric(
            "perplexity",
            "perplexity",
            "perplexity",
            quantity="nll",
            aggregate=ExpMean(),
            digits=2,
            paper=InPapers("PPL"),
        ),
        Metric(
            "kl",
            "KL",
            "KL from the original",
            "nats per token",
            quantity="kl",
            aggregate=Mean(),
            narrow="KL (nats)",
            explained="KL: from the original's next-token distribution, nats",
            sharpness=3,
            original=0.0,
            paper=InPapers("KL (10⁻³)", 1000),
        ),
        _kl_percentile(50, "kl_p50", "median KL"),
        _kl_percentile(99, "kl_p99", "99 % KL"),
        _kl_percentile(99.9, "kl_p99_9", "99.9 % KL"),
        _kl_percentile(100, "kl_max", "greatest KL"),
        Metric(
            "top1_agreement",
            "top-1",
            "same most likely token as the original",
            quantity="agreement",
            aggregate=Mean(),
            higher_is_better=True,
            logarithmic=False,
            narrow_error=False,
            explained="top-1: same top token",
        ),
        Metric(
            "output_nmse",
            "output error",
            "error of the last hidden state",
            quantity="output_nmse",
            aggregate=Mean(),
            digits=5,
            sharpness=2,
        ),
    )
}
"""Of a row's quality, in the order of a table's columns."""


@dataclass(frozen=True)
class OnText:
    """A metric on one text.

    Attributes
    ----------
    text
        The text's SHA-256, as in :attr:`Provenance.texts`.
    windows
        The quantity's mean on each window, in the text's order, where rows are compared by it.
    """

    text: str
    value: float
    standard_error: float | None
    windows: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """A metric of one row.

    Attributes
    ----------
    metric
        Its key in :data:`METRICS`.
    value, standard_error
        Over all texts.
    texts
        On each of them; none for what is not measured on texts.
    """

    metric: str
    value: float
    standard_error: float | None = None
    texts: tuple[OnText, ...] = ()

    @property
    def windows(self) -> tuple[float, ...]:
        """The quantity's mean on each window of each text."""
        return tuple(value for text in self.texts for value in text.windows)


def measure(
    text: str, windows: Mapping[str, Sequence[float]], tokens: Mapping[str, Sequence[Floats]]
) -> tuple[Measurement, ...]:
    """Every metric that follows from what was measured on one text.

    Parameters
    ----------
    text
        Its SHA-256.
    windows
        By quantity, the mean on each window.
    tokens
        By quantity, the numbers of each window's tokens; percentiles need them.
    """
    found = []
    for metric in METRICS.values():
        its = windows.get(metric.quantity, ())
        if not its or (not metric.aggregate.by_window and metric.quantity not in tokens):
            continue
        value, error = metric.aggregate.of_text(its, tokens.get(metric.quantity, ()))
        kept = tuple(its) if metric.aggregate.by_window else ()
        found.append(Measurement(metric.key, value, error, (OnText(text, value, error, kept),)))
    return tuple(found)


def over_texts(parts: Sequence[Sequence[Measurement]]) -> tuple[Measurement, ...]:
    """Join what was measured on several texts, one part each; what is of no text stands once."""
    joined: dict[str, Measurement] = {}
    for found in (one for part in parts for one in part):
        before = joined.get(found.metric)
        if before is None or not before.texts:
            joined[found.metric] = found
            continue
        texts = (*before.texts, *found.texts)
        values = [(text.value, text.standard_error) for text in texts]
        known = METRICS.get(found.metric)
        value, error = (Mean() if known is None else known.aggregate).of_texts(values)
        joined[found.metric] = Measurement(found.metric, value, error, texts)
    order = {key: index for index, key in enumerate(METRICS)}
    return tuple(sorted(joined.values(), key=lambda m: order.get(m.metric, len(order))))


def sharpest(keys: Sequence[str]) -> Metric:
    """The metric of these that rows are ranked by; weight error where there is none."""
    known = [METRICS[key] for key in keys if key in METRICS]
    return max(known, key=lambda metric: metric.sharpness, default=METRICS["weight_nmse"])
