"""Compute a cell: the model in the state that its configuration asks for, and what is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from studentfloat.errors import DataError, ModelError
from studentfloat.models import ModelSource, find_model
from studentfloat.progress import Progress, silent
from studentfloat.records import LayerLaw, Row, StudyCell
from studentfloat.study.bench import Bench, Quantized, baseline_of, quality_row
from studentfloat.study.code_pairs import CodePairs, code_pairs_of_model
from studentfloat.study.options import StudyOptions
from studentfloat.study.plan import (
    HARDWARE,
    LAWS,
    QUALITY,
    Group,
    Plan,
    PlannedCell,
    digest,
)
from studentfloat.study.resolve import ResolvedModel, described
from studentfloat.study.silicon import cost_units
from studentfloat.study.tasks import load_task
from studentfloat.study.variants import Variant

if TYPE_CHECKING:
    from torch import Tensor

    from studentfloat.evaluate import EvaluationText, OriginalOutputs
    from studentfloat.evaluate.tasks import LoadedTasks
    from studentfloat.models import Calibration

__all__ = ["QUANTIZE_STEPS", "Laboratory"]

QUANTIZE_STEPS = 1.5
"""Quantizing and restoring weights costs about as much as scoring so many windows."""

Share = Callable[[str, Callable[[], "OriginalOutputs"]], "OriginalOutputs"]
Tick = Callable[[float, str], None]


def _alone(key: str, compute: Callable[[], OriginalOutputs]) -> OriginalOutputs:
    del key
    return compute()


class Laboratory:
    """One worker's bench: it keeps the last model, and the state that the model is in.

    Parameters
    ----------
    plan
        The study.
    share
        Where originals' outputs come from that other workers may have computed.
    sources
        Models that were found already, by id.
    say
        Told what is being done, for a log.
    tick
        Told how many steps were just done, a window scored being one, and of what.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        share: Share = _alone,
        sources: Mapping[str, ModelSource] | None = None,
        say: Callable[..., None] = lambda **what: None,
        tick: Tick = silent,
    ) -> None:
        self._plan, self._share, self._say, self._tick = plan, share, say, tick
        self._sources = dict(sources or {})
        self._options: StudyOptions = plan.options
        self._model: _Model | None = None
        self._group: int | None = None
        self._quantized: Quantized | None = None
        self._dirty = False
        self._loaded_tasks: dict[str, LoadedTasks] = {}

    def compute(self, cell: PlannedCell) -> StudyCell:
        """What the cell holds; the same bytes wherever and whenever it is computed."""
        if cell.evaluation == HARDWARE:
            return self.cost([cell])[0]
        group = self._plan.groups[cell.group]
        resolved = self._resolved(group.model)
        if cell.evaluation == LAWS:
            return self._laws(cell, resolved)
        try:
            model = self._enter(group, resolved, cell)
            return self._evaluate(cell, group, model, resolved)
        except BaseException:
            self.leave()
            raise

    def cost(self, cells: Sequence[PlannedCell], progress: Progress = silent) -> list[StudyCell]:
        """What hardware cells hold; several at once use all cores."""
        settings = self._options.hardware
        assert settings is not None
        codes = self._codes(cells, progress) if settings.real_codes else CodePairs()
        self.leave()
        silicon = cost_units(
            [(c.configuration.name, c.unit, c.format) for c in cells if c.format is not None],
            settings,
            codes,
            progress,
        )
        notes = (f"energy is on uniform codes only: {codes.problem}",) if codes.problem else ()
        return [
            StudyCell(
                address=cell.address,
                evaluation=HARDWARE,
                row=Row.of(cell.configuration, hardware=(its,)),
                versions=self._plan.resolution.hardware_versions,
                notes=notes,
            )
            for cell, its in zip(cells, silicon, strict=True)
        ]

    def leave(self) -> None:
        """Forget the state that the model is in: the next cell starts from the original."""
        if self._model is not None and self._dirty:
            self._model.bench.restore()
        self._group, self._quantized, self._dirty = None, None, False

    @property
    def model(self) -> str | None:
        """Name of the model in memory."""
        return None if self._model is None else self._model.name

    def _codes(self, cells: Sequence[PlannedCell], progress: Progress) -> CodePairs:
        """The pairs of codes that meet in the model of these cells, by the cell's row."""
        (name,) = {cell.configuration.model for cell in cells}
        if not self._plan.resolution.texts:
            return CodePairs(problem="with --weights-only no text is run")
        from studentfloat.evaluate import load_text

        assert self._options.quality is not None
        schemes = {}
        for cell in cells:
            variant = self._plan.groups[cell.group].variant
            assert variant is not None
            assert variant.scheme is not None
            schemes[cell.configuration.name] = (variant.scheme, variant.scheme)
        self.leave()
        resolved = self._resolved(name)
        loaded = self._model.bench.model if self._model and self._model.name == name else None
        return code_pairs_of_model(
            self._source(resolved),
            schemes,
            text=load_text(self._options.quality.texts[0]),
            model=loaded,
            progress=progress,
        )

    def _source(self, resolved: ResolvedModel) -> ModelSource:
        """Find a model again, and make sure that it is the one that the study began with."""
        known = self._sources.get(resolved.id)
        if known is not None:
            return known
        source = find_model(resolved.id, self._options.trust)
        here = described(resolved.id, source)
        if here.sha256 != resolved.sha256 or here.settings_sha256 != resolved.settings_sha256:
            raise ModelError(
                f"model {resolved.id} is not the one that the study began with: its files differ"
            )
        return source

    def _resolved(self, name: str) -> ResolvedModel:
        entry = next(entry for entry in self._options.models if entry.name == name)
        resolved = self._plan.resolution.model(entry.id)
        if resolved is None:
            raise ModelError(f"model {entry.id} was not resolved")
        if resolved.problem is not None:
            raise ModelError(resolved.problem)
        return resolved

    def _enter(self, group: Group, resolved: ResolvedModel, cell: PlannedCell) -> _Model:
        """The model loaded, and its weights as the group wants them.

        The original's outputs on the cell's text are had before, while weights are as they were.
        """
        if self._model is None or self._model.name != group.model:
            self.leave()
            self._model = None
            started = time.monotonic()
            self._tick(0.0, f"loading {group.model}")
            self._model = _Model(group.model, resolved, self._source(resolved), self._plan)
            self._say(event="loaded", model=group.model, seconds=time.monotonic() - started)
        if cell.text is not None and not self._model.has_original(cell.text):
            self.leave()
            self._model.original(cell.text, self._share, self._tick)
        if self._group != group.index:
            self.leave()
            variant = group.variant
            if variant is not None and variant.scheme is not None:
                self._dirty = True
                self._quantized = self._model.quantize(variant, self._tick)
            self._group = group.index
        return self._model

    def _evaluate(
        self, cell: PlannedCell, group: Group, model: _Model, resolved: ResolvedModel
    ) -> StudyCell:
        quantized, variant = self._quantized, group.variant
        assert variant is not None
        bits = None if quantized is None else quantized.bits_per_weight
        blank = StudyCell(
            address=cell.address,
            evaluation=cell.evaluation,
            row=Row.of(cell.configuration, bits_per_weight=bits),
            model_sha256=resolved.sha256,
            versions=self._plan.resolution.model_versions,
        )
        if cell.evaluation == QUALITY:
            return self._quality(blank, cell, variant, model)
        from studentfloat.evaluate.tasks import score_tasks

        loaded = self._task(cell.evaluation)
        with model.bench.at_run_time(quantized, variant.activations, variant.kv) as said:
            scores = score_tasks(model.bench.model, loaded)
        return replace(blank, row=replace(blank.row, scores=scores), notes=tuple(said))

    def _quality(
        self, blank: StudyCell, cell: PlannedCell, variant: Variant, model: _Model
    ) -> StudyCell:
        from studentfloat.models.text import window_start

        text = "" if cell.text is None else self._plan.resolution.texts[cell.text].sha256
        blank = replace(blank, text=text or None)
        if self._quantized is None:
            nll = () if cell.text is None else model.original(cell.text, self._share).nll
            start = None if cell.text is None else window_start(model.bench.model)
            baseline = baseline_of(nll, text, start)
            return replace(blank, baseline=baseline, skipped=model.bench.skipped)
        scores, notes = None, list[str]()
        if cell.text is not None:
            scores, notes = model.bench.score(
                self._quantized,
                model.windows(cell.text),
                model.original(cell.text, self._share),
                activations=variant.activations,
                kv=variant.kv,
                tick=lambda: self._tick(1, variant.name),
            )
        row = quality_row(
            cell.configuration, variant, self._quantized, scores=scores, text=text, notes=notes
        )
        return replace(blank, row=row)

    def _task(self, name: str) -> LoadedTasks:
        if name not in self._loaded_tasks:
            problem = self._plan.resolution.task_problems.get(name)
            if problem is not None:
                raise DataError(problem)
            loaded = load_task(self._options, name)
            if loaded.sha256[name] != self._plan.resolution.task_sha256[name]:
                raise DataError(f"the items of {name} are not those that the study began with")
            self._loaded_tasks[name] = loaded
        return self._loaded_tasks[name]

    def _laws(self, cell: PlannedCell, resolved: ResolvedModel) -> StudyCell:
        from studentfloat.profile import profile_model

        profile = profile_model(resolved.id, trust=self._options.trust)
        laws = []
        for tensor in profile.tensors:
            if tensor.laws is None:
                continue
            fit = tensor.laws.student_t
            low, high = fit.degrees_of_freedom_interval or (None, None)
            laws.append(
                LayerLaw(
                    name=tensor.name,
                    layer=tensor.layer,
                    role=tensor.role,
                    degrees_of_freedom=_finite(fit.degrees_of_freedom),
                    degrees_of_freedom_low=_finite(low),
                    degrees_of_freedom_high=_finite(high),
                    ks_difference=tensor.laws.ks_difference,
                    best=tensor.laws.best,
                )
            )
        return StudyCell(
            address=cell.address,
            evaluation=LAWS,
            row=Row.of(cell.configuration),
            model_sha256=resolved.sha256,
            laws=tuple(laws),
            versions=self._plan.resolution.law_versions,
            notes=profile.notes,
        )


