"""A pytest plugin: the kernels from the file that STUDENTFLOAT_NATIVE names (scripts/sanitize)."""

from __future__ import annotations

import importlib.util
import os
import sys

NAME = "studentfloat.kernels._native"

spec = importlib.util.spec_from_file_location(NAME, os.environ["STUDENTFLOAT_NATIVE"])
assert spec is not None
assert spec.loader is not None
sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])


def pytest_report_header() -> str:
    return f"kernels: {sys.modules[NAME].__file__}"
