"""What a quantized weight consists of, one class per part.

A weight is built by its parts from first to last: codes with their scales, then what corrects
them, then what is done to the inputs. Each part says in its own module how it lies in a file,
what its tensors must hold, how it is sliced, what it makes of a dense weight and what it adds
to a product. :mod:`~studentfloat.quantize.stored` and :mod:`~studentfloat.quantize.weight`
walk parts and know none by name; a new one is a module here and a line in
:mod:`~studentfloat.quantize.parts.registry`.
"""

from studentfloat.quantize.parts.input_scale import InputScale
from studentfloat.quantize.parts.low_rank import LowRank
from studentfloat.quantize.parts.offsets import Offsets
from studentfloat.quantize.parts.outliers import Outliers
from studentfloat.quantize.parts.part import (
    Correction,
    InputTransform,
    MatrixSpec,
    Part,
    PartSpec,
    TensorSpec,
)
from studentfloat.quantize.parts.rotation import InputRotation

__all__ = [
    "Correction",
    "InputRotation",
    "InputScale",
    "InputTransform",
    "LowRank",
    "MatrixSpec",
    "Offsets",
    "Outliers",
    "Part",
    "PartSpec",
    "TensorSpec",
]
