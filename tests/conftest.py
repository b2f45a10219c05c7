"""Shared fixtures."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import settings

# These machines are shared: a slow example says nothing about the code.
settings.register_profile("studentfloat", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("studentfloat")

# The tests' matrices are tiny: a second thread would spend its time waiting for the first.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the subprocesses


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240503)
