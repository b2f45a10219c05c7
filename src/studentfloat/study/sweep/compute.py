"""Compute a cell: the model in the state that its configuration asks for, and what is found."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from studentfloat.errors import DataError, ModelError
from studentfloat.models import find_model
from studentfloat.records import LayerLaw, StudyCell
from studentfloat.study.bench import Bench, Quantized, baseline_of, quality_row
from studentfloat.study.silicon import format_hardware
from studentfloat.study.sweep.claims import Claims
from studentfloat.study.sweep.options import StudyOptions
from studentfloat.study.sweep.plan import (
    HARDWARE,
    LAWS,
    QUALITY,
    Group,
    Plan,
    PlannedCell,
    Variant,
    digest,
)
from studentfloat.study.sweep.resolve import ResolvedModel, described
from studentfloat.study.sweep.store import Store, StoreError
from studentfloat.study.sweep.tasks import load_task

if TYPE_CHECKING:
    from torch import Tensor

    from studentfloat.evaluate import EvaluationText, OriginalOutputs
    from studentfloat.evaluate.tasks import LoadedTasks
    from studentfloat.models import Calibration

__all__ = ["Laboratory"]

_LARGEST_SHARED = 16 << 30
"""Bytes of an original's outputs beyond which each worker computes its own."""
_WAIT = 0.5


class Laboratory:
    """One worker's bench: it keeps the last model, and the state that the model is in.

    Parameters
    ----------
    plan, store, claims
        The study, where its shared files are, and the worker's claims on them.
    say
        Told what is being done, for the log.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        claims: Claims,
        say: Callable[..., None] = lambda **what: None,
    ) -> None:
        self._plan, self._store, self._claims, self._say = plan, store, claims, say
        self._options: StudyOptions = plan.options
        self._model: _Model | None = None
        self._group: int | None = None
        self._quantized: Quantized | None = None
        self._dirty = False
        self._loaded_tasks: dict[str, LoadedTasks] = {}

    def compute(self, cell: PlannedCell) -> StudyCell:
        """What the cell holds; the same bytes wherever and whenever it is computed."""
        if cell.evaluation == HARDWARE:
            return self._hardware(cell)
        group = self._plan.groups[cell.group]
        resolved = self._resolved(group.model)
        if cell.evaluation == LAWS:
            return self._laws(cell, resolved)
        try:
            model = self._enter(group, resolved, original=cell.evaluation == QUALITY)
            return self._evaluate(cell, group, model, resolved)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Forget the state that the model is in: the next cell starts from the original."""
        if self._model is not None and self._dirty:
            self._model.bench.restore()
        self._group, self._quantized, self._dirty = None, None, False

    @property
    def model(self) -> str | None:
        """Name of the model in memory."""
        return None if self._model is None else self._model.name

    def _resolved(self, name: str) -> ResolvedModel:
        entry = next(entry for entry in self._options.models if entry.name == name)
        resolved = self._plan.resolution.model(entry.id)
        if resolved is None:
            raise ModelError(f"model {entry.id} was not resolved")
        if resolved.problem is not None:
            raise ModelError(resolved.problem)
        return resolved

    def _enter(self, group: Group, resolved: ResolvedModel, *, original: bool) -> _Model:
        """The model loaded, and its weights as the group wants them.

        `original` says that the original's outputs will be wanted: they are had before.
        """
        if self._model is None or self._model.name != group.model:
            self.leave()
            self._model = None
            started = time.monotonic()
            self._model = _Model(group.model, resolved, self._plan, self._store, self._claims)
            self._say(event="loaded", model=group.model, seconds=time.monotonic() - started)
        if original and not self._model.has_original:
            self.leave()
            _ = self._model.original
        if self._group != group.index:
            self.leave()
            variant = group.variant
            if variant is not None and variant.request is not None:
                self._dirty = True
                self._quantized = self._model.quantize(variant)
            self._group = group.index
        return self._model

    def _evaluate(
        self, cell: PlannedCell, group: Group, model: _Model, resolved: ResolvedModel
    ) -> StudyCell:
        blank = StudyCell(
            address=cell.address,
            configuration=cell.configuration,
            evaluation=cell.evaluation,
            model_sha256=resolved.sha256,
            bits_per_weight=None if self._quantized is None else self._quantized.bits_per_weight,
            versions=self._plan.resolution.model_versions,
        )
        variant = group.variant
        assert variant is not None
        if cell.evaluation == QUALITY:
            if self._quantized is None:
                # Before any other state of the model: outputs are of the original.
                original = model.original
                return replace(
                    blank, baseline=baseline_of(original.nll), skipped=model.bench.skipped
                )
            return self._quality(blank, variant, self._quantized, model)
        from studentfloat.evaluate.tasks import score_tasks

        loaded = self._task(cell.evaluation)
        with model.bench.at_run_time(self._quantized, variant.activations, variant.kv) as said:
            scores = score_tasks(model.bench.model, loaded)
        return replace(blank, scores=scores, notes=tuple(said))

    def _quality(
        self, blank: StudyCell, variant: Variant, quantized: Quantized, model: _Model
    ) -> StudyCell:
        assert variant.request is not None
        scores, notes = model.bench.score(
            quantized,
            model.windows,
            model.original,
            activations=variant.activations,
            kv=variant.kv,
        )
        row = quality_row(variant.request, quantized, scores, notes=notes)
        # Times differ from run to run; they are in the log.
        row = replace(row, weights=tuple(replace(w, seconds=0.0) for w in row.weights))
        return replace(blank, quality=row)

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
        from studentfloat.profile.model import profile_model

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
            configuration=cell.configuration,
            evaluation=LAWS,
            model_sha256=resolved.sha256,
            laws=tuple(laws),
            versions=self._plan.resolution.law_versions,
            notes=profile.notes,
        )

    def _hardware(self, cell: PlannedCell) -> StudyCell:
        from studentfloat.hardware import cost, load_library

        settings = self._options.hardware
        assert settings is not None
        assert cell.format is not None
        table = cost(
            [cell.format],
            unit=cell.unit,
            activations=settings.activations,
            library=load_library(settings.liberty),
            lookup_bits=(settings.lookup_bits,),
        )
        (row,) = table.formats
        return StudyCell(
            address=cell.address,
            configuration=cell.configuration,
            evaluation=HARDWARE,
            hardware=format_hardware(cell.format.name, table, row),
            versions=self._plan.resolution.hardware_versions,
        )


