"""How a tensor is quantized, as a value: format, blocks, scale rule, type of the scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

from studentfloat.errors import SchemeError
from studentfloat.formats import (
    AnyFormat,
    Format,
    Trellis,
    get_format,
    resolve_code,
)

__all__ = [
    "ROW",
    "SCALE_DTYPES",
    "SCALE_RULES",
    "TENSOR",
    "BlockSize",
    "ScaleDtype",
    "ScaleRule",
    "Scheme",
]

ROW: Literal["row"] = "row"
TENSOR: Literal["tensor"] = "tensor"
# A selector is packed like codes, in at most eight bits.
_MOST_FORMATS = 256
BlockSize: TypeAlias = int | Literal["row", "tensor"]


@dataclass(frozen=True)
class ScaleRule:
    """How a block's scale follows from its numbers.

    Attributes
    ----------
    signed
        Whether scales may be negative.
    rounds_away
        Whether a scale that its type cannot hold is rounded away from zero, so that
        nothing leaves the format's range; else to nearest.
    searches
        Whether the scale is searched for; the error then is at most that of every
        rule that does not search, block by block, as long as the scales are not
        quantized themselves afterwards.
    weighted
        Whether it needs one weight per element.
    magnitude_power
        A search weighs each squared error by the number's own magnitude to this power.
    for_comparison
        Whether it is kept only to compare with what others published: numbers may clip, and
        a format without positive levels has no scale.
    """

    name: str
    description: str
    signed: bool = False
    rounds_away: bool = False
    searches: bool = False
    weighted: bool = False
    magnitude_power: float = 0.0
    for_comparison: bool = False


_RULES = (
    ScaleRule(
        "absmax",
        "the least scale at which nothing clips: max(max x / max v, min x / min v); a side without "
        "levels has no say",
        rounds_away=True,
    ),
    ScaleRule(
        "published",
        "max |x| / max v, as in the code of arXiv 2405.03103: for comparison only, since "
        "formats whose negative side is shorter clip",
        for_comparison=True,
    ),
    ScaleRule(
        "signed-absmax",
        "the scale's sign puts the largest magnitude on the format's longer side, at its extreme",
        signed=True,
        rounds_away=True,
    ),
    ScaleRule(
        "mse",
        "a search over scale and sign for the least squared error of the block",
        signed=True,
        searches=True,
    ),
    ScaleRule(
        "weighted-mse",
        "as mse, each squared error weighted by a number given per element",
        signed=True,
        searches=True,
        weighted=True,
    ),
    ScaleRule(
        "x2-mse",
        "as mse, each squared error weighted by the number's own square",
        signed=True,
        searches=True,
        magnitude_power=2.0,
    ),
    ScaleRule(
        "weighted-x2-mse",
        "as x2-mse, each squared error weighted by a number given per element besides",
        signed=True,
        searches=True,
        weighted=True,
        magnitude_power=2.0,
    ),
)

SCALE_RULES: Mapping[str, ScaleRule] = MappingProxyType({rule.name: rule for rule in _RULES})
_DIRECT_RULES = tuple(rule.name for rule in _RULES if not rule.searches)


@dataclass(frozen=True)
class ScaleDtype:
    """A type that scales are stored in.

    Attributes
    ----------
    bits
        Per scale.
    holds_sign
        Whether negative scales can be stored.
    """

    name: str
    bits: int
    holds_sign: bool = True


_DTYPES = (
    ScaleDtype("float32", 32),
    ScaleDtype("float16", 16),
    ScaleDtype("bfloat16", 16),
    ScaleDtype("e8m0", 8, holds_sign=False),
)

SCALE_DTYPES: Mapping[str, ScaleDtype] = MappingProxyType({d.name: d for d in _DTYPES})


_TWO_LEVELS = {"e4m3": "float32", "e4m3/e8m0": "e8m0"}


def _two_level_e4m3(name: str = "e4m3") -> Scheme:
    """NVFP4's scales: E4M3, under one float32 scale (or power of two) per tensor."""
    return Scheme(get_format("e4m3"), block_size=TENSOR, scale_dtype=_TWO_LEVELS[name])


