"""A tensor quantized: packed codes, scales, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Format, Trellis
from studentfloat.kernels import PackedMatrix
from studentfloat.quantize.blocks import (
    axis_of,
    block_length,
    block_parts,
    compute_dtype,
    from_rows,
    part_view,
    row_length,
)
from studentfloat.quantize.codebook import Codebook, codebook_of
from studentfloat.quantize.codebook.paths import are_whole_tiles
from studentfloat.quantize.compiled import can_decode, decode_rows
from studentfloat.quantize.packing import unpack_codes
from studentfloat.quantize.scheme import TENSOR, Scheme, replace_scheme

__all__ = ["E8M0_BIAS", "MOST_PACKED_BITS", "QuantizedTensor", "has_packed_matrix"]

E8M0_BIAS = 127
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
        chooses = self.scheme.has_choice
        if self.row_tables is not None and chooses:
            raise SchemeError(
                f"row tables take the place of the format: the scheme must have one, "
                f"not {self.scheme.format_name}"
            )
        if (self.selectors is not None) != chooses:
            raise SchemeError(
                f"scheme with formats {self.scheme.format_name}: selectors are stored where "
                "there is more than one, and only there"
            )

    @property
    def row_length(self) -> int:
        """Numbers per row of `packed`."""
        return row_length(self.shape, self.scheme)

    @property
    def codes(self) -> Tensor:
        """The codes unpacked: uint8, of the tensor's own shape."""
        rows = unpack_codes(self.packed, self.scheme.code_bits, self.row_length)
        return from_rows(rows, self.shape, self.scheme)

    @property
    def block_formats(self) -> Tensor:
        """Index into ``scheme.formats`` of each block: uint8, ``(rows, blocks per row)``."""
        blocks = sum(part.last - part.first for part in block_parts(self.row_length, self.scheme))
        if self.selectors is not None:
            return unpack_codes(self.selectors, self.scheme.selector_bits, blocks)
        shape = (self.packed.shape[0], blocks)
        return torch.zeros(shape, dtype=torch.uint8, device=self.packed.device)

    def block_scales(self) -> Tensor:
        """The scales as numbers: float32, of shape ``(rows, blocks per row)``."""
        if isinstance(self.scales, QuantizedTensor):
            return self.scales.dequantize().reshape(self.packed.shape[0], -1)
        if self.scales.dtype == torch.uint8:
            exponents = self.scales.to(torch.int32) - E8M0_BIAS
            return torch.ldexp(torch.ones(exponents.shape, device=exponents.device), exponents)
        return self.scales.float()

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Value times scale, in float32 (float64 for a float64 tensor), of the tensor's shape.

        Parameters
        ----------
        dtype
            Of the result; by default the type that was quantized.
        """
        compute = compute_dtype(self.dtype)
        result = dtype or self.dtype
        if (
            isinstance(self.scheme.code, Format)
            and not self.scheme.alternatives
            and self.row_tables is None
            and compute == torch.float32
            and can_decode(self.packed, self.scheme.code, result)
        ):
            rows = decode_rows(
                self.packed,
                self.block_scales(),
                self.scheme.code,
                columns=self.row_length,
                block_size=block_length(self.row_length, self.scheme),
                dtype=result,
            )
            return from_rows(rows, self.shape, self.scheme)
        scales = self.block_scales().to(compute)
        values = self._unscaled(compute)
        for part in block_parts(self.row_length, self.scheme):
            part_view(values, part).mul_(scales[:, part.first : part.last, None])
        return from_rows(values, self.shape, self.scheme).to(result)

    @property
    def undecodable(self) -> int:
        """How many codes have no number in their block's format or their row's table."""
        if self._codebook(torch.float32).decodes_all:
            return 0
        return int((~torch.isfinite(self._unscaled(torch.float32))).sum())

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
                f"a tensor of shape {self.shape} in {self.scheme.code_bits} bits, axis "
                f"{self.scheme.axis}, blocks of {self.scheme.block_size}: packed products take "
                f"matrices with blocks along the rows, in at most {MOST_PACKED_BITS} bits"
            )
        # A special code is never produced: like a code without value it has no number.
        tables = np.stack([f.decode_table for f in self.scheme.formats])
        tables = np.where(np.isfinite(tables), tables, np.nan)
        return PackedMatrix(
            self.packed,
            self.block_scales().cpu(),
            tables if len(tables) > 1 else tables[0],
            in_features=self.row_length,
            block_size=block_length(self.row_length, self.scheme),
            bits=self.scheme.format.bits,
            selectors=self.block_formats if len(tables) > 1 else None,
        )

    def rows(self, indices: Tensor) -> Tensor:
        """Some rows dequantized, of shape ``(len(indices), row_length)``; others are not touched.

        Parameters
        ----------
        indices
            int64, of shape ``(n,)``: rows of :attr:`packed`, blocks running along them.
        """
        if isinstance(self.scheme.code, Trellis):
            return self.dequantize().reshape(-1, self.row_length)[indices]
        return self.select_rows(indices).dequantize()

    def select_rows(self, indices: Tensor) -> QuantizedTensor:
        """Some rows as they are stored, as a matrix; see :meth:`rows`.

        Raises
        ------
        SchemeError
            If rows are encoded together and not all of such rows are asked for, in order.
        """
        if isinstance(self.scheme.code, Trellis) and not are_whole_tiles(indices):
            raise SchemeError(
                f"{self.scheme.format_name!r} encodes rows together: none can be taken out"
            )
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
            selectors=self.selectors if self.selectors is None else self.selectors[indices],
            row_tables=tables if tables is None or len(tables) == 1 else tables[indices],
        )

    def _unscaled(self, dtype: torch.dtype) -> Tensor:
        """What the codes stand for, before scales: of shape ``(rows, row_length)``."""
        codes = unpack_codes(self.packed, self.scheme.code_bits, self.row_length)
        codebook = self._codebook(dtype)
        chosen = self.block_formats
        values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        for part in block_parts(self.row_length, self.scheme):
            its_codebook = codebook.choosing(chosen[:, part.first : part.last])
            numbers = its_codebook.decode(part_view(codes, part), part.size)
            part_view(values, part).copy_(numbers)
        return values

    def _codebook(self, dtype: torch.dtype) -> Codebook:
        rows, device = len(self.packed), self.packed.device
        return codebook_of(self.scheme, dtype, device, row_tables=self.row_tables, rows=rows)

    @property
    def bits(self) -> int:
        """All bits stored: codes with the padding of rows, scales, selectors, tables of rows.

        The formats' own tables, at most 256 numbers each per model, are not counted; a trellis'
        table is, where it is stored.
        """
        beside = self.scheme.code.table_bits if isinstance(self.scheme.code, Trellis) else 0
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
        and axis_of(shape, scheme) == 1
        and isinstance(scheme.code, Format)
        and scheme.code_bits <= MOST_PACKED_BITS
    )
