"""Every test of a kernel runs once with each instruction set that the machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from studentfloat.kernels import instruction_sets, use_instruction_set


@pytest.fixture(params=instruction_sets())
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    before = use_instruction_set(request.param)
    yield request.param
    use_instruction_set(before)
