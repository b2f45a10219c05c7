"""Rounding to nearest: a tensor to packed codes and scales, or to what they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from studentfloat.errors import DataError, SchemeError
from studentfloat.quantize.blocks import (
    block_length,
    block_parts,
    compute_dtype,
    from_rows,
    part_view,
    to_rows,
)
from studentfloat.quantize.codebook import Codebook, codebook_of
from studentfloat.quantize.codebook.levels import format_levels
from studentfloat.quantize.compiled import can_encode, encode_rows
from studentfloat.quantize.packing import pack_codes, packed_width
from studentfloat.quantize.scales import ScaledBlocks, normalize, scale_blocks
from studentfloat.quantize.scheme import ScaleDtype, Scheme
from studentfloat.quantize.tensor import E8M0_BIAS, QuantizedTensor

__all__ = [
    "check_range",
    "check_tensor",
    "fake_quantize",
    "pack_selectors",
    "quantize",
    "quantize_to_tables",
    "scale_rows",
    "store_scales",
]

_STORED_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def quantize(
    tensor: Tensor,
    scheme: Scheme,
    *,
    weights: Tensor | None = None,
    name: str = "tensor",
) -> QuantizedTensor:
    """Quantize a tensor to nearest.

    Parameters
    ----------
    tensor
        float16, bfloat16, float32 or float64, any shape with at least one element, finite.
    scheme
        What to and how.
    weights
        For a weighted scale rule: not negative, broadcastable to `tensor`.
    name
        What to call the tensor in an error.

    Raises
    ------
    DataError
        If the tensor is empty, not floating point, or holds NaN or infinity (the message
        names it and counts them).
    SchemeError
        If the scheme does not fit the tensor or the weights.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[0.1, -0.6, 0.25, 0.0]])
    >>> q = quantize(weight, Scheme("e2m1", block_size=4))
    >>> q.dequantize()
    tensor([[ 0.1000, -0.6000,  0.2000,  0.0000]])
    >>> q.bits_per_weight
    12.0
    """
    compiled = _quantize_compiled(tensor, scheme, weights, name)
    if compiled is not None:
        return compiled
    return _to_nearest(tensor, scheme, None, weights, name)


def quantize_to_tables(
    tensor: Tensor,
    scheme: Scheme,
    row_tables: Tensor,
    *,
    weights: Tensor | None = None,
    name: str = "tensor",
) -> QuantizedTensor:
    """Quantize to nearest with codebooks of the rows' own; scales as under the scheme's format.

    Parameters
    ----------
    tensor, scheme, weights, name
        As for :func:`quantize`; the scheme has one format.
    row_tables
        As in :attr:`QuantizedTensor.row_tables`.
    """
    return _to_nearest(tensor, scheme, row_tables, weights, name)


def fake_quantize(
    tensor: Tensor,
    scheme: Scheme,
    *,
    weights: Tensor | None = None,
    name: str = "tensor",
) -> tuple[Tensor, float]:
    """Quantize and dequantize at once: what the model will see, without packing.

    Parameters
    ----------
    tensor, scheme, weights, name
        As for :func:`quantize`.

    Returns
    -------
    tensor
        Equal to ``quantize(...).dequantize()``, of the same shape and type.
    bits_per_weight
        Equal to ``quantize(...).bits_per_weight``.
    """
    compiled = _quantize_compiled(tensor, scheme, weights, name)
    if compiled is not None:
        return compiled.dequantize(), compiled.bits_per_weight
    check_tensor(tensor, name)
    rows = to_rows(tensor.to(compute_dtype(tensor.dtype)), scheme)
    spread = _row_weights(weights, tensor, rows, scheme, name)
    codebook = codebook_of(scheme, rows.dtype, rows.device)
    scaled, stored = scale_rows(rows, scheme, codebook, spread, name)
    check_range(scaled.scales, codebook, scheme, tensor.dtype, name)
    out = torch.empty_like(rows)
    for part in block_parts(rows.shape[1], scheme):
        blocks = slice(part.first, part.last)
        its_scales = scaled.scales[:, blocks]
        its_codebook = codebook.choosing(scaled.selectors[:, blocks])
        numbers = normalize(part_view(rows, part), its_scales)
        values = its_codebook.round(numbers, None if spread is None else part_view(spread, part))
        torch.mul(values, its_scales[..., None], out=part_view(out, part))
    stored_bits = QuantizedTensor(
        packed=torch.empty(
            (rows.shape[0], packed_width(rows.shape[1], scheme.code_bits)),
            dtype=torch.uint8,
            device="meta",
        ),
        scales=stored,
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        selectors=pack_selectors(scaled.selectors, scheme),
    )
    result = from_rows(out, tuple(tensor.shape), scheme).to(tensor.dtype)
    return result, stored_bits.bits_per_weight


def _to_nearest(
    tensor: Tensor,
    scheme: Scheme,
    row_tables: Tensor | None,
    weights: Tensor | None,
    name: str,
) -> QuantizedTensor:
    check_tensor(tensor, name)
    rows = to_rows(tensor.to(compute_dtype(tensor.dtype)), scheme)
    spread = _row_weights(weights, tensor, rows, scheme, name)
    codebook = codebook_of(scheme, rows.dtype, rows.device, row_tables=row_tables, rows=len(rows))
    scaled, stored = scale_rows(rows, scheme, codebook, spread, name)
    check_range(scaled.scales, codebook, scheme, tensor.dtype, name)
    codes = torch.empty(rows.shape, dtype=torch.uint8, device=rows.device)
    for part in block_parts(rows.shape[1], scheme):
        blocks = slice(part.first, part.last)
        its_codebook = codebook.choosing(scaled.selectors[:, blocks])
        numbers = normalize(part_view(rows, part), scaled.scales[:, blocks])
        indices = its_codebook.nearest(numbers, None if spread is None else part_view(spread, part))
        part_view(codes, part).copy_(its_codebook.codes(indices))
    return QuantizedTensor(
        packed=pack_codes(codes, scheme.code_bits),
        scales=stored,
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        selectors=pack_selectors(scaled.selectors, scheme),
        row_tables=row_tables,
    )


def _quantize_compiled(
    tensor: Tensor, scheme: Scheme, weights: Tensor | None, name: str
) -> QuantizedTensor | None:
    """The same by the compiled kernels; None where they cannot, or where there is an error to say.

    They check the numbers on the way, so an error costs the torch path, which names it.
    """
    _check_kind(tensor, name)
    if weights is not None:
        return None
    rows = to_rows(tensor.to(compute_dtype(tensor.dtype)), scheme)
    if not can_encode(rows, scheme):
        return None
    encoded = encode_rows(rows, scheme, block_length(rows.shape[1], scheme))
    if encoded is None:
        return None
    codebook = codebook_of(scheme, rows.dtype)
    check_range(encoded.scales, codebook, scheme, tensor.dtype, name)
    return QuantizedTensor(
        packed=encoded.packed,
        scales=store_scales(encoded.scales, scheme, name),
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
    )


def pack_selectors(selectors: Tensor, scheme: Scheme) -> Tensor | None:
    """Selectors, uint8 of shape ``(rows, blocks)``, as :attr:`QuantizedTensor.selectors`."""
    return pack_codes(selectors, scheme.selector_bits) if scheme.selector_bits else None


def scale_rows(
    rows: Tensor,
    scheme: Scheme,
    codebook: Codebook,
    weights: Tensor | None = None,
    name: str = "tensor",
) -> tuple[ScaledBlocks, Tensor | QuantizedTensor]:
    """Scale all blocks of contiguous rows.

    Returns
    -------
    scaled
        Of shape ``(rows, blocks)``; scales as numbers that are really stored.
    stored
        The scales as :attr:`QuantizedTensor.scales` holds them.
    """
    parts = [
        scale_blocks(
            part_view(rows, part),
            scheme,
            codebook,
            weights=None if weights is None else part_view(weights, part),
            name=name,
        )
        for part in block_parts(rows.shape[1], scheme)
    ]
    scales = torch.cat([part.scales for part in parts], dim=1)
    stored = store_scales(scales, scheme, name)
    if isinstance(stored, QuantizedTensor):
        scales = stored.dequantize().to(rows.dtype).reshape(scales.shape)
    return ScaledBlocks(scales, torch.cat([part.selectors for part in parts], dim=1)), stored


def store_scales(scales: Tensor, scheme: Scheme, name: str) -> Tensor | QuantizedTensor:
    """Scales, of shape ``(rows, blocks)``, as :attr:`QuantizedTensor.scales` holds them."""
    dtype = scheme.scale_dtype
    if isinstance(dtype, ScaleDtype):
        if dtype.name in _STORED_DTYPES:
            return scales.to(_STORED_DTYPES[dtype.name])
        exponents = torch.frexp(scales).exponent - 1
        return (exponents + E8M0_BIAS).to(torch.uint8)
    return _quantize_scales(scales.float(), dtype, scheme, name)


def _quantize_scales(scales: Tensor, inner: Scheme, outer: Scheme, name: str) -> QuantizedTensor:
    """Quantize scales: away from zero where the rule promises that nothing clips, else to nearest.

    A scale that is not zero never becomes zero where there is a level beyond: its block would
    vanish.
    """
    # All scales of a tensor form one row, so that blocks of scales run across rows.
    line = scales.reshape(1, -1)
    plain = quantize(line, inner, name=f"scales of {name}")
    above = plain.block_scales()
    levels = format_levels(inner.format, line.dtype, line.device)
    codes = torch.empty(line.shape, dtype=torch.uint8, device=line.device)
    for part in block_parts(line.shape[1], inner):
        ratios = normalize(part_view(line, part), above[:, part.first : part.last])
        index = levels.next_away(ratios)
        if not outer.scale_rule.rounds_away:
            nearest = levels.nearest(ratios)
            vanishes = (levels.values(nearest, part.size) == 0) & (ratios != 0)
            index = torch.where(vanishes, index, nearest)
        part_view(codes, part).copy_(levels.codes(index))
    packed = pack_codes(codes, inner.format.bits)
    return QuantizedTensor(packed, plain.scales, inner, tuple(line.shape), line.dtype)


def _check_kind(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        raise DataError(
            f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}: "
            "only floating-point tensors can be quantized"
        )
    if tensor.numel() == 0:
        raise DataError(f"{name} has no elements (shape {tuple(tensor.shape)})")


def check_tensor(tensor: Tensor, name: str) -> None:
    """Refuse what cannot be quantized: see :func:`quantize`."""
    _check_kind(tensor, name)
    finite = torch.isfinite(tensor)
    if not finite.all():
        bad = tensor.numel() - int(finite.sum())
        nans = int(torch.isnan(tensor).sum())
        raise DataError(
            f"{name} holds {nans} NaN and {bad - nans} infinite values out of "
            f"{tensor.numel()}: mend it before quantizing"
        )


def check_range(
    scales: Tensor, codebook: Codebook, scheme: Scheme, dtype: torch.dtype, name: str
) -> None:
    """Refuse scales under which some code would be infinite in the tensor's type."""
    largest_scale = scales.abs().max()
    reach = largest_scale * max(codebook.maximum, -codebook.minimum)
    if not torch.isfinite(reach.to(dtype)):
        raise DataError(
            f"{name} reaches {float(largest_scale) * max(codebook.maximum, -codebook.minimum):g} "
            f"in format {scheme.format_name!r} with scales in {scheme.scale_dtype_name}, beyond "
            f"{torch.finfo(dtype).max:g}, the largest number of "
            f"{str(dtype).removeprefix('torch.')}: scale it down, or use a wider type"
        )


def _row_weights(
    weights: Tensor | None, tensor: Tensor, rows: Tensor, scheme: Scheme, name: str
) -> Tensor | None:
    """Weights of a tensor's elements, laid out as its rows are."""
    if weights is None:
        return None
    _check_weights(weights, tensor, name)
    return to_rows(weights.to(rows.dtype).expand(tensor.shape), scheme)


def _check_weights(weights: Tensor, tensor: Tensor, name: str) -> None:
    try:
        weights.expand(tensor.shape)
    except RuntimeError:
        raise SchemeError(
            f"weights of shape {tuple(weights.shape)} do not broadcast to {name} of shape "
            f"{tuple(tensor.shape)}"
        ) from None
    bad = int((~torch.isfinite(weights) | (weights < 0)).sum())
    if bad:
        raise DataError(f"{bad} weights for {name} are negative, NaN or infinite")
