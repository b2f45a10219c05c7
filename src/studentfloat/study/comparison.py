"""The main job: what each format costs a model. Joins quantize, models and evaluate."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from studentfloat.errors import ConfigError, FailureError
from studentfloat.evaluate import mean_and_error, paired_differences, ranks
from studentfloat.formats import PUBLISHED_ELEVEN, Format, resolve_format
from studentfloat.models import ModelSource, Trust, find_model
from studentfloat.quantize import SCALE_RULES, Scheme
from studentfloat.records import (
    Baseline,
    Comparison,
    FormatQuality,
    SkippedTensor,
    TensorError,
    read_json,
    record_from_json,
    record_to_json,
    write_json,
)
from studentfloat.study.code_pairs import CodePairs, code_pairs_of_model, held_format
from studentfloat.study.provenance import make_provenance
from studentfloat.study.silicon import (
    HardwareOptions,
    check_hardware,
    with_frontiers,
    with_hardware,
)

if TYPE_CHECKING:
    from torch import Tensor

    from studentfloat.evaluate import EvaluationText, WindowScores
    from studentfloat.models import LoadedModel, WeightSite

T = TypeVar("T")

__all__ = ["DEFAULT_FORMATS", "CompareOptions", "Progress", "compare"]

DEFAULT_FORMATS = (*PUBLISHED_ELEVEN, "e2m1+sr@signed-absmax", "bos4-nu11@signed-absmax")
"""The paper's eleven, super-range scaled as it should be, and a derived codebook (ν = 11 is the
embedded model's own, about)."""

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done."""

# Goes into every cell's address: raise it when what a cell means changes.
_CELL_VERSION = 2
# Quantizing and restoring weights costs about this share of scoring one window.
_QUANTIZE_COST = 1.5


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how.

    Attributes
    ----------
    model
        As for :func:`~studentfloat.models.find_model`.
    formats
        Names or ``.toml`` files, each with an optional ``@scale-rule``.
    block_size, scale_rule, scale_dtype
        As for :class:`~studentfloat.quantize.Scheme`; the rule for formats without their own.
    text
        A file, or None for the text that every CPython carries.
    windows, window_length
        How many, and tokens in each.
    weights_only
        Weight errors alone, no evaluation.
    embeddings, head
        Quantize those too.
    seed
        Of the bootstrap.
    hardware
        What to cost the formats as, in silicon; None does without.
    """

    model: str = "smollm2-135m"
    formats: tuple[str, ...] = DEFAULT_FORMATS
    block_size: int | str = 128
    scale_rule: str = "absmax"
    scale_dtype: str = "float32"
    text: str | None = None
    windows: int = 12
    window_length: int = 384
    weights_only: bool = False
    embeddings: bool = False
    head: bool = False
    seed: int = 0
    hardware: HardwareOptions | None = None
    trust: Trust = field(default_factory=Trust)


def _check_writable(directory: Path | None) -> None:
    """Find out before the work, not after it, that its results have nowhere to go."""
    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise FailureError(
            f"cannot write to the output directory {directory}: {error.strerror}"
        ) from error


@dataclass(frozen=True)
class _Request:
    """One row of the table to be."""

    name: str
    scheme: Scheme
    note: str
    format: Format
    """As it was asked for; the scheme's is rounded where the silicon would round it."""
    lookup_bits: int | None = None


def compare(
    options: CompareOptions,
    *,
    directory: Path | None = None,
    progress: Progress = lambda share, what: None,
) -> Comparison:
    """Quantize a model to each format in turn and measure what it lost.

    Parameters
    ----------
    options
        What to compare.
    directory
        Where finished rows are kept, one file each, so that an interrupted run goes on
        where it stopped; None keeps nothing.
    progress
        Told about every step.

    Raises
    ------
    StudentFloatError
        On bad options, a model or text that cannot be used, or a disk that is full.
    """
    requests = _requests(options)
    if options.windows < 1 or options.window_length < 2:
        raise ConfigError(
            f"--windows {options.windows} --window-length {options.window_length}: at least one "
            "window of two tokens"
        )
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: a whole number from 0 up")
    if options.hardware is not None:
        check_hardware(options.hardware)
    text = None if options.weights_only else _load_text(options)
    progress(0.0, f"finding model {options.model}")
    source = find_model(options.model, options.trust)
    _check_writable(directory)
    cells = _Cells(directory, _address(options, source, text))
    rows = {request.name: cells.read(request) for request in requests}
    baseline = cells.read_baseline()
    skipped = cells.read_skipped()
    missing = [request for request in requests if rows[request.name] is None]
    if missing or baseline is None or skipped is None:
        run = _Run(options, source, text, cells, progress, done=len(requests) - len(missing))
        baseline, skipped = run.prepare(len(requests))
        for request in missing:
            rows[request.name] = run.measure(request)
        del run  # the codes of the silicon's energy need a model as it was
        gc.collect()
    complete = [row for row in rows.values() if row is not None]
    result = _assemble(options, source, text, rows=complete, baseline=baseline, skipped=skipped)
    if options.hardware is None:
        result = with_frontiers(result)
    else:
        pairs = {request.name: (request.scheme, request.scheme) for request in requests}
        codes = CodePairs(problem="with --weights-only no text is run")
        if text is not None:
            codes = code_pairs_of_model(source, pairs, text=text, progress=progress)
        formats = [(request.name, request.format) for request in requests]
        result = with_hardware(result, formats, options.hardware, codes, progress=progress)
    progress(1.0, "done")
    return result


