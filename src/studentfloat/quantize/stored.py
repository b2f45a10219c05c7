"""How a quantized weight lies in a file: its tensors, their names, types and shapes.

A weight of any scheme becomes a few plain tensors, named by a suffix; :class:`StoredWeight`
says which, and is all that is needed to read them back. docs/format.md states the layout byte
by byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import FormatError, ModelError, SchemeError
from studentfloat.formats import Format
from studentfloat.quantize.packing import packed_width, unpack_codes
from studentfloat.quantize.scheme import ROW, TENSOR, ScaleDtype, Scheme
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.quantize.weight import LowRank, Outliers, QuantizedWeight

__all__ = ["Orientation", "StoredPart", "StoredWeight", "formats_of", "scheme_to_json"]

# Beyond 2**48 elements no tensor is meant seriously, and 64-bit products of sizes stay exact.
_MOST_ELEMENTS = 1 << 48
_FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_SCALE_TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "e8m0": torch.uint8,
}


class Orientation(Enum):
    """How a weight as the model has it becomes a matrix whose last axis is summed up."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"
    FLATTENED = "flattened"

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the matrix for a weight of `shape`."""
        if self is Orientation.TRANSPOSED:
            return (*shape[:-2], shape[-1], shape[-2])
        if self is Orientation.FLATTENED:
            return (shape[0], math.prod(shape[1:]))
        return shape

    def to_matrix(self, weight: Tensor) -> Tensor:
        """The weight with the summed-up axis last."""
        if self is Orientation.TRANSPOSED:
            return weight.transpose(-1, -2)
        return weight.flatten(1) if self is Orientation.FLATTENED else weight

    def from_matrix(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The way back."""
        if self is Orientation.TRANSPOSED:
            return matrix.transpose(-1, -2).contiguous()
        return matrix.reshape(shape)


