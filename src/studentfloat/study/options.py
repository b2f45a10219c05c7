"""What is asked for, as a value: the axes of a grid and how each cell is measured.

A study file and the options of ``compare`` both come to a :class:`StudyOptions`; nothing else knows
which of the two it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from studentfloat.errors import ConfigError
from studentfloat.formats import PUBLISHED_ELEVEN
from studentfloat.models import Trust
from studentfloat.models.standard_texts import EVALUATION_TEXTS
from studentfloat.records import Configuration

__all__ = [
    "DEFAULT_FORMATS",
    "DEFAULT_TEXTS",
    "EXCLUDABLE",
    "ORIGINAL",
    "CalibrationSettings",
    "CompareOptions",
    "FormatFile",
    "HardwareOptions",
    "ModelEntry",
    "QualitySettings",
    "SchemeSettings",
    "StudyOptions",
    "TaskSettings",
    "matches",
]

DEFAULT_FORMATS = (*PUBLISHED_ELEVEN, "e2m1+sr@signed-absmax", "bos4-nu11@signed-absmax")
"""The paper's eleven, super-range scaled as it should be, and a derived codebook (ν = 11 is the
embedded model's own, about)."""
DEFAULT_TEXTS: tuple[str, ...] = EVALUATION_TEXTS[:1]
"""What quality is measured on."""
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
    scale_dtype: str = "bfloat16"


@dataclass(frozen=True)
class QualitySettings:
    """On which texts, and windows of each.

    Attributes
    ----------
    texts
        As for :func:`~studentfloat.models.text.load_text`. Without any, weight errors alone are
        measured, and no model is run.
    windows, window_length
        How many of each text, and tokens in each.
    """

    texts: tuple[str, ...] = DEFAULT_TEXTS
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
class HardwareOptions:
    """What is costed in silicon.

    Attributes
    ----------
    units, activations
        As of :func:`studentfloat.hardware.cost`; activations None for the format itself.
    liberty
        The cell library; none: the built-in generic one.
    lookup_bits
        Width of the fixed-point numbers that a format without an integer grid is rounded to,
        for the quality of its second row as for its silicon.
    real_codes
        Whether energy is also measured on the pairs of codes that meet in each model, with
        activations in the format itself.
    """

    units: tuple[str, ...] = ("mac",)
    liberty: tuple[str, ...] = ()
    lookup_bits: int = 8
    activations: str | None = None
    real_codes: bool = False


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
    VERSION: ClassVar[int] = 2

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
    hardware: HardwareOptions | None = None
    laws: bool = False
    calibration: CalibrationSettings = CalibrationSettings()
    embeddings: bool = False
    head: bool = False
    seed: int = 0
    exclude: tuple[dict[str, Any], ...] = ()
    format_files: tuple[FormatFile, ...] = ()
    trust: Trust = field(default_factory=Trust)
    notes: tuple[str, ...] = ()


def matches(table: dict[str, Any], configuration: Configuration, evaluation: str) -> bool:
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


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how: a study of one model under one scheme, spelled flat.

    Attributes
    ----------
    model
        As for :func:`~studentfloat.models.find_model`.
    formats
        Names or ``.toml`` files, each with an optional ``@scale-rule``; several joined by
        ``|`` for a choice per block.
    methods
        As :func:`~studentfloat.quantize.parse_method` spells them; a row for each format
        under each.
    calibration, calibration_windows, calibration_length
        Text file (None for :class:`~studentfloat.models.Calibration`'s own), windows and
        tokens in each, for methods that need some.
    block_size, scale_rule, scale_dtype
        As for :class:`~studentfloat.quantize.Scheme`; the rule for formats without their own.
    activations
        A format, with an optional ``@scale-rule``, for what enters linear layers: one scale
        per token, from the token itself. None leaves activations as they are.
    kv
        The same for the key-value cache: see :class:`~studentfloat.models.KVCacheScheme`.
    texts
        As for :func:`~studentfloat.models.text.load_text`. Rows are ranked by their mean.
    windows, window_length
        How many of each text, and tokens in each.
    weights_only
        Weight errors alone, no evaluation.
    embeddings, head
        Quantize those too.
    seed
        Seed for the bootstrap.
    hardware
        What to cost the formats as, in silicon; None does without.
    """

    model: str = "smollm2-135m"
    formats: tuple[str, ...] = DEFAULT_FORMATS
    methods: tuple[str, ...] = ("rtn",)
    calibration: str | None = None
    calibration_windows: int = 32
    calibration_length: int = 512
    activations: str | None = None
    kv: str | None = None
    block_size: int | str = 128
    scale_rule: str = "absmax"
    scale_dtype: str = "bfloat16"
    texts: tuple[str, ...] = DEFAULT_TEXTS
    windows: int = 12
    window_length: int = 384
    weights_only: bool = False
    embeddings: bool = False
    head: bool = False
    seed: int = 0
    hardware: HardwareOptions | None = None
    trust: Trust = field(default_factory=Trust)

    def study(self) -> StudyOptions:
        """The same as a study of one model.

        Raises
        ------
        ConfigError
            On a number that is out of range.
        """
        if self.windows < 1 or self.window_length < 2:
            raise ConfigError(
                f"--windows {self.windows} --window-length {self.window_length}: at least one "
                "window of two tokens"
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: a whole number from 0 up")
        texts = () if self.weights_only else self.texts
        for text in texts:
            if texts.count(text) > 1:
                raise ConfigError(f"the text {text} is given twice")
        if not texts and not self.weights_only:
            raise ConfigError("no texts to measure on: give one, or ask for weights only")
        return StudyOptions(
            name=self.model,
            title=self.model,
            models=(ModelEntry(self.model, self.model),),
            formats=self.formats,
            schemes=(SchemeSettings(self.block_size, self.scale_rule, self.scale_dtype),),
            methods=self.methods,
            activations=(self.activations,),
            kv=(self.kv,),
            quality=QualitySettings(texts, self.windows, self.window_length),
            hardware=self.hardware,
            calibration=CalibrationSettings(
                self.calibration, self.calibration_windows, self.calibration_length
            ),
            embeddings=self.embeddings,
            head=self.head,
            seed=self.seed,
            trust=self.trust,
        )