@dataclass(frozen=True)
class Scheme:
    """Format, block size, axis, scale rule, scale type and alternative formats.

    Parameters
    ----------
    format
        A :class:`~studentfloat.formats.Format`, or a code of several numbers (a
        :class:`~studentfloat.formats.Trellis`); the name of one, or a ``.toml`` file; or
        several names with ``|`` between them (``e2m1+sp|e2m1+sr``): the first is the
        format, the others are `alternatives`. Codes of several numbers are made for
        numbers of unit variance: their blocks have the root mean square as their scale,
        unless the scale rule searches.
    block_size
        How many consecutive numbers share a scale: a positive number, "row" (all along
        `axis`) or "tensor". A last block that is shorter is quantized as it is.
    axis
        Along which blocks run. For a linear weight of shape ``(out_features,
        in_features)`` the last, -1: numbers that are summed up share a scale.
    scale_rule
        One of :data:`SCALE_RULES`.
    scale_dtype
        One of :data:`SCALE_DTYPES`; "e4m3" for E4M3 scales under one float32 scale
        per tensor (as NVFP4 has them), "e4m3/e8m0" for a power of two there; or a Scheme
        by which the scales themselves are quantized (double quantization), see
        :meth:`with_double_quantization`.
    alternatives
        Other formats of as many bits: each block takes the one of :attr:`formats` that
        has the least error under the scale rule, and stores which in
        :attr:`selector_bits`. As in BitMoD (arXiv 2411.11745).

    Raises
    ------
    SchemeError
        If the parts do not fit together; the message names the offending one.

    Examples
    --------
    >>> Scheme("sf4", block_size=64, scale_dtype="bfloat16").scale_rule.name
    'absmax'
    """

    code: AnyFormat
    block_size: BlockSize = 128
    axis: int = -1
    scale_rule: ScaleRule = field(default=SCALE_RULES["absmax"])
    scale_dtype: ScaleDtype | Scheme = field(default=SCALE_DTYPES["float32"])
    alternatives: tuple[Format, ...] = ()

    def __init__(
        self,
        format: AnyFormat | str,
        block_size: BlockSize | str = 128,
        axis: int = -1,
        scale_rule: ScaleRule | str = "absmax",
        scale_dtype: ScaleDtype | Scheme | str = "float32",
        *,
        alternatives: Iterable[AnyFormat | str] = (),
    ) -> None:
        set_field = object.__setattr__
        formats = [*_formats(format), *(resolve_code(other) for other in alternatives)]
        set_field(self, "code", formats[0])
        set_field(self, "alternatives", _single(formats[1:]))
        set_field(self, "block_size", _block_size(block_size))
        set_field(self, "axis", axis)
        set_field(self, "scale_rule", _scale_rule(scale_rule))
        set_field(self, "scale_dtype", _scale_dtype(scale_dtype))
        self._check()

    @classmethod
    def per_token(cls, format: AnyFormat | str, scale_rule: ScaleRule | str = "absmax") -> Scheme:
        """One scale per row, in bfloat16: what activations and caches have, token by token.

        Raises
        ------
        SchemeError
            For a code of several numbers.
        """
        scheme = cls(format, block_size=ROW, scale_rule=scale_rule, scale_dtype="bfloat16")
        if not isinstance(scheme.code, Format):
            raise SchemeError(
                f"{scheme.format_name!r} encodes the numbers of several rows together: what is "
                "quantized token by token needs a format of single numbers, such as int8"
            )
        return scheme

    def _check(self) -> None:
        if not isinstance(self.code, Format):
            self._check_code()
        self._check_alternatives()
        for single in self.by_format[1:]:
            single._check()
        if (
            isinstance(self.code, Format)
            and self.code.maximum <= 0
            and self.scale_rule.for_comparison
        ):
            raise SchemeError(
                f"scale rule {self.scale_rule.name!r} divides by the greatest value, which in "
                f"format {self.code.name!r} is {self.code.maximum:g}: use 'absmax'"
            )
        if self.scales_have_sign and not self._scale_dtype_holds_sign:
            raise SchemeError(
                f"scale rule {self.scale_rule.name!r} makes negative scales for format "
                f"{self.code.name!r}, which {self.scale_dtype_name} cannot hold: use "
                "'absmax', or scales in bfloat16"
            )

    def _check_code(self) -> None:
        if not isinstance(self.code, Trellis):
            raise SchemeError(
                f"{self.code.name!r} is a code for vectors: tensors are quantized in formats of "
                "single numbers and in trellises, such as trellis2"
            )
        if self.alternatives:
            raise SchemeError(
                f"{self.code.name!r} encodes several numbers together: a block chooses among "
                "formats of single numbers"
            )

    def _check_alternatives(self) -> None:
        for i, other in enumerate(self.alternatives):
            if other.bits != self.code.bits:
                raise SchemeError(
                    f"format {other.name!r} has {other.bits} bits, but {self.code.name!r} has "
                    f"{self.code.bits}: the formats that a block chooses among have equally many"
                )
            if other in self.formats[: i + 1]:
                raise SchemeError(f"format {other.name!r} is given twice among the alternatives")
        if len(self.alternatives) >= _MOST_FORMATS:
            raise SchemeError(
                f"{len(self.formats)} formats to choose among: at most {_MOST_FORMATS}"
            )

    @property
    def format(self) -> Format:
        """The format of single numbers.

        Raises
        ------
        SchemeError
            If the scheme has a code of several numbers: then :attr:`code` has it.
        """
        if not isinstance(self.code, Format):
            raise SchemeError(
                f"{self.code.name!r} encodes several numbers together: here a format of single "
                "numbers is needed, such as nf4"
            )
        return self.code

    @property
    def code_bits(self) -> int:
        """Bits of the code that a number is stored as."""
        return int(self.code.bits)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that a block chooses among: `format` and `alternatives`."""
        return (self.format, *self.alternatives)

    @property
    def has_choice(self) -> bool:
        """Whether a block chooses among several formats."""
        return bool(self.alternatives)

    @property
    def by_format(self) -> tuple[Scheme, ...]:
        """One scheme without alternatives for each of :attr:`formats`."""
        if not self.has_choice:
            return (self,)
        return tuple(replace_scheme(self, format=f, alternatives=()) for f in self.formats)

    @property
    def unweighted(self) -> Scheme:
        """The same scheme with the scale rule that does without a weight per element."""
        if not self.scale_rule.weighted:
            return self
        plain = replace(self.scale_rule, name="", description="", weighted=False)
        rules = SCALE_RULES.values()
        twins = (r for r in rules if replace(r, name="", description="") == plain)
        twin = next(twins, replace(self.scale_rule, weighted=False))
        return replace_scheme(self, scale_rule=twin)

    @property
    def selector_bits(self) -> int:
        """Bits that a block stores to say which format it took; 0 where there is one only."""
        return len(self.alternatives).bit_length()

    @property
    def format_name(self) -> str:
        """Names of :attr:`formats` with ``|`` between them."""
        return "|".join(f.name for f in (self.code, *self.alternatives))

    @property
    def _scale_dtype_holds_sign(self) -> bool:
        if isinstance(self.scale_dtype, ScaleDtype):
            return self.scale_dtype.holds_sign
        return self.scale_dtype.format.minimum < 0

    @property
    def scales_have_sign(self) -> bool:
        """Whether a scale may be negative.

        Not for a symmetric format, which gains nothing by it; nor where a search may do
        without, because the scale type holds no sign.
        """
        codes = (self.code, *self.alternatives)
        return self.scales_have_sign_for(
            all(f.is_symmetric for f in codes if isinstance(f, Format))
        )

    def scales_have_sign_for(self, symmetric: bool) -> bool:
        """Whether a scale may be negative for a codebook that is symmetric, or is not."""
        if not self.scale_rule.signed or symmetric:
            return False
        return self._scale_dtype_holds_sign or not self.scale_rule.searches

    @property
    def scale_dtype_name(self) -> str:
        """The scale type in words."""
        if isinstance(self.scale_dtype, ScaleDtype):
            return self.scale_dtype.name
        inner = self.scale_dtype
        for name in _TWO_LEVELS:
            if inner == _two_level_e4m3(name):
                return name
        return f"{inner.format.name}/{inner.block_size}"

    def with_double_quantization(self, block_size: int = 256) -> Scheme:
        """Quantize the scales too: 8-bit integers under one float32 scale per `block_size` scales.

        As in QLoRA (arXiv 2305.14314), with integers that are signed only where the
        scales are.
        """
        inner = Scheme("int8" if self.scales_have_sign else "uint8", block_size=block_size)
        return replace_scheme(self, scale_dtype=inner)


def replace_scheme(scheme: Scheme, **changes: object) -> Scheme:
    """A scheme with some parts replaced, under the names of its parameters."""
    parts = {each.name: getattr(scheme, each.name) for each in fields(scheme)}
    parts["format"] = parts.pop("code")
    return Scheme(**parts | changes)


def _formats(given: AnyFormat | str) -> list[AnyFormat]:
    if isinstance(given, str):
        return [resolve_code(name) for name in given.split("|")]
    return [given]


def _single(formats: Iterable[AnyFormat]) -> tuple[Format, ...]:
    """Alternatives, each a format of single numbers."""
    found = []
    for number_format in formats:
        if not isinstance(number_format, Format):
            raise SchemeError(
                f"{number_format.name!r} encodes several numbers together: a block chooses among "
                "formats of single numbers"
            )
        found.append(number_format)
    return tuple(found)


def _block_size(value: BlockSize | str) -> BlockSize:
    if isinstance(value, str):
        if value in (ROW, TENSOR):
            return value
        try:
            value = int(value)
        except ValueError:
            raise SchemeError(
                f"block size {value!r}: a positive whole number, 'row' or 'tensor'"
            ) from None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SchemeError(f"block size {value!r}: a positive whole number, 'row' or 'tensor'")
    return value


def _scale_rule(value: ScaleRule | str) -> ScaleRule:
    if isinstance(value, ScaleRule):
        if not value.searches and value.name not in _DIRECT_RULES:
            raise SchemeError(
                f"scale rule {value.name!r} does not search: of such rules there are "
                f"{', '.join(_DIRECT_RULES)}; a rule of your own must search (searches=True)"
            )
        return value
    if value not in SCALE_RULES:
        raise SchemeError(f"scale rule {value!r}: one of {', '.join(SCALE_RULES)}")
    return SCALE_RULES[value]


def _scale_dtype(value: ScaleDtype | Scheme | str) -> ScaleDtype | Scheme:
    if isinstance(value, (ScaleDtype, Scheme)):
        return value
    if value in _TWO_LEVELS:
        return _two_level_e4m3(value)
    if value not in SCALE_DTYPES:
        names = ", ".join((*SCALE_DTYPES, *_TWO_LEVELS))
        raise SchemeError(f"scale dtype {value!r}: one of {names}")
    return SCALE_DTYPES[value]