@dataclass(frozen=True)
class StoredPart:
    """One plain tensor of a stored weight: its type and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredWeight:
    """What a file must say about a quantized weight besides its tensors.

    Attributes
    ----------
    scheme
        Format, alternatives, blocks and scales.
    shape
        Of the weight as the model has it.
    dtype
        Of the weight before quantization ("float32", "bfloat16" ...).
    orientation
        How the weight becomes the matrix that was quantized.
    row_tables
        Type of the values learned per row, or None.
    low_rank
        Rank of a low-rank correction, and its type: a float's name, or a Scheme that
        quantized it.
    outliers
        How many weights are kept in 16 bits, and their type.
    input_scale
        Whether inputs are divided by a vector first.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    dtype: str
    orientation: Orientation = Orientation.PLAIN
    row_tables: str | None = None
    low_rank: tuple[int, str | Scheme] | None = None
    outliers: tuple[int, str] | None = None
    input_scale: bool = False

    @classmethod
    def of(
        cls,
        weight: QuantizedWeight,
        shape: tuple[int, ...],
        orientation: Orientation = Orientation.PLAIN,
    ) -> StoredWeight:
        """Describe a weight, given the shape that the model has it in.

        Raises
        ------
        ModelError
            If the two factors of a low-rank correction are of different types.
        """
        base, low_rank, outliers = weight.base, weight.low_rank, weight.outliers
        if low_rank is not None and _kind(low_rank.left) != _kind(low_rank.right):
            raise ModelError("the two factors of a low-rank correction are of different types")
        return cls(
            scheme=base.scheme,
            shape=tuple(shape),
            dtype=_name(base.dtype),
            orientation=orientation,
            row_tables=None if base.row_tables is None else _name(base.row_tables.dtype),
            low_rank=None if low_rank is None else (_rank(low_rank), _kind(low_rank.left)),
            outliers=None
            if outliers is None
            else (outliers.positions.numel(), _name(outliers.values.dtype)),
            input_scale=weight.input_scale is not None,
        )

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix that was quantized, the summed-up axis last."""
        return self.orientation.matrix_shape(self.shape)

    def expected_parts(self) -> dict[str, StoredPart]:
        """Suffix, type and shape of each tensor; the codes have the suffix "".

        Raises
        ------
        ModelError
            If the shape cannot be that of a weight under this scheme.
        """
        shape = self.matrix_shape
        if not shape or min(shape) < 1 or math.prod(shape) > _MOST_ELEMENTS:
            raise ModelError(f"a weight of shape {list(self.shape)} cannot be")
        parts = _tensor_parts(shape, self.scheme, "")
        lead = _lead(shape, self.scheme)
        if self.scheme.alternatives:
            blocks = _blocks(shape, self.scheme)
            parts["_selector"] = StoredPart(
                torch.uint8, (*lead, packed_width(blocks, self.scheme.selector_bits))
            )
        if self.row_tables is not None:
            levels = 1 << self.scheme.format.bits
            parts["_table"] = StoredPart(_FLOATS[self.row_tables], (*lead, levels))
        if self.low_rank is not None:
            rank, kind = self.low_rank
            for side, its_shape in (
                ("left", (*shape[:-1], rank)),
                ("right", (*shape[:-2], rank, shape[-1])),
            ):
                suffix = f"_low_rank_{side}"
                if isinstance(kind, Scheme):
                    parts |= _tensor_parts(its_shape, kind, suffix)
                else:
                    parts[suffix] = StoredPart(_FLOATS[kind], its_shape)
        if self.outliers is not None:
            count, kind_name = self.outliers
            small = math.prod(shape) < 1 << 31
            index = torch.int32 if small else torch.int64
            parts["_outlier_position"] = StoredPart(index, (count,))
            parts["_outlier_value"] = StoredPart(_FLOATS[kind_name], (count,))
        if self.input_scale:
            parts["_input_scale"] = StoredPart(torch.float32, (shape[-1],))
        return parts

    def assemble(self, parts: Mapping[str, Tensor]) -> QuantizedWeight:
        """Put tensors, keyed by suffix as in :meth:`expected_parts`, back together.

        Numbers are not looked at; see :meth:`check`.
        """
        shape = self.matrix_shape
        low_rank = None
        if self.low_rank is not None:
            rank, kind = self.low_rank
            low_rank = LowRank(
                _assemble_factor(kind, (*shape[:-1], rank), parts, "_low_rank_left"),
                _assemble_factor(kind, (*shape[:-2], rank, shape[-1]), parts, "_low_rank_right"),
            )
        outliers = None
        if self.outliers is not None:
            outliers = Outliers(parts["_outlier_position"], parts["_outlier_value"])
        base = _assemble_tensor(
            shape,
            self.scheme,
            _FLOATS[self.dtype],
            parts,
            "",
            selectors=_flat(parts.get("_selector")),
            row_tables=_flat(parts.get("_table")),
        )
        return QuantizedWeight(base, low_rank, outliers, parts.get("_input_scale"))

    def check(self, parts: Mapping[str, Tensor], name: str) -> None:
        """Check tensors against what they must be, numbers included.

        Raises
        ------
        ModelError
            On a tensor that is missing, of another type or shape, a scale that is NaN or
            infinite, a scale of zero over codes that are not zeros, a code that stands for
            nothing, a selector or position out of range. The message names it.
        """
        for suffix, part in self.expected_parts().items():
            if suffix not in parts:
                raise ModelError(f"{name} lacks its tensor {name}{suffix}")
            tensor = parts[suffix]
            if tensor.dtype != part.dtype or tuple(tensor.shape) != part.shape:
                raise ModelError(
                    f"{name}{suffix} is {_name(tensor.dtype)} of shape {list(tensor.shape)}, "
                    f"not {_name(part.dtype)} of shape {list(part.shape)}"
                )
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = int((~torch.isfinite(tensor)).sum())
                raise ModelError(f"{name}{suffix} holds {bad} numbers that are NaN or infinite")
        weight = self.assemble(parts)
        _check_codes(weight.base, name)
        if weight.outliers is not None:
            _check_positions(weight.outliers.positions, math.prod(self.matrix_shape), name)
        if weight.input_scale is not None and bool((weight.input_scale == 0).any()):
            raise ModelError(f"{name}_input_scale holds a zero, which inputs are divided by")

    def to_json(self, formats: dict[str, Format]) -> dict[str, Any]:
        """As JSON data; its formats are entered into `formats` by name."""
        data: dict[str, Any] = {
            "scheme": scheme_to_json(self.scheme, formats),
            "shape": list(self.shape),
            "dtype": self.dtype,
        }
        if self.orientation is not Orientation.PLAIN:
            data["orientation"] = self.orientation.value
        if self.row_tables is not None:
            data["row_tables"] = self.row_tables
        if self.low_rank is not None:
            rank, kind = self.low_rank
            how = scheme_to_json(kind, formats) if isinstance(kind, Scheme) else kind
            data["low_rank"] = {"rank": rank, "type": how}
        if self.outliers is not None:
            data["outliers"] = {"count": self.outliers[0], "dtype": self.outliers[1]}
        if self.input_scale:
            data["input_scale"] = True
        return data

    @classmethod
    def from_json(cls, data: Any, formats: Mapping[str, Format], name: str) -> StoredWeight:
        """Read what :meth:`to_json` made.

        Raises
        ------
        ModelError
            On anything that is not that, an unknown key included; the message names the weight.
        """
        known = ("scheme", "shape", "dtype", "orientation", "row_tables")
        table = _table(data, (*known, "low_rank", "outliers", "input_scale"), name)
        low_rank = table.get("low_rank")
        if low_rank is not None:
            low_rank = _table(low_rank, ("rank", "type"), f"{name}: low_rank")
            kind = low_rank.get("type")
            how = (
                _scheme_from_json(kind, formats, name)
                if isinstance(kind, dict)
                else _float_name(kind, name)
            )
            low_rank = (_whole(low_rank.get("rank"), f"{name}: rank"), how)
        outliers = table.get("outliers")
        if outliers is not None:
            outliers = _table(outliers, ("count", "dtype"), f"{name}: outliers")
            outliers = (
                _whole(outliers.get("count"), f"{name}: outliers", least=0),
                _float_name(outliers.get("dtype"), name),
            )
        shape = table.get("shape")
        if not isinstance(shape, list) or not 1 <= len(shape) <= 5:
            raise ModelError(f"{name}: shape {shape!r} is no list of one to five sizes")
        orientation = table.get("orientation", "plain")
        if orientation not in {o.value for o in Orientation} or (
            orientation != "plain" and len(shape) < 2
        ):
            raise ModelError(f"{name}: orientation {orientation!r} is unknown or does not fit")
        rows = table.get("row_tables")
        stored = cls(
            scheme=_scheme_from_json(table.get("scheme"), formats, name),
            shape=tuple(_whole(size, f"{name}: size") for size in shape),
            dtype=_float_name(table.get("dtype"), name),
            orientation=Orientation(orientation),
            row_tables=None if rows is None else _float_name(rows, name),
            low_rank=low_rank,
            outliers=outliers,
            input_scale=table.get("input_scale") is True,
        )
        stored.expected_parts()
        return stored


def stored_parts(weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors of a quantized weight, keyed by suffix as in `expected_parts`."""
    base = weight.base
    lead = _lead(base.shape, base.scheme)
    parts = _parts_of_tensor(base, "")
    if base.selectors is not None:
        parts["_selector"] = base.selectors.reshape(*lead, -1)
    if base.row_tables is not None:
        parts["_table"] = base.row_tables.reshape(*lead, -1)
    if weight.low_rank is not None:
        for side in ("left", "right"):
            factor, suffix = getattr(weight.low_rank, side), f"_low_rank_{side}"
            if isinstance(factor, QuantizedTensor):
                parts |= _parts_of_tensor(factor, suffix)
            else:
                parts[suffix] = factor
    if weight.outliers is not None:
        parts["_outlier_position"] = weight.outliers.positions
        parts["_outlier_value"] = weight.outliers.values
    if weight.input_scale is not None:
        parts["_input_scale"] = weight.input_scale
    return parts


