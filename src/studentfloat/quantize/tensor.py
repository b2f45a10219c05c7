"""A tensor quantized: packed codes, scales, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import DataError, SchemeError
from studentfloat.formats import Format
from studentfloat.kernels import PackedMatrix
from studentfloat.quantize.compiled import can_decode, can_encode, decode_rows, encode_rows
from studentfloat.quantize.packing import pack_codes, packed_width, unpack_codes
from studentfloat.quantize.rounding import (
    codes_of_levels,
    level_values,
    nearest_level,
    next_level_away,
)
from studentfloat.quantize.scales import ScaledBlocks, normalize, scale_blocks
from studentfloat.quantize.scheme import ROW, TENSOR, ScaleDtype, Scheme, replace_scheme

__all__ = [
    "BlockPart",
    "QuantizedTensor",
    "block_parts",
    "check_tensor",
    "fake_quantize",
    "pack_selectors",
    "part_view",
    "quantize",
    "quantize_to_tables",
    "store_scales",
]

_STORED_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_E8M0_BIAS = 127
MOST_PACKED_BITS = 4


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Packed codes and block scales of one tensor.

    Attributes
    ----------
    packed
        uint8, of shape ``(rows, packed_width(row_length, bits))``: the tensor with
        `scheme.axis` moved last, one row per remaining index (one row in all for blocks
        of a whole tensor). See :func:`~studentfloat.quantize.packing.pack_codes`.
    scales
        Of shape ``(rows, blocks per row)``: a tensor in the scale type (uint8 exponents,
        biased by 127, for E8M0); or, where scales are quantized themselves, a QuantizedTensor
        of one row that holds them in row-major order.
    scheme, shape, dtype
        How it was made, and of what.
    selectors
        Which of the scheme's formats each block took: uint8, of shape ``(rows,
        packed_width(blocks per row, selector bits))``; None where it has one only.
    row_tables
        Codebooks of the tensor's own: floating point, of shape ``(rows, 2**bits)``, or
        ``(1, 2**bits)`` where all rows share one; a code is an index into its row's table,
        which ascends. None where codes mean what the format says.
    """

    packed: Tensor
    scales: Tensor | QuantizedTensor
    scheme: Scheme
    shape: tuple[int, ...]
    dtype: torch.dtype
    selectors: Tensor | None = None
    row_tables: Tensor | None = None

    def __post_init__(self) -> None:
        if self.row_tables is not None and self.scheme.alternatives:
            raise SchemeError(
                f"row tables take the place of the format: the scheme must have one, "
                f"not {self.scheme.format_name}"
            )
        if (self.selectors is None) != (not self.scheme.alternatives):
            raise SchemeError(
                f"scheme with formats {self.scheme.format_name}: selectors are stored where "
                "there is more than one, and only there"
            )

    @property
    def row_length(self) -> int:
        """Numbers per row of `packed`."""
        return _row_length(self.shape, self.scheme)

    @property
    def codes(self) -> Tensor:
        """The codes unpacked: uint8, of the tensor's own shape."""
        rows = unpack_codes(self.packed, self.scheme.format.bits, self.row_length)
        return _from_rows(rows, self.shape, self.scheme)

    @property
    def block_formats(self) -> Tensor:
        """Index into ``scheme.formats`` of each block: uint8, ``(rows, blocks per row)``."""
        blocks = sum(part.last - part.first for part in block_parts(self.row_length, self.scheme))
        if self.selectors is None:
            shape = (self.packed.shape[0], blocks)
            return torch.zeros(shape, dtype=torch.uint8, device=self.packed.device)
        return unpack_codes(self.selectors, self.scheme.selector_bits, blocks)

    def block_scales(self) -> Tensor:
        """The scales as numbers: float32, of shape ``(rows, blocks per row)``."""
        if isinstance(self.scales, QuantizedTensor):
            return self.scales.dequantize().reshape(self.packed.shape[0], -1)
        if self.scales.dtype == torch.uint8:
            exponents = self.scales.to(torch.int32) - _E8M0_BIAS
            return torch.ldexp(torch.ones(exponents.shape, device=exponents.device), exponents)
        return self.scales.float()

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Value times scale, in float32 (float64 for a float64 tensor), of the tensor's shape.

        Parameters
        ----------
        dtype
            Of the result; by default the type that was quantized.
        """
        compute = _compute_dtype(self.dtype)
        result = dtype or self.dtype
        one_table = self.selectors is None and self.row_tables is None
        if (
            one_table
            and compute == torch.float32
            and can_decode(self.packed, self.scheme.format, result)
        ):
            rows = decode_rows(
                self.packed,
                self.block_scales(),
                self.scheme.format,
                columns=self.row_length,
                block_size=_block_length(self.row_length, self.scheme),
                dtype=result,
            )
            return _from_rows(rows, self.shape, self.scheme)
        values = self._unscaled(compute)
        scales = self.block_scales().to(compute)
        for part in block_parts(self.row_length, self.scheme):
            part_view(values, part).mul_(scales[:, part.first : part.last, None])
        return _from_rows(values, self.shape, self.scheme).to(result)

    def packed_matrix(self) -> PackedMatrix:
        """A matrix on the CPU, repacked for products with activations; this one stays as it is.

        Raises
        ------
        SchemeError
            If it is not a matrix with blocks along its rows, in codes of at most 4 bits whose
            tables are those of the scheme's formats.
        """
        if self.row_tables is not None:
            raise SchemeError(
                f"a tensor in {self.scheme.format_name} with row tables: packed products take "
                "tables that all rows share"
            )
        if not has_packed_matrix(self.scheme, self.shape):
            raise SchemeError(
                f"a tensor of shape {self.shape} in {self.scheme.format.bits} bits, axis "
                f"{self.scheme.axis}, blocks of {self.scheme.block_size}: packed products take "
                f"matrices with blocks along the rows, in at most {MOST_PACKED_BITS} bits"
            )
        # A special code is never produced: like a code without value it has no number.
        tables = np.stack([f.decode_table for f in self.scheme.formats])
        tables = np.where(np.isfinite(tables), tables, np.nan)
        return PackedMatrix(
            self.packed,
            self.block_scales().cpu(),
            tables[0] if self.selectors is None else tables,
            in_features=self.row_length,
            block_size=_block_length(self.row_length, self.scheme),
            bits=self.scheme.format.bits,
            selectors=None if self.selectors is None else self.block_formats,
        )

    def rows(self, indices: Tensor) -> Tensor:
        """Some rows dequantized, of shape ``(len(indices), row_length)``; others are not touched.

        Parameters
        ----------
        indices
            int64, of shape ``(n,)``: rows of :attr:`packed`, blocks running along them.
        """
        return self.select_rows(indices).dequantize()

    def select_rows(self, indices: Tensor) -> QuantizedTensor:
        """Some rows as they are stored, as a matrix; see :meth:`rows`."""
        scheme, scales = replace_scheme(self.scheme, axis=-1), self.scales
        tables = self.row_tables
        if isinstance(scales, QuantizedTensor):
            # They run across rows: as numbers, they can be picked.
            scheme, scales = replace_scheme(scheme, scale_dtype="float32"), self.block_scales()
        return QuantizedTensor(
            packed=self.packed[indices],
            scales=scales[indices],
            scheme=scheme,
            shape=(len(indices), self.row_length),
            dtype=self.dtype,
            selectors=None if self.selectors is None else self.selectors[indices],
            row_tables=tables if tables is None or len(tables) == 1 else tables[indices],
        )

    def _unscaled(self, dtype: torch.dtype) -> Tensor:
        """What the codes stand for, before scales: of shape ``(rows, row_length)``."""
        codes = unpack_codes(self.packed, self.scheme.format.bits, self.row_length)
        if self.row_tables is not None:
            tables = self.row_tables.to(dtype).expand(len(codes), -1)
            return tables.gather(1, codes.long())
        tables = torch.stack(
            [torch.from_numpy(f.decode_table.copy()) for f in self.scheme.formats]
        ).to(dtype=dtype, device=codes.device)
        if self.selectors is None:
            return tables[0][codes.int()]
        values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        chosen = self.block_formats.int() << self.scheme.format.bits
        flat = tables.reshape(-1)
        for part in block_parts(self.row_length, self.scheme):
            index = part_view(codes, part).int() + chosen[:, part.first : part.last, None]
            part_view(values, part).copy_(flat[index])
        return values

    @property
    def bits(self) -> int:
        """All bits stored: codes with the padding of rows, scales, selectors, tables of rows.

        The formats' own tables, at most 256 numbers each per model, are not counted.
        """
        beside = 0
        for part in (self.selectors, self.row_tables):
            beside += 0 if part is None else 8 * part.numel() * part.element_size()
        if isinstance(self.scales, QuantizedTensor):
            return 8 * self.packed.numel() + self.scales.bits + beside
        stored = self.packed.numel() + self.scales.numel() * self.scales.element_size()
        return 8 * stored + beside

    @property
    def numel(self) -> int:
        """Number of weights."""
        return torch.Size(self.shape).numel()

    @property
    def bits_per_weight(self) -> float:
        """:attr:`bits` over the number of weights."""
        return self.bits / max(1, self.numel)


def has_packed_matrix(scheme: Scheme, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has a :meth:`QuantizedTensor.packed_matrix`, unless it has row tables."""
    return (
        len(shape) == 2
        and scheme.block_size != TENSOR
        and _axis(shape, scheme) == 1
        and scheme.format.bits <= MOST_PACKED_BITS
    )


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
    rows, scaled, stored = _scaled_rows(tensor, scheme, weights, name)
    codes = torch.empty(rows.shape, dtype=torch.uint8, device=rows.device)
    for part in block_parts(rows.shape[1], scheme):
        numbers = normalize(part_view(rows, part), scaled.scales[:, part.first : part.last])
        for among, number_format in _by_format(scaled.selectors, part, scheme):
            its_codes = codes_of_levels(nearest_level(numbers, number_format), number_format)
            _assign(part_view(codes, part), its_codes, among)
    return QuantizedTensor(
        packed=pack_codes(codes, scheme.format.bits),
        scales=stored,
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        selectors=pack_selectors(scaled.selectors, scheme),
    )


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
    rows, scaled, stored = _scaled_rows(tensor, scheme, weights, name)
    tables = row_tables.to(rows.dtype)
    middles = (tables[:, :-1] + (tables[:, 1:] - tables[:, :-1]) / 2).expand(len(rows), -1)
    numbers = torch.empty_like(rows)
    for part in block_parts(rows.shape[1], scheme):
        its_scales = scaled.scales[:, part.first : part.last]
        part_view(numbers, part).copy_(normalize(part_view(rows, part), its_scales))
    codes = torch.searchsorted(middles.contiguous(), numbers).to(torch.uint8)
    return QuantizedTensor(
        packed=pack_codes(codes, scheme.format.bits),
        scales=stored,
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        row_tables=row_tables,
    )


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
    rows, scaled, stored = _scaled_rows(tensor, scheme, weights, name)
    out = torch.empty_like(rows)
    for part in block_parts(rows.shape[1], scheme):
        its_scales = scaled.scales[:, part.first : part.last]
        numbers = normalize(part_view(rows, part), its_scales)
        for among, number_format in _by_format(scaled.selectors, part, scheme):
            levels = level_values(number_format, rows.dtype, rows.device)
            index = nearest_level(numbers, number_format)
            _assign(part_view(out, part), levels[index.int()], among)
        part_view(out, part).mul_(its_scales[..., None])
    stored_bits = QuantizedTensor(
        packed=torch.empty(
            (rows.shape[0], packed_width(rows.shape[1], scheme.format.bits)),
            dtype=torch.uint8,
            device="meta",
        ),
        scales=stored,
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        selectors=pack_selectors(scaled.selectors, scheme),
    )
    result = _from_rows(out, tuple(tensor.shape), scheme).to(tensor.dtype)
    return result, stored_bits.bits_per_weight


