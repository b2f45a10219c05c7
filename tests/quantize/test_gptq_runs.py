"""GPTQ in runs of columns, for codes that several numbers share: against explicit inverses."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from studentfloat.errors import SchemeError
from studentfloat.quantize import GPTQOptions, Scheme
from studentfloat.quantize.codebook import codebook_of
from studentfloat.quantize.rounding.gptq import gptq, round_columns
from studentfloat.quantize.scales import block_scales, scale_blocks

from .test_gptq import ROWS, WIDTH, layer, output_error
from .vectors import Sequences, Vectors, normal_points

ROW = Scheme("int4", "row", scale_rule="mse")


def dequantize(rounded, codebook, size: int, width: int) -> torch.Tensor:
    """Values of the codes, block by block, times scales."""
    codes_per_block = -(-size // codebook.dimension)
    blocks = [
        codebook.decode(codes, min(size, width - b * size)) * rounded.scales[:, b, None]
        for b, codes in enumerate(rounded.codes.split(codes_per_block, dim=1))
    ]
    return torch.cat(blocks, dim=1)


def textbook(weight, hessian, codebook, runs, scales) -> torch.Tensor:
    """Each run rounded by the diagonal of what its error will cost, which the rest makes up for.

    What is left of the Hessian's inverse is computed anew after each run.
    """
    left, width = weight.numpy().copy(), weight.shape[1]
    damped = hessian.numpy() + 0.01 * np.diag(hessian.numpy()).mean() * np.eye(width)
    result = np.empty_like(left)
    for number, run in enumerate(runs):
        later = [column for other in runs[number + 1 :] for column in other]
        remaining = [*run, *later]
        inverse = np.linalg.inv(damped[np.ix_(remaining, remaining)])
        cost = np.linalg.inv(inverse[: len(run), : len(run)])
        numbers = torch.from_numpy(left[:, run]) / scales[:, run]
        weights = torch.from_numpy(np.diag(cost).copy())
        rounded = codebook.round(numbers, weights) * scales[:, run]
        result[:, run] = rounded.numpy()
        error = left[:, run] - result[:, run]
        left[:, later] -= error @ cost @ inverse[: len(run), len(run) :]
    return torch.from_numpy(result)


def natural_runs(width: int, run: int) -> list[list[int]]:
    return [list(range(start, min(start + run, width))) for start in range(0, width, run)]


def by_energy(runs, hessian) -> list[list[int]]:
    energy = hessian.diagonal().numpy()
    return sorted(runs, key=lambda run: -energy[run].mean())


@pytest.mark.parametrize(
    "codebook",
    [
        Vectors(normal_points(2, 16)),
        Vectors(normal_points(3, 64)),
        Vectors(normal_points(4, 64)),
        Sequences(8),
        Sequences(16),
    ],
    ids=["pairs", "threes", "fours", "sequences of 8", "sequences of 16"],
)
@pytest.mark.parametrize("order", ["none", "blocks"])
def test_equals_the_textbook(codebook, order) -> None:
    """Width 40: neither 3 nor 16 divides it, so a run is shorter and still stands at the end."""
    weight, _, hessian = layer()
    rounded = round_columns(weight, hessian, ROW, codebook, options=GPTQOptions(order=order))
    runs = natural_runs(WIDTH, codebook.run)
    if order == "blocks":
        runs = by_energy(runs, hessian)
    scales = scale_blocks(weight[:, None], ROW, codebook).scales.expand(-1, WIDTH)
    expected = textbook(weight, hessian, codebook, runs, scales)
    got = dequantize(rounded, codebook, WIDTH, WIDTH)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert rounded.codes.shape == (ROWS, -(-WIDTH // codebook.dimension))


def test_scales_follow_the_weights_as_they_are_when_a_block_begins() -> None:
    weight, _, hessian = layer()
    codebook = Vectors(normal_points(2, 16))
    scheme = Scheme("int4", 16, scale_rule="mse")
    moving, static = (
        round_columns(
            weight,
            hessian,
            scheme,
            codebook,
            options=GPTQOptions(order="none", static_scales=static),
        )
        for static in (False, True)
    )
    first = scale_blocks(weight[:, None, :16], scheme, codebook).scales
    assert torch.equal(moving.scales[:, :1], first)
    assert torch.equal(static.scales[:, :1], first)
    last = scale_blocks(weight[:, None, 32:], scheme, codebook).scales
    assert torch.equal(static.scales[:, 2:], last)
    assert not torch.equal(moving.scales[:, 2:], last)
    of_columns = static.scales.repeat_interleave(16, dim=1)[:, :WIDTH]
    expected = textbook(weight, hessian, codebook, natural_runs(WIDTH, 2), of_columns)
    torch.testing.assert_close(dequantize(static, codebook, 16, WIDTH), expected)


@pytest.mark.parametrize("order", ["none", "blocks", "columns"])
def test_outputs_are_better_than_nearest_and_than_one_number_at_a_time(order) -> None:
    """16 points of two dimensions against 4 levels of one: 2 bits both."""
    pairs, twos = Vectors(normal_points(2, 16)), Scheme("nf2", "row", scale_rule="mse")
    for seed in range(3):
        weight, inputs, hessian = layer(seed)
        rounded = round_columns(weight, hessian, ROW, pairs, options=GPTQOptions(order=order))
        ours = output_error(weight, dequantize(rounded, pairs, WIDTH, WIDTH), inputs)
        scales = scale_blocks(weight[:, None], ROW, pairs).scales
        nearest = output_error(weight, pairs.round(weight / scales) * scales, inputs)
        scalar = gptq(weight, hessian, twos, options=GPTQOptions(order=order)).tensor
        assert ours < 0.8 * nearest
        assert ours < output_error(weight, scalar.dequantize(), inputs)


def test_a_run_of_one_is_plain_gptq() -> None:
    weight, _, hessian = layer()
    scheme = Scheme("nf4", 16, scale_rule="weighted-mse")
    codebook = codebook_of(scheme, torch.float64)
    rounded = round_columns(weight, hessian, scheme, codebook)
    plain = gptq(weight, hessian, scheme).tensor
    assert torch.equal(rounded.codes, plain.codes)


def test_experts_are_rounded_one_by_one() -> None:
    parts = [layer(seed) for seed in range(3)]
    weight = torch.stack([w for w, _, _ in parts])
    hessian = torch.stack([h for _, _, h in parts])
    codebook = Vectors(normal_points(4, 64))
    for scheme in (ROW, Scheme("int4", 8, scale_rule="mse", scale_dtype="bfloat16")):
        together = round_columns(weight, hessian, scheme, codebook)
        for i, codes in enumerate(together.codes.split(ROWS)):
            alone = round_columns(weight[i], hessian[i], scheme, codebook)
            assert torch.equal(codes, alone.codes)
            assert torch.equal(together.scales.split(ROWS)[i], alone.scales)


def test_dead_channels_hardly_count_in_their_run() -> None:
    """The live number of a pair has its way; beside nothing else a dead one is rounded too."""
    weight, inputs, _ = layer()
    inputs[:, [3, 30, 31]] = 0
    hessian = inputs.T @ inputs
    codebook = Vectors(normal_points(2, 16))
    rounded = round_columns(weight, hessian, ROW, codebook, options=GPTQOptions(order="none"))
    assert rounded.notes == ("3 of 40 inputs were always zero",)
    got = dequantize(rounded, codebook, WIDTH, WIDTH)
    scales = rounded.scales
    # Both dead: to nearest.
    nearest = codebook.round(weight[:, 30:32] / scales) * scales
    torch.testing.assert_close(got[:, 30:32], nearest)
    # One dead: what the live one alone would have is missed by little.
    alive = (got[:, 2] / scales[:, 0])[:, None] - codebook.points[:, 0]
    assert (alive.abs().min(dim=1).values == 0).all()
    changed = weight.clone()
    changed[:, 3] = -changed[:, 3]
    other = round_columns(changed, hessian, ROW, codebook, options=GPTQOptions(order="none"))
    moved = (dequantize(other, codebook, WIDTH, WIDTH) - got)[:, 2].abs() / scales[:, 0]
    spread = codebook.points[:, 0].max() - codebook.points[:, 0].min()
    assert float(moved.mean()) < 0.1 * float(spread)


def test_weights_kept_aside_have_no_say_in_their_run() -> None:
    weight, _, hessian = layer()
    keep = torch.zeros_like(weight, dtype=torch.bool)
    keep[:, 5] = True
    codebook = Vectors(normal_points(2, 16))
    far = weight.clone()
    far[:, 5] += 100
    first, second = (
        round_columns(w, hessian, ROW, codebook, keep=keep, options=GPTQOptions(order="none"))
        for w in (weight, far)
    )
    assert torch.equal(first.codes[:, :3], second.codes[:, :3])
    assert first.kept is not None


def test_blocks_hold_whole_runs() -> None:
    weight, _, hessian = layer()
    with pytest.raises(SchemeError, match="blocks of 6 do not hold whole runs of 4 columns"):
        round_columns(weight, hessian, Scheme("int4", 6), Vectors(normal_points(4, 64)))


def test_bits_may_be_a_fraction() -> None:
    assert Vectors(normal_points(3, 64)).bits == 2
    assert Vectors(normal_points(3, 16)).bits == Fraction(4, 3)
    assert codebook_of(Scheme("nf4|int4"), torch.float32).bits == 4


@pytest.mark.parametrize("rule", ["mse", "weighted-mse", "x2-mse"])
def test_scales_of_vectors_are_searched_for(rule) -> None:
    """Near the best of many scales by brute force, as the rule weighs."""
    codebook = Vectors(normal_points(2, 16))
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randn(30, 16, generator=generator).double() * 5
    weights = torch.rand(16, generator=generator).double() if rule == "weighted-mse" else None
    scheme = Scheme("int4", 16, scale_rule=rule)
    masses = torch.ones_like(blocks)
    if rule == "x2-mse":
        masses = (blocks / blocks.abs().amax(dim=1, keepdim=True)).square()
    if weights is not None:
        masses = masses * weights

    def error(scales: torch.Tensor) -> torch.Tensor:
        rounded = codebook.round(blocks / scales[:, None], masses) * scales[:, None]
        return ((blocks - rounded).square() * masses).sum(dim=1)

    found = error(scale_blocks(blocks, scheme, codebook, weights=weights).scales)
    reach = blocks.abs().amax(dim=1) / codebook.maximum
    tried = torch.stack([error(reach * share) for share in np.linspace(-2, 2, 400) if share])
    assert float(found.sum()) < 1.03 * float(tried.min(dim=0).values.sum())
    assert float(found.sum()) < 0.8 * float(error(block_scales(blocks, Scheme("nf2", 16))).sum())