def scheme_to_json(scheme: Scheme, formats: dict[str, Format]) -> dict[str, Any]:
    """A scheme as JSON data; its formats are entered into `formats`, renamed on a clash."""
    dtype = scheme.scale_dtype
    data: dict[str, Any] = {
        "format": _enter(scheme.format, formats),
        "block_size": scheme.block_size,
        "axis": scheme.axis,
        "scale_rule": scheme.scale_rule.name,
        "scale_dtype": dtype.name
        if isinstance(dtype, ScaleDtype)
        else scheme_to_json(dtype, formats),
    }
    if scheme.alternatives:
        data["alternatives"] = [_enter(f, formats) for f in scheme.alternatives]
    return data


def lone_scheme_to_json(scheme: Scheme) -> dict[str, Any]:
    """A scheme as JSON data together with its formats."""
    formats: dict[str, Format] = {}
    described = scheme_to_json(scheme, formats)
    return {"scheme": described, "formats": formats_to_json(formats)}


def lone_scheme_from_json(data: Any, where: str) -> Scheme:
    """Read what :func:`lone_scheme_to_json` made.

    Raises
    ------
    ModelError
        On anything else; the message begins with `where`.
    """
    table = _table(data, ("scheme", "formats"), where)
    return _scheme_from_json(table.get("scheme"), formats_of(table.get("formats")), where)