def _quantize_compiled(
    tensor: Tensor, scheme: Scheme, weights: Tensor | None, name: str
) -> QuantizedTensor | None:
    """The same by the compiled kernels; None where they cannot, or where there is an error to say.

    They check the numbers on the way, so an error costs the torch path, which names it.
    """
    _check_kind(tensor, name)
    if weights is not None:
        return None
    rows = _to_rows(tensor.to(_compute_dtype(tensor.dtype)), scheme)
    if not can_encode(rows, scheme):
        return None
    encoded = encode_rows(rows, scheme, _block_length(rows.shape[1], scheme))
    if encoded is None:
        return None
    _check_range(encoded.scales, scheme, tensor.dtype, name)
    return QuantizedTensor(
        packed=encoded.packed,
        scales=store_scales(encoded.scales, scheme, name),
        scheme=scheme,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
    )


def _by_format(
    selectors: Tensor | None, part: BlockPart, scheme: Scheme
) -> Iterator[tuple[Tensor | None, Format]]:
    """Each format, and which blocks of a part took it: None for all, else (rows, blocks)."""
    if selectors is None:
        yield None, scheme.format
        return
    for i, number_format in enumerate(scheme.formats):
        yield selectors[:, part.first : part.last] == i, number_format


def _assign(target: Tensor, values: Tensor, among: Tensor | None) -> None:
    """Copy values of shape ``(rows, blocks, size)`` where `among`, ``(rows, blocks)``, is true."""
    if among is None:
        target.copy_(values)
    else:
        torch.where(among[..., None], values, target, out=target)


