"""What GPTQ knows of inputs: in which order columns are rounded, and how errors go on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from studentfloat.errors import DataError
from studentfloat.quantize.blocks import block_length
from studentfloat.quantize.codebook import Codebook
from studentfloat.quantize.gptq_options import GPTQOptions
from studentfloat.quantize.scheme import Scheme

__all__ = ["Factor", "Runs", "factorize_all"]

_DAMPING_STEP = 10.0
_MOST_DAMPING = 10.0


@dataclass(frozen=True, eq=False)
class Runs:
    """Columns that are rounded together, in the order in which they are.

    Attributes
    ----------
    columns
        int64, of shape ``(width,)``: the columns in that order.
    starts
        Where each run begins among `columns`; and at the end, where the last one ends.
    blocks
        The block that each run is in.
    codes
        int64: where the codes of the runs, one after the other, stand in the row.
    """

    columns: Tensor
    starts: list[int]
    blocks: list[int]
    codes: Tensor


class Factor(NamedTuple):
    """Runs in their order, and the upper factor of the inverse Hessian in that order.

    `importance` is what errors of columns in one run weigh against each other, of shape
    ``(width,)``; None where runs are single columns.
    """

    runs: Runs
    upper: Tensor
    importance: Tensor | None


def factorize_all(
    hessians: Tensor, scheme: Scheme, codebook: Codebook, options: GPTQOptions, name: str
) -> tuple[list[Factor], list[str]]:
    """Factorize each Hessian; a Hessian shared by all experts only once."""
    notes: list[str] = []
    factors: dict[int, Factor] = {}
    found = []
    for hessian in hessians:
        key = hessian.data_ptr()
        if key not in factors:
            factors[key] = _factorize(hessian, scheme, codebook, options, name=name, notes=notes)
        found.append(factors[key])
    return found, notes


def _factorize(
    hessian: Tensor,
    scheme: Scheme,
    codebook: Codebook,
    options: GPTQOptions,
    *,
    name: str,
    notes: list[str],
) -> Factor:
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
    runs = _runs(full.diagonal(), scheme, codebook, options)
    # Reversed, so that the triangular factor of the inverse needs no inverse of its own:
    # with J the reversal and J H J = L L^T, the inverse is U^T U with U = J L^-1 J.
    back = runs.columns.flip(0)
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
    importance = None
    if codebook.run > 1:
        # A dead channel counts as much as damping alone makes it.
        share = torch.where(dead[runs.columns], damping, 1.0)
        importance = _importance(upper, runs) * share
    return Factor(runs, upper, importance)


def _importance(upper: Tensor, runs: Runs) -> Tensor:
    """The diagonal of each run's ``U^-1 U^-T``: what an error costs that nothing makes up for."""
    parts = []
    for start, stop in pairwise(runs.starts):
        own = upper[start:stop, start:stop]
        identity = torch.eye(stop - start, dtype=own.dtype, device=own.device)
        inverse = torch.linalg.solve_triangular(own, identity, upper=True)
        parts.append(inverse.square().sum(dim=1))
    return torch.cat(parts)


def _runs(diagonal: Tensor, scheme: Scheme, codebook: Codebook, options: GPTQOptions) -> Runs:
    """Runs of columns in the order in which they are rounded."""
    width, device = len(diagonal), diagonal.device
    columns = torch.arange(width, device=device)
    block_of = columns // block_length(width, scheme)
    within = columns % block_length(width, scheme)
    # Runs begin anew with each block.
    begins = within % codebook.run == 0
    run_of = begins.long().cumsum(0) - 1
    sizes = torch.bincount(run_of)
    order = torch.arange(len(sizes), device=device)
    if options.order != "none":
        energy = torch.zeros_like(sizes, dtype=diagonal.dtype).index_add_(0, run_of, diagonal)
        order = torch.argsort(energy / sizes, descending=True, stable=True)
    if options.order == "blocks":
        parts = torch.split(diagonal, block_length(width, scheme))
        energies = torch.stack([part.mean() for part in parts])
        rank = torch.argsort(torch.argsort(energies, descending=True, stable=True))
        order = order[torch.argsort(rank[block_of[begins]][order], stable=True)]
    counts = -(-sizes // codebook.dimension)
    first_code = counts.cumsum(0) - counts
    first_column = columns[begins]
    return Runs(
        columns=_ranges(first_column[order], sizes[order]),
        starts=[0, *sizes[order].cumsum(0).tolist()],
        blocks=block_of[begins][order].tolist(),
        codes=_ranges(first_code[order], counts[order]),
    )


def _ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """The numbers ``start ... start + size - 1`` of each range, one after the other."""
    ends = sizes.cumsum(0)
    places = torch.arange(int(ends[-1]), device=starts.device)
    return places + torch.repeat_interleave(starts - (ends - sizes), sizes)
