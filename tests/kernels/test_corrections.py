"""Sparse and low-rank matrices that are added to a product: against dense ones in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studentfloat.errors import DataError
from studentfloat.kernels.corrections import Corrections, LowRankMatrix, SparseMatrix
from studentfloat.quantize import Scheme, quantize

# Rows, columns; numbers of columns of activations on both sides of every tile's width.
SHAPES = [(1, 1), (40, 33), (16, 64), (7, 130)]
COUNTS = [1, 2, 3, 5, 8, 9, 16, 37]


def sparse(shape: tuple[int, int], share: float, kind: torch.dtype):
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(shape, generator=generator) < share
    dense = torch.where(keep, torch.randn(shape, generator=generator), 0.0)
    positions = keep.reshape(-1).nonzero()[:, 0].to(kind)
    return SparseMatrix(positions, dense[keep], shape), dense.double()


def assert_added(add, dense: torch.Tensor, x: torch.Tensor) -> None:
    """`add` puts ``x @ dense.T`` on top of what is there, within float32's rounding."""
    out = torch.randn(len(x), len(dense), generator=torch.Generator().manual_seed(2))
    before = out.clone()
    add(x, out)
    exact = before.double() + x.double() @ dense.T
    bound = before.double().abs() + x.double().abs() @ dense.T.abs()
    assert ((out.double() - exact).abs() <= 2e-6 * bound).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_sparse_products(instructions, shape, kind, share) -> None:
    matrix, dense = sparse(shape, share, kind)
    for count in COUNTS:
        generator = torch.Generator().manual_seed(count)
        assert_added(matrix.add_product, dense, torch.randn(count, shape[1], generator=generator))
        g = torch.randn(count, shape[0], generator=generator)
        assert_added(matrix.add_product_transposed, dense.T, g)


def test_sparse_products_of_numpy_arrays_and_any_number_of_threads(instructions) -> None:
    matrix, dense = sparse((300, 1000), 0.5, torch.int64)
    plain = SparseMatrix(matrix.positions.numpy(), matrix.values.numpy(), matrix.shape)
    for count in (1, 3, 40):
        x = np.random.default_rng(0).standard_normal((count, 1000)).astype(np.float32)
        outs = [np.zeros((count, 300), dtype=np.float32) for _ in range(3)]
        for out, threads in zip(outs, (1, 2, 5), strict=True):
            plain.add_product(x, out, threads=threads)
        np.testing.assert_allclose(outs[0], x @ dense.numpy().T, rtol=1e-4, atol=1e-4)
        assert all(np.array_equal(outs[0], out) for out in outs[1:])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("rank", [1, 4, 19, 32])
def test_low_rank_products(instructions, kind, rank) -> None:
    generator = torch.Generator().manual_seed(3)
    factors = [torch.randn(shape, generator=generator) for shape in ((40, rank), (rank, 77))]
    scales = [None, None]
    if kind == torch.int8:
        factors = [40 * factor for factor in factors]
        scales = [torch.rand(n, generator=generator) for n in (40, rank)]
    left, right = (factor.to(kind) for factor in factors)
    matrix = LowRankMatrix(left, right, *scales)
    wide = [
        factor.double() * (1.0 if its is None else its[:, None])
        for factor, its in zip((left, right), scales, strict=True)
    ]
    dense, most = wide[0] @ wide[1], wide[0].abs() @ wide[1].abs()
    for count in (1, 2, 3, 4, 20):
        for add, exact, bound in (
            (matrix.add_product, dense.T, most.T),
            (matrix.add_product_transposed, dense, most),
        ):
            x = torch.randn(count, len(exact), generator=generator)
            out = torch.ones(count, exact.shape[1])
            add(x, out)
            off = (out.double() - 1 - x.double() @ exact).abs()
            assert (off <= 4e-6 * (1 + x.double().abs() @ bound)).all()


def test_what_does_not_fit_is_named() -> None:
    values = torch.ones(2)
    with pytest.raises(DataError, match="ascend"):
        SparseMatrix(torch.tensor([3, 3]), values, (2, 3))
    with pytest.raises(DataError, match="at most 5"):
        SparseMatrix(torch.tensor([3, 6]), values, (2, 3))
    with pytest.raises(DataError, match="ascend"):
        SparseMatrix(torch.tensor([-1, 3]), values, (2, 3))
    with pytest.raises(DataError, match="float64"):
        SparseMatrix(torch.tensor([1, 3]), values.double(), (2, 3))
    with pytest.raises(DataError, match="equally long"):
        SparseMatrix(torch.tensor([1, 3, 4]), values, (2, 3))
    matrix = SparseMatrix(torch.tensor([1, 3]), values, (2, 3))
    with pytest.raises(DataError, match=r"\(1, 3\) is right"):
        matrix.add_product(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(DataError, match=r"an output of float64"):
        matrix.add_product(torch.ones(1, 3), torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(DataError, match="does not fit a right one"):
        LowRankMatrix(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(DataError, match="scales for 2 rows"):
        LowRankMatrix(torch.ones(3, 2), torch.ones(2, 4), torch.ones(3), torch.ones(3))


@pytest.mark.parametrize("count", [1, 2, 5, 60])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_added_to_a_packed_product(instructions, count, kind) -> None:
    """Factors in bfloat16 and in a type that compiled code does not take; tensors and arrays."""
    generator = torch.Generator().manual_seed(4)
    base = quantize(torch.randn(40, 64, generator=generator), Scheme("nf4", 16))
    matrix, (numbers, dense) = base.packed_matrix(), sparse((40, 64), 0.1, torch.int32)
    left, right = (torch.randn(s, generator=generator).to(kind) for s in ((40, 3), (3, 64)))
    low_rank = LowRankMatrix(left, right)
    x = torch.randn(2, count, 128, generator=generator)[..., ::2]
    for corrections, added in (
        (Corrections(low_rank), left.double() @ right.double()),
        (Corrections(numbers), dense),
        (Corrections(low_rank, numbers), dense + left.double() @ right.double()),
    ):
        whole = base.dequantize().double() + added
        bound = x.double().abs() @ (base.dequantize().abs().double() + 9 + dense.abs()).T
        exact = x.double() @ whole.T
        got = matrix.matmul(x, corrections=corrections)
        assert ((got.double() - exact).abs() <= 2e-6 * bound).all()
        given = torch.empty(2, count, 40)
        assert matrix.matmul(x, corrections=corrections, out=given) is given
        assert torch.equal(given, got)
        short = matrix.matmul(x.bfloat16(), corrections=corrections)
        assert short.dtype == torch.bfloat16
        assert ((short.double() - exact).abs() <= 2**-7 * bound).all()
        rounded = matrix.matmul(x, corrections=corrections, compute="int8").double()
        plain = matrix.matmul(x, compute="int8").double() + x.double() @ added.T
        assert ((rounded - plain).abs() <= 2e-6 * bound).all()


def test_corrections_that_do_not_fit() -> None:
    numbers, _ = sparse((40, 64), 0.1, torch.int32)
    other, _ = sparse((40, 65), 0.1, torch.int32)
    with pytest.raises(DataError, match=r"\(3, 4\), \(40, 64\)"):
        Corrections(LowRankMatrix(torch.ones(3, 2), torch.ones(2, 4)), numbers)
    matrix = quantize(torch.randn(40, 64), Scheme("nf4", 16)).packed_matrix()
    with pytest.raises(DataError, match=r"\(40, 65\) do not fit a matrix of \(40, 64\)"):
        matrix.matmul(torch.ones(1, 64), corrections=Corrections(other))
