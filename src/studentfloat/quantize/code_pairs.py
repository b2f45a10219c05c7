"""Which pairs of codes meet in a product of quantized tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from studentfloat.errors import DataError

__all__ = ["count_code_pairs"]


def count_code_pairs(
    weight_codes: Tensor, activation_codes: Tensor, *, weight_bits: int, activation_bits: int
) -> Tensor:
    """How often each pair of codes is multiplied in ``activations @ weight.T``.

    A weight meets the activations of its own input channel only, so the counts are the sum
    over channels of the outer products of both sides' histograms.

    Parameters
    ----------
    weight_codes
        uint8, of shape ``(out_features, in_features)``.
    activation_codes
        uint8, of shape ``(tokens, in_features)``.
    weight_bits, activation_bits
        Widths of the codes.

    Returns
    -------
    Tensor
        float64, of shape ``(2**weight_bits, 2**activation_bits)``; its sum is ``out_features *
        in_features * tokens``, and whole numbers below ``2**53`` are exact.

    Raises
    ------
    DataError
        If the numbers of channels differ.

    Examples
    --------
    >>> weight, activation = torch.tensor([[0, 1]]), torch.tensor([[1, 1], [0, 1]])
    >>> count_code_pairs(weight, activation, weight_bits=1, activation_bits=1)
    tensor([[1., 1.],
            [0., 2.]], dtype=torch.float64)
    """
    if weight_codes.shape[-1] != activation_codes.shape[-1]:
        raise DataError(
            f"weights of {weight_codes.shape[-1]} input channels do not meet activations of "
            f"{activation_codes.shape[-1]}"
        )
    weights = _by_channel(weight_codes, weight_bits)
    activations = _by_channel(activation_codes, activation_bits)
    return weights.T @ activations


def _by_channel(codes: Tensor, bits: int) -> Tensor:
    """Counts of each code in each channel, of shape ``(channels, 2**bits)``."""
    channels, size = codes.shape[-1], 1 << bits
    place = torch.arange(channels, device=codes.device) * size + codes.long()
    counts = torch.bincount(place.flatten(), minlength=channels * size)
    return counts.reshape(channels, size).double()
