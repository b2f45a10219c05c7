"""Codebooks: what rounds numbers, and gives and reads their codes.

Rounding to nearest, GPTQ and scale searches ask a :class:`Codebook` and none of them knows
whether it is one format, a table per row, a choice per block, or vectors:

>>> import torch
>>> from studentfloat.quantize import Scheme
>>> codebook = codebook_of(Scheme("e2m1"), torch.float32)
>>> indices = codebook.nearest(torch.tensor([[0.4, -2.4, 9.0]]))
>>> codebook.values(indices, 3)
tensor([[ 0.5000, -2.0000,  6.0000]])
>>> codebook.codes(indices)
tensor([[ 1, 12,  7]], dtype=torch.uint8)
"""

from __future__ import annotations

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Trellis
from studentfloat.quantize.codebook.base import Codebook
from studentfloat.quantize.codebook.levels import block_choice, format_levels, row_levels
from studentfloat.quantize.codebook.paths import trellis_paths
from studentfloat.quantize.scheme import Scheme

__all__ = ["Codebook", "codebook_of"]


def codebook_of(
    scheme: Scheme,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    row_tables: Tensor | None = None,
    rows: int = 1,
) -> Codebook:
    """What a scheme rounds with.

    Parameters
    ----------
    scheme
        Its formats count.
    dtype, device
        Of the numbers that are rounded: float32 or float64.
    row_tables
        Tables in the place of the scheme's format: see :attr:`QuantizedTensor.row_tables`.
    rows
        How many rows the matrix has; with `row_tables` only.

    Raises
    ------
    SchemeError
        If there are row tables and several formats.
    """
    if isinstance(scheme.code, Trellis):
        if row_tables is not None:
            raise SchemeError(f"row tables take the place of a format, not of {scheme.format_name}")
        return trellis_paths(scheme.code)
    levels = [format_levels(f, dtype, torch.device(device)) for f in scheme.formats]
    if row_tables is not None:
        if len(levels) > 1:
            raise SchemeError(
                f"row tables take the place of the format: the scheme must have one, not "
                f"{scheme.format_name}"
            )
        return row_levels(row_tables.to(levels[0].levels), levels[0], rows)
    return levels[0] if len(levels) == 1 else block_choice(levels)