def formats_to_json(formats: Mapping[str, Format]) -> dict[str, Any]:
    """Values and codes of formats; a float's shortest repr reads back to its last bit."""
    return {
        name: {
            "bits": f.bits,
            "values": list(f.values),
            "codes": list(f.codes),
            **(
                {"special_codes": [list(pair) for pair in f.special_codes]}
                if f.special_codes
                else {}
            ),
        }
        for name, f in formats.items()
    }


def formats_of(data: Any) -> dict[str, Format]:
    """Read what :func:`formats_to_json` made.

    Raises
    ------
    ModelError
        On a table that is no format: NaN, 300 values, a code twice; the message names it.
    """
    if not isinstance(data, dict):
        raise ModelError("its formats are no table of formats")
    found = {}
    for name, entry in data.items():
        where = f"format {name!r}"
        table = _table(entry, ("bits", "values", "codes", "special_codes"), where)
        values, codes = table.get("values"), table.get("codes")
        special = table.get("special_codes", [])
        if not isinstance(values, list) or not isinstance(codes, list) or len(values) > 256:
            raise ModelError(f"{where} needs a list of at most 256 values and one of their codes")
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            raise ModelError(f"{where} has a value that is no number")
        if not isinstance(special, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in special
        ):
            raise ModelError(f"{where}: special_codes is no list of pairs")
        try:
            found[name] = Format(
                name=name,
                bits=_whole(table.get("bits"), f"{where}: bits"),
                values=tuple(float(v) for v in values),
                codes=tuple(_whole(code, f"{where}: code", least=0) for code in codes),
                special_codes=tuple((pair[0], pair[1]) for pair in special),
            )
        except (FormatError, OverflowError, TypeError) as error:
            raise ModelError(f"{where} cannot be: {error}") from error
    return found


def _scheme_from_json(
    data: Any, formats: Mapping[str, Format], name: str, *, depth: int = 0
) -> Scheme:
    keys = ("format", "block_size", "axis", "scale_rule", "scale_dtype", "alternatives")
    table = _table(data, keys, f"{name}: scheme")
    if depth > 3:
        raise ModelError(f"{name}: scales of scales of scales of scales")
    dtype = table.get("scale_dtype")
    if isinstance(dtype, dict):
        dtype = _scheme_from_json(dtype, formats, name, depth=depth + 1)
    others = table.get("alternatives", [])
    if not isinstance(others, list) or len(others) > 255:
        raise ModelError(f"{name}: alternatives is no list of at most 255 formats")
    axis = table.get("axis", -1)
    if not isinstance(axis, int) or isinstance(axis, bool) or not -5 <= axis < 5:
        raise ModelError(f"{name}: axis {axis!r} is no axis")
    try:
        return Scheme(
            _look_up(table.get("format"), formats, name),
            block_size=table.get("block_size", 128),
            axis=axis,
            scale_rule=_text(table.get("scale_rule"), f"{name}: scale rule"),
            scale_dtype=dtype if isinstance(dtype, Scheme) else _text(dtype, f"{name}: scale type"),
            alternatives=tuple(_look_up(other, formats, name) for other in others),
        )
    except SchemeError as error:
        raise ModelError(f"{name}: {error}") from error


