"""The main job: what each format costs a model. Joins quantize, models and evaluate."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from studentfloat.errors import ConfigError, FailureError
from studentfloat.evaluate import mean_and_error, paired_differences, ranks
from studentfloat.models import ModelSource, find_model
from studentfloat.quantize import Recipe, Scheme
from studentfloat.records import (
    Baseline,
    Comparison,
    FormatQuality,
    SkippedTensor,
    TensorError,
    TensorQuantization,
    read_json,
    record_from_json,
    record_to_json,
    write_json,
)
from studentfloat.study.code_pairs import CodePairs, code_pairs_of_model
from studentfloat.study.provenance import make_provenance
from studentfloat.study.requests import (
    DEFAULT_FORMATS,
    CompareOptions,
    Request,
    activation_scheme,
    kv_scheme,
    make_requests,
)
from studentfloat.study.silicon import (
    check_hardware,
    with_frontiers,
    with_hardware,
)

if TYPE_CHECKING:
    from torch import Tensor

    from studentfloat.evaluate import EvaluationText, WindowScores
    from studentfloat.models import (
        Calibration,
        CalibrationWindows,
        LoadedModel,
        QuantizedModel,
        WeightSite,
    )

T = TypeVar("T")

__all__ = ["DEFAULT_FORMATS", "CompareOptions", "Progress", "compare"]

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done."""

# Goes into every cell's address: raise it when what a cell means changes.
_CELL_VERSION = 3
# Quantizing and restoring weights costs about this share of scoring one window.
_QUANTIZE_COST = 1.5


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
    requests = make_requests(options)
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
    needs_inputs = any(request.needs_inputs for request in requests)
    calibration = _calibration(options) if needs_inputs else None
    cells = _Cells(directory, _address(options, source, text), _address_of(calibration))
    rows = {request.name: cells.read(request) for request in requests}
    baseline = cells.read_baseline()
    skipped = cells.read_skipped()
    missing = [request for request in requests if rows[request.name] is None]
    if missing or baseline is None or skipped is None:
        run = _Run(options, source, text, cells, progress, done=len(requests) - len(missing))
        run.calibration = calibration
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
        asked = [r for r in requests if r.unit_format is not None]
        several = [r.name for r in requests if r.unit_format is None]
        if several:
            caution = f"{', '.join(several)}: several formats each, so no one unit to cost"
            result = replace(result, cautions=(*result.cautions, caution))
        codes = CodePairs(problem="with --weights-only no text is run")
        if text is not None:
            pairs = {request.name: (request.scheme, request.scheme) for request in asked}
            codes = code_pairs_of_model(source, pairs, text=text, progress=progress)
        formats = [(request.name, request.asked) for request in asked]
        result = with_hardware(result, formats, options.hardware, codes, progress=progress)
    progress(1.0, "done")
    return result


def _load_text(options: CompareOptions) -> EvaluationText:
    from studentfloat.evaluate import load_text

    return load_text(options.text)


def _calibration(options: CompareOptions) -> Calibration:
    from studentfloat.models import Calibration

    return Calibration(
        text=options.calibration,
        windows=options.calibration_windows,
        window_length=options.calibration_length,
    )