def _requests(options: CompareOptions) -> list[_Request]:
    requests: list[_Request] = []
    for spec in options.formats:
        name, rule = _split_rule(spec)
        number_format = resolve_format(name)
        held, lookup_bits = _as_in_silicon(number_format, options.hardware)
        scheme = Scheme(
            held,
            block_size=options.block_size,
            scale_rule=rule or options.scale_rule,
            scale_dtype=options.scale_dtype,
        )
        if scheme.scale_rule.weighted:
            raise ConfigError(
                f"scale rule {scheme.scale_rule.name!r} needs a weight per element, which "
                f"`compare` does not have: one of "
                f"{', '.join(r.name for r in SCALE_RULES.values() if not r.weighted)}"
            )
        shown = f"{number_format.name}@{rule}" if rule else number_format.name
        note = _note(scheme)
        if shown in {request.name for request in requests}:
            raise ConfigError(f"format {shown!r} is given twice")
        for other in requests:
            same_name = other.format.name == number_format.name
            if same_name and other.format != number_format:
                raise ConfigError(
                    f"two different formats are called {number_format.name!r}: rename one"
                )
        requests.append(_Request(shown, scheme, note, number_format, lookup_bits))
    if not requests:
        raise ConfigError("no formats to compare: give at least one, such as --formats nf4,sf4")
    return requests


def _as_in_silicon(
    number_format: Format, hardware: HardwareOptions | None
) -> tuple[Format, int | None]:
    """The values to measure: where silicon is costed, those that it would hold."""
    if hardware is None:
        return number_format, None
    held = held_format(number_format, hardware.lookup_bits)
    return held, None if held is number_format else hardware.lookup_bits


def _note(scheme: Scheme) -> str:
    """What a reader of the row must know."""
    words = []
    if scheme.scale_rule.for_comparison:
        words.append(f"{scheme.scale_rule.name} scaling: for comparison only")
    if scheme.format.minimum >= 0 or scheme.format.maximum <= 0:
        side = "negative" if scheme.format.minimum >= 0 else "positive"
        words.append(f"it has no {side} levels: {side} weights take the level nearest to zero")
    return "; ".join(words)


def _split_rule(spec: str) -> tuple[str, str]:
    """Split ``format@scale-rule``; a file's path may hold an '@' of its own."""
    name, at, rule = spec.rpartition("@")
    if not at or "/" in rule or rule.lower().endswith(".toml"):
        return spec, ""
    return name, rule


def _load_text(options: CompareOptions) -> EvaluationText:
    from studentfloat.evaluate import load_text

    return load_text(options.text)