def _enter(number_format: Format, formats: dict[str, Format]) -> str:
    name, count = number_format.name, 1
    while name in formats and formats[name].renamed("same") != number_format.renamed("same"):
        count += 1
        name = f"{number_format.name}#{count}"
    formats.setdefault(name, number_format)
    return name


def _look_up(name: Any, formats: Mapping[str, Format], where: str) -> Format:
    if not isinstance(name, str) or name not in formats:
        raise ModelError(f"{where}: format {name!r} is not among its formats")
    return formats[name]


def _tensor_parts(shape: tuple[int, ...], scheme: Scheme, suffix: str) -> dict[str, StoredPart]:
    rows, length = _rows(shape, scheme)
    lead = _lead(shape, scheme)
    codes = StoredPart(torch.uint8, (*lead, packed_width(length, scheme.format.bits)))
    blocks = _blocks(shape, scheme)
    if isinstance(scheme.scale_dtype, Scheme):
        scales = _tensor_parts((1, rows * blocks), scheme.scale_dtype, f"{suffix}_scale")
        return {suffix: codes, **scales}
    dtype = _SCALE_TORCH[scheme.scale_dtype.name]
    return {suffix: codes, f"{suffix}_scale": StoredPart(dtype, (*lead, blocks))}


def _lead(shape: tuple[int, ...], scheme: Scheme) -> tuple[int, ...]:
    """Axes before the packed one: those of the matrix, or one of rows where blocks run else."""
    if (
        len(shape) > 1
        and scheme.block_size != TENSOR
        and scheme.axis % len(shape) == len(shape) - 1
    ):
        return shape[:-1]
    return (_rows(shape, scheme)[0],)


def _flat(part: Tensor | None) -> Tensor | None:
    """A part with its rows along one axis."""
    return None if part is None else part.reshape(-1, part.shape[-1])


def _rows(shape: tuple[int, ...], scheme: Scheme) -> tuple[int, int]:
    count = math.prod(shape)
    if scheme.block_size == TENSOR:
        return 1, count
    if not -len(shape) <= scheme.axis < len(shape):
        raise ModelError(f"axis {scheme.axis} is out of range for shape {list(shape)}")
    length = shape[scheme.axis]
    return count // length, length


