"""GPTQ for any scheme: round column by column, and let later columns make up for the error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from studentfloat.errors import DataError, SchemeError
from studentfloat.quantize.columns import ColumnGrid, format_grid, table_grid
from studentfloat.quantize.options import GPTQOptions
from studentfloat.quantize.packing import pack_codes
from studentfloat.quantize.scales import ScaledBlocks, scale_blocks
from studentfloat.quantize.scheme import TENSOR, Scheme
from studentfloat.quantize.tensor import (
    QuantizedTensor,
    block_parts,
    check_tensor,
    pack_selectors,
    part_view,
    store_scales,
)

__all__ = ["GPTQResult", "gptq"]

# Columns whose updates are applied at once to all later ones, as one matrix product.
_BATCH = 128
_DAMPING_STEP = 10.0
_MOST_DAMPING = 10.0


class GPTQResult(NamedTuple):
    """The tensor, in words what differed from what was asked for, and weights kept aside.

    `kept` is the weight as it was when its column's turn came, bfloat16 where it is kept;
    None where nothing is.
    """

    tensor: QuantizedTensor
    notes: tuple[str, ...]
    kept: Tensor | None = None


def gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: Scheme,
    *,
    options: GPTQOptions | None = None,
    row_tables: Tensor | None = None,
    keep: Tensor | None = None,
    name: str = "weight",
) -> GPTQResult:
    r"""Quantize a matrix so that its product with the calibration inputs changes little.

    Minimizes :math:`\lVert (W - \hat W) X \rVert^2 = \sum_i (w_i - \hat w_i)^T H (w_i - \hat
    w_i)`, with ``H = X X^T``, greedily: column j is rounded to nearest, and its error times
    :math:`U_{jk} / U_{jj}` is taken from each later column k, where ``U`` is the upper
    Cholesky factor of the inverse of the damped ``H``.

    Parameters
    ----------
    weight
        Of shape ``(out_features, in_features)``, or ``(experts, out_features,
        in_features)``, floating point, finite.
    hessian
        Of shape ``(in_features, in_features)``, or one per expert: sums or means of ``x
        x^T`` over inputs. An input that was always zero is a dead channel: its weights are
        rounded to nearest and change nothing else.
    scheme
        Any, with blocks along the last axis. A weighted scale rule gets :math:`1 /
        U_{jj}^2`, what an error in column j costs once later columns have made up for it.
    row_tables
        Codebooks of the rows' own instead of the scheme's format: see
        :attr:`QuantizedTensor.row_tables`. Scales then come from the scheme's format.
    keep
        bool, of the weight's shape: weights that are kept aside in bfloat16. They make up
        for others' errors but cause none, and have no say in their block's scale.

    Raises
    ------
    DataError
        If weight or Hessian hold NaN or infinity.
    SchemeError
        If shapes or scheme do not fit.

    References
    ----------
    Frantar et al., "GPTQ", arXiv 2210.17323, algorithm 1. Scales of a block from updated
    weights, static scales and column order: its authors' code. Order by blocks: Gafni et
    al., "Dual precision quantization", arXiv 2505.14638.
    """
    options = options or GPTQOptions()
    check_tensor(weight, name)
    _check_shapes(weight, hessian, scheme, name)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    matrices = weight.to(dtype).reshape(-1, *weight.shape[-2:])
    hessians = hessian.reshape(-1, *hessian.shape[-2:]).expand(len(matrices), -1, -1)
    factors, notes = _factors(hessians, scheme, options, name)
    rows = matrices.shape[1]
    fixed = None
    if _scales_are_static(scheme, options, weight.shape[-1]):
        seen = matrices if keep is None else matrices.masked_fill(keep.reshape(matrices.shape), 0)
        fixed, stored = _static_scales(seen, factors, scheme, name)
    tables = None if row_tables is None else row_tables.to(dtype).reshape(-1, row_tables.shape[-1])
    masks = [None] * len(matrices) if keep is None else list(keep.reshape(matrices.shape))
    columns = [
        _Columns(
            matrix,
            factor,
            scheme,
            fixed=_part_of(fixed, i, rows),
            tables=_rows_of(tables, i, rows),
            keep=masks[i],
        )
        for i, (matrix, factor) in enumerate(zip(matrices, factors, strict=True))
    ]
    rounded = [work.run() for work in columns]
    codes = torch.cat([part.codes for part in rounded])
    if fixed is None:
        scales = torch.cat([part.scales for part in rounded])
        stored = store_scales(scales, scheme, name)
        chosen = [part.selectors for part in rounded if part.selectors is not None]
        selectors = torch.cat(chosen) if chosen else None
    else:
        selectors = fixed.selectors
    if scheme.block_size == TENSOR:
        codes = codes.reshape(1, -1)
        selectors = None if selectors is None else selectors[:1]
    tensor = QuantizedTensor(
        packed=pack_codes(codes, scheme.format.bits),
        scales=stored,
        scheme=scheme,
        shape=tuple(weight.shape),
        dtype=weight.dtype,
        selectors=pack_selectors(selectors, scheme),
        row_tables=row_tables,
    )
    kept = None
    if keep is not None:
        kept = torch.stack([part.left for part in rounded]).reshape(weight.shape)
    return GPTQResult(tensor, tuple(dict.fromkeys(notes)), kept)


class _Rounded(NamedTuple):
    codes: Tensor
    scales: Tensor
    selectors: Tensor | None
    left: Tensor


class _Columns:
    """One matrix on its way: transposed, its columns as rows in the order of rounding."""

    def __init__(
        self,
        matrix: Tensor,
        factor: _Factor,
        scheme: Scheme,
        *,
        fixed: ScaledBlocks | None,
        tables: Tensor | None,
        keep: Tensor | None,
    ) -> None:
        rows, width = matrix.shape
        self._scheme, self._fixed = scheme, fixed
        self._order = factor.order
        self._upper = factor.upper.to(matrix.dtype)
        self._block_of = _block_of_columns(width, scheme)[self._order]
        self._left = matrix.T[self._order].contiguous()
        self._keep = None if keep is None else keep.T[self._order].contiguous()
        self._codes = torch.empty((width, rows), dtype=torch.uint8, device=matrix.device)
        blocks = int(self._block_of.max()) + 1
        self._scales = torch.zeros((rows, blocks), dtype=matrix.dtype, device=matrix.device)
        self._selectors = torch.zeros((rows, blocks), dtype=torch.uint8, device=matrix.device)
        self._grid = (
            format_grid(scheme.formats, matrix.dtype, matrix.device)
            if tables is None
            else table_grid(tables)
        )

    def run(self) -> _Rounded:
        for start, stop in self._batches():
            errors = self._batch(start, stop)
            if stop < len(self._left):
                self._left[stop:].addmm_(self._upper[start:stop, stop:].T, errors, alpha=-1)
        codes, left = torch.empty_like(self._codes), torch.empty_like(self._left)
        codes[self._order], left[self._order] = self._codes, self._left
        selectors = self._selectors if self._scheme.alternatives else None
        return _Rounded(codes.T.contiguous(), self._scales, selectors, left.T)

    def _batches(self) -> Iterator[tuple[int, int]]:
        """Ranges of columns that end where blocks end, unless scales are static."""
        width, start = len(self._left), 0
        while start < width:
            stop = min(start + _BATCH, width)
            if self._fixed is None:
                # Up to the end of the last block that begins inside.
                while stop < width and self._block_of[stop] == self._block_of[stop - 1]:
                    stop += 1
            yield start, stop
            start = stop

    def _batch(self, start: int, stop: int) -> Tensor:
        """Round columns [start, stop); their scaled errors, of shape (columns, rows)."""
        left = self._left[start:stop]
        errors = torch.empty_like(left)
        indices = torch.empty(left.shape, dtype=torch.int64, device=left.device)
        upper = self._upper[start:stop, start:stop]
        inverse = (1 / upper.diagonal()).tolist()
        block, grid, first = -1, self._grid, 0
        blocks = self._block_of[start:stop].tolist()
        for j in range(stop - start):
            if blocks[j] != block:
                if block >= 0:
                    self._codes[start + first : start + j] = grid.codes_of(indices[first:j])
                block, first = blocks[j], j
                scales, divisor, grid = self._enter_block(block, start + j)
            index, level = grid.nearest(left[j] / divisor)
            indices[j] = index
            torch.mul(level, scales, out=level)
            if self._keep is not None:
                aside = left[j].bfloat16().to(level.dtype)
                level = torch.where(self._keep[start + j], aside, level)
            torch.sub(left[j], level, out=level).mul_(inverse[j])
            errors[j] = level
            if j + 1 < stop - start:
                left[j + 1 :].addr_(upper[j, j + 1 :], level, alpha=-1)
        self._codes[start + first : stop] = grid.codes_of(indices[first:])
        return errors

    def _enter_block(self, block: int, at: int) -> tuple[Tensor, Tensor, ColumnGrid]:
        """Scales of the block that begins at column `at`, what to divide by, and its grid."""
        if self._fixed is not None:
            scales = self._fixed.scales[:, block]
            selectors = None if self._fixed.selectors is None else self._fixed.selectors[:, block]
        else:
            size = int((self._block_of == block).sum())
            numbers = self._left[at : at + size].T.contiguous()
            if self._keep is not None:
                numbers.masked_fill_(self._keep[at : at + size].T, 0)
            weights = None
            if self._scheme.scale_rule.weighted:
                weights = self._upper.diagonal()[at : at + size].pow(-2)
            scales, selectors = scale_blocks(numbers, self._scheme, weights=weights)
        self._scales[:, block] = scales
        if selectors is not None:
            self._selectors[:, block] = selectors
        divisor = torch.where(scales == 0, torch.inf, scales)
        return scales, divisor, self._grid.select(selectors)


class _Factor(NamedTuple):
    """Order of columns, and the upper factor of the inverse Hessian in that order."""

    order: Tensor
    upper: Tensor


def _factors(
    hessians: Tensor, scheme: Scheme, options: GPTQOptions, name: str
) -> tuple[list[_Factor], list[str]]:
    """Factorize each Hessian; a Hessian shared by all experts only once."""
    notes: list[str] = []
    factors: dict[int, _Factor] = {}
    found = []
    for hessian in hessians:
        key = hessian.data_ptr()
        if key not in factors:
            factors[key] = _factorize(hessian, scheme, options, name, notes)
        found.append(factors[key])
    return found, notes


def _factorize(
    hessian: Tensor, scheme: Scheme, options: GPTQOptions, name: str, notes: list[str]
) -> _Factor:
    # In double precision: the inverse of a nearly singular matrix is what is asked for.
    full = hessian.double().clone()
    if not torch.isfinite(full).all():
        raise DataError(f"the Hessian of {name} holds NaN or infinity: its inputs overflow")
    diagonal = full.diagonal()
    dead = diagonal == 0
    alive = diagonal[~dead]
    if not len(alive):
        notes.append("its inputs were all zero: rounded to nearest")
    elif dead.any():
        notes.append(f"{int(dead.sum())} of {len(dead)} inputs were always zero")
    energy = float(alive.mean()) if len(alive) else 1.0
    # A dead channel meets no other: its row and column are zero beside the diagonal.
    full[dead, :] = 0
    full[:, dead] = 0
    full.diagonal()[dead] = energy
    order = _order(full.diagonal(), scheme, options)
    # Reversed, so that the triangular factor of the inverse needs no inverse of its own:
    # with J the reversal and J H J = L L^T, the inverse is U^T U with U = J L^-1 J.
    back = order.flip(0)
    reversed_hessian = full[back][:, back]
    damping = options.damping
    while True:
        damped = reversed_hessian.clone()
        damped.diagonal().add_(damping * energy)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            break
        damping *= _DAMPING_STEP
        if damping > _MOST_DAMPING:
            raise DataError(
                f"the Hessian of {name} is not positive definite even with damping "
                f"{damping / _DAMPING_STEP:g}: its inputs are unsound"
            )
        notes.append(f"damping raised to {damping:g}: the Hessian was not positive definite")
    identity = torch.eye(len(full), dtype=full.dtype, device=full.device)
    upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
    return _Factor(order, upper)


def _order(diagonal: Tensor, scheme: Scheme, options: GPTQOptions) -> Tensor:
    """Columns in the order in which they are rounded."""
    width = len(diagonal)
    if options.order == "none":
        return torch.arange(width, device=diagonal.device)
    if options.order == "columns":
        return torch.argsort(diagonal, descending=True, stable=True)
    parts = torch.split(torch.arange(width, device=diagonal.device), _block_width(width, scheme))
    energies = torch.stack([diagonal[part].mean() for part in parts])
    within = [part[torch.argsort(diagonal[part], descending=True, stable=True)] for part in parts]
    ordered = torch.argsort(energies, descending=True, stable=True).tolist()
    return torch.cat([within[i] for i in ordered])


def _block_width(width: int, scheme: Scheme) -> int:
    return scheme.block_size if isinstance(scheme.block_size, int) else width


def _block_of_columns(width: int, scheme: Scheme) -> Tensor:
    return torch.arange(width) // _block_width(width, scheme)


def _scales_are_static(scheme: Scheme, options: GPTQOptions, width: int) -> bool:
    """Whether scales must be known before the first column is rounded."""
    together = isinstance(scheme.scale_dtype, Scheme) or scheme.block_size == TENSOR
    whole_rows = _block_width(width, scheme) >= width
    return options.static_scales or options.order == "columns" or together or whole_rows


def _static_scales(
    matrices: Tensor, factors: list[_Factor], scheme: Scheme, name: str
) -> tuple[ScaledBlocks, Tensor | QuantizedTensor]:
    """Scales of the original weights: those of all matrices' rows, and as they are stored."""
    count, rows, width = matrices.shape
    weights = None
    if scheme.scale_rule.weighted:
        weights = torch.empty_like(matrices)
        for i, (order, upper) in enumerate(factors):
            weights[i, :, order] = upper.diagonal().pow(-2).to(matrices.dtype)
        weights = weights.reshape(count * rows, width)
    flat = matrices.reshape(count * rows, width)
    if scheme.block_size == TENSOR:
        line = None if weights is None else weights.reshape(1, 1, -1)
        scaled = scale_blocks(flat.reshape(1, 1, -1), scheme, weights=line)
        parts = [scaled]
    else:
        parts = [
            scale_blocks(
                part_view(flat, part),
                scheme,
                weights=None if weights is None else part_view(weights, part),
            )
            for part in block_parts(width, scheme)
        ]
    scales = torch.cat([part.scales for part in parts], dim=1)
    chosen = [part.selectors for part in parts if part.selectors is not None]
    stored = store_scales(scales, scheme, name)
    if isinstance(stored, QuantizedTensor):
        scales = stored.dequantize().to(flat.dtype).reshape(scales.shape)
    selectors = torch.cat(chosen, dim=1) if chosen else None
    if scheme.block_size == TENSOR:
        scales = scales.expand(count * rows, 1)
        selectors = None if selectors is None else selectors.expand(count * rows, 1)
    return ScaledBlocks(scales, selectors), stored


