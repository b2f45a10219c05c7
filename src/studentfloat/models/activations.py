"""Activations in a format: what enters each linear layer, rounded as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from studentfloat.errors import ConfigError, DataError
from studentfloat.models.quantized import QuantizedModel
from studentfloat.models.walk import WeightKind, WeightSite
from studentfloat.quantize.accumulate import grid_integers, integer_matmul
from studentfloat.quantize.blocks import block_parts, part_view
from studentfloat.quantize.codebook.levels import format_levels
from studentfloat.quantize.rounding.nearest import fake_quantize, quantize
from studentfloat.quantize.scheme import ROW, TENSOR, Scheme, replace_scheme
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["ActivationScheme", "calibrate_ranges", "integer_linear", "quantized_activations"]

# Magnitudes kept per layer and batch to find a quantile: enough for one in a thousand.
_KEPT = 1 << 16


@dataclass(frozen=True)
class ActivationScheme:
    """How activations are quantized.

    Attributes
    ----------
    scheme
        Blocks along the channels: "row" for one scale per token.
    ranges
        "dynamic": scales from the numbers at hand. "static": one scale per layer, from
        calibration.
    quantile
        Of the magnitudes: what lies beyond is clipped. 1 clips nothing.
    """

    scheme: Scheme
    ranges: Literal["dynamic", "static"] = "dynamic"
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if self.ranges not in ("dynamic", "static"):
            raise ConfigError(f"activation ranges {self.ranges!r}: 'dynamic' or 'static'")
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"activation quantile {self.quantile}: above 0, at most 1")
        if self.scheme.block_size == TENSOR:
            raise ConfigError(
                "activations in blocks of a whole tensor would make a token depend on later "
                "ones: use 'row' (one scale per token), a block size, or static ranges"
            )

    def apply(self, inputs: Tensor, limit: float | None = None) -> Tensor:
        """Round activations of shape ``(..., channels)``; `limit` is a static range."""
        if not inputs.numel():
            return inputs
        if self.ranges == "static":
            if limit is None:
                raise ConfigError("static activation ranges need a calibrated range per layer")
            return _to_static_range(inputs, self.scheme, limit)
        if self.quantile < 1:
            inputs = _clip_to_quantile(inputs, self.scheme, self.quantile)
        return fake_quantize(inputs, self.scheme, name="activations")[0]


def calibrate_ranges(
    sites: Sequence[WeightSite],
    model: nn.Module,
    batches: Sequence[Tensor],
    quantile: float = 1.0,
    quantized: QuantizedModel | None = None,
) -> dict[str, float]:
    """The quantile of each layer's input magnitudes over calibration batches.

    Parameters
    ----------
    sites, model
        Weights, and the model that they are in.
    batches
        Token ids, each of shape ``(windows, length)``.
    quantile
        1 for the greatest; below that a true quantile, from evenly thinned magnitudes.
    quantized
        Its explicit input transforms are applied to the inputs first.
    """
    kept: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    weights = {} if quantized is None else quantized.weights

    def see(site: WeightSite, given: Tensor) -> Tensor:
        inputs = given
        for transform in weights[site.name].transforms if site.name in weights else ():
            inputs = transform.transform(inputs)
        magnitudes = inputs.detach().abs().float().reshape(-1)
        if quantile < 1:
            magnitudes = magnitudes[:: max(1, magnitudes.numel() // _KEPT)]
        else:
            magnitudes = magnitudes.amax().reshape(1)
        kept[site.name].append(magnitudes)
        return given

    with _inputs_replaced(model, sites, see), torch.no_grad():
        for batch in batches:
            model(input_ids=batch)
    return {
        name: float(true_quantile(torch.cat(parts), quantile)) if parts else 0.0
        for name, parts in kept.items()
    }


def true_quantile(values: Tensor, quantile: float) -> Tensor:
    """The least value that at least that share of the values does not exceed."""
    count = values.numel()
    rank = max(1, min(count, -int(-(quantile * count) // 1)))
    return values.reshape(-1).kthvalue(rank).values


@contextmanager
def quantized_activations(
    model: nn.Module,
    sites: Sequence[WeightSite],
    how: ActivationScheme,
    *,
    ranges: Mapping[str, float] | None = None,
    quantized: QuantizedModel | None = None,
) -> Iterator[list[str]]:
    """Inputs of linear layers rounded, for the time of the ``with`` block.

    Parameters
    ----------
    model, sites
        The model, and the weights whose inputs are rounded: the head is among them only if
        it was asked for.
    how
        To what.
    ranges
        For static ranges: from :func:`calibrate_ranges`.
    quantized
        Its explicit input transforms are applied to inputs before they are rounded, and undone
        after, since the dense weight has them folded in.

    Yields
    ------
    list of str
        Names of weights whose inputs stay as they are, with the reason.
    """
    weights = {} if quantized is None else quantized.weights
    if how.ranges == "static":
        absent = [site.name for site in sites if site.name not in (ranges or {})]
        if absent:
            raise ConfigError(f"no calibrated range for the input of {absent[0]}")

    def change(site: WeightSite, inputs: Tensor) -> Tensor:
        limit = None if ranges is None else ranges.get(site.name)
        transforms = weights[site.name].transforms if site.name in weights else ()
        for transform in transforms:
            inputs = transform.transform(inputs)
        rounded = how.apply(inputs, limit)
        for transform in reversed(transforms):
            rounded = transform.undo(rounded)
        return rounded

    left = [
        f"{site.name}: {site.kind.value}, its inputs stay as they are"
        for site in sites
        if not _is_linear(site)
    ]
    with _inputs_replaced(model, sites, change):
        yield left


def integer_linear(
    inputs: Tensor,
    weight: QuantizedTensor,
    scheme: Scheme,
    *,
    bits: int | None = None,
    overflow: Literal["saturate", "wrap"] = "saturate",
) -> Tensor:
    """A linear layer as a unit with integer products computes it.

    Within each pair of blocks the levels' grid integers are multiplied and summed up exactly,
    or in an accumulator of so many bits; each sum then counts both scales and both grid
    steps, in float64.

    Parameters
    ----------
    inputs
        Of shape ``(tokens, in_features)``.
    weight
        Of shape ``(out_features, in_features)``, of one format on an integer grid.
    scheme
        Of the activations, with the same blocks as the weight.
    bits, overflow
        As for :func:`~studentfloat.quantize.accumulate.integer_matmul`; per block.

    Returns
    -------
    Tensor
        float64, of shape ``(tokens, out_features)``.
    """
    if scheme.block_size != weight.scheme.block_size:
        raise ConfigError(
            f"activations in blocks of {scheme.block_size} against weights in blocks of "
            f"{weight.scheme.block_size}: sums in integers need equal blocks"
        )
    if weight.scheme.has_choice or scheme.has_choice or weight.row_tables is not None:
        raise ConfigError("sums in integers take one format each for activations and weights")
    rounded = quantize(inputs, scheme, name="activations")
    left, right = _integers(rounded), _integers(weight)
    grids = [q.scheme.format.integer_grid for q in (rounded, weight)]
    steps = [float(grid.step) for grid in grids if grid is not None]
    scales = rounded.block_scales().double(), weight.block_scales().double()
    total = torch.zeros(len(inputs), weight.shape[0], dtype=torch.float64)
    for part in block_parts(inputs.shape[-1], scheme):
        for block in range(part.first, part.last):
            start = part.start + (block - part.first) * part.size
            columns = slice(start, start + part.size)
            sums = integer_matmul(left[:, columns], right[:, columns], bits=bits, overflow=overflow)
            both = scales[0][:, block, None] * scales[1][None, :, block]
            total += sums.double() * both * (steps[0] * steps[1])
    return total


def _integers(tensor: QuantizedTensor) -> Tensor:
    table = torch.from_numpy(tensor.scheme.format.decode_table.copy())
    return grid_integers(table[tensor.codes.int()], tensor.scheme.format)


def _to_static_range(inputs: Tensor, scheme: Scheme, limit: float) -> Tensor:
    """Round under one scale that takes `limit` to the format's shorter extreme."""
    number_format = scheme.format
    sides = [side for side in (number_format.maximum, -number_format.minimum) if side > 0]
    scale = limit / min(sides)
    if scale == 0:
        return torch.zeros_like(inputs)
    numbers = inputs.float() / scale
    levels = format_levels(number_format, numbers.dtype, numbers.device)
    return (levels.round(numbers) * scale).to(inputs.dtype)


