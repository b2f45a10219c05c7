"""What a study asks for, as a value: the axes of its grid and how each cell is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from studentfloat.models import Trust
from studentfloat.records.study import StudyConfiguration
from studentfloat.study.sweep.claims import BEAT, PATIENCE

__all__ = [
    "EXCLUDABLE",
    "ORIGINAL",
    "CalibrationSettings",
    "FormatFile",
    "HardwareSettings",
    "ModelEntry",
    "QualitySettings",
    "SchemeSettings",
    "StudyOptions",
    "TaskSettings",
    "WorkSettings",
    "matches",
]

EXCLUDABLE = (
    *("model", "format", "method", "block_size", "scale_rule", "scale_dtype"),
    *("activations", "kv", "evaluation"),
)
"""Keys of an exclusion: fields of a configuration, and the evaluation."""
ORIGINAL = "original"
"""What a configuration's format is where nothing is done to the model."""
_OF_ORIGINALS = {"model", "format", "evaluation"}


@dataclass(frozen=True)
class ModelEntry:
    """A model as :func:`~studentfloat.models.find_model` takes it, and what tables call it."""

    id: str
    name: str


@dataclass(frozen=True)
class SchemeSettings:
    """As for :class:`~studentfloat.quantize.Scheme`; the rule for formats without their own."""

    block_size: int | str = 128
    scale_rule: str = "absmax"
    scale_dtype: str = "float32"


@dataclass(frozen=True)
class QualitySettings:
    """On which text and windows of it; None is the text that every CPython carries."""

    text: str | None = None
    windows: int = 12
    window_length: int = 384


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks, on what.

    Attributes
    ----------
    data
        A directory with the sets as local files; None for the hub.
    limit, shots
        Items asked at most, and solved examples before each.
    only_with_data
        Without `data` the tasks are left out, which is said, instead of sought on the hub.
    """

    names: tuple[str, ...]
    data: str | None = None
    limit: int | None = None
    shots: int = 0
    only_with_data: bool = False


@dataclass(frozen=True)
class HardwareSettings:
    """What is costed in silicon.

    Attributes
    ----------
    units, activations
        As of :func:`studentfloat.hardware.cost`; None for the format itself.
    liberty
        The cell library; none: the built-in generic one.
    lookup_bits
        Width of the fixed-point numbers that formats without an integer grid are rounded to,
        for their quality as for their silicon.
    """

    units: tuple[str, ...] = ("mac",)
    liberty: tuple[str, ...] = ()
    lookup_bits: int = 8
    activations: str | None = None


@dataclass(frozen=True)
class CalibrationSettings:
    """As of :class:`~studentfloat.models.Calibration`."""

    text: str | None = None
    windows: int = 32
    window_length: int = 512


@dataclass(frozen=True)
class FormatFile:
    """A format that was read from a file: its text, so that no worker needs the file."""

    path: str
    text: str


@dataclass(frozen=True)
class StudyOptions:
    """A study, read and checked.

    Attributes
    ----------
    formats
        Names or files, each with an optional ``@scale-rule``, or several with ``|`` between.
    activations, kv
        Formats, None to leave them as they are; of activations "same" is the weights' own.
    quality, tasks, hardware, laws
        The evaluations; None or False are not done.
    exclude
        Tables of :data:`EXCLUDABLE` keys; what matches all keys of one is left out.
    seed
        Of bootstraps and tasks.
    format_files
        What the files among `formats` hold.
    notes
        What was left out, and why.
    """

    KIND: ClassVar[str] = "study-options"
    VERSION: ClassVar[int] = 1

    name: str
    title: str
    models: tuple[ModelEntry, ...]
    formats: tuple[str, ...]
    schemes: tuple[SchemeSettings, ...] = (SchemeSettings(),)
    methods: tuple[str, ...] = ("rtn",)
    activations: tuple[str | None, ...] = (None,)
    kv: tuple[str | None, ...] = (None,)
    quality: QualitySettings | None = None
    tasks: TaskSettings | None = None
    hardware: HardwareSettings | None = None
    laws: bool = False
    calibration: CalibrationSettings = CalibrationSettings()
    embeddings: bool = False
    head: bool = False
    seed: int = 0
    exclude: tuple[dict[str, Any], ...] = ()
    format_files: tuple[FormatFile, ...] = ()
    trust: Trust = field(default_factory=Trust)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkSettings:
    """How a worker goes about it.

    Attributes
    ----------
    only
        Filters, as for :func:`~studentfloat.study.sweep.plan.make_plan`.
    attempts
        How often a cell may fail before it is left alone.
    patience, beat
        Of claims.
    with_parent
        Whether the worker ends when the process that started it does.
    """

    only: tuple[dict[str, Any], ...] = ()
    attempts: int = 1
    patience: float = PATIENCE
    beat: float = BEAT
    with_parent: bool = False


def matches(table: dict[str, Any], configuration: StudyConfiguration, evaluation: str) -> bool:
    """Whether all keys of an exclusion or a filter match; a list matches any of its items.

    The original has neither method nor scheme, so no table that asks for one matches it.
    """
    if configuration.format == ORIGINAL and not table.keys() <= _OF_ORIGINALS:
        return False
    for key, wanted in table.items():
        value = evaluation if key == "evaluation" else getattr(configuration, key)
        value = "none" if value is None else value
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True