def _blocks(shape: tuple[int, ...], scheme: Scheme) -> int:
    _, length = _rows(shape, scheme)
    if scheme.block_size in (ROW, TENSOR):
        return 1
    assert isinstance(scheme.block_size, int)
    return -(-length // scheme.block_size)


def _parts_of_tensor(tensor: QuantizedTensor, suffix: str) -> dict[str, Tensor]:
    lead = _lead(tensor.shape, tensor.scheme)
    parts = {suffix: tensor.packed.reshape(*lead, -1)}
    if isinstance(tensor.scales, QuantizedTensor):
        return parts | _parts_of_tensor(tensor.scales, f"{suffix}_scale")
    return {**parts, f"{suffix}_scale": tensor.scales.reshape(*lead, -1)}


def _assemble_tensor(
    shape: tuple[int, ...],
    scheme: Scheme,
    dtype: torch.dtype,
    parts: Mapping[str, Tensor],
    suffix: str,
    *,
    selectors: Tensor | None = None,
    row_tables: Tensor | None = None,
) -> QuantizedTensor:
    codes, scales = parts[suffix], parts[f"{suffix}_scale"]
    stored_scales: Tensor | QuantizedTensor = scales.reshape(-1, scales.shape[-1])
    if isinstance(scheme.scale_dtype, Scheme):
        rows, _ = _rows(shape, scheme)
        line = (1, rows * _blocks(shape, scheme))
        stored_scales = _assemble_tensor(
            line, scheme.scale_dtype, torch.float32, parts, f"{suffix}_scale"
        )
    return QuantizedTensor(
        packed=codes.reshape(-1, codes.shape[-1]),
        scales=stored_scales,
        scheme=scheme,
        shape=shape,
        dtype=dtype,
        selectors=selectors,
        row_tables=row_tables,
    )


def _assemble_factor(
    kind: str | Scheme, shape: tuple[int, ...], parts: Mapping[str, Tensor], suffix: str
) -> Tensor | QuantizedTensor:
    if isinstance(kind, Scheme):
        return _assemble_tensor(shape, kind, torch.float32, parts, suffix)
    return parts[suffix]


def _check_codes(tensor: QuantizedTensor, name: str) -> None:
    """Codes must decode, and a block under a scale of zero must hold nothing."""
    scheme = tensor.scheme
    if isinstance(tensor.scales, QuantizedTensor):
        _check_codes(tensor.scales, f"{name}_scale")
    for number_format in scheme.formats:
        decodes = set(number_format.codes) == set(range(1 << number_format.bits))
        if decodes:
            continue
        codes = unpack_codes(tensor.packed, number_format.bits, tensor.row_length)
        known = torch.zeros(256, dtype=torch.bool)
        for one in scheme.formats:
            known[list(one.codes)] = True
        if not bool(known[codes.int()].all()):
            raise ModelError(f"{name} holds a code that format {number_format.name!r} has not")
    scales = tensor.block_scales()
    if not bool(torch.isfinite(scales).all()):
        raise ModelError(f"{name}: a block's scale is NaN or infinite")
    if not scheme.alternatives and tensor.row_tables is None:
        _check_zero_scales(tensor, scales, name)
    if tensor.selectors is not None:
        chosen = unpack_codes(tensor.selectors, scheme.selector_bits, scales.shape[1])
        if int(chosen.max()) >= len(scheme.formats):
            raise ModelError(
                f"{name} selects format {int(chosen.max())} of {len(scheme.formats)} in a block"
            )


def _check_zero_scales(tensor: QuantizedTensor, scales: Tensor, name: str) -> None:
    empty = scales == 0
    if not bool(empty.any()):
        return
    wanted = int(tensor.scheme.format.encode([0.0])[0])
    rows = torch.nonzero(empty.any(dim=1)).flatten()
    codes = unpack_codes(tensor.packed[rows], tensor.scheme.format.bits, tensor.row_length)
    size = tensor.scheme.block_size if isinstance(tensor.scheme.block_size, int) else codes.shape[1]
    of_column = torch.arange(codes.shape[1]) // size
    wrong = empty[rows][:, of_column] & (codes != wanted)
    if bool(wrong.any()):
        raise ModelError(f"{name}: a block's scale is zero, but its codes are not those of zeros")


def _check_positions(positions: Tensor, count: int, name: str) -> None:
    if positions.numel() and not (int(positions.min()) >= 0 and int(positions.max()) < count):
        raise ModelError(f"{name}_outlier_position points outside of {count} weights")


def _rank(low_rank: LowRank) -> int:
    return int(low_rank.left.shape[-1])


def _kind(factor: Tensor | QuantizedTensor) -> str | Scheme:
    return factor.scheme if isinstance(factor, QuantizedTensor) else _name(factor.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _float_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in _FLOATS:
        raise ModelError(f"{where}: type {value!r} is not one of {', '.join(_FLOATS)}")
    return str(value)


def _table(data: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ModelError(f"{where} is no table")
    for key in data:
        if key not in known:
            raise ModelError(f"{where} has {key!r}, which this version does not know")
    return data


def _whole(value: Any, where: str, *, least: int = 1) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not least <= value <= _MOST_ELEMENTS
    ):
        raise ModelError(f"{where} {value!r}: a whole number from {least}")
    return int(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ModelError(f"{where} {value!r} is no name")
    return value