def _address_of(calibration: Calibration | None) -> dict[str, Any]:
    """What a calibrated row depends on beside all that the others do."""
    if calibration is None:
        return {}
    from studentfloat.models.text import load_calibration_text

    text = load_calibration_text(calibration.text)
    return {**asdict(calibration), "text": text.sha256}


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
        self.calibration: Calibration | None = None
        self._cut: CalibrationWindows | None = None

    def prepare(self, rows: int) -> tuple[Baseline, tuple[SkippedTensor, ...]]:
        """Load the model, cut windows, compute the original's outputs."""
        from studentfloat.evaluate import OriginalOutputs, cut_windows
        from studentfloat.models import ModelKind, load_model, walk_weights

        options = self._options
        self._progress(0.0, f"loading {options.model}")
        self._model: LoadedModel = load_model(
            self._source, tokenizer=self._text is not None or self.calibration is not None
        )
        sites, skipped = walk_weights(
            self._model.module, embeddings=options.embeddings, head=options.head
        )
        self._sites: list[WeightSite] = sites
        self._originals = [site.parameter.detach().clone() for site in sites]
        weights = {id(site.parameter) for site in sites}
        # Methods that smooth fold their scales into norms and biases.
        self._others = [
            (parameter, parameter.detach().clone())
            for parameter in self._model.module.parameters()
            if id(parameter) not in weights and parameter.dim() < 2
        ]
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

    def measure(self, request: Request) -> FormatQuality:
        """Quantize all weights to one format, score the model, keep the row."""
        from studentfloat.evaluate import WindowScores, score_windows

        started = time.monotonic()
        quantized = self._quantize(request)
        note = "; ".join(part for part in (request.note, quantized.note) if part)
        scores = WindowScores()
        if self._windows is not None:
            with self._at_run_time(quantized) as said:
                scores = score_windows(
                    self._model,
                    self._windows,
                    self._original,
                    tick=lambda: self._tick(1, request.name),
                )
            note = "; ".join(part for part in (note, *said) if part)
        row = FormatQuality(
            name=request.name,
            method=request.recipe.name,
            block_size=request.scheme.block_size,
            scale_rule=request.recipe.scale_rule or request.scheme.scale_rule.name,
            scale_dtype=request.scheme.scale_dtype_name,
            bits=request.scheme.format.bits,
            bits_per_weight=quantized.bits_per_weight,
            weight_nmse=quantized.error / quantized.energy if quantized.energy else 0.0,
            values=request.scheme.format.levels,
            note=note,
            lookup_bits=request.lookup_bits,
            seconds=round(time.monotonic() - started, 2),
            tensors=quantized.tensors,
            weights=quantized.records,
            **_quality_fields(scores),
        )
        self._cells.write(request, row)
        self._restore()
        gc.collect()
        return row

    def _quantize(self, request: Request) -> _Quantized:
        """Put one row's weights in place."""
        if request.recipe == Recipe() and not request.needs_inputs:
            return self._round(request)
        from studentfloat.models import quantize_model

        if request.needs_inputs and self._cut is None:
            assert self.calibration is not None
            self._cut = self.calibration.cut(self._model)
        done = 0.0

        def progress(share: float, what: str) -> None:
            nonlocal done
            self._tick(_QUANTIZE_COST * (share - done), f"{request.name}: {what}")
            done = share

        result = quantize_model(
            self._model,
            request.scheme,
            request.recipe,
            self._cut if request.needs_inputs else None,
            embeddings=self._options.embeddings,
            head=self._options.head,
            progress=progress,
        )
        return _summarize(result, dict(zip(self._sites, self._originals, strict=True)))

    def _round(self, request: Request) -> _Quantized:
        tensors, error, energy, bits, count = [], 0.0, 0.0, 0.0, 0
        for site, original in zip(self._sites, self._originals, strict=True):
            record, its_error, its_energy = _quantize_site(site, original, request.scheme)
            tensors.append(record)
            error, energy = error + its_error, energy + its_energy
            bits += record.bits_per_weight * original.numel()
            count += original.numel()
            self._tick(_QUANTIZE_COST * 1 / len(self._sites), request.name)
        return _Quantized(tuple(tensors), error, energy, bits / count)

    @contextmanager
    def _at_run_time(self, quantized: _Quantized) -> Iterator[list[str]]:
        """Activations and cache in their formats, while windows are scored; and notes of it."""
        from studentfloat.models import (
            ActivationScheme,
            KVCacheScheme,
            quantized_activations,
            quantized_kv_cache,
        )

        said: list[str] = []
        activations, kv = activation_scheme(self._options), kv_scheme(self._options)
        with ExitStack() as stack:
            report = None
            if activations is not None:
                left = stack.enter_context(
                    quantized_activations(
                        self._model.module,
                        self._sites,
                        ActivationScheme(activations),
                        quantized=quantized.result,
                    )
                )
                said += [f"activations in {activations.format_name} per token", *left]
            if kv is not None:
                cache = quantized_kv_cache(self._model.module, KVCacheScheme(kv))
                report = stack.enter_context(cache)
            yield said
            if report is not None and kv is not None:
                said.append(
                    f"KV cache in {kv.format_name}: {report.bytes_per_token:.0f} bytes per token "
                    f"instead of {report.bytes_per_token_16bit:.0f} in 16 bits"
                )
                said += sorted(set(report.notes.values()))

    def _restore(self) -> None:
        """Everything as it was, for the next row."""
        for site, original in zip(self._sites, self._originals, strict=True):
            site.parameter.data.copy_(original)
        for parameter, original in self._others:
            parameter.data.copy_(original)

    def _tick(self, steps: float, what: str) -> None:
        self._steps_done += steps
        self._progress(min(1.0, self._steps_done / self._steps), what)