def pack_selectors(selectors: Tensor | None, scheme: Scheme) -> Tensor | None:
    """Selectors, uint8 of shape ``(rows, blocks)``, as :attr:`QuantizedTensor.selectors`."""
    return None if selectors is None else pack_codes(selectors, scheme.selector_bits)


class BlockPart(NamedTuple):
    """Blocks of equal size within rows: columns [start, stop), blocks [first, last)."""

    start: int
    stop: int
    first: int
    last: int
    size: int


def block_parts(row_length: int, scheme: Scheme) -> Iterator[BlockPart]:
    """The full blocks of a row, then the shorter last one, if any."""
    size = _block_length(row_length, scheme)
    full, tail = divmod(row_length, size)
    if full:
        yield BlockPart(0, full * size, 0, full, size)
    if tail:
        yield BlockPart(full * size, row_length, full, full + 1, tail)


def _block_length(row_length: int, scheme: Scheme) -> int:
    if scheme.block_size in (ROW, TENSOR):
        return row_length
    assert isinstance(scheme.block_size, int)
    return scheme.block_size


def part_view(rows: Tensor, part: BlockPart) -> Tensor:
    """A part of the rows as blocks, of shape ``(rows, blocks, size)``, sharing memory."""
    columns = rows[:, part.start : part.stop]
    # Rows are contiguous, so this is a view.
    return columns.view(len(rows), part.last - part.first, part.size)


