"""Scales per input channel that move difficulty from inputs to weights, or between weights.

A layer computes ``(W diag(s)) (x / s)``: the same product, but another matrix is quantized and
other inputs. Whoever multiplies the weight must divide the input; the functions here only
choose s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from studentfloat.quantize.blocks import block_parts, part_view
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.rounding.nearest import fake_quantize
from studentfloat.quantize.scheme import Scheme, replace_scheme

__all__ = ["awq_scale", "clip_to_outputs", "smoothquant_scale"]

_AWQ_GRID = 20
_AWQ_ROWS = 256
_CLIP_SHARES = tuple(1 - 0.05 * k for k in range(10))


def smoothquant_scale(weights: Sequence[Tensor], inputs: InputStatistics, alpha: float) -> Tensor:
    r"""SmoothQuant's scale: :math:`s_j = \max |X_j|^\alpha / \max |W_j|^{1 - \alpha}`.

    Parameters
    ----------
    weights
        All matrices that are fed with the same inputs, each of shape ``(..., in_features)``.
    inputs
        What they are fed with.
    alpha
        0 to 1: how much of the difficulty moves to the weights.

    Returns
    -------
    Tensor
        float32, of shape ``(in_features,)``; 1 where a channel's inputs or weights are all
        zero.

    References
    ----------
    Xiao et al., "SmoothQuant", arXiv 2211.10438, equation 4.
    """
    greatest = _over_experts(inputs.greatest, "amax").float()
    reach = torch.stack([w.abs().flatten(0, -2).amax(dim=0).float() for w in weights]).amax(dim=0)
    scale = greatest.pow(alpha) / reach.pow(1 - alpha)
    usable = (greatest > 0) & (reach > 0) & torch.isfinite(scale) & (scale > 0)
    return torch.where(usable, scale, 1.0)


def awq_scale(weights: Sequence[Tensor], scheme: Scheme, inputs: InputStatistics) -> Tensor:
    r"""AWQ's scale, searched for under the scheme itself.

    :math:`s_j = \mathrm{mean}|X_j|^\alpha`, divided by the geometric mean of its extremes,
    for the :math:`\alpha` among 0, 1/20 ... 19/20 that leaves the least error
    :math:`\lVert (Q(W s) s^{-1} - W) X \rVert^2` of all outputs together (on 256 rows of
    each matrix). Since 0 is among them, the error is never above that without.

    Parameters and result as for :func:`smoothquant_scale`.

    References
    ----------
    Lin et al., "AWQ", arXiv 2306.00978, equations 4 and 5.
    """
    tokens = max(1, inputs.count)
    mean = _over_experts(inputs.magnitude, "sum").float() / tokens
    mean = torch.where(mean > 0, mean, mean[mean > 0].min() if (mean > 0).any() else 1.0)
    sampled = [_some_rows(weight) for weight in weights]
    best, least = torch.ones_like(mean), float("inf")
    for step in range(_AWQ_GRID):
        scale = mean.pow(step / _AWQ_GRID)
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for weight in sampled:
            # Without weights per element: the error at hand is measured anyway.
            quantized, _ = fake_quantize(weight * scale, scheme.unweighted)
            error += inputs.output_energy(quantized / scale - weight)
        if error < least:
            best, least = scale, error
    return best


def clip_to_outputs(weight: Tensor, scheme: Scheme, inputs: InputStatistics) -> Tensor:
    """The weight with each block clipped where that leaves less error of the layer's output.

    Each block keeps the share (1, 0.95 ... 0.55) of its range that minimizes ``e^T H e`` with
    e the block's error and H the block's part of the Hessian.

    Parameters
    ----------
    weight
        Of shape ``(out_features, in_features)``, or ``(experts, out_features, in_features)``
        with inputs of the experts' own; an expert without inputs stays as it is.
    scheme, inputs
        As for :func:`awq_scale`.

    References
    ----------
    The search for clipping in the code of arXiv 2306.00978, with the outputs' error taken
    from second moments instead of sampled inputs.
    """
    if weight.dim() == 3:
        hessians = inputs.hessian.expand(len(weight), -1, -1)
        clipped = [_clip_matrix(w, scheme, h) for w, h in zip(weight, hessians, strict=True)]
        return torch.stack(clipped)
    return _clip_matrix(weight, scheme, inputs.hessian)


def _clip_matrix(weight: Tensor, scheme: Scheme, hessian: Tensor) -> Tensor:
    result = weight.clone().float().contiguous()
    hessian = hessian.float()
    for part in block_parts(weight.shape[-1], scheme):
        original = part_view(weight.float().contiguous(), part)
        columns = torch.arange(part.start, part.stop).reshape(-1, part.size)
        local = torch.stack([hessian[c][:, c] for c in columns])
        reach = original.abs().amax(dim=-1, keepdim=True)
        best = original.clone()
        least = torch.full(reach.shape[:-1], torch.inf)
        inner = replace_scheme(scheme, block_size=part.size)
        for share in _CLIP_SHARES:
            clipped = torch.minimum(torch.maximum(original, -share * reach), share * reach)
            flat = clipped.reshape(len(weight), -1)
            quantized, _ = fake_quantize(flat, inner.unweighted)
            off = quantized.reshape(original.shape) - original
            error = torch.einsum("rnb,nbc,rnc->rn", off, local, off)
            better = error < least
            best = torch.where(better[..., None], clipped, best)
            least = torch.where(better, error, least)
        part_view(result, part).copy_(best)
    return result.to(weight.dtype)


def _over_experts(values: Tensor, how: str) -> Tensor:
    return values if values.dim() == 1 else getattr(values, how)(dim=0)


def _some_rows(weight: Tensor) -> Tensor:
    if weight.dim() != 2:
        return weight.float()
    step = max(1, len(weight) // _AWQ_ROWS)
    return weight[::step].float()
