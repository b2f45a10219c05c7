"""A row of a comparison: a configuration of a model, and all that was found about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from studentfloat.records.hardware import FormatHardware
from studentfloat.records.metrics import METRICS, Measured, Measurement, over_texts
from studentfloat.records.tensors import TensorError, TensorQuantization

__all__ = ["Baseline", "Configuration", "Row", "TaskScore", "join_rows"]

_ERROR = "_se"


@dataclass(frozen=True)
class TaskScore:
    """How well a model did one task, by one measure.

    Attributes
    ----------
    task, metric
        As lm-evaluation-harness names them: ``piqa``, ``acc_norm``.
    standard_error
        Of `value`, over items; None for fewer than two.
    primary
        Whether comparisons go by this measure of the task.
    items
        The measure on each item, in the order of the set, for paired differences.
    limit, shots
        How many items were asked at most (None: all), and solved examples before each.
    source, data_sha256
        Where the items come from, and a hash of what was really asked.
    """

    KIND: ClassVar[str] = "task-score"
    VERSION: ClassVar[int] = 1

    task: str
    metric: str
    value: float
    standard_error: float | None
    higher_is_better: bool
    primary: bool
    items: tuple[float, ...]
    limit: int | None
    shots: int
    source: str
    data_sha256: str
    notes: tuple[str, ...] = ()


class _Measured:
    """What was measured, by metric; every metric also reads as an attribute: ``row.kl``."""

    measures: tuple[Measurement, ...]

    def measured(self, metric: str) -> Measurement | None:
        """A metric's values on each text and over all; None if it was not measured."""
        return next((one for one in self.measures if one.metric == metric), None)

    def value(self, metric: str) -> Measured | None:
        """A metric's value and its standard error; None if it was not measured."""
        found = self.measured(metric)
        return None if found is None else (found.value, found.standard_error)

    def windows(self, metric: str) -> tuple[float, ...]:
        """What is compared window by window; empty where there is nothing such."""
        found = self.measured(metric)
        return () if found is None else found.windows

    def __getattr__(self, name: str) -> float | None:
        """Look up ``kl``, and ``kl_se`` for its standard error."""
        error = name.endswith(_ERROR)
        if (key := name.removesuffix(_ERROR)) not in METRICS:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        found = self.value(key)
        return None if found is None else found[error]

    def derived(self) -> dict[str, Any]:
        """Every metric with its standard error, flat, for readers of the JSON."""
        return {name: getattr(self, name) for key in METRICS for name in (key, f"{key}{_ERROR}")}


@dataclass(frozen=True)
class Baseline(_Measured):
    """The original model on the same windows: the metrics that are of one model alone.

    Attributes
    ----------
    window_start
        The token that every window begins with, as the tokenizer spells it: what it puts
        before any text; None where it puts nothing.
    """

    measures: tuple[Measurement, ...] = ()
    window_start: str | None = None


@dataclass(frozen=True)
class Configuration:
    """What is done to a model; `format` is "original" where nothing is.

    Attributes
    ----------
    model
        As tables call it; "" of silicon alone, which is no model's.
    name
        Short and unique within the model's rows: ``sf4 gptq``.
    format
        As it was asked for, with its ``@scale-rule``; several joined by ``|``.
    method
        As :func:`~studentfloat.quantize.parse_method` spells it.
    block_size, scale_rule, scale_dtype
        As of :class:`~studentfloat.quantize.Scheme`, as asked for; a method may search scales by
        a rule of its own.
    activations, kv
        Formats at run time; None leaves things as they are.
    lookup_bits, exact
        Of a format without an integer grid, as silicon holds it: the width of the fixed-point
        numbers that its values are rounded to, and the name of the row with the exact values.
        None for exact values.
    """

    model: str
    name: str
    format: str
    method: str = "rtn"
    block_size: int | str = 128
    scale_rule: str = "absmax"
    scale_dtype: str = "bfloat16"
    activations: str | None = None
    kv: str | None = None
    lookup_bits: int | None = None
    exact: str | None = None


@dataclass(frozen=True)
class Row(Configuration, _Measured):
    """A configuration, with what was found about it; a cell's row has what that cell found.

    Attributes
    ----------
    bits
        Of one code.
    bits_per_weight
        All bits stored for quantized weights, scales included, over their number.
    values
        The format's levels as they were measured, in ascending order.
    measures
        Of quality: see :data:`METRICS`.
    rank
        1 + the number of formats that are significantly better; equal ranks are ties.
    note
        What a reader must know.
    tensors
        What quantizing did to each weight.
    weights
        How each weight was quantized, for methods beyond rounding to nearest.
    scores
        On tasks.
    hardware
        What a unit for exactly these values costs, for each kind of unit that was asked for.
    cells
        Addresses of the cells that it is made of.
    """

    bits: int | None = None
    bits_per_weight: float | None = None
    values: tuple[float, ...] = ()
    measures: tuple[Measurement, ...] = ()
    rank: int | None = None
    note: str = ""
    tensors: tuple[TensorError, ...] = ()
    weights: tuple[TensorQuantization, ...] = ()
    scores: tuple[TaskScore, ...] = ()
    hardware: tuple[FormatHardware, ...] = ()
    cells: tuple[str, ...] = ()

    @classmethod
    def of(cls, configuration: Configuration, **found: Any) -> Row:
        """A configuration with what was found about it."""
        known = {f.name: getattr(configuration, f.name) for f in fields(Configuration)}
        return cls(**known, **found)

    @property
    def configuration(self) -> Configuration:
        """Without what was found."""
        return Configuration(**{f.name: getattr(self, f.name) for f in fields(Configuration)})


def join_rows(configuration: Configuration, parts: Sequence[Row]) -> Row:
    """One row of what several cells found about a configuration.

    Values on several texts become their mean (see
    :class:`~studentfloat.records.metrics.Aggregation`); of what the parts repeat, the first counts.
    """

    def first(name: str) -> Any:
        return next((found for part in parts if (found := getattr(part, name))), None)

    row = Row.of(
        configuration,
        bits=first("bits"),
        bits_per_weight=first("bits_per_weight"),
        values=first("values") or (),
        measures=over_texts([part.measures for part in parts]),
        note="; ".join(dict.fromkeys(part.note for part in parts if part.note)),
        tensors=first("tensors") or (),
        weights=first("weights") or (),
        scores=tuple(score for part in parts for score in part.scores),
        cells=tuple(address for part in parts for address in part.cells),
    )
    silicon = tuple(its for part in parts for its in part.hardware)
    return replace(row, hardware=tuple(replace(its, name=row.name) for its in silicon))