def _clip_to_quantile(inputs: Tensor, scheme: Scheme, quantile: float) -> Tensor:
    """Numbers beyond their own block's quantile of magnitudes brought back to it."""
    rows = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    out = torch.empty_like(rows)
    width = scheme if scheme.block_size != ROW else replace_block(scheme, rows.shape[1])
    for part in block_parts(rows.shape[1], width):
        view = part_view(rows, part)
        rank = max(1, -int(-(quantile * part.size) // 1))
        limit = view.abs().kthvalue(rank, dim=-1, keepdim=True).values
        part_view(out, part).copy_(torch.minimum(torch.maximum(view, -limit), limit))
    return out.reshape(inputs.shape)


def replace_block(scheme: Scheme, size: int) -> Scheme:
    """The scheme with blocks of another size."""
    return replace_scheme(scheme, block_size=size)


def _is_linear(site: WeightSite) -> bool:
    return site.kind in (WeightKind.LINEAR, WeightKind.TRANSPOSED_LINEAR, WeightKind.HEAD)


@contextmanager
def _inputs_replaced(
    model: nn.Module, sites: Sequence[WeightSite], change: Callable[[WeightSite, Tensor], Tensor]
) -> Iterator[None]:
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for site in sites:
            if not _is_linear(site):
                continue

            def hook(_module: nn.Module, args: Any, site: WeightSite = site) -> Any:
                if not torch.isfinite(args[0]).all():
                    raise DataError(f"the input of {site.name} holds NaN or infinity")
                return (change(site, args[0]), *args[1:])

            module = modules[site.name.rpartition(".")[0]]
            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield
