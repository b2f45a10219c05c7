"""The tables of values that a packed matrix's codes stand for, also in 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from studentfloat.errors import DataError
from studentfloat.kernels import reference

__all__ = ["Tables", "int8_table", "read_tables"]

_MOST_TABLES = 256  # a selector is a byte


@dataclass(frozen=True, eq=False)
class Tables:
    """One table of 16 values, or several that blocks choose among.

    Attributes
    ----------
    values
        float32, of shape ``(tables, 16)``; zero where a code has no value.
    integers, steps
        The same as int8 and, of shape ``(tables,)``, float32: see :func:`int8_table`.
    """

    values: npt.NDArray[np.float32]
    integers: npt.NDArray[np.int8]
    steps: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)


def read_tables(
    table: Sequence[float] | npt.NDArray[np.floating],
    codes: npt.NDArray[np.uint8],
    bits: int,
    columns: int,
    *,
    selectors: npt.NDArray[np.uint8] | None = None,
    block_size: int = 1,
) -> Tables:
    """Check a table, or several, against the codes that are looked up there.

    Parameters
    ----------
    table
        Of shape ``(values,)``; or, with selectors, ``(tables, values)``.
    codes
        Packed, as in :class:`~studentfloat.kernels.PackedMatrix`.
    selectors
        One table's number per block, of shape ``(rows, blocks)``.
    """
    values = np.asarray(table, dtype=np.float32)
    if values.ndim != (1 if selectors is None else 2) or not 1 <= values.shape[-1] <= 2**bits:
        raise DataError(
            f"a table of shape {values.shape} for codes of {bits} bits: 1 to {2**bits} values, "
            "and one row of them for each number that selectors, where given, may be"
        )
    if np.isinf(values).any():
        raise DataError("the table of values holds infinity")
    if selectors is not None and not int(selectors.max()) < len(values) <= _MOST_TABLES:
        raise DataError(f"selector {int(selectors.max())} among {len(values)} tables")
    rows = np.atleast_2d(values)
    full = np.full((len(rows), 16), np.nan, dtype=np.float32)
    full[:, : rows.shape[1]] = rows
    if np.isnan(full[:, : 2**bits]).any():
        _check_codes(full, codes, bits, columns, selectors=selectors, block_size=block_size)
    full = np.nan_to_num(full, nan=0.0)
    integers, steps = zip(*(int8_table(row) for row in full), strict=True)
    return Tables(full, np.stack(integers), np.array(steps, dtype=np.float32))


def _check_codes(
    tables: npt.NDArray[np.float32],
    codes: npt.NDArray[np.uint8],
    bits: int,
    columns: int,
    *,
    selectors: npt.NDArray[np.uint8] | None,
    block_size: int,
) -> None:
    """Refuse codes without a value in their table."""
    for first in range(0, len(codes), 256):
        used = reference.unpack(codes[first : first + 256], bits, columns)
        chosen = None if selectors is None else selectors[first : first + 256]
        values = reference.look_up(
            used, tables[0] if chosen is None else tables, block_size, chosen
        )
        wrong = used[np.isnan(values)]
        if wrong.size:
            raise DataError(f"code {int(wrong[0])} occurs, but the table has no value for it")


def int8_table(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], float]:
    """The integers of -127 to 127 whose multiples come nearest to a table's values.

    Returns
    -------
    integers
        int8, of the shape of `table`.
    step
        ``integers * step`` is near `table`; equal to it, up to float32's rounding, if the
        values are multiples of a common step, at most 127 of it.
    """
    greatest = float(np.abs(table).max())
    if greatest == 0:
        return np.zeros(table.shape, dtype=np.int8), 1.0
    values = table.astype(np.float64)
    # The largest magnitude falls on each integer in turn, and on places between the high ones.
    tops = np.concatenate([np.arange(1.0, 96.0), np.linspace(96.0, 127.0, 1241)])
    scaled = values * (tops / greatest)[:, None]
    errors = ((np.rint(scaled) - scaled) / tops[:, None]) ** 2
    squared = errors.sum(axis=1)
    exact = np.flatnonzero(squared < 1e-12)
    best = int(exact[0]) if exact.size else int(np.argmin(squared))
    return np.rint(scaled[best]).astype(np.int8), float(np.float32(greatest / tops[best]))