@dataclass(frozen=True)
class _Quantized:
    """What quantizing to one row's scheme did to the weights, all together."""

    tensors: tuple[TensorError, ...]
    error: float
    energy: float
    bits_per_weight: float
    records: tuple[TensorQuantization, ...] = ()
    note: str = ""
    result: QuantizedModel | None = None


def _summarize(result: QuantizedModel, originals: Mapping[WeightSite, Tensor]) -> _Quantized:
    errors, energies, tensors = [], [], []
    energy_of = {site.name: float(w.double().square().sum()) for site, w in originals.items()}
    for record in result.records:
        energies.append(energy_of[record.name])
        # None only for weights that came quantized from elsewhere.
        nmse = record.weight_nmse or 0.0
        errors.append(nmse * energies[-1])
        tensors.append(
            TensorError(
                name=record.name,
                layer=record.layer,
                kind=record.kind,
                shape=record.shape,
                nmse=nmse,
                snr_db=_decibels(nmse),
                bits_per_weight=record.bits_per_weight,
            )
        )
    # Where a scale went differs from layer to layer; that it went somewhere is what counts.
    said = Counter(
        note.partition(" into ")[0] for record in result.records for note in record.notes
    )
    return _Quantized(
        tuple(tensors),
        sum(errors),
        sum(energies),
        result.bits_per_weight,
        result.records,
        "; ".join(f"{count} of {len(tensors)} weights: {note}" for note, count in said.items()),
        result,
    )


def _decibels(nmse: float) -> float | None:
    return -10 * math.log10(nmse) if nmse else None


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
        snr_db=_decibels(nmse),
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
        "activations": _scheme_values(activation_scheme(options)),
        "kv": _scheme_values(kv_scheme(options)),
        "versions": [torch.__version__, transformers.__version__],
    }


def _scheme_values(scheme: Scheme | None) -> list[Any] | None:
    if scheme is None:
        return None
    return [scheme.scale_rule.name, [[f.bits, f.values, f.codes] for f in scheme.formats]]


class _Cells:
    """Finished rows on disk, each under the hash of all that it depends on."""

    def __init__(
        self, directory: Path | None, common: dict[str, Any], calibration: dict[str, Any]
    ) -> None:
        self._directory = None if directory is None else directory / "cells"
        self._common, self._calibration = common, calibration

    def read(self, request: Request) -> FormatQuality | None:
        row = self._read(self._file(self._address(request)), FormatQuality)
        if row is None:
            return None
        return replace(row, name=request.name, note=request.note, lookup_bits=request.lookup_bits)

    def write(self, request: Request, row: FormatQuality) -> None:
        if self._directory is not None:
            write_json(self._file(self._address(request)), record_to_json(row))

    def _address(self, request: Request) -> dict[str, Any]:
        return {**request.address, "inputs": self._calibration if request.needs_inputs else None}

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
