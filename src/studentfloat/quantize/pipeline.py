"""The one pipeline that every method is: a recipe's steps on one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from studentfloat.errors import ConfigError
from studentfloat.quantize.corrections import choose_outliers, low_rank_correction, set_aside
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.learning import learn_codebooks, learn_row_tables
from studentfloat.quantize.recipe import Recipe
from studentfloat.quantize.rounding.gptq import gptq
from studentfloat.quantize.rounding.nearest import quantize, quantize_to_tables
from studentfloat.quantize.scheme import Scheme, replace_scheme
from studentfloat.quantize.smoothing import clip_to_outputs
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.quantize.weight import Outliers, QuantizedWeight

__all__ = ["MethodResult", "quantize_weight", "working_scheme"]


@dataclass(frozen=True, eq=False)
class MethodResult:
    """A quantized weight, what was really done, and in words what differed."""

    weight: QuantizedWeight
    method: str
    notes: tuple[str, ...] = ()


def working_scheme(scheme: Scheme, recipe: Recipe) -> Scheme:
    """The scheme with the recipe's scale rule.

    Raises
    ------
    ConfigError
        If both name a search, and another one.
    """
    if recipe.scale_rule is None or recipe.scale_rule == scheme.scale_rule.name:
        return scheme
    return replace_scheme(scheme, scale_rule=recipe.scale_rule)


def quantize_weight(
    weight: Tensor,
    scheme: Scheme,
    recipe: Recipe,
    inputs: InputStatistics | None = None,
    *,
    input_scale: Tensor | None = None,
    name: str = "weight",
) -> MethodResult:
    """Quantize one matrix by a recipe.

    Parameters
    ----------
    weight
        Of shape ``(..., in_features)``, floating point, finite.
    scheme
        What to, with blocks along the last axis.
    recipe
        How. Its input scales are chosen beforehand, for all weights that share an input:
        see :mod:`studentfloat.quantize.smoothing`.
    inputs
        What the layer is fed with, before any input scale; None or without tokens rounds
        to nearest, and says so.
    input_scale
        float32, of shape ``(in_features,)``: what inputs are divided by, and the weight
        multiplied with before it is quantized.
    """
    scheme = working_scheme(scheme, recipe)
    notes: list[str] = []
    if inputs is not None and not inputs.count:
        inputs = None
    if inputs is None and (recipe.needs_inputs or scheme.scale_rule.weighted):
        notes.append("no input seen: rounded to nearest")
        recipe, scheme = _without_inputs(recipe, scheme)
    if input_scale is not None:
        weight = weight * input_scale.to(weight.dtype)
        inputs = None if inputs is None else inputs.scaled(input_scale)
    notes += _idle_experts(inputs)
    if recipe.clip and recipe.rounding == "nearest" and weight.dim() == 2 and inputs is not None:
        weight = clip_to_outputs(weight, scheme, inputs)
    keep = choose_outliers(weight, recipe.outliers, inputs) if recipe.outliers else None
    base, outliers, said = _round(weight, keep, scheme, recipe, inputs, name=name)
    notes += said
    low_rank = None
    if recipe.rank:
        residual = weight - base.dequantize()
        if keep is not None:
            residual = residual.masked_fill(keep, 0)
        low_rank = low_rank_correction(residual, recipe.rank, inputs, bits=recipe.rank_bits)
    result = QuantizedWeight(base, low_rank, outliers, input_scale)
    return MethodResult(result, recipe.name, tuple(notes))


def _round(
    weight: Tensor,
    keep: Tensor | None,
    scheme: Scheme,
    recipe: Recipe,
    inputs: InputStatistics | None,
    *,
    name: str,
) -> tuple[QuantizedTensor, Outliers | None, tuple[str, ...]]:
    """Codes of the weight, what is kept aside of it, and notes."""
    energy = None if inputs is None else _row_weights(inputs.energy, weight)
    weights = energy if scheme.scale_rule.weighted else None
    rest = weight if keep is None else weight.masked_fill(keep, 0)
    tables = None
    if recipe.codebooks:
        scheme = learn_codebooks(rest, scheme, recipe.codebooks, weights=weights)
    if recipe.row_codebooks:
        tables = learn_row_tables(rest, scheme, weights=energy)
    if recipe.rounding == "gptq":
        assert inputs is not None
        result = gptq(
            weight,
            inputs.hessian,
            scheme,
            options=recipe.gptq,
            row_tables=tables,
            keep=keep,
            name=name,
        )
        kept = (
            None
            if keep is None
            else set_aside(weight if result.kept is None else result.kept, keep)
        )
        return result.tensor, kept, result.notes
    kept = None if keep is None else set_aside(weight, keep)
    if tables is not None:
        base = quantize_to_tables(rest, scheme, tables, weights=weights, name=name)
    else:
        base = quantize(rest, scheme, weights=weights, name=name)
    return base, kept, ()


def _row_weights(energy: Tensor, weight: Tensor) -> Tensor:
    """Energies per channel (and expert) against a matrix; relative, so that none overflows."""
    relative = energy / energy.amax(dim=-1, keepdim=True).clamp(min=1e-30)
    if relative.dim() == 2:
        relative = relative[:, None, :]
    return relative.to(weight.dtype if weight.dtype == torch.float64 else torch.float32)


def _without_inputs(recipe: Recipe, scheme: Scheme) -> tuple[Recipe, Scheme]:
    scheme = scheme.unweighted
    name = "rtn" if scheme.scale_rule.name == "absmax" else scheme.scale_rule.name
    return Recipe(name=name), scheme


def _idle_experts(inputs: InputStatistics | None) -> list[str]:
    if inputs is None or not inputs.tokens.dim():
        return []
    idle = (inputs.tokens == 0).nonzero().flatten().tolist()
    if not idle:
        return []
    listed = ", ".join(map(str, idle))
    return [f"experts without tokens, rounded to nearest: {listed}"]


def check_recipe(recipe: Recipe, scheme: Scheme) -> None:
    """Refuse what cannot go together before anything is loaded."""
    if recipe.row_codebooks and scheme.alternatives:
        raise ConfigError(
            f"method {recipe.name!r} learns one codebook per row: the scheme must have one "
            f"format, not {scheme.format_name}"
        )
