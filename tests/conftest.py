"""Shared fixtures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

# These machines are shared: a slow example says nothing about the code.
settings.register_profile("studentfloat", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("studentfloat")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240503)
