"""Where the branches join: comparisons of formats on models."""

from studentfloat.study.comparison import DEFAULT_FORMATS, CompareOptions, Progress, compare

__all__ = ["DEFAULT_FORMATS", "CompareOptions", "Progress", "compare"]
