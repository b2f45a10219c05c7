"""What is added to a rounded weight: a low-rank correction, and weights kept in 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.parts import LowRank, Outliers
from studentfloat.quantize.rounding.nearest import quantize
from studentfloat.quantize.scheme import Scheme

__all__ = ["choose_outliers", "low_rank_correction", "set_aside"]

_LARGEST_INT32 = 2**31 - 1
_DAMPING = 0.01


def low_rank_correction(
    residual: Tensor, rank: int, inputs: InputStatistics | None = None, *, bits: int = 16
) -> LowRank:
    r"""The product of that rank that leaves least of what rounding left.

    Without inputs the truncated singular value decomposition of the residual E, which is
    best for :math:`\lVert E - LR \rVert`; with them that of ``E C``, C the Cholesky factor
    of the Hessian ``C C^T``, which is best for the output :math:`\lVert (E - LR) X \rVert`.

    Parameters
    ----------
    residual
        Weight less its rounded self, of shape ``(..., out_features, in_features)``.
    rank
        At most the smaller of both; more is cut to that.
    inputs
        What the layer is fed with.
    bits
        16 for bfloat16, 8 for int8 under one bfloat16 scale per row of each factor.

    References
    ----------
    LoRC: Yao et al., arXiv 2303.08302. Weighted: Guo et al., "LQ-LoRA", arXiv 2311.12023;
    Zhang et al., "LQER", arXiv 2402.02446.
    """
    error = residual.double()
    factor = None if inputs is None else _factor(inputs.hessian)
    weighted = error if factor is None else error @ factor
    left, values, right = torch.linalg.svd(weighted, full_matrices=False)
    kept = min(rank, values.shape[-1])
    root = values[..., :kept].sqrt()
    left = left[..., :kept] * root[..., None, :]
    right = root[..., :, None] * right[..., :kept, :]
    if factor is not None:
        # R C = right, so R = right C^-1.
        right = torch.linalg.solve_triangular(factor, right, upper=False, left=False)
    if bits == 16:
        return LowRank(left.bfloat16(), right.bfloat16())
    scheme = Scheme("int8", block_size="row", scale_dtype="bfloat16")
    return LowRank(
        quantize(left.float(), scheme, name="left factor"),
        quantize(right.float(), scheme, name="right factor"),
    )


def choose_outliers(weight: Tensor, share: float, inputs: InputStatistics | None = None) -> Tensor:
    """Which weights to keep: those of the largest magnitude, times their input's where known.

    Parameters
    ----------
    weight
        Of shape ``(..., in_features)``.
    share
        Of all weights, rounded up to a whole number.
    inputs
        What the layer is fed with: a weight then counts ``|w| sqrt(mean x^2)``.

    Returns
    -------
    Tensor
        bool, of the weight's shape.

    References
    ----------
    Dense and sparse: Kim et al., "SqueezeLLM", arXiv 2306.07629; SpQR, arXiv 2306.03078.
    """
    saliency = weight.abs().float()
    if inputs is not None:
        energy = inputs.energy.float().sqrt()
        saliency = saliency * (energy[:, None, :] if energy.dim() == 2 else energy)
    count = max(1, round(share * weight.numel()))
    keep = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    keep[saliency.reshape(-1).topk(count).indices] = True
    return keep.reshape(weight.shape)


def set_aside(weight: Tensor, keep: Tensor) -> Outliers:
    """The weights where `keep` is true, as they are stored."""
    positions = keep.reshape(-1).nonzero()[:, 0]
    values = weight.reshape(-1)[positions].bfloat16()
    index = torch.int64 if weight.numel() > _LARGEST_INT32 else torch.int32
    return Outliers(positions.to(index), values)


def _factor(hessian: Tensor) -> Tensor:
    full = hessian.double().clone()
    diagonal = full.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(dim=-1, keepdim=True)
    diagonal += torch.where(mean > 0, _DAMPING * mean, 1.0)
    lower: Tensor = torch.linalg.cholesky(full)
    return lower
