"""How a quantized weight lies in a file: its parts, and the tensors of each.

A weight of any scheme becomes a few plain tensors, named by a suffix; :class:`StoredWeight`
says which, and is all that is needed to read them back. docs/format.md states the layout byte
by byte.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ModelError, SchemeError
from studentfloat.quantize.fields import (
    FLOAT_TYPES,
    MOST_ELEMENTS,
    dtype_name,
    read_float_type,
    read_table,
    read_whole,
)
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.parts.codes import CodesSpec
from studentfloat.quantize.parts.part import (
    CodesPartSpec,
    InputTransformSpec,
    MatrixSpec,
    PartOfWeightSpec,
    PartSpec,
    TensorSpec,
)
from studentfloat.quantize.parts.registry import PARTS, specs_of_codes
from studentfloat.quantize.parts.selectors import SelectorsSpec
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.scheme_json import LayoutTables
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.quantize.weight import QuantizedWeight

__all__ = ["StoredWeight"]

_MOST_AXES = 5
_MOST_PARTS = 32


@dataclass(frozen=True)
class StoredWeight:
    """What a file must say about a quantized weight besides its tensors.

    Attributes
    ----------
    scheme
        Format, alternatives, blocks and scales of its codes.
    shape
        Of the weight as the model has it.
    dtype
        Of the weight before quantization ("float32", "bfloat16" ...).
    orientation
        How the weight becomes the matrix that was quantized.
    parts
        What it consists of, in order; by default the scheme's codes alone, with a selector per
        block where the scheme has alternatives.
    method
        That made it, as :func:`~studentfloat.quantize.parse_method` spells it; "" where nobody
        knows. Reading the weight does not need it, and two weights that differ in it alone are
        equal.
    matrix
        What the parts are parts of.
    tensors
        Type and shape of each stored tensor by suffix; the codes have the suffix "".
    transforms
        The parts that change the inputs, in the order in which inputs meet them.

    Raises
    ------
    ModelError
        If the shape cannot be that of a weight under this scheme, or two parts have tensors of
        one name.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    dtype: str
    orientation: Orientation = Orientation.PLAIN
    parts: tuple[PartSpec, ...] = ()
    method: str = field(default="", compare=False)
    matrix: MatrixSpec = field(init=False, repr=False, compare=False)
    tensors: Mapping[str, TensorSpec] = field(init=False, repr=False, compare=False)
    transforms: tuple[InputTransformSpec, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = self.matrix_shape
        if not shape or min(shape) < 1 or math.prod(shape) > MOST_ELEMENTS:
            raise ModelError(f"a weight cannot have shape {list(self.shape)}")
        set_field = object.__setattr__
        if not self.parts:
            chosen = (SelectorsSpec(),) if self.scheme.has_choice else ()
            set_field(self, "parts", (CodesSpec(), *chosen))
        set_field(self, "matrix", MatrixSpec(shape, self.scheme, FLOAT_TYPES[self.dtype]))
        set_field(self, "tensors", _tensors_of(self.parts, self.matrix))
        transforms = (p for p in reversed(self.parts) if isinstance(p, InputTransformSpec))
        set_field(self, "transforms", tuple(transforms))

    @classmethod
    def of(
        cls,
        weight: QuantizedWeight,
        shape: tuple[int, ...],
        orientation: Orientation = Orientation.PLAIN,
        *,
        method: str = "",
    ) -> StoredWeight:
        """Describe a weight, given the shape that the model has it in.

        Raises
        ------
        ModelError
            If no file can hold one of its parts.
        """
        base = weight.base
        specs = (*specs_of_codes(base), *(part.spec for part in weight.parts))
        return cls(base.scheme, tuple(shape), dtype_name(base.dtype), orientation, specs, method)

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix that was quantized, the summed-up axis last."""
        return self.orientation.matrix_shape(self.shape)

    @property
    def bits(self) -> int:
        """All bits stored."""
        return sum(tensor.bits for tensor in self.tensors.values())

    def assemble(self, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """Put tensors, keyed as :attr:`tensors`, back together.

        Numbers are not looked at; see :meth:`check`.
        """
        matrix = self.matrix
        fields: dict[str, Any] = {}
        for codes in self._codes_parts():
            fields |= codes.fields(matrix, tensors)
        base = QuantizedTensor(scheme=self.scheme, shape=matrix.shape, dtype=matrix.dtype, **fields)
        added = [part for part in self.parts if isinstance(part, PartOfWeightSpec)]
        return QuantizedWeight(base, tuple(part.assemble(matrix, tensors) for part in added))

    def check(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Check tensors against what they must be, numbers included.

        Raises
        ------
        ModelError
            On a tensor that is missing, of another type or shape, a scale that is NaN or
            infinite, a scale of zero over codes that are not zeros, a code that stands for
            nothing, a selector or position out of range. The message names it.
        """
        for suffix, spec in self.tensors.items():
            if suffix not in tensors:
                raise ModelError(f"{name} lacks its tensor {name}{suffix}")
            _check_tensor(tensors[suffix], spec, f"{name}{suffix}")
        weight = self.assemble(tensors)
        # What codes stand for is known once selectors and tables are found to be sound.
        for codes in reversed(tuple(self._codes_parts())):
            codes.check(weight.base, name)
        for part in weight.parts:
            part.check(weight.shape, name)

    def beyond_blocks(self, carried: Collection[str] = ()) -> str | None:
        """What makes it more than one table of values times a scale per block, in words.

        Parameters
        ----------
        carried
            Kinds of parts that are carried all the same.
        """
        others = (part for part in self.parts if part.kind not in carried)
        return next(filter(None, (part.beyond_blocks(self.matrix) for part in others)), None)

    def without_kernel(self) -> str | None:
        """What no kernel multiplies by; None where every part has one."""
        return next(filter(None, (part.without_kernel(self.matrix) for part in self.parts)), None)

    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        """As JSON data of layout 2; its schemes and its method are entered into `tables`."""
        data: dict[str, Any] = {
            "scheme": tables.scheme_number(self.scheme),
            "shape": list(self.shape),
            "dtype": self.dtype,
        }
        if self.method:
            data["method"] = tables.method_number(self.method)
        if self.orientation is not Orientation.PLAIN:
            data["orientation"] = self.orientation.value
        data["parts"] = [{"kind": part.kind, **part.to_json(tables)} for part in self.parts]
        return data

    @classmethod
    def from_json(cls, data: Any, tables: LayoutTables, name: str) -> StoredWeight:
        """Read what :meth:`to_json` made.

        Raises
        ------
        ModelError
            On anything that is not that, an unknown key or part included; the message names
            the weight.
        """
        keys = ("scheme", "method", "shape", "dtype", "orientation", "parts")
        table = read_table(data, keys, name)
        shape = table.get("shape")
        if not isinstance(shape, list) or not 1 <= len(shape) <= _MOST_AXES:
            raise ModelError(f"{name}: shape {shape!r} is not a list of one to five sizes")
        orientation = table.get("orientation", "plain")
        known = [o.value for o in Orientation]
        if orientation not in known or (orientation != "plain" and len(shape) < 2):
            raise ModelError(
                f"{name}: orientation {orientation!r} of {len(shape)} axes: one of "
                f"{', '.join(known)}, the last two of at least two axes"
            )
        scheme = tables.scheme(table.get("scheme"), name)
        sizes = tuple(read_whole(size, f"{name}: size") for size in shape)
        dtype = read_float_type(table.get("dtype"), name)
        parts = tuple(_parts_of(table.get("parts"), tables, name))
        method = tables.method(table["method"], name) if "method" in table else ""
        try:
            stored = cls(scheme, sizes, dtype, Orientation(orientation), parts, method)
            stored._assemble_empty()
        except (SchemeError, ModelError) as error:
            raise ModelError(f"{name}: {error}") from error
        return stored

    def _codes_parts(self) -> Iterator[CodesPartSpec]:
        return (part for part in self.parts if isinstance(part, CodesPartSpec))

    def _assemble_empty(self) -> None:
        """Put empty tensors together: parts that do not go with each other say so."""
        empty = {
            suffix: torch.empty(spec.shape, dtype=spec.dtype, device="meta")
            for suffix, spec in self.tensors.items()
        }
        try:
            self.assemble(empty)
        except (KeyError, TypeError) as error:
            raise ModelError(f"its parts do not make a weight: {error}") from error


def _tensors_of(parts: tuple[PartSpec, ...], matrix: MatrixSpec) -> dict[str, TensorSpec]:
    found: dict[str, TensorSpec] = {}
    for part in parts:
        its = part.tensors(matrix)
        if shared := found.keys() & its.keys():
            raise ModelError(f"two of its parts have a tensor {min(shared)!r}")
        found |= its
    return found


def _parts_of(data: Any, tables: LayoutTables, name: str) -> Iterator[PartSpec]:
    if not isinstance(data, list) or not 1 <= len(data) <= _MOST_PARTS:
        raise ModelError(f"{name}: its parts are not a list of 1 to {_MOST_PARTS} tables")
    for entry in data:
        if not isinstance(entry, dict):
            raise ModelError(f"{name}: a part is not a table")
        kind = entry.get("kind")
        part = PARTS.get(kind) if isinstance(kind, str) else None
        if part is None:
            raise ModelError(
                f"{name} has a part {kind!r}; this studentfloat reads {', '.join(PARTS)}"
            )
        rest = {key: value for key, value in entry.items() if key != "kind"}
        yield part.from_json(rest, tables, f"{name}: {kind}")


def _check_tensor(tensor: Tensor, spec: TensorSpec, name: str) -> None:
    if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
        raise ModelError(
            f"{name} is {dtype_name(tensor.dtype)} of shape {list(tensor.shape)}, "
            f"not {dtype_name(spec.dtype)} of shape {list(spec.shape)}"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ModelError(f"{name} holds {bad} numbers that are NaN or infinite")
