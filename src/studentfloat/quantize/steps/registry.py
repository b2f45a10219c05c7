"""Every step, by what it is called. A new one is registered here."""

from __future__ import annotations

from studentfloat.quantize.steps.awq import Awq
from studentfloat.quantize.steps.gptq import Gptq
from studentfloat.quantize.steps.lloyd import Lloyd, LloydRow
from studentfloat.quantize.steps.low_rank import CorrectLowRank
from studentfloat.quantize.steps.nearest import Nearest
from studentfloat.quantize.steps.outliers import KeepOutliers
from studentfloat.quantize.steps.rotate import Rotate
from studentfloat.quantize.steps.scale_search import ScaleSearch
from studentfloat.quantize.steps.smooth import Smooth
from studentfloat.quantize.steps.step import Step

__all__ = ["STEPS", "position", "register_step"]

STEPS: dict[str, type[Step]] = {}
"""Classes by spelling, in the order in which steps of one stage are taken."""


def register_step(step: type[Step]) -> None:
    """Let methods be spelled with a step.

    Raises
    ------
    ValueError
        If another step is called the same.
    """
    for spelling in step.spellings:
        if spelling in STEPS:
            raise ValueError(f"a step called {spelling!r} is there already")
    STEPS.update(dict.fromkeys(step.spellings, step))


def position(step: Step) -> tuple[int, int]:
    """What sorts steps into the order in which they are taken."""
    classes = list(dict.fromkeys(STEPS.values()))
    return step.stage, classes.index(type(step))


for _step in (Nearest, Gptq, Awq, Smooth, Rotate, Lloyd, LloydRow, KeepOutliers, CorrectLowRank):
    register_step(_step)
register_step(ScaleSearch)
