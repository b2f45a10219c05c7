"""Where the branches join: comparisons of formats on models."""

from studentfloat.study.comparison import DEFAULT_FORMATS, CompareOptions, Progress, compare
from studentfloat.study.silicon import HardwareOptions, hardware_is_installed
from studentfloat.study.sweep.results import read_study

__all__ = [
    "DEFAULT_FORMATS",
    "CompareOptions",
    "HardwareOptions",
    "Progress",
    "compare",
    "hardware_is_installed",
    "read_study",
]
