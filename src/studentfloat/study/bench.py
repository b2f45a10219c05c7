"""A model in memory that is quantized in place, measured, and made as it was again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from studentfloat.errors import ConfigError
from studentfloat.formats import Format
from studentfloat.models import ModelSource
from studentfloat.progress import Progress, silent
from studentfloat.quantize import Method, Scheme
from studentfloat.records import (
    Baseline,
    Configuration,
    Measurement,
    Row,
    SkippedTensor,
    TensorError,
    TensorQuantization,
)
from studentfloat.records.metrics import measure
from studentfloat.study.variants import Variant

if TYPE_CHECKING:
    from torch import Tensor

    from studentfloat.evaluate import EvaluationText, OriginalOutputs, WindowScores
    from studentfloat.models import (
        Calibration,
        CalibrationWindows,
        LoadedModel,
        QuantizedModel,
        WeightSite,
    )

__all__ = ["Bench", "Quantized", "baseline_of", "quality_row"]


@dataclass(frozen=True)
class Quantized:
    """What quantizing did to the weights, all together.

    Attributes
    ----------
    error, energy
        Sums over all quantized weights of the squared error and of the squares.
    records
        How each weight was quantized, for methods beyond rounding to nearest.
    note
        What a reader must know.
    result
        The method's own account; None for rounding to nearest.
    """

    tensors: tuple[TensorError, ...]
    error: float
    energy: float
    bits_per_weight: float
    records: tuple[TensorQuantization, ...] = ()
    note: str = ""
    result: QuantizedModel | None = None


class Bench:
    """A model, its weights as they were, and the place where formats are put to the test.

    Parameters
    ----------
    source
        The model; loading it is the constructor's work.
    embeddings, head
        Quantize those too.
    tokenizer
        Whether a text will be read.

    Attributes
    ----------
    model, sites, skipped
        The model, the weights that are quantized, and the tensors that are not.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        embeddings: bool = False,
        head: bool = False,
        tokenizer: bool = True,
    ) -> None:
        from studentfloat.models import load_model, walk_weights

        self.model: LoadedModel = load_model(source, tokenizer=tokenizer)
        sites, skipped = walk_weights(self.model.module, embeddings=embeddings, head=head)
        self.sites: list[WeightSite] = sites
        self.skipped: tuple[SkippedTensor, ...] = tuple(skipped)
        self._embeddings, self._head = embeddings, head
        self._originals = [site.parameter.detach().clone() for site in sites]
        weights = {id(site.parameter) for site in sites}
        # Methods that smooth fold their scales into norms and biases.
        self._others = [
            (parameter, parameter.detach().clone())
            for parameter in self.model.module.parameters()
            if id(parameter) not in weights and parameter.dim() < 2
        ]
        self._cuts: dict[Calibration, CalibrationWindows] = {}

    def windows(self, text: EvaluationText, *, count: int, length: int) -> Tensor:
        """Windows of a text in the model's tokens.

        Raises
        ------
        ConfigError
            If the model takes no plain text.
        """
        from studentfloat.evaluate import cut_windows
        from studentfloat.models import ModelKind

        if self.model.kind is ModelKind.OTHER:
            raise ConfigError(
                f"{self.model.source.name} is a {self.model.kind.value}: its quality is not "
                "measured here, use --weights-only"
            )
        return cut_windows(text, self.model, count=count, length=length)

    def quantize(
        self,
        scheme: Scheme,
        method: Method,
        calibration: Calibration | None = None,
        progress: Progress = silent,
    ) -> Quantized:
        """Put weights in a format in place; they must be as they were.

        Parameters
        ----------
        calibration
            For methods and scale rules that see a model's inputs.
        progress
            Told the share done of this, and what is being done.
        """
        needs_inputs = method.needs_inputs(scheme)
        if method == Method() and not needs_inputs:
            return self._round(scheme, progress)
        from studentfloat.models import quantize_model

        result = quantize_model(
            self.model,
            scheme,
            method,
            self._cut(calibration) if needs_inputs else None,
            embeddings=self._embeddings,
            head=self._head,
            progress=progress,
        )
        return _summarize(result, dict(zip(self.sites, self._originals, strict=True)))

    def _cut(self, calibration: Calibration | None) -> CalibrationWindows:
        assert calibration is not None, "a calibrated method without calibration"
        if calibration not in self._cuts:
            self._cuts[calibration] = calibration.cut(self.model)
        return self._cuts[calibration]

    def _round(self, scheme: Scheme, progress: Progress) -> Quantized:
        tensors, error, energy, bits, count = [], 0.0, 0.0, 0.0, 0
        for i, (site, original) in enumerate(zip(self.sites, self._originals, strict=True)):
            record, its_error, its_energy = _quantize_site(site, original, scheme)
            tensors.append(record)
            error, energy = error + its_error, energy + its_energy
            bits += record.bits_per_weight * original.numel()
            count += original.numel()
            progress((i + 1) / len(self.sites), "")
        return Quantized(tuple(tensors), error, energy, bits / count)

    @contextmanager
    def at_run_time(
        self, quantized: Quantized | None, activations: Scheme | None, kv: Scheme | None
    ) -> Iterator[list[str]]:
        """Activations and cache in their formats while the model runs; yields notes of it.

        The notes are complete once the ``with`` block ends.
        """
        from studentfloat.models import (
            ActivationScheme,
            KVCacheScheme,
            quantized_activations,
            quantized_kv_cache,
        )

        said: list[str] = []
        with ExitStack() as stack:
            report = None
            if activations is not None:
                left = stack.enter_context(
                    quantized_activations(
                        self.model.module,
                        self.sites,
                        ActivationScheme(activations),
                        quantized=None if quantized is None else quantized.result,
                    )
                )
                said += [f"activations in {activations.format_name} per token", *left]
            if kv is not None:
                cache = quantized_kv_cache(self.model.module, KVCacheScheme(kv))
                report = stack.enter_context(cache)
            yield said
            if report is not None and kv is not None:
                said.append(
                    f"KV cache in {kv.format_name}: {report.bytes_per_token:.0f} bytes per token "
                    f"instead of {report.bytes_per_token_16bit:.0f} in 16 bits"
                )
                said += sorted(set(report.notes.values()))

    def score(
        self,
        quantized: Quantized,
        windows: Tensor,
        original: OriginalOutputs,
        *,
        activations: Scheme | None = None,
        kv: Scheme | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> tuple[WindowScores, list[str]]:
        """Hold the model as it is now against the original on windows; and what to note."""
        from studentfloat.evaluate import score_windows

        with self.at_run_time(quantized, activations, kv) as said:
            scores = score_windows(self.model, windows, original, tick=tick)
        return scores, said

    def restore(self) -> None:
        """Everything as it was."""
        for site, original in zip(self.sites, self._originals, strict=True):
            site.parameter.data.copy_(original)
        for parameter, original in self._others:
            parameter.data.copy_(original)


def quality_row(
    configuration: Configuration,
    variant: Variant,
    quantized: Quantized,
    *,
    scores: WindowScores | None = None,
    text: str = "",
    notes: Sequence[str] = (),
) -> Row:
    """The row of a table: what was asked, what quantizing did, how the model scored.

    Parameters
    ----------
    scores, text
        On one text, and the text's SHA-256; None of weights alone.
    notes
        What a reader must know beside what the variant and quantizing say.
    """
    assert variant.scheme is not None
    code = variant.scheme.code
    nmse = quantized.error / quantized.energy if quantized.energy else 0.0
    scored = () if scores is None else measure(text, scores.windows, scores.tokens)
    return Row.of(
        configuration,
        bits=variant.scheme.code_bits,
        bits_per_weight=quantized.bits_per_weight,
        values=code.levels if isinstance(code, Format) else (),
        measures=(Measurement("weight_nmse", nmse), *scored),
        note="; ".join(part for part in (variant.note, quantized.note, *notes) if part),
        tensors=quantized.tensors,
        # Times differ from run to run; they are in the log.
        weights=tuple(replace(record, seconds=0.0) for record in quantized.records),
    )


def baseline_of(nll: Sequence[float], text: str, window_start: str | None = None) -> Baseline:
    """The original's own figures on a text; none of a model that gives no likelihoods."""
    return Baseline(measure(text, {"nll": nll}, {}), window_start)


def _summarize(result: QuantizedModel, originals: Mapping[WeightSite, Tensor]) -> Quantized:
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
    return Quantized(
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
