"""The one list of parts."""

from __future__ import annotations

from collections.abc import Iterable

from studentfloat.quantize.parts.codes import CodesSpec
from studentfloat.quantize.parts.input_scale import InputScaleSpec
from studentfloat.quantize.parts.low_rank import LowRankSpec
from studentfloat.quantize.parts.offsets import OffsetsSpec
from studentfloat.quantize.parts.outliers import OutliersSpec
from studentfloat.quantize.parts.part import CodesPartSpec, Part, PartSpec
from studentfloat.quantize.parts.rotation import InputRotationSpec
from studentfloat.quantize.parts.row_tables import RowTablesSpec
from studentfloat.quantize.parts.selectors import SelectorsSpec
from studentfloat.quantize.tensor import QuantizedTensor

__all__ = ["PARTS", "in_order", "specs_of_codes"]

# In the order in which they make a weight.
_CLASSES: tuple[type[PartSpec], ...] = (
    CodesSpec,
    SelectorsSpec,
    RowTablesSpec,
    OffsetsSpec,
    LowRankSpec,
    OutliersSpec,
    InputScaleSpec,
    InputRotationSpec,
)

PARTS: dict[str, type[PartSpec]] = {part.kind: part for part in _CLASSES}
"""Every part by its name in files, in the order in which parts make a weight."""


def in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts of one weight, found in any order, as a weight has them."""
    kinds = list(PARTS)
    return tuple(sorted(parts, key=lambda part: kinds.index(part.kind)))


def specs_of_codes(tensor: QuantizedTensor) -> tuple[CodesPartSpec, ...]:
    """Descriptions of all parts whose numbers lie in a quantized tensor."""
    found = (part.of(tensor) for part in PARTS.values() if issubclass(part, CodesPartSpec))
    return tuple(spec for spec in found if spec is not None)
