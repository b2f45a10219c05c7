"""The one list of parts."""

from __future__ import annotations

from studentfloat.quantize.parts.codes import CodesSpec
from studentfloat.quantize.parts.input_scale import InputScaleSpec
from studentfloat.quantize.parts.low_rank import LowRankSpec
from studentfloat.quantize.parts.outliers import OutliersSpec
from studentfloat.quantize.parts.part import CodesPartSpec, PartSpec
from studentfloat.quantize.parts.rotation import InputRotationSpec
from studentfloat.quantize.parts.row_tables import RowTablesSpec
from studentfloat.quantize.parts.selectors import SelectorsSpec
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["PARTS", "specs_of_codes"]

_CLASSES: tuple[type[PartSpec], ...] = (
    CodesSpec,
    SelectorsSpec,
    RowTablesSpec,
    LowRankSpec,
    OutliersSpec,
    InputScaleSpec,
    InputRotationSpec,
)

PARTS: dict[str, type[PartSpec]] = {part.kind: part for part in _CLASSES}
"""Every part by its name in files."""


def specs_of_codes(tensor: QuantizedTensor) -> tuple[CodesPartSpec, ...]:
    """Descriptions of all parts whose numbers lie in a quantized tensor."""
    found = (part.of(tensor) for part in PARTS.values() if issubclass(part, CodesPartSpec))
    return tuple(spec for spec in found if spec is not None)
