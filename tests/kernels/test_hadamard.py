"""Orthogonal transforms against dense matrices in double precision, bit for bit everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from studentfloat.errors import ConfigError
from studentfloat.kernels import instruction_sets, use_instruction_set
from studentfloat.kernels.hadamard import (
    Rotation,
    hadamard_matrix,
    hartley_matrix,
    random_signs,
)

COMPILED = [name for name in instruction_sets() if name != "none"]


@pytest.fixture
def restored():
    before = use_instruction_set("none")
    yield
    use_instruction_set(before)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 52, 76, 100, 108, 148, 344, 368])
def test_paleys_matrices_are_hadamards(order: int) -> None:
    matrix = hadamard_matrix(order).astype(int)
    assert set(np.unique(matrix)) <= {-1, 1}
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [92, 116, 6, 3])
def test_orders_that_paley_lacks_are_refused(order: int) -> None:
    with pytest.raises(ConfigError, match=f"no Hadamard matrix of order {order}"):
        hadamard_matrix(order)


@pytest.mark.parametrize("order", [1, 3, 9, 107])
def test_hartleys_matrices_are_their_own_inverses(order: int) -> None:
    matrix = hartley_matrix(order)
    np.testing.assert_allclose(matrix @ matrix, order * np.eye(order), atol=1e-10)


@pytest.mark.parametrize(
    ("width", "order", "is_hadamard"),
    [
        *((4096, 1, True), (576, 36, True), (1536, 12, True), (5120, 20, True), (80, 20, True)),
        *((14336, 28, True), (6656, 52, True), (11008, 43, False), (29568, 231, False)),
        *((13696, 107, False), (6, 3, False), (9, 9, False)),
    ],
)
def test_the_factor_of_a_width(width: int, order: int, is_hadamard: bool) -> None:
    rotation = Rotation(width, width)
    assert (rotation.order, rotation.is_hadamard) == (order, is_hadamard)


@pytest.mark.parametrize(
    ("width", "block"), [(1, 1), (6, 6), (48, 48), (576, 576), (576, 64), (96, 4), (535, 535)]
)
def test_every_instruction_set_multiplies_by_the_same_matrix(restored, width, block) -> None:
    rotation = Rotation(width, block, seed=7)
    dense = rotation.matrix()
    np.testing.assert_allclose(dense @ dense.T, np.eye(width), atol=1e-12)
    x = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
    there, back = [], []
    for name in COMPILED:
        use_instruction_set(name)
        rows = x.copy()
        assert rotation.apply(rows, threads=2)
        np.testing.assert_allclose(rows, x.astype(float) @ dense, atol=1e-5)
        there.append(rows.copy())
        assert rotation.apply(rows, inverse=True)
        np.testing.assert_allclose(rows, x, atol=1e-5)
        back.append(rows)
    assert all(np.array_equal(rows, there[0]) for rows in there)
    assert all(np.array_equal(rows, back[0]) for rows in back)


def test_without_compiled_kernels_nothing_changes(restored) -> None:
    use_instruction_set("none")
    rows = np.ones((2, 16), dtype=np.float32)
    assert not Rotation(16, 16).apply(rows)
    assert (rows == 1).all()


def test_signs_are_split_mix_64s() -> None:
    """Files hold the seed alone, so the signs may never change."""

    def split_mix(seed: int, count: int) -> list[int]:
        found, mask = [], (1 << 64) - 1
        for _ in range(count):
            seed = (seed + 0x9E3779B97F4A7C15) & mask
            z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            found.append(z ^ (z >> 31))
        return found

    # Its published first numbers, from the seed 1234567.
    assert split_mix(1234567, 2) == [6457827717110365317, 3203168211198807973]
    for seed in (0, 5, 2**63 - 1):
        expected = [-1 if z >> 63 else 1 for z in split_mix(seed, 100)]
        assert random_signs(100, seed).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((576, 128), "blocks of 128 does not fit a width of 576"),
        (
            (2 * 1031, 2 * 1031),
            r"odd factor above 1024: .* blocks of 2 or fewer",
        ),
        ((16, 16, -1), "seed -1: at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Rotation(*arguments)
