"""Steps that methods are made of, one file for each kind.

A step is a frozen value: it has a name and arguments, declares what it needs and what it
cannot stand beside, and is one function from state to state. To add one, write its file,
register it in :mod:`~studentfloat.quantize.steps.registry`, and describe it in
``docs/methods.md``:

>>> from studentfloat.quantize.steps import Smooth
>>> Smooth.parse("smooth", "0.3")
Smooth(alpha=0.3)
"""

from __future__ import annotations

from studentfloat.quantize.steps.awq import Awq
from studentfloat.quantize.steps.gptq import Gptq
from studentfloat.quantize.steps.lloyd import Lloyd, LloydRow
from studentfloat.quantize.steps.low_rank import CorrectLowRank
from studentfloat.quantize.steps.nearest import Nearest
from studentfloat.quantize.steps.outliers import KeepOutliers
from studentfloat.quantize.steps.registry import STEPS, register_step
from studentfloat.quantize.steps.rotate import Rotate
from studentfloat.quantize.steps.scale_search import ScaleSearch
from studentfloat.quantize.steps.smooth import Smooth
from studentfloat.quantize.steps.step import Stage, Step, TransformStep

__all__ = [
    "STEPS",
    "Awq",
    "CorrectLowRank",
    "Gptq",
    "KeepOutliers",
    "Lloyd",
    "LloydRow",
    "Nearest",
    "Rotate",
    "ScaleSearch",
    "Smooth",
    "Stage",
    "Step",
    "TransformStep",
    "register_step",
]
