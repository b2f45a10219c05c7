"""Folding an input scale into what comes before, where the block's own output proves it right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studentfloat.models.walk import WeightSite

__all__ = ["Fold", "fold_scale"]

# Rounding errors of the output's largest number by which a right fold may change it.
_TOLERANCE = 300.0


@dataclass(frozen=True, eq=False)
class Fold:
    """Where a scale went: the module's name, and its parameters that changed."""

    into: str
    parameters: tuple[nn.Parameter, ...]


def fold_scale(
    block: nn.Module,
    prefix: str,
    sites: Sequence[WeightSite],
    scale: Tensor,
    run: Callable[[], Tensor],
) -> Fold | None:
    """Multiply weights by a scale per input, and divide what feeds them by it.

    Which module that is differs between architectures: a norm (whose gain may be stored as
    1 + w), or a linear layer whose output reaches the weights unchanged but for something
    that commutes with scaling. Each candidate is tried, and stays only if the block's output
    stays; so nothing is known of architectures here, and nothing is assumed.

    Parameters
    ----------
    block
        In the original precision.
    prefix
        Its name in the model.
    sites
        All weights that are fed with one input.
    scale
        float32, of shape ``(in_features,)``, positive.
    run
        The block's output on some input.

    Returns
    -------
    Fold, or None where no candidate leaves the output as it was; then nothing has changed.
    """
    before = run()
    # Norms compute in single precision, whatever the model's.
    eps = max(torch.finfo(before.dtype).eps, torch.finfo(torch.float32).eps)
    allowed = _TOLERANCE * eps * float(before.abs().max())
    own = {id(site.parameter) for site in sites}
    for name, change in _candidates(block, own, len(scale)):
        saved = [(p, p.detach().clone()) for p in (*change.parameters, *_of(sites))]
        change.apply(1 / scale.double())
        for site in sites:
            site.apply(lambda w: w * scale.to(w.dtype))
        after = run()
        if float((after - before).abs().max()) <= allowed:
            return Fold(f"{prefix}.{name}", change.parameters)
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
    return None


@dataclass(frozen=True, eq=False)
class _Change:
    """A way to scale a module's output channels."""

    parameters: tuple[nn.Parameter, ...]
    apply: Callable[[Tensor], None]


def _candidates(block: nn.Module, own: set[int], width: int) -> Iterator[tuple[str, _Change]]:
    """Norms of that width first, then linear layers of so many outputs."""
    linear = []
    for name, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or id(weight) in own:
            continue
        bias = getattr(module, "bias", None)
        biases = (bias,) if isinstance(bias, nn.Parameter) else ()
        if tuple(weight.shape) == (width,):
            yield name, _gain(weight, biases, offset=0.0)
            yield name, _gain(weight, biases, offset=1.0)
        elif isinstance(module, nn.Linear) and weight.shape[0] == width:
            linear.append((name, _rows(weight, biases)))
    # The last one that runs is the likeliest to feed the weights.
    yield from reversed(linear)


def _gain(weight: nn.Parameter, biases: tuple[nn.Parameter, ...], *, offset: float) -> _Change:
    def apply(factor: Tensor) -> None:
        with torch.no_grad():
            weight.copy_((weight + offset) * factor.to(weight.dtype) - offset)
            for bias in biases:
                bias.mul_(factor.to(bias.dtype))

    return _Change((weight, *biases), apply)


def _rows(weight: nn.Parameter, biases: tuple[nn.Parameter, ...]) -> _Change:
    def apply(factor: Tensor) -> None:
        with torch.no_grad():
            weight.mul_(factor.to(weight.dtype)[:, None])
            for bias in biases:
                bias.mul_(factor.to(bias.dtype))

    return _Change((weight, *biases), apply)


def _of(sites: Sequence[WeightSite]) -> list[nn.Parameter]:
    return [site.parameter for site in sites]