def _scaled_rows(
    tensor: Tensor, scheme: Scheme, weights: Tensor | None, name: str
) -> tuple[Tensor, ScaledBlocks, Tensor | QuantizedTensor]:
    """Rows to quantize, their blocks' scales as numbers that are really stored, and as stored."""
    check_tensor(tensor, name)
    rows = _to_rows(tensor.to(_compute_dtype(tensor.dtype)), scheme)
    spread = None
    if weights is not None:
        _check_weights(weights, tensor, name)
        spread = _to_rows(weights.to(rows.dtype).expand(tensor.shape), scheme)
    parts = [
        scale_blocks(
            part_view(rows, part),
            scheme,
            weights=None if spread is None else part_view(spread, part),
        )
        for part in block_parts(rows.shape[1], scheme)
    ]
    scales = torch.cat([part.scales for part in parts], dim=1)
    chosen = [part.selectors for part in parts if part.selectors is not None]
    stored = store_scales(scales, scheme, name)
    if isinstance(stored, QuantizedTensor):
        scales = stored.dequantize().to(rows.dtype).reshape(scales.shape)
    _check_range(scales, scheme, tensor.dtype, name)
    selectors = torch.cat(chosen, dim=1) if chosen else None
    return rows, ScaledBlocks(scales, selectors), stored


