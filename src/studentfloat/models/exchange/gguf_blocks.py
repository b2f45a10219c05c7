"""GGUF's block types that are one table times one scale, with or without a minimum; their bytes.

Layouts and tables are those of ggml (``ggml-common.h``, ``block_q4_0`` and its neighbors): a
block of 32 numbers is its scale, for Q4_1 its minimum, and its codes; of two 4-bit codes in a
byte the low one is of the block's first half. The others (K-quants) pack scales of scales in
ways that no scheme describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Format
from studentfloat.models.exchange.blocks import code_table, codes_of, exponents_of
from studentfloat.quantize.parts import Offsets
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.quantize.weight import QuantizedWeight

__all__ = ["BLOCK", "BLOCK_TYPES", "BlockType", "Blocks", "fitting_type", "split_blocks"]

BLOCK = 32
Bytes = npt.NDArray[np.uint8]


class Blocks(NamedTuple):
    """Rows of blocks: codes, and as they are stored a scale and maybe a minimum of each block."""

    codes: Tensor
    scales: Tensor
    minima: Tensor | None

    def in_order(self, rows: Tensor) -> Blocks:
        """The same rows in another order."""
        minima = None if self.minima is None else self.minima[rows]
        return Blocks(self.codes[rows], self.scales[rows], minima)


@dataclass(frozen=True)
class BlockType:
    """One of GGUF's block types.

    Attributes
    ----------
    name
        As GGUF calls it.
    scheme
        What its weights are when they are brought in.
    flipped_bits
        Bits in which its codes differ from the format's.
    has_minimum
        Whether a block has a minimum, which is added to its numbers, after its scale.
    """

    name: str
    scheme: Scheme
    flipped_bits: int
    has_minimum: bool = False

    @property
    def format(self) -> Format:
        """The format whose values its codes stand for."""
        return self.scheme.format

    @property
    def scale_bytes(self) -> int:
        """Bytes of a block's scale."""
        return 1 if self.scheme.scale_dtype_name == "e8m0" else 2

    @property
    def head_bytes(self) -> int:
        """Bytes of a block before its codes."""
        return self.scale_bytes * (2 if self.has_minimum else 1)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.head_bytes + BLOCK * self.format.bits // 8

    def pack(self, codes: Tensor, scales: Tensor, minima: Tensor | None = None) -> Bytes:
        """Codes of the type's own format, scales and minima as stored, to bytes.

        Parameters
        ----------
        codes
            uint8, of shape ``(rows, columns)``.
        scales
            float16 or uint8, of shape ``(rows, columns / 32)``.
        minima
            Where the type has them, of that shape and type too.

        Returns
        -------
        array
            uint8, of shape ``(rows, bytes per row)``.
        """
        rows, columns = codes.shape
        blocks = codes.reshape(rows, columns // BLOCK, BLOCK) ^ self.flipped_bits
        if self.format.bits == 4:
            half = BLOCK // 2
            blocks = blocks[..., :half] | (blocks[..., half:] << 4)
        heads = [
            head.contiguous().view(torch.uint8).reshape(rows, columns // BLOCK, -1)
            for head in (scales, minima)
            if head is not None
        ]
        packed: Bytes = torch.cat((*heads, blocks), dim=-1).reshape(rows, -1).numpy()
        return packed

    def unpack(self, raw: Bytes) -> Blocks:
        """The way back.

        Parameters
        ----------
        raw
            uint8, of shape ``(rows, bytes per row)``.
        """
        rows = len(raw)
        blocks = torch.from_numpy(np.array(raw)).reshape(rows, -1, self.block_bytes)
        head, codes = blocks[..., : self.head_bytes], blocks[..., self.head_bytes :]
        if self.format.bits == 4:
            codes = torch.cat((codes & 15, codes >> 4), dim=-1)
        head = head.contiguous()
        if self.scale_bytes == 2:
            head = head.view(torch.float16)
        return Blocks(
            (codes ^ self.flipped_bits).reshape(rows, -1),
            head[..., 0].contiguous(),
            head[..., 1].contiguous() if self.has_minimum else None,
        )


def _types() -> dict[str, BlockType]:
    return {
        kind.name: kind
        for kind in (
            # Its codes count from -8 up: two's complement with the highest bit turned over.
            BlockType("Q4_0", Scheme("int4", BLOCK, -1, "signed-absmax", "float16"), 8),
            # Its table is doubled and its scale halved, which is the same.
            BlockType("MXFP4", Scheme("e2m1", BLOCK, scale_dtype="e8m0"), 0),
            BlockType("IQ4_NL", Scheme("iq4_nl", BLOCK, -1, "signed-absmax", "float16"), 0),
            BlockType("Q8_0", Scheme("int8", BLOCK, scale_dtype="float16"), 0),
            BlockType("Q4_1", Scheme("uint4", BLOCK, scale_dtype="float16"), 0, has_minimum=True),
        )
    }


BLOCK_TYPES: Mapping[str, BlockType] = MappingProxyType(_types())


def fitting_type(weight: QuantizedWeight, name: str) -> BlockType:
    """The type that holds a matrix exactly.

    Parameters
    ----------
    weight
        Codes and scales, and maybe offsets.
    name
        What to call it in an error.

    Raises
    ------
    SchemeError
        If none does; the message says why and what would.
    """
    scheme, offsets = weight.base.scheme, weight.part(Offsets)
    kinds = [kind for kind in BLOCK_TYPES.values() if kind.has_minimum == (offsets is not None)]
    for kind in kinds:
        if kind.format.bits >= scheme.format.bits and not (
            set(scheme.format.levels) - set(kind.format.levels)
        ):
            _check_blocks(weight.base, name, kind)
            if offsets is not None:
                _check_minima(offsets, weight.shape, name, kind)
            return kind
    tables = ", ".join(kind.format.name for kind in kinds)
    raise SchemeError(
        f"GGUF cannot carry {name}: no type of it has the values of format "
        f"{scheme.format.name!r}{' and a minimum' if offsets else ''} (there are {tables}). "
        "`studentfloat quantize --format int4 --block-size 32 --scale-dtype float16` makes what "
        "it can carry; ONNX carries any table"
    )


def split_blocks(weight: QuantizedWeight, kind: BlockType, name: str) -> Blocks:
    """A matrix as a type has it: blocks of 32, codes by value.

    Parameters
    ----------
    weight
        One that :func:`fitting_type` found `kind` for.
    name
        What to call it in an error.
    """
    tensor, offsets = weight.base, weight.part(Offsets)
    codes = codes_of(tensor)
    table = code_table(tensor.scheme.format, kind.format)
    blocks = codes.shape[1] // BLOCK
    numbers = tensor.block_scales()
    stored = exponents_of(numbers, name) if kind.scale_bytes == 1 else numbers.to(torch.float16)
    minima = None
    if offsets is not None:
        minima = _spread(offsets.numbers(weight.shape).to(torch.float16), blocks)
    return Blocks(table[codes.int()], _spread(stored, blocks), minima)


def _spread(numbers: Tensor, blocks: int) -> Tensor:
    """Numbers of larger blocks, given to each of theirs."""
    return numbers.repeat_interleave(blocks // numbers.shape[1], dim=1)


def _check_minima(offsets: Offsets, shape: tuple[int, ...], name: str, kind: BlockType) -> None:
    columns, length = shape[-1], offsets.block_size
    numbers = offsets.numbers(shape)
    if length % BLOCK or columns % length or bool((numbers.half().float() != numbers).any()):
        raise SchemeError(
            f"GGUF's {kind.name} has minima in float16 for blocks of {BLOCK}: it cannot carry "
            f"{name}, with offsets for blocks of {length} that are others. `studentfloat "
            "dequantize` makes a dense model"
        )


def _check_blocks(tensor: QuantizedTensor, name: str, kind: BlockType) -> None:
    size, columns = tensor.scheme.block_size, tensor.row_length
    length = size if isinstance(size, int) else columns
    if columns % BLOCK or length % BLOCK or columns % length:
        raise SchemeError(
            f"GGUF's {kind.name} has blocks of {BLOCK}: it cannot carry {name}, with rows of "
            f"{columns} numbers in blocks of {length}. Quantize with --block-size {BLOCK}"
            + ("" if columns % BLOCK == 0 else "; rows that are no multiple of it stay dense")
        )
    scales = tensor.block_scales()
    if kind.scale_bytes == 1:
        exponents_of(scales, name)
        return
    exact = scales.to(torch.float16).float() == scales
    if not bool(exact.all()):
        raise SchemeError(
            f"GGUF's {kind.name} has scales in float16: it cannot carry {name}, of whose scales "
            f"{int((~exact).sum())} of {exact.numel()} are none. Quantize with --scale-dtype "
            "float16"
        )
