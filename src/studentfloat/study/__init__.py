"""Where the branches join: comparisons of formats on models, and studies of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studentfloat.study.comparison import compare
from studentfloat.study.options import DEFAULT_FORMATS, CompareOptions, HardwareOptions
from studentfloat.study.silicon import hardware_is_installed

if TYPE_CHECKING:
    from studentfloat.study.sweep.results import read_study

__all__ = [
    "DEFAULT_FORMATS",
    "CompareOptions",
    "HardwareOptions",
    "compare",
    "hardware_is_installed",
    "read_study",
]


def __getattr__(name: str) -> Any:
    if name != "read_study":
        raise AttributeError(f"module 'studentfloat.study' has no attribute {name!r}")
    from studentfloat.study.sweep.results import read_study

    return read_study