def _part_of(fixed: ScaledBlocks | None, matrix: int, rows: int) -> ScaledBlocks | None:
    if fixed is None:
        return None
    part = slice(matrix * rows, (matrix + 1) * rows)
    return ScaledBlocks(
        fixed.scales[part], None if fixed.selectors is None else fixed.selectors[part]
    )


def _rows_of(tables: Tensor | None, matrix: int, rows: int) -> Tensor | None:
    if tables is None or len(tables) == 1:
        return tables
    return tables[matrix * rows : (matrix + 1) * rows]


def _check_shapes(weight: Tensor, hessian: Tensor, scheme: Scheme, name: str) -> None:
    if weight.dim() not in (2, 3):
        raise SchemeError(
            f"{name} has shape {tuple(weight.shape)}: GPTQ takes (out, in) or (experts, out, in)"
        )
    if scheme.axis not in (-1, weight.dim() - 1):
        raise SchemeError(
            f"axis {scheme.axis}: GPTQ needs blocks along the inputs, which is the last axis (-1)"
        )
    wanted = (weight.shape[-1], weight.shape[-1])
    leading = tuple(hessian.shape[:-2])
    if tuple(hessian.shape[-2:]) != wanted or leading not in ((), tuple(weight.shape[:-2])):
        raise SchemeError(
            f"a Hessian of shape {tuple(hessian.shape)} does not fit {name} of shape "
            f"{tuple(weight.shape)}: it must be {wanted}, or one such per expert"
        )