class _Run:
    """The model in memory, its weights as they were, and its original outputs."""

    def __init__(
        self,
        options: CompareOptions,
        source: ModelSource,
        text: EvaluationText | None,
        cells: _Cells,
        progress: Progress,
        *,
        done: int,
    ) -> None:
        self._options, self._source, self._text = options, source, text
        self._cells, self._progress = cells, progress
        self._steps_done = 0.0
        self._steps = 1.0
        self._already = done
        self._windows: Tensor | None = None

    def prepare(self, rows: int) -> tuple[Baseline, tuple[SkippedTensor, ...]]:
        """Load the model, cut windows, compute the original's outputs."""
        from studentfloat.evaluate import OriginalOutputs, cut_windows
        from studentfloat.models import ModelKind, load_model, walk_weights

        options = self._options
        self._progress(0.0, f"loading {options.model}")
        self._model: LoadedModel = load_model(self._source, tokenizer=self._text is not None)
        sites, skipped = walk_weights(
            self._model.module, embeddings=options.embeddings, head=options.head
        )
        self._sites: list[WeightSite] = sites
        self._originals = [site.parameter.detach().clone() for site in sites]
        per_row = _QUANTIZE_COST + (0 if self._text is None else options.windows)
        pending = rows - self._already
        self._steps = pending * per_row + (0 if self._text is None else options.windows)
        if self._text is None:
            baseline = Baseline(perplexity=None)
        else:
            if self._model.kind is ModelKind.OTHER:
                raise ConfigError(
                    f"{options.model} is a {self._model.kind.value}: its quality is not "
                    "measured here, use --weights-only"
                )
            self._windows = cut_windows(
                self._text, self._model, count=options.windows, length=options.window_length
            )
            self._original = OriginalOutputs(
                self._model, self._windows, tick=lambda: self._tick(1, "original model")
            )
            baseline = _baseline(self._original.nll)
        self._cells.write_baseline(baseline, skipped)
        return baseline, tuple(skipped)

    def measure(self, request: _Request) -> FormatQuality:
        """Quantize all weights to one format, score the model, keep the row."""
        from studentfloat.evaluate import WindowScores, score_windows

        started = time.monotonic()
        tensors, error, energy, bits, count = [], 0.0, 0.0, 0.0, 0
        for site, original in zip(self._sites, self._originals, strict=True):
            record, its_error, its_energy = _quantize_site(site, original, request.scheme)
            tensors.append(record)
            error, energy = error + its_error, energy + its_energy
            bits += record.bits_per_weight * original.numel()
            count += original.numel()
            self._tick(_QUANTIZE_COST * 1 / len(self._sites), request.name)
        scores = WindowScores()
        if self._windows is not None:
            scores = score_windows(
                self._model,
                self._windows,
                self._original,
                tick=lambda: self._tick(1, request.name),
            )
        row = FormatQuality(
            name=request.name,
            method="rtn",
            block_size=request.scheme.block_size,
            scale_rule=request.scheme.scale_rule.name,
            scale_dtype=request.scheme.scale_dtype_name,
            bits=request.scheme.format.bits,
            bits_per_weight=bits / count,
            weight_nmse=error / energy if energy else 0.0,
            values=request.scheme.format.levels,
            note=request.note,
            lookup_bits=request.lookup_bits,
            seconds=round(time.monotonic() - started, 2),
            tensors=tuple(tensors),
            **_quality_fields(scores),
        )
        self._cells.write(request, row)
        gc.collect()
        return row

    def _tick(self, steps: float, what: str) -> None:
        self._steps_done += steps
        self._progress(min(1.0, self._steps_done / self._steps), what)


def _quantize_site(
    site: WeightSite, original: Tensor, scheme: Scheme
) -> tuple[TensorError, float, float]:
    """Quantize one weight in place; its record, squared error and sum of squares."""
    import torch

    from studentfloat.quantize import fake_quantize

    before = site.matrix(original)
    after, bits = fake_quantize(before, scheme, name=site.name)
    error = float((after - before).square_().sum(dtype=torch.float64))
    energy = float(before.square().sum(dtype=torch.float64))
    site.apply(lambda _: after)
    nmse = error / energy if energy else 0.0
    record = TensorError(
        name=site.name,
        layer=site.layer,
        kind=site.role,
        shape=tuple(original.shape),
        nmse=nmse,
        snr_db=-10 * math.log10(nmse) if nmse else None,
        bits_per_weight=bits,
    )
    return record, error, energy


def _baseline(nll: Sequence[float]) -> Baseline:
    if not nll:
        return Baseline(perplexity=None)
    perplexity, error = _perplexity(nll)
    return Baseline(perplexity, error, tuple(nll))


def _perplexity(nll: Sequence[float]) -> tuple[float, float | None]:
    """exp of the mean, and its standard error by the delta method."""
    mean, error = mean_and_error(nll)
    return math.exp(mean), None if error is None else math.exp(mean) * error


def _quality_fields(scores: WindowScores) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "window_nll": scores.nll,
        "window_kl": scores.kl,
        "window_agreement": scores.agreement,
        "window_output_nmse": scores.output_nmse,
    }
    if scores.nll:
        fields["perplexity"], fields["perplexity_se"] = _perplexity(scores.nll)
    for name, values in (
        ("kl", scores.kl),
        ("top1_agreement", scores.agreement),
        ("output_nmse", scores.output_nmse),
    ):
        if values:
            fields[name], fields[f"{name}_se"] = mean_and_error(values)
    return fields


