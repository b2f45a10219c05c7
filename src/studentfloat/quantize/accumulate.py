"""Products summed up as hardware sums them: integers of a format's grid, in so many bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from studentfloat.errors import SchemeError
from studentfloat.formats import Format

__all__ = ["grid_integers", "integer_matmul"]

Overflow = Literal["saturate", "wrap"]
_WIDEST = 53  # integers up to 2**53 are exact in float64, which multiplies matrices fast


def grid_integers(values: Tensor, number_format: Format) -> Tensor:
    """Levels of a format as integers of its grid.

    Parameters
    ----------
    values
        Levels of the format, exactly: any shape.

    Returns
    -------
    Tensor
        int64, of the same shape: ``step * integer`` is the level.

    Raises
    ------
    SchemeError
        If the format has no integer grid, or a value is none of its levels.
    """
    grid = number_format.integer_grid
    if grid is None:
        raise SchemeError(
            f"format {number_format.name!r} lies on no integer grid: round its levels first "
            f"({number_format.name}-fixed8)"
        )
    levels = torch.tensor(number_format.levels, dtype=torch.float64)
    index = torch.searchsorted(levels, values.double().contiguous()).clamp(max=len(levels) - 1)
    if not torch.equal(levels[index], values.double()):
        raise SchemeError(f"values are not all levels of format {number_format.name!r}")
    return torch.tensor(grid.integers, dtype=torch.int64)[index]


def integer_matmul(
    left: Tensor, right: Tensor, *, bits: int | None = None, overflow: Overflow = "saturate"
) -> Tensor:
    """``left @ right.T`` over integers, in an accumulator of so many bits.

    Parameters
    ----------
    left, right
        int64, of shapes ``(m, k)`` and ``(n, k)``.
    bits
        Width of a two's complement accumulator, up to 53; None for one that never overflows.
    overflow
        "saturate": after each product the sum stays at the extreme that it would pass, so
        that the order of summing (ascending k) matters; "wrap": modulo ``2**bits``.

    Returns
    -------
    Tensor
        int64, of shape ``(m, n)``.
    """
    if bits is not None and not 2 <= bits <= _WIDEST:
        raise SchemeError(f"an accumulator of {bits} bits: 2 to {_WIDEST}")
    if overflow not in ("saturate", "wrap"):
        raise SchemeError(f"overflow {overflow!r}: 'saturate' or 'wrap'")
    # No partial sum is larger than the sum of magnitudes.
    reach = left.abs().double() @ right.abs().double().T
    if float(reach.max()) >= 2.0**_WIDEST:
        raise SchemeError("the products do not fit 53 bits: use a format of a smaller grid")
    exact = (left.double() @ right.double().T).long()
    if bits is None or float(reach.max()) < 2 ** (bits - 1):
        return exact
    if overflow == "wrap":
        half = 1 << (bits - 1)
        return (exact + half) % (1 << bits) - half
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    total = torch.zeros_like(exact)
    for k in range(left.shape[1]):
        total = (total + torch.outer(left[:, k], right[:, k])).clamp_(low, high)
    return total
