"""GPTQ for any scheme: round column by column, and let later columns make up for the error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from studentfloat.errors import DataError, SchemeError
from studentfloat.quantize.blocks import block_length, compute_dtype
from studentfloat.quantize.codebook import Codebook, codebook_of
from studentfloat.quantize.gptq_options import GPTQOptions
from studentfloat.quantize.packing import pack_codes
from studentfloat.quantize.rounding.factors import Factor, factorize_all
from studentfloat.quantize.rounding.nearest import (
    check_range,
    check_tensor,
    pack_selectors,
    scale_rows,
    store_scales,
)
from studentfloat.quantize.scales import ScaledBlocks, scale_blocks
from studentfloat.quantize.scheme import TENSOR, Scheme
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["GPTQResult", "RoundedColumns", "gptq", "round_columns"]

# Columns whose updates are applied at once to all later ones, as one matrix product.
_BATCH = 128


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
    rows = weight.numel() // max(1, weight.shape[-1]) if weight.dim() else 1
    codebook = codebook_of(
        scheme, compute_dtype(weight.dtype), weight.device, row_tables=row_tables, rows=rows
    )
    rounded = round_columns(
        weight, hessian, scheme, codebook, options=options, keep=keep, name=name
    )
    codes, selectors = rounded.codes, rounded.selectors
    if scheme.block_size == TENSOR:
        codes, selectors = codes.reshape(1, -1), selectors[:1]
    tensor = QuantizedTensor(
        packed=pack_codes(codes, scheme.code_bits),
        scales=rounded.stored_scales,
        scheme=scheme,
        shape=tuple(weight.shape),
        dtype=weight.dtype,
        selectors=pack_selectors(selectors, scheme),
        row_tables=row_tables,
    )
    return GPTQResult(tensor, rounded.notes, rounded.kept)


class RoundedColumns(NamedTuple):
    """What GPTQ makes of a weight, seen as a matrix of all its rows.

    Attributes
    ----------
    codes
        Of shape ``(rows, codes per row)``: each run of columns has its codes where it stands
        in the row.
    scales, stored_scales
        Of shape ``(rows, blocks)``, as numbers that are really stored and as they are stored.
    selectors
        uint8, of shape ``(rows, blocks)``: see :class:`ScaledBlocks`.
    notes, kept
        As in :class:`GPTQResult`.
    """

    codes: Tensor
    scales: Tensor
    stored_scales: Tensor | QuantizedTensor
    selectors: Tensor
    notes: tuple[str, ...]
    kept: Tensor | None


def round_columns(
    weight: Tensor,
    hessian: Tensor,
    scheme: Scheme,
    codebook: Codebook,
    *,
    options: GPTQOptions | None = None,
    keep: Tensor | None = None,
    name: str = "weight",
) -> RoundedColumns:
    r"""Round a matrix with any codebook; parameters and errors as for :func:`gptq`.

    Columns are rounded in runs of :attr:`Codebook.run`, one column each where a code stands
    for one number and nothing is remembered. Within a run the codebook finds what is nearest
    to all of it; its error :math:`e` then changes later columns as rounding one column at a
    time would have: with the run's part :math:`U_g` of the factor, :math:`e U_g^{-1} U_{g,k}`
    is taken from column k. An error in column j of the run weighs :math:`\sum_k
    (U_g^{-1})_{jk}^2`, which is the diagonal of what it costs in the end.

    References
    ----------
    Feedback between groups of columns (LDLQ): Tseng et al., "QuIP#", arXiv 2402.04396,
    section 4.3.
    """
    options = options or GPTQOptions()
    check_tensor(weight, name)
    _check_shapes(weight, hessian, scheme, name)
    _check_runs(codebook, scheme, weight.shape[-1])
    matrices = weight.to(compute_dtype(weight.dtype)).reshape(-1, *weight.shape[-2:])
    hessians = hessian.reshape(-1, *hessian.shape[-2:]).expand(len(matrices), -1, -1)
    factors, notes = factorize_all(hessians, scheme, codebook, options, name)
    rows = matrices.shape[1]
    masks = [None] * len(matrices) if keep is None else list(keep.reshape(matrices.shape))
    fixed = None
    if _scales_are_static(scheme, options, weight.shape[-1]):
        seen = matrices if keep is None else matrices.masked_fill(keep.reshape(matrices.shape), 0)
        fixed, stored = _static_scales(seen, factors, scheme, codebook, name)
    rounded = []
    for i, (matrix, factor) in enumerate(zip(matrices, factors, strict=True)):
        its_rows = slice(i * rows, (i + 1) * rows)
        its_scales = None if fixed is None else ScaledBlocks(*(part[its_rows] for part in fixed))
        its_codebook = codebook.of_rows(its_rows)
        rounded.append(
            _Columns(
                matrix, factor, scheme, its_codebook, fixed=its_scales, keep=masks[i], name=name
            ).run()
        )
    scales, selectors = (
        torch.cat(parts) for parts in zip(*(r.scaled for r in rounded), strict=True)
    )
    if fixed is None:
        stored = store_scales(scales, scheme, name)
    check_range(scales, codebook, scheme, weight.dtype, name)
    for part in rounded:
        _check_feedback(part.left, name)
    return RoundedColumns(
        torch.cat([part.codes for part in rounded]),
        scales,
        stored,
        selectors,
        tuple(dict.fromkeys(notes)),
        None if keep is None else torch.stack([r.left for r in rounded]).reshape(weight.shape),
    )


class _Rounded(NamedTuple):
    codes: Tensor
    scaled: ScaledBlocks
    left: Tensor


class _Columns:
    """One matrix on its way: transposed, its columns as rows in the order of rounding."""

    def __init__(
        self,
        matrix: Tensor,
        factor: Factor,
        scheme: Scheme,
        codebook: Codebook,
        *,
        fixed: ScaledBlocks | None,
        keep: Tensor | None,
        name: str,
    ) -> None:
        self._scheme, self._codebook, self._fixed, self._name = scheme, codebook, fixed, name
        self._runs, order = factor.runs, factor.runs.columns
        self._upper = factor.upper.to(matrix.dtype)
        self._importance = factor.importance
        self._left = matrix.T[order].contiguous()
        self._keep = None if keep is None else keep.T[order].contiguous()
        shape = (len(matrix), max(self._runs.blocks) + 1)
        self._scaled = ScaledBlocks(
            matrix.new_zeros(shape), matrix.new_zeros(shape, dtype=torch.uint8)
        )

    def run(self) -> _Rounded:
        codes = []
        for first, last in self._batches():
            its_codes, errors = self._batch(first, last)
            codes += its_codes
            start, stop = self._runs.starts[first], self._runs.starts[last]
            if stop < len(self._left):
                self._left[stop:].addmm_(self._upper[start:stop, stop:].T, errors, alpha=-1)
        left = torch.empty_like(self._left)
        left[self._runs.columns] = self._left
        return _Rounded(
            torch.cat(codes, dim=1)[:, torch.argsort(self._runs.codes)], self._scaled, left.T
        )

    def _batches(self) -> Iterator[tuple[int, int]]:
        """Ranges of runs that end where blocks end, unless scales are static."""
        starts, blocks = self._runs.starts, self._runs.blocks
        first = 0
        while first < len(blocks):
            last = first + 1
            while last < len(blocks) and (
                starts[last] - starts[first] < _BATCH
                # Up to the end of the last block that begins inside.
                or (self._fixed is None and blocks[last] == blocks[last - 1])
            ):
                last += 1
            yield first, last
            first = last

    def _batch(self, first: int, last: int) -> tuple[list[Tensor], Tensor]:
        """Round runs [first, last): their codes, and scaled errors of shape (columns, rows)."""
        starts = self._runs.starts
        start, stop = starts[first], starts[last]
        left = self._left[start:stop]
        errors = torch.empty_like(left)
        upper = self._upper[start:stop, start:stop]
        inverse = (1 / upper.diagonal()).tolist()
        # A column alone stays a vector: views of it as a matrix would cost more than its rounding.
        is_column = self._codebook.run == 1
        gather = torch.stack if is_column else torch.cat
        codes: list[Tensor] = []
        indices: list[Tensor] = []
        codebook, block = self._codebook, -1
        for run in range(first, last):
            if self._runs.blocks[run] != block:
                if indices:
                    codes.append(codebook.codes(gather(indices, dim=1)))
                    indices = []
                block = self._runs.blocks[run]
                scales, divisor, codebook = self._enter_block(block, run)
            a, b = starts[run] - start, starts[run + 1] - start
            at = a if is_column else slice(a, b)
            now, error = left[at], errors[at]
            numbers = now / divisor
            if is_column:
                index = codebook.nearest(numbers)
                value = codebook.values(index, 1) * scales
            else:
                index = codebook.nearest(numbers.T, self._weights(start + a, start + b))
                value = codebook.values(index, b - a).T * scales
            indices.append(index)
            if self._keep is not None:
                aside = now.bfloat16().to(value.dtype)
                value = torch.where(self._keep[start:stop][at], aside, value)
            torch.sub(now, value, out=error)
            if is_column:
                error.mul_(inverse[a])
                left[b:].addr_(upper[a, b:], error, alpha=-1)
            else:
                within = upper[a:b, a:b].T
                error.copy_(torch.linalg.solve_triangular(within, error, upper=False))
                left[b:].addmm_(upper[a:b, b:].T, error, alpha=-1)
        codes.append(codebook.codes(gather(indices, dim=1)))
        return codes, errors

    def _weights(self, start: int, stop: int) -> Tensor | None:
        """What errors in a run weigh against each other; in kept weights there are none."""
        if self._importance is None:
            return None
        weights = self._importance[start:stop]
        if self._keep is None:
            return weights
        return weights.where(~self._keep[start:stop].T, 0)

    def _enter_block(self, block: int, run: int) -> tuple[Tensor, Tensor, Codebook]:
        """Scales of the block that begins with a run, what to divide by, and its codebook."""
        if self._fixed is not None:
            scales, selectors = (part[:, block] for part in self._fixed)
        else:
            at = self._runs.starts[run]
            end = self._runs.starts[run + self._runs.blocks.count(block)]
            numbers = self._left[at:end].T.contiguous()
            _check_feedback(numbers, self._name)
            if self._keep is not None:
                numbers.masked_fill_(self._keep[at:end].T, 0)
            weights = None
            if self._scheme.scale_rule.weighted:
                weights = self._upper.diagonal()[at:end].pow(-2)
            scales, selectors = scale_blocks(
                numbers, self._scheme, self._codebook, weights=weights, name=self._name
            )
        for kept, part in zip(self._scaled, (scales, selectors), strict=True):
            kept[:, block] = part
        divisor = torch.where(scales == 0, torch.inf, scales)
        return scales, divisor, self._codebook.choosing(selectors)


def _scales_are_static(scheme: Scheme, options: GPTQOptions, width: int) -> bool:
    """Whether scales must be known before the first column is rounded."""
    together = isinstance(scheme.scale_dtype, Scheme) or scheme.block_size == TENSOR
    whole_rows = block_length(width, scheme) >= width
    return options.static_scales or options.order == "columns" or together or whole_rows


def _static_scales(
    matrices: Tensor, factors: list[Factor], scheme: Scheme, codebook: Codebook, name: str
) -> tuple[ScaledBlocks, Tensor | QuantizedTensor]:
    """Scales of the original weights: those of all matrices' rows, and as they are stored."""
    count, rows, width = matrices.shape
    shape = (1, -1) if scheme.block_size == TENSOR else (count * rows, width)
    weights = None
    if scheme.scale_rule.weighted:
        weights = torch.empty_like(matrices)
        for i, factor in enumerate(factors):
            energy = factor.upper.diagonal().pow(-2)
            weights[i, :, factor.runs.columns] = energy.to(matrices.dtype)
        weights = weights.reshape(shape)
    scaled, stored = scale_rows(matrices.reshape(shape), scheme, codebook, weights, name)
    if scheme.block_size == TENSOR:
        scaled = ScaledBlocks(*(part.expand(count * rows, 1) for part in scaled))
    return scaled, stored


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


def _check_feedback(left: Tensor, name: str) -> None:
    # The extremes of numbers are NaN where any of them is.
    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(left)):
        raise DataError(f"{name}: errors fed back to its later columns overflow: scale it down")


def _check_runs(codebook: Codebook, scheme: Scheme, width: int) -> None:
    size = block_length(width, scheme)
    if size < width and size % codebook.run:
        raise SchemeError(
            f"blocks of {size} do not hold whole runs of {codebook.run} columns: use a multiple "
            f"of {codebook.run}, or one scale per row"
        )
