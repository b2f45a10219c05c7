"""Fixtures of the hardware tests."""

from __future__ import annotations

import importlib.util

import pytest

from studentfloat.hardware.liberty import Library
from studentfloat.hardware.synthesis import generic_library


@pytest.fixture(scope="session")
def library() -> Library:
    return generic_library()


@pytest.fixture(scope="session")
def yosys() -> None:
    """Skip where the extra is not installed."""
    if importlib.util.find_spec("pyosys") is None:
        pytest.skip("pyosys is not installed: pip install 'studentfloat[hardware]'")
