"""A comparison seen as a study of one model, so that one page shows both."""

from __future__ import annotations

from studentfloat.records import (
    Comparison,
    FormatQuality,
    StudyConfiguration,
    StudyModel,
    StudyResult,
    StudyRow,
)

__all__ = ["as_study"]


def as_study(comparison: Comparison) -> StudyResult:
    """The comparison's rows, in its order, as a study that is done."""
    model = StudyModel(
        model=comparison.model,
        rows=tuple(_row(comparison, quality) for quality in comparison.formats),
        baseline=comparison.baseline,
        original_scores=(),
        differences=comparison.differences,
        frontiers=comparison.frontiers,
        laws=(),
        provenance=comparison.provenance,
        skipped=comparison.skipped,
        cautions=comparison.cautions,
    )
    rows = len(comparison.formats)
    return StudyResult(name=comparison.model, models=(model,), planned=rows, done=rows, failures=())


def _row(comparison: Comparison, quality: FormatQuality) -> StudyRow:
    settings = comparison.provenance.settings
    plain = quality.name.removesuffix(f" {quality.method}")
    configuration = StudyConfiguration(
        model=comparison.model,
        name=quality.name,
        format=plain.removesuffix(f"@{quality.scale_rule}"),
        method=quality.method,
        block_size=quality.block_size,
        scale_rule=quality.scale_rule,
        scale_dtype=quality.scale_dtype,
        activations=settings.get("activations"),
        kv=settings.get("kv"),
    )
    hardware = tuple(silicon for silicon in comparison.hardware if silicon.name == quality.name)
    return StudyRow(configuration, quality.bits_per_weight, quality, (), hardware, ())
