"""Where the branches join: comparisons of formats on models."""

from studentfloat.study.compare import DEFAULT_FORMATS, CompareOptions, Progress, compare

__all__ = ["DEFAULT_FORMATS", "CompareOptions", "Progress", "compare"]
