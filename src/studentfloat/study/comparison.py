"""The main job: what each format costs a model. Joins quantize, models and evaluate."""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from studentfloat.errors import ConfigError, FailureError
from studentfloat.evaluate import paired_differences, ranks
from studentfloat.models import ModelSource, find_model
from studentfloat.progress import Progress, silent
from studentfloat.quantize import Scheme
from studentfloat.records import (
    Baseline,
    Comparison,
    FormatQuality,
    SkippedTensor,
    read_json,
    record_from_json,
    record_to_json,
    write_json,
)
from studentfloat.records.provenance import make_provenance
from studentfloat.study.bench import Bench, baseline_of, quality_row
from studentfloat.study.code_pairs import CodePairs, code_pairs_of_model
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

    from studentfloat.evaluate import EvaluationText
    from studentfloat.models import Calibration

T = TypeVar("T")

__all__ = ["DEFAULT_FORMATS", "CompareOptions", "compare"]

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
    progress: Progress = silent,
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
    """The bench with the model, its original outputs, and where finished rows go."""

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

    def prepare(self, rows: int) -> tuple[Baseline, tuple[SkippedTensor, ...]]:
        """Load the model, cut windows, compute the original's outputs."""
        from studentfloat.evaluate import OriginalOutputs

        options = self._options
        self._progress(0.0, f"loading {options.model}")
        self._bench = Bench(
            self._source,
            embeddings=options.embeddings,
            head=options.head,
            tokenizer=self._text is not None or self.calibration is not None,
        )
        per_row = _QUANTIZE_COST + (0 if self._text is None else options.windows)
        pending = rows - self._already
        self._steps = pending * per_row + (0 if self._text is None else options.windows)
        if self._text is None:
            baseline = Baseline(perplexity=None)
        else:
            self._windows = self._bench.windows(
                self._text, count=options.windows, length=options.window_length
            )
            self._original = OriginalOutputs(
                self._bench.model, self._windows, tick=lambda: self._tick(1, "original model")
            )
            baseline = baseline_of(self._original.nll)
        self._cells.write_baseline(baseline, self._bench.skipped)
        return baseline, self._bench.skipped

    def measure(self, request: Request) -> FormatQuality:
        """Quantize all weights to one format, score the model, keep the row."""
        from studentfloat.evaluate import WindowScores

        started = time.monotonic()
        done = 0.0

        def progress(share: float, what: str) -> None:
            nonlocal done
            shown = f"{request.name}: {what}" if what else request.name
            self._tick(_QUANTIZE_COST * (share - done), shown)
            done = share

        quantized = self._bench.quantize(
            request.scheme, request.method, self.calibration, progress=progress
        )
        scores, notes = WindowScores(), list[str]()
        if self._windows is not None:
            scores, notes = self._bench.score(
                quantized,
                self._windows,
                self._original,
                activations=activation_scheme(self._options),
                kv=kv_scheme(self._options),
                tick=lambda: self._tick(1, request.name),
            )
        seconds = round(time.monotonic() - started, 2)
        row = quality_row(request, quantized, scores, notes=notes, seconds=seconds)
        self._cells.write(request, row)
        self._bench.restore()
        gc.collect()
        return row

    def _tick(self, steps: float, what: str) -> None:
        self._steps_done += steps
        self._progress(min(1.0, self._steps_done / self._steps), what)


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
            seed=options.seed,
            model_sha256=source.sha256,
            model_source=source.description,
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

    def write_baseline(self, baseline: Baseline, skipped: tuple[SkippedTensor, ...]) -> None:
        if self._directory is not None:
            write_json(self._file("baseline"), record_to_json(baseline))
            write_json(self._file("skipped"), record_to_json(_Skipped(skipped)))

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
