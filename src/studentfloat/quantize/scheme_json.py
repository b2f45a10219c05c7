"""Schemes and formats as JSON data, and back from data that nobody vouches for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studentfloat.errors import FormatError, ModelError, SchemeError
from studentfloat.formats import AnyFormat, Format
from studentfloat.formats.codes_toml import code_from_data, code_to_data
from studentfloat.quantize.fields import read_table, read_text, read_whole
from studentfloat.quantize.scheme import ScaleDtype, Scheme

__all__ = [
    "LayoutTables",
    "formats_of",
    "formats_to_json",
    "lone_scheme_from_json",
    "lone_scheme_to_json",
    "scheme_from_json",
    "scheme_to_json",
]

_DEEPEST_SCALES = 3
_LONGEST_METHOD = 500


class LayoutTables:
    """What the weights of a directory share: distinct formats, schemes and methods.

    A weight refers to a scheme or a method by its number here, so a plan that gives every
    weight its own costs no more than the plan says.

    Parameters
    ----------
    formats
        By name.
    schemes, methods
        In the order of their numbers.
    """

    def __init__(
        self,
        formats: Mapping[str, AnyFormat] | None = None,
        schemes: tuple[Scheme, ...] = (),
        methods: tuple[str, ...] = (),
    ) -> None:
        self._formats = dict(formats or {})
        self._schemes = list(schemes)
        self._methods = list(methods)
        self._entries = [scheme_to_json(scheme, self._formats) for scheme in schemes]

    def scheme_number(self, scheme: Scheme) -> int:
        """The number of a scheme, which is entered if it is new."""
        entry = scheme_to_json(scheme, self._formats)
        if entry not in self._entries:
            self._schemes.append(scheme)
            self._entries.append(entry)
        return self._entries.index(entry)

    def scheme(self, number: Any, where: str) -> Scheme:
        """The scheme of a number.

        Raises
        ------
        ModelError
            If there is none; the message begins with `where`.
        """
        return self._schemes[_index(number, len(self._schemes), f"{where}: scheme")]

    def method_number(self, method: str) -> int:
        """The number of a method, which is entered if it is new."""
        if method not in self._methods:
            self._methods.append(method)
        return self._methods.index(method)

    def method(self, number: Any, where: str) -> str:
        """The method of a number; errors as for :meth:`scheme`."""
        return self._methods[_index(number, len(self._methods), f"{where}: method")]

    def to_json(self) -> dict[str, Any]:
        """As JSON data: keys "formats", "schemes" and "methods"."""
        return {
            "formats": formats_to_json(self._formats),
            "schemes": list(self._entries),
            "methods": list(self._methods),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayoutTables:
        """Read what :meth:`to_json` made; other keys are left to the caller.

        Raises
        ------
        ModelError
            On anything that is not that.
        """
        formats = formats_of(data.get("formats"))
        lists = {key: data.get(key) for key in ("schemes", "methods")}
        for key, entries in lists.items():
            if not isinstance(entries, list):
                raise ModelError(f"its '{key}' is not a list")
        schemes = [
            scheme_from_json(entry, formats, f"scheme {number}")
            for number, entry in enumerate(lists["schemes"] or [])
        ]
        methods = [
            _method(name, f"method {number}") for number, name in enumerate(lists["methods"] or [])
        ]
        return cls(formats, tuple(schemes), tuple(methods))


def scheme_to_json(scheme: Scheme, formats: dict[str, AnyFormat]) -> dict[str, Any]:
    """A scheme as JSON data; its formats are entered into `formats`, renamed on a clash."""
    dtype = scheme.scale_dtype
    data: dict[str, Any] = {
        "format": _enter(scheme.code, formats),
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


def scheme_from_json(
    data: Any, formats: Mapping[str, AnyFormat], where: str, *, depth: int = 0
) -> Scheme:
    """Read what :func:`scheme_to_json` made.

    Raises
    ------
    ModelError
        On anything else; the message begins with `where`.
    """
    keys = ("format", "block_size", "axis", "scale_rule", "scale_dtype", "alternatives")
    table = read_table(data, keys, f"{where}: scheme")
    if depth > _DEEPEST_SCALES:
        raise ModelError(f"{where}: scales of scales of scales of scales")
    dtype = table.get("scale_dtype")
    if isinstance(dtype, dict):
        dtype = scheme_from_json(dtype, formats, where, depth=depth + 1)
    others = table.get("alternatives", [])
    if not isinstance(others, list) or len(others) > 255:
        raise ModelError(f"{where}: alternatives is not a list of at most 255 formats")
    axis = table.get("axis", -1)
    if not isinstance(axis, int) or isinstance(axis, bool) or not -5 <= axis < 5:
        raise ModelError(f"{where}: axis {axis!r}: a whole number from -5 to 4")
    rule = read_text(table.get("scale_rule"), f"{where}: scale rule")
    try:
        return Scheme(
            _look_up(table.get("format"), formats, where),
            block_size=table.get("block_size", 128),
            axis=axis,
            scale_rule=rule,
            scale_dtype=dtype
            if isinstance(dtype, Scheme)
            else read_text(dtype, f"{where}: scale type"),
            alternatives=tuple(_look_up(other, formats, where) for other in others),
        )
    except SchemeError as error:
        raise ModelError(f"{where}: {error}") from error


def lone_scheme_to_json(scheme: Scheme) -> dict[str, Any]:
    """A scheme as JSON data together with its formats."""
    formats: dict[str, AnyFormat] = {}
    described = scheme_to_json(scheme, formats)
    return {"scheme": described, "formats": formats_to_json(formats)}


def lone_scheme_from_json(data: Any, where: str) -> Scheme:
    """Read what :func:`lone_scheme_to_json` made.

    Raises
    ------
    ModelError
        On anything else; the message begins with `where`.
    """
    table = read_table(data, ("scheme", "formats"), where)
    return scheme_from_json(table.get("scheme"), formats_of(table.get("formats")), where)


def formats_to_json(formats: Mapping[str, AnyFormat]) -> dict[str, Any]:
    """What formats and codes are; a float's shortest repr reads back to its last bit."""
    return {name: _format_to_json(one) for name, one in formats.items()}