def _assemble(
    options: CompareOptions,
    source: ModelSource,
    text: EvaluationText | None,
    *,
    rows: list[FormatQuality],
    baseline: Baseline,
    skipped: tuple[SkippedTensor, ...],
) -> Comparison:
    """Rank the rows by the sharpest measure there is, and put everything together."""
    measure, per_window = _ranking(rows)
    if per_window:
        differences = paired_differences(
            measure, {row.name: per_window(row) for row in rows}, seed=options.seed
        )
        rank = ranks([row.name for row in rows], differences)
    else:
        differences = ()
        rank = {
            row.name: 1 + sum(other.weight_nmse < row.weight_nmse for other in rows) for row in rows
        }
    ordered = sorted(
        (replace(row, rank=rank[row.name]) for row in rows),
        key=lambda row: (row.rank or 0, getattr(row, measure)),
    )
    return Comparison(
        model=options.model,
        formats=tuple(ordered),
        baseline=baseline,
        provenance=make_provenance(
            source,
            seed=options.seed,
            text_sha256=None if text is None else text.sha256,
            text_source=None if text is None else text.source,
            settings=_settings(options),
        ),
        ranked_by=measure,
        differences=differences,
        skipped=skipped,
        cautions=source.cautions,
    )


def _settings(options: CompareOptions) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return {key: value for key, value in plain.items() if key != "trust"}


def _ranking(
    rows: list[FormatQuality],
) -> tuple[str, Callable[[FormatQuality], tuple[float, ...]] | None]:
    if all(row.window_kl for row in rows):
        return "kl", lambda row: row.window_kl
    if all(row.window_output_nmse for row in rows):
        return "output_nmse", lambda row: row.window_output_nmse
    return "weight_nmse", None


def _address(
    options: CompareOptions, source: ModelSource, text: EvaluationText | None
) -> dict[str, Any]:
    """Everything but the format that a cell's numbers depend on."""
    import torch
    import transformers

    return {
        "cell_version": _CELL_VERSION,
        "model": [source.sha256, source.settings_sha256],
        "text": None if text is None else text.sha256,
        "windows": None if text is None else [options.windows, options.window_length],
        "embeddings": options.embeddings,
        "head": options.head,
        "versions": [torch.__version__, transformers.__version__],
    }


class _Cells:
    """Finished rows on disk, each under the hash of all that it depends on."""

    def __init__(self, directory: Path | None, common: dict[str, Any]) -> None:
        self._directory = None if directory is None else directory / "cells"
        self._common = common

    def read(self, request: _Request) -> FormatQuality | None:
        row = self._read(self._file(_scheme_address(request)), FormatQuality)
        if row is None:
            return None
        return replace(row, name=request.name, note=request.note, lookup_bits=request.lookup_bits)

    def write(self, request: _Request, row: FormatQuality) -> None:
        if self._directory is not None:
            write_json(self._file(_scheme_address(request)), record_to_json(row))

    def read_baseline(self) -> Baseline | None:
        return self._read(self._file("baseline"), Baseline)

    def read_skipped(self) -> tuple[SkippedTensor, ...] | None:
        record = self._read(self._file("skipped"), _Skipped)
        return None if record is None else record.tensors

    def write_baseline(self, baseline: Baseline, skipped: list[SkippedTensor]) -> None:
        if self._directory is not None:
            write_json(self._file("baseline"), record_to_json(baseline))
            write_json(self._file("skipped"), record_to_json(_Skipped(tuple(skipped))))

    def _file(self, what: Any) -> Path:
        text = json.dumps([self._common, what], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        return (self._directory or Path()) / f"{name}.json"

    def _read(self, file: Path, kind: type[T]) -> T | None:
        if self._directory is None or not file.is_file():
            return None
        try:
            return record_from_json(kind, read_json(file), where=str(file))
        except FailureError:
            return None  # a damaged cell is simply done again


@dataclass(frozen=True)
class _Skipped:
    tensors: tuple[SkippedTensor, ...]


def _scheme_address(request: _Request) -> dict[str, Any]:
    scheme = request.scheme
    return {
        "bits": scheme.format.bits,
        "values": scheme.format.values,
        "codes": scheme.format.codes,
        "block_size": scheme.block_size,
        "scale_rule": scheme.scale_rule.name,
        "scale_dtype": scheme.scale_dtype_name,
        "method": "rtn",
    }
