"""A study made up for tests: formats' true values, and numbers of the size that is measured."""

from __future__ import annotations

import random
from dataclasses import replace

from studentfloat.formats import get_format
from studentfloat.records import (
    AreaBreakdown,
    Baseline,
    Comparison,
    Configuration,
    FormatHardware,
    LayerLaw,
    Measurement,
    PairedDifference,
    Provenance,
    Row,
    SkippedTensor,
    StudyFailure,
    StudyResult,
    TaskScore,
    TensorError,
    TextSource,
)

# KL, weight error and area (GE) as `studentfloat compare` has them on the embedded model.
FORMATS = {
    "sf4": (0.339, 0.0093, 619.0),
    "nf4": (0.330, 0.0083, 655.0),
    "e2m1+sr": (0.308, 0.0099, 280.0),
    "e2m1+sp": (0.325, 0.0101, 296.0),
    "e2m1": (0.350, 0.0108, 254.0),
    "int4": (0.457, 0.0115, 245.0),
    "e3m0": (0.910, 0.0240, 210.0),
    "int8": (0.002, 0.00004, 671.0),
}
ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = 6


def study(
    models: tuple[str, ...] = ("small", "large"),
    methods: tuple[str, ...] = ("rtn", "gptq"),
    formats: tuple[str, ...] = tuple(FORMATS),
    name: str = "made up",
    *,
    scores: bool = True,
) -> StudyResult:
    """Every format by every method on every model, the same at each call."""
    draw = random.Random(7)
    made = tuple(_model(model, methods, formats, draw) for model in models)
    if not scores:
        made = tuple(_without_scores(model) for model in made)
    rows = sum(len(model.formats) for model in made)
    failed = StudyFailure(
        address="f" * 24,
        configuration=Configuration(models[0], "sf4 awq", "sf4", "awq"),
        evaluation="quality",
        error="no calibration text at /data/<none>.txt",
        attempts=3,
    )
    return StudyResult(name, made, rows + 2, rows, (failed,), {"models": list(models)})


def _without_scores(model: Comparison) -> Comparison:
    return replace(
        model,
        formats=tuple(replace(row, scores=()) for row in model.formats),
        original_scores=(),
        differences=tuple(pair for pair in model.differences if pair.measure == "kl"),
    )


def _model(
    model: str, methods: tuple[str, ...], formats: tuple[str, ...], draw: random.Random
) -> Comparison:
    rows = tuple(_row(model, fmt, method, draw) for fmt in formats for method in methods)
    return Comparison(
        model=model,
        formats=rows,
        baseline=Baseline((Measurement("perplexity", draw.uniform(9, 24), 0.8),)),
        ranked_by="kl",
        original_scores=(_score("piqa", 0.68, draw), _score("lambada_openai", 0.40, draw)),
        differences=_differences(rows, "kl") + _differences(rows, "piqa acc_norm"),
        frontiers=(),
        laws=_laws(draw),
        provenance=Provenance(
            versions={"studentfloat": "0.1.0", "python": "3.11"},
            seed=0,
            model_sha256="ab" * 32,
            model_source=f"{model}, made up",
            texts=(TextSource("a text, made up", "cd" * 32),),
            machine={"processor": "none"},
            created="2026-01-01T00:00:00+00:00",
            settings={"windows": 12},
        ),
        skipped=(SkippedTensor("model.norm.weight", (576,), "vector"),),
        cautions=("Numbers of this study are made up.",),
    )


def _row(model: str, fmt: str, method: str, draw: random.Random) -> Row:
    kl, nmse, area = FORMATS[fmt]
    better = (0.8 if method != "rtn" else 1.0) * draw.uniform(0.95, 1.05)
    name = fmt if method == "rtn" else f"{fmt} {method}"
    values = get_format(fmt)
    tensors = tuple(
        TensorError(f"model.layers.{layer}.{role}", layer, role, (64, 64),
                    nmse * draw.uniform(0.8, 1.2), 20.0, values.bits + 0.25)
        for layer in range(LAYERS) for role in ROLES
    )  # fmt: skip
    measures = (
        Measurement("weight_nmse", nmse * better),
        Measurement("perplexity", 23 * (1 + kl * better), 0.9),
        Measurement("kl", kl * better, 0.02 * kl),
        Measurement("top1_agreement", 1 - 0.7 * kl * better, 0.01),
    )
    scores = (
        _score("piqa", 0.68 - 0.1 * kl, draw),
        _score("lambada_openai", 0.4 - 0.2 * kl, draw),
    )
    hardware = FormatHardware(
        name=name,
        unit="mac",
        library="generic",
        lookup_bits=8 if fmt in {"sf4", "nf4"} else None,
        area=area,
        area_unit="GE",
        area_spread=0.01 * area,
        area_relative_to_int4=area / 245,
        delay_ns=1.0 + area / 500,
        energy_fj=2.2 * area,
        proved=True,
        energy_spread_fj=20.0,
        energy_real_fj=1.9 * area,
        codes="made up",
        area_breakdown=AreaBreakdown(0.1 * area, 0.4 * area, 0.3 * area, 0.25 * area),
    )
    return Row(
        model,
        name,
        fmt,
        method,
        bits=values.bits,
        bits_per_weight=values.bits + 0.25,
        values=tuple(values.levels),
        measures=measures,
        tensors=tensors,
        scores=scores,
        hardware=(hardware,),
        cells=("0" * 24,),
    )


def _score(task: str, value: float, draw: random.Random) -> TaskScore:
    metric = "acc_norm" if task == "piqa" else "acc"
    items = tuple(float(draw.random() < value) for _ in range(40))
    return TaskScore(task, metric, sum(items) / 40, 0.07, True, True, items, 40, 0, "made up", "0")


def _value(row: Row, measure: str) -> float:
    assert row.kl is not None
    return row.kl if measure == "kl" else row.scores[0].value


def _differences(rows: tuple[Row, ...], measure: str) -> tuple[PairedDifference, ...]:
    found = []
    for index, first in enumerate(rows):
        for second in rows[index + 1 :]:
            gap = _value(first, measure) - _value(second, measure)
            real = abs(gap) > 0.06
            found.append(
                PairedDifference(measure, first.name, second.name,
                                 gap, gap - 0.05, gap + 0.05, 0.01 if real else 0.6, real)
            )  # fmt: skip
    return tuple(found)


def _laws(draw: random.Random) -> tuple[LayerLaw, ...]:
    laws = []
    for layer in range(LAYERS):
        for role in ROLES:
            nu = draw.uniform(4, 20)
            infinite = role == "v_proj" and layer == 0
            laws.append(
                LayerLaw(f"model.layers.{layer}.{role}", layer, role, None if infinite else nu,
                         nu * 0.9, None if infinite else nu * 1.1, 0.01, "student_t")
            )  # fmt: skip
    return tuple(laws)