def _format_to_json(one: AnyFormat) -> dict[str, Any]:
    if not isinstance(one, Format):
        said = ("name", "description", "source")
        return {key: value for key, value in code_to_data(one).items() if key not in said}
    data: dict[str, Any] = {
        "bits": one.bits,
        "values": list(one.values),
        "codes": list(one.codes),
    }
    if one.special_codes:
        data["special_codes"] = [list(pair) for pair in one.special_codes]
    return data


def formats_of(data: Any) -> dict[str, AnyFormat]:
    """Read what :func:`formats_to_json` made.

    Raises
    ------
    ModelError
        On a table that is no format: NaN, 300 values, a code twice, codes of more than one
        number; the message names it.
    """
    if not isinstance(data, dict):
        raise ModelError("its formats are not a table of formats")
    return {name: _format_of(name, entry) for name, entry in data.items()}


def _format_of(name: str, entry: Any) -> AnyFormat:
    where = f"format {name!r}"
    if isinstance(entry, dict) and "kind" in entry:
        try:
            return code_from_data({**entry, "name": name}, where)
        except (FormatError, TypeError) as error:
            raise ModelError(f"{error}") from error
    keys = ("bits", "values", "codes", "special_codes", "dimension")
    table = read_table(entry, keys, where)
    dimension = table.get("dimension", 1)
    if dimension != 1 or isinstance(dimension, bool):
        raise ModelError(
            f"{where} has codes of dimension {dimension!r}: this version reads codes of one number"
        )
    values, codes = table.get("values"), table.get("codes")
    special = table.get("special_codes", [])
    if not isinstance(values, list) or not isinstance(codes, list) or len(values) > 256:
        raise ModelError(f"{where} needs a list of at most 256 values and one of their codes")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise ModelError(f"{where} has a value that is not a number")
    if not isinstance(special, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in special
    ):
        raise ModelError(f"{where}: special_codes is not a list of pairs")
    try:
        return Format(
            name=name,
            bits=read_whole(table.get("bits"), f"{where}: bits"),
            values=tuple(float(v) for v in values),
            codes=tuple(read_whole(code, f"{where}: code", least=0) for code in codes),
            special_codes=tuple((pair[0], pair[1]) for pair in special),
        )
    except (FormatError, OverflowError, TypeError) as error:
        raise ModelError(f"{where} cannot be read: {error}") from error


def _enter(number_format: AnyFormat, formats: dict[str, AnyFormat]) -> str:
    name, count = number_format.name, 1
    while name in formats and not _are_same(formats[name], number_format):
        count += 1
        name = f"{number_format.name}#{count}"
    formats.setdefault(name, number_format)
    return name


def _are_same(one: AnyFormat, other: AnyFormat) -> bool:
    return one.renamed("same") == other.renamed("same")


def _look_up(name: Any, formats: Mapping[str, AnyFormat], where: str) -> AnyFormat:
    if not isinstance(name, str) or name not in formats:
        raise ModelError(f"{where}: format {name!r} is not among its formats")
    return formats[name]


def _index(number: Any, count: int, where: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
        raise ModelError(f"{where} {number!r}: one of the {count} in its table, counted from 0")
    return number


def _method(name: Any, where: str) -> str:
    text = read_text(name, where)
    if not text or len(text) > _LONGEST_METHOD or not text.isprintable():
        raise ModelError(f"{where} is not a method's name: {text[:40]!r}")
    return text