def store_scales(scales: Tensor, scheme: Scheme, name: str) -> Tensor | QuantizedTensor:
    """Scales, of shape ``(rows, blocks)``, as :attr:`QuantizedTensor.scales` holds them."""
    dtype = scheme.scale_dtype
    if isinstance(dtype, ScaleDtype):
        if dtype.name in _STORED_DTYPES:
            return scales.to(_STORED_DTYPES[dtype.name])
        exponents = torch.frexp(scales).exponent - 1
        return (exponents + _E8M0_BIAS).to(torch.uint8)
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
    levels = level_values(inner.format, line.dtype, line.device)
    codes = torch.empty(line.shape, dtype=torch.uint8, device=line.device)
    for part in block_parts(line.shape[1], inner):
        ratios = normalize(part_view(line, part), above[:, part.first : part.last])
        index = next_level_away(ratios, inner.format)
        if not outer.scale_rule.rounds_away:
            nearest = nearest_level(ratios, inner.format)
            vanishes = (levels[nearest.int()] == 0) & (ratios != 0)
            index = torch.where(vanishes, index, nearest)
        part_view(codes, part).copy_(codes_of_levels(index, inner.format))
    packed = pack_codes(codes, inner.format.bits)
    return QuantizedTensor(packed, plain.scales, inner, tuple(line.shape), line.dtype)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _row_length(shape: tuple[int, ...], scheme: Scheme) -> int:
    size = torch.Size(shape)
    if scheme.block_size == TENSOR or not shape:
        return size.numel()
    return size[_axis(shape, scheme)]


def _axis(shape: tuple[int, ...], scheme: Scheme) -> int:
    if not -len(shape) <= scheme.axis < len(shape):
        raise SchemeError(f"axis {scheme.axis} is out of range for a tensor of shape {shape}")
    return scheme.axis % len(shape)


def _to_rows(tensor: Tensor, scheme: Scheme) -> Tensor:
    """The tensor as a contiguous matrix, blocks running along its rows."""
    length = _row_length(tuple(tensor.shape), scheme)
    if tensor.dim() > 1 and scheme.block_size != TENSOR:
        tensor = tensor.movedim(_axis(tuple(tensor.shape), scheme), -1)
    return tensor.reshape(-1, length).contiguous()


def _from_rows(rows: Tensor, shape: tuple[int, ...], scheme: Scheme) -> Tensor:
    if len(shape) <= 1 or scheme.block_size == TENSOR:
        return rows.reshape(shape)
    axis = _axis(shape, scheme)
    moved = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
    return rows.reshape(moved).movedim(-1, axis).contiguous()


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


def _check_range(scales: Tensor, scheme: Scheme, dtype: torch.dtype, name: str) -> None:
    """A scale rounded up may take a block's extreme past the largest number of its type."""
    extreme = max(max(f.maximum, -f.minimum) for f in scheme.formats)
    reach = float(scales.abs().max()) * extreme
    largest = torch.finfo(dtype).max
    if reach > largest * (1 + 1e-6):
        raise DataError(
            f"{name} reaches {reach:g} in format {scheme.format_name!r} with scales in "
            f"{scheme.scale_dtype_name}, beyond {largest:g}, the largest number of "
            f"{str(dtype).removeprefix('torch.')}: scale it down, or use a wider type"
        )


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
