"""``compare``: a study of one model, computed in this process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from studentfloat.errors import FailureError
from studentfloat.models import ModelSource, find_model
from studentfloat.progress import Progress, silent
from studentfloat.records import Comparison, StudyCell
from studentfloat.records.provenance import make_provenance
from studentfloat.study.joining import join_model
from studentfloat.study.laboratory import QUANTIZE_STEPS, Laboratory
from studentfloat.study.options import CompareOptions, StudyOptions
from studentfloat.study.plan import HARDWARE, Plan, PlannedCell, make_plan
from studentfloat.study.resolve import described, resolve
from studentfloat.study.silicon import check_hardware
from studentfloat.study.sweep.store import Store
from studentfloat.study.variants import variants

__all__ = ["compare", "compute_here"]


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
        Where finished cells are kept, one file each, so that an interrupted run goes on
        where it stopped; None keeps nothing.
    progress
        Told about every step.

    Raises
    ------
    StudentFloatError
        On bad options, a model or text that cannot be used, or a disk that is full.
    """
    study = _with_codes(options.study())
    variants(study)
    if study.hardware is not None:
        check_hardware(study.hardware)
    resolution = resolve(replace(study, models=()))
    progress(0.0, f"finding model {options.model}")
    source = find_model(options.model, options.trust)
    resolution = replace(resolution, models=(described(options.model, source),))
    with _kept_in(directory) as root:
        plan = make_plan(study, resolution)
        cells = compute_here(plan, Store(root), source, progress)
    provenance = make_provenance(
        seed=options.seed,
        model_sha256=source.sha256,
        model_source=source.description,
        texts=resolution.texts,
        settings=_settings(options),
    )
    result = join_model(plan, study.models[0], cells.get, provenance)
    progress(1.0, "done")
    return result


def _with_codes(study: StudyOptions) -> StudyOptions:
    """Energy is measured on the codes that meet in the model."""
    if study.hardware is None or study.hardware.activations is not None:
        return study
    return replace(study, hardware=replace(study.hardware, real_codes=True))


def _settings(options: CompareOptions) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return {key: value for key, value in plain.items() if key != "trust"}


@contextmanager
def _kept_in(directory: Path | None) -> Iterator[Path]:
    """Where cells go: found out before the work, not after it, that they cannot."""
    if directory is None:
        with tempfile.TemporaryDirectory() as root:
            yield Path(root)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise FailureError(
            f"cannot write to the output directory {directory}: {error.strerror}"
        ) from error
    yield directory


def compute_here(
    plan: Plan, store: Store, source: ModelSource, progress: Progress = silent
) -> dict[str, StudyCell]:
    """Compute the cells of a study of one model that its store lacks; an error ends it.

    Parameters
    ----------
    source
        The model.

    Returns
    -------
    dict
        All cells by their address.
    """
    cells = {address: store.read_cell(address) for address in plan.by_address}
    done = {address: cell for address, cell in cells.items() if cell is not None}
    missing = [cell for address, cell in plan.by_address.items() if address not in done]
    steps = _Steps(missing, plan, progress)
    (entry,) = plan.options.models
    laboratory = Laboratory(plan, sources={entry.id: source}, tick=steps)
    for cell in missing:
        if cell.evaluation != HARDWARE:
            done[cell.address] = laboratory.compute(cell)
            store.write_cell(done[cell.address])
    silicon = [cell for cell in missing if cell.evaluation == HARDWARE]
    for made in laboratory.cost(silicon, progress) if silicon else ():
        store.write_cell(made)
        done[made.address] = made
    return done


class _Steps:
    """The share of the work that is done, from the steps that the laboratory tells."""

    def __init__(self, cells: list[PlannedCell], plan: Plan, progress: Progress) -> None:
        quality, windows = plan.options.quality, 0
        if quality is not None:
            windows = quality.windows
        texts = len([cell for cell in cells if cell.text is not None])
        groups = {cell.group for cell in cells if cell.evaluation != HARDWARE}
        self._progress, self._done = progress, 0.0
        self._all = max(texts * windows + QUANTIZE_STEPS * len(groups), 1.0)

    def __call__(self, steps: float, what: str) -> None:
        self._done += steps
        self._progress(min(1.0, self._done / self._all), what)
