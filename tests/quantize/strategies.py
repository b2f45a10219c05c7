"""Tensors, formats and schemes for property tests."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from studentfloat.formats import CATALOG, get_format
from studentfloat.quantize import SCALE_RULES, Scheme
from studentfloat.quantize.scheme import SCALE_DTYPES
from tests.formats.test_format import formats

DIRECT_RULES = [rule.name for rule in SCALE_RULES.values() if not rule.searches]
UNWEIGHTED_RULES = [rule.name for rule in SCALE_RULES.values() if not rule.weighted]


@st.composite
def schemes(draw: st.DrawFn, rules: list[str] | None = None, dtypes: list[str] | None = None):
    fmt = draw(formats())
    rule = draw(st.sampled_from(rules or DIRECT_RULES))
    dtype = draw(st.sampled_from(dtypes or list(SCALE_DTYPES)))
    if rule == "published" and fmt.maximum <= 0:
        rule = "absmax"
    if rule == "signed-absmax" and not fmt.is_symmetric and dtype == "e8m0":
        dtype = "float32"
    size = draw(st.one_of(st.integers(1, 40), st.sampled_from(["row", "tensor"])))
    return Scheme(fmt, block_size=size, scale_rule=rule, scale_dtype=dtype)


@st.composite
def matrices(draw: st.DrawFn, *, rows: int = 3, columns: int = 50) -> torch.Tensor:
    """float32 matrices: Gaussian, heavy-tailed, one-sided, on a grid, tiny, denormal, zero."""
    shape = (draw(st.integers(1, rows)), draw(st.integers(1, columns)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "t", "positive", "grid", "tiny", "denormal", "zeros"]))
    numbers = {
        "normal": lambda: rng.standard_normal(shape),
        "t": lambda: rng.standard_t(2, shape),
        "positive": lambda: -rng.exponential(size=shape),
        "grid": lambda: rng.integers(-8, 9, shape) / 2,
        "tiny": lambda: rng.standard_normal(shape) * 1e-30,
        "denormal": lambda: rng.integers(-9, 10, shape) * 1.4e-45,
        "zeros": lambda: np.where(rng.random(shape) < 0.8, 0.0, rng.standard_normal(shape)),
    }[kind]()
    return torch.from_numpy(numbers.astype(np.float32))


def catalog_schemes(rule: str) -> list[Scheme]:
    return [Scheme(get_format(name), block_size=16, scale_rule=rule) for name in sorted(CATALOG)]
