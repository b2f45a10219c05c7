"""The nearest point: every instruction set finds the same, the first of equals."""

from __future__ import annotations

import numpy as np
import pytest

from studentfloat.kernels.vectors import nearest_points, reference_nearest_points


@pytest.mark.parametrize("dimension", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [2, 17, 300])
def test_equals_the_reference(instructions: str, dimension: int, count: int) -> None:
    random = np.random.default_rng(count)
    vectors = random.standard_normal((37, dimension)).astype(np.float32)
    points = random.standard_normal((count, dimension)).astype(np.float32)
    found = nearest_points(vectors, points)
    np.testing.assert_array_equal(found, reference_nearest_points(vectors, points))
    apart = ((vectors[:, None].astype(np.float64) - points) ** 2).sum(axis=2)
    chosen = apart[np.arange(37), found]
    np.testing.assert_allclose(chosen, apart.min(axis=1), rtol=1e-4, atol=1e-5)


def test_of_equal_points_the_first(instructions: str) -> None:
    points = np.tile(np.array([[1, 2], [-1, 0]], dtype=np.float32), (20, 1))
    vectors = np.array([[1, 2], [-1, 0], [5, 5]], dtype=np.float32)
    assert nearest_points(vectors, points).tolist() == [0, 1, 0]