class _Model:
    """A model on its bench, with its windows, and its original's outputs when wanted."""

    def __init__(
        self,
        name: str,
        resolved: ResolvedModel,
        plan: Plan,
        store: Store,
        claims: Claims,
    ) -> None:
        options = plan.options
        self.name = name
        self._resolved, self._options = resolved, options
        self._plan_versions = plan.resolution.model_versions
        self._store, self._claims = store, claims
        source = find_model(resolved.id, options.trust)
        here = described(resolved.id, source)
        if here.sha256 != resolved.sha256 or here.settings_sha256 != resolved.settings_sha256:
            raise ModelError(
                f"model {resolved.id} is not the one that the study began with: its files differ"
            )
        self.bench = Bench(source, embeddings=options.embeddings, head=options.head)

    @cached_property
    def text(self) -> EvaluationText:
        """The text that quality is measured on."""
        from studentfloat.evaluate import load_text

        assert self._options.quality is not None
        return load_text(self._options.quality.text)

    @cached_property
    def windows(self) -> Tensor:
        """Of the text."""
        settings = self._options.quality
        assert settings is not None
        return self.bench.windows(self.text, count=settings.windows, length=settings.window_length)

    @cached_property
    def calibration(self) -> Calibration:
        """What methods see."""
        from studentfloat.models import Calibration

        settings = self._options.calibration
        return Calibration(settings.text, settings.windows, settings.window_length)

    def quantize(self, variant: Variant) -> Quantized:
        """Put the weights in the variant's format."""
        assert variant.request is not None
        return self.bench.quantize(variant.request.scheme, variant.request.method, self.calibration)

    @property
    def has_original(self) -> bool:
        """Whether :attr:`original` is at hand already."""
        return "original" in self.__dict__

    @cached_property
    def original(self) -> OriginalOutputs:
        """Outputs of the model as it was, which it must be; from the store if they are there.

        Whoever comes first computes them; others wait for that.
        """
        from studentfloat.evaluate import OriginalOutputs

        target = self._store.shared / self._digest()
        name = f"shared-{target.name}"
        while not target.is_dir():
            if self._claims.take(name):
                try:
                    if not target.is_dir():
                        return self._share(target)
                finally:
                    self._claims.release(name)
            elif self._claims.break_dead(name) is None:
                time.sleep(_WAIT)
        return OriginalOutputs.load(target)

    def _share(self, target: Path) -> OriginalOutputs:
        from studentfloat.evaluate import OriginalOutputs

        original = OriginalOutputs(self.bench.model, self.windows)
        if original.nbytes > _LARGEST_SHARED:
            return original
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
            original.save(temporary)
            temporary.rename(target)
        except OSError as error:
            # Who was frozen until the claim was taken away comes late: the first stand.
            if not target.is_dir():
                raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return OriginalOutputs.load(target)

    def _digest(self) -> str:
        settings, versions = self._options.quality, self._plan_versions
        assert settings is not None
        what = [self._resolved.sha256, self._resolved.settings_sha256, self.text.sha256]
        return digest([*what, settings.windows, settings.window_length, versions])


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value
