"""The compiled sketch counts exactly as NumPy does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from studentfloat.kernels import instruction_sets, use_instruction_set
from studentfloat.statistics import Sketch

pytestmark = pytest.mark.skipif(instruction_sets() == ("none",), reason="no compiled kernels")


def by(name: str, parts: list[np.ndarray]) -> Sketch:
    before = use_instruction_set(name)
    try:
        sketch = Sketch()
        for part in parts:
            sketch.update(part)
        return sketch
    finally:
        use_instruction_set(before)


@given(st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=1, max_side=70)), max_size=4))
def test_any_numbers(parts) -> None:
    assert by(instruction_sets()[0], parts) == by("none", parts)


def test_long_streams(rng) -> None:
    parts = [
        rng.standard_t(3, 600_000).astype(np.float32),
        np.where(rng.random(300_000) < 0.3, 0, rng.standard_normal(300_000)).astype(np.float32),
        np.full(300_000, np.nextafter(np.float32(2), np.float32(1))),  # the greatest fractions
        np.zeros(5, dtype=np.float32),
    ]
    assert by(instruction_sets()[0], parts) == by("none", parts)
