from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from studentfloat.errors import DataError
from studentfloat.statistics import Sketch

FLOATS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    hnp.array_shapes(max_dims=2, min_side=0, max_side=40),
)


@given(st.lists(FLOATS, max_size=4), st.randoms())
def test_merged_parts_are_exactly_one_pass_in_any_order(parts, random) -> None:
    whole = Sketch()
    for part in parts:
        whole.update(part)
    shuffled = list(parts)
    random.shuffle(shuffled)
    merged = Sketch()
    for part in shuffled:
        merged.merge(Sketch.of(part))
    assert merged == whole
    assert Sketch.from_arrays(merged.to_arrays()) == whole


@given(FLOATS)
def test_every_value_is_accounted_for(values) -> None:
    sketch = Sketch.of(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert sketch.count == finite.size
    assert sketch.nans == np.count_nonzero(np.isnan(values))
    assert sketch.infinities == np.count_nonzero(np.isinf(values))
    if finite.size:
        assert (sketch.minimum, sketch.maximum) == (finite.min(), finite.max())
    cells = sketch.cells()
    assert cells.total == finite.size
    assert (cells.low <= cells.mean).all()
    assert (cells.mean <= cells.high).all()
    assert (cells.high[:-1] <= cells.low[1:]).all()


@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 300),
        elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
    )
)
def test_the_counts_up_to_a_cells_edge_are_exact(values) -> None:
    cells = Sketch.of(values).cells()
    up_to = np.cumsum(cells.count)
    for edge, count in zip(cells.high[::7], up_to[::7], strict=True):
        # An edge on the far side from zero belongs to the next cell, on the near side to this one.
        inside = values <= edge if edge <= 0 else values < edge
        assert np.count_nonzero(inside) == count


def test_cells_are_narrow_and_their_means_exact(rng) -> None:
    values = rng.standard_normal(700_000).astype(np.float32)
    cells = Sketch.of(values).cells()
    nonzero = cells.low != cells.high
    widths = (cells.high - cells.low)[nonzero]
    assert (widths <= np.abs(cells.mean[nonzero]) / 512).all()
    exact = values.astype(np.float64)
    assert cells.count @ cells.mean == pytest.approx(exact.sum(), abs=1e-9)
    assert cells.count @ cells.square == pytest.approx(np.sum(exact**2), rel=1e-6)


def test_float64_keeps_its_exponents(rng) -> None:
    values = np.concatenate(
        [10.0 ** rng.uniform(-300, 300, 1000), -(10.0 ** rng.uniform(-300, 300, 1000))]
    )
    cells = Sketch.of(values).cells()
    assert cells.total == 2000
    position = np.searchsorted(cells.low, np.sort(values), side="right") - 1
    np.testing.assert_allclose(cells.mean[position], np.sort(values), rtol=2 / 512)


def test_subnormals_zeros_and_the_not_finite() -> None:
    values = np.array([0.0, -0.0, 1e-45, 5e-324, np.nan, np.inf, -np.inf, 1.0])
    sketch = Sketch.of(values)
    assert (sketch.zeros, sketch.nans, sketch.infinities, sketch.count) == (3, 1, 2, 5)
    tiny = Sketch.of(np.array([1e-45, 1.0], dtype=np.float32))
    assert (tiny.zeros, tiny.count) == (0, 2)


def test_memory_does_not_grow_with_the_stream(rng) -> None:
    sketch = Sketch()
    sketch.update(rng.standard_t(3, 500_000).astype(np.float32))
    before = sketch.memory_bytes
    for _ in range(5):
        sketch.update(rng.standard_t(3, 500_000).astype(np.float32))
    assert sketch.count == 3_000_000
    assert sketch.memory_bytes < before + 400_000


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)))
def test_quantiles_are_within_a_cell_of_the_exact_ones(values) -> None:
    probabilities = (np.arange(values.size) + 0.5) / values.size
    found = Sketch.of(values).cells().quantile(probabilities)
    exact = np.sort(values.astype(np.float64))
    exact[np.abs(exact) < np.finfo(np.float64).tiny] = 0.0
    np.testing.assert_allclose(found, exact, rtol=1 / 256, atol=1e-300)


def test_pooling_keeps_mass_and_means_and_leaves_zeros_alone(rng) -> None:
    values = np.concatenate([rng.standard_normal(50_000), np.zeros(1000)]).astype(np.float32)
    cells = Sketch.of(values).cells()
    pooled = cells.pooled(0.0, 1.0)
    assert pooled.count.size < cells.count.size / 3
    assert pooled.total == cells.total
    assert pooled.count @ pooled.square == pytest.approx(cells.count @ cells.square, rel=1e-12)
    assert pooled.count[pooled.low == pooled.high].tolist() == [1000.0]
    assert pooled.without_zeros().total == 50_000
    folded = cells.folded()
    assert (np.diff(folded.mean) >= 0).all()
    assert folded.count @ folded.mean == pytest.approx(np.abs(values.astype(float)).sum(), rel=1e-9)


@pytest.mark.parametrize("values", [np.arange(5), np.array([True]), np.array([1 + 2j])])
def test_integers_are_no_real_numbers(values) -> None:
    with pytest.raises(DataError, match=str(values.dtype)):
        Sketch.of(values)


@given(FLOATS)
def test_text_keeps_all_of_it(values) -> None:
    sketch = Sketch.of(values)
    assert Sketch.from_text(sketch.to_text()) == sketch


@pytest.mark.parametrize("text", ["", "x", "AAAA", Sketch.of([1.0, 2.0]).to_text()[:-8]])
def test_text_that_is_no_sketch(text) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Sketch.from_text(text)