class _Model:
    """A model on its bench, with its windows of each text, and its original's outputs on them."""

    def __init__(self, name: str, resolved: ResolvedModel, source: ModelSource, plan: Plan) -> None:
        self.name = name
        self._resolved, self._plan, self._options = resolved, plan, plan.options
        needs_text = bool(plan.resolution.texts or plan.options.tasks) or any(
            group.variant is not None and group.variant.needs_inputs for group in plan.groups
        )
        self.bench = Bench(
            source,
            embeddings=plan.options.embeddings,
            head=plan.options.head,
            tokenizer=needs_text,
        )
        self._windows: dict[int, Tensor] = {}
        self._originals: dict[int, OriginalOutputs] = {}

    def windows(self, text: int) -> Tensor:
        """Of one of the study's texts."""
        if text not in self._windows:
            from studentfloat.evaluate import load_text

            settings = self._options.quality
            assert settings is not None
            read: EvaluationText = load_text(settings.texts[text])
            if read.sha256 != self._plan.resolution.texts[text].sha256:
                raise DataError(f"{read.source} is not the text that the study began with")
            self._windows[text] = self.bench.windows(
                read, count=settings.windows, length=settings.window_length
            )
        return self._windows[text]

    @cached_property
    def calibration(self) -> Calibration:
        """What methods see."""
        from studentfloat.models import Calibration

        settings = self._options.calibration
        return Calibration(settings.text, settings.windows, settings.window_length)

    def quantize(self, variant: Variant, tick: Tick) -> Quantized:
        """Put the weights in the variant's format."""
        assert variant.scheme is not None
        done = 0.0

        def progress(share: float, what: str) -> None:
            nonlocal done
            tick(
                QUANTIZE_STEPS * (share - done), f"{variant.name}: {what}" if what else variant.name
            )
            done = share

        return self.bench.quantize(variant.scheme, variant.method, self.calibration, progress)

    def has_original(self, text: int) -> bool:
        """Whether :meth:`original` is at hand already."""
        return text in self._originals

    def original(self, text: int, share: Share, tick: Tick = silent) -> OriginalOutputs:
        """Outputs of the model as it was, which it must be unless they are at hand."""
        from studentfloat.evaluate import OriginalOutputs

        if text not in self._originals:
            windows = self.windows(text)
            self._originals[text] = share(
                self._digest(text),
                lambda: OriginalOutputs(
                    self.bench.model, windows, tick=lambda: tick(1, "original model")
                ),
            )
        return self._originals[text]

    def _digest(self, text: int) -> str:
        settings, known = self._options.quality, self._plan.resolution
        assert settings is not None
        what = [self._resolved.sha256, self._resolved.settings_sha256, known.texts[text].sha256]
        return digest([*what, settings.windows, settings.window_length, known.model_versions])


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value
