"""What is asked of a comparison: options, and the rows that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from studentfloat.errors import ConfigError
from studentfloat.formats import PUBLISHED_ELEVEN, Format
from studentfloat.models import Trust
from studentfloat.quantize import Method, Scheme, parse_method
from studentfloat.quantize.scheme import replace_scheme
from studentfloat.study.code_pairs import held_format
from studentfloat.study.silicon import HardwareOptions

__all__ = [
    "DEFAULT_FORMATS",
    "CompareOptions",
    "Request",
    "activation_scheme",
    "as_in_silicon",
    "kv_scheme",
    "make_requests",
    "per_token_scheme",
    "row_note",
    "split_rule",
]

DEFAULT_FORMATS = (*PUBLISHED_ELEVEN, "e2m1+sr@signed-absmax", "bos4-nu11@signed-absmax")
"""The paper's eleven, super-range scaled as it should be, and a derived codebook (ν = 11 is the
embedded model's own, about)."""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how.

    Attributes
    ----------
    model
        As for :func:`~studentfloat.models.find_model`.
    formats
        Names or ``.toml`` files, each with an optional ``@scale-rule``; several joined by
        ``|`` for a choice per block.
    methods
        As :func:`~studentfloat.quantize.parse_method` spells them; a row for each format
        under each.
    calibration, calibration_windows, calibration_length
        Text file (None for :class:`~studentfloat.models.Calibration`'s own), windows and
        tokens in each, for methods that need some.
    block_size, scale_rule, scale_dtype
        As for :class:`~studentfloat.quantize.Scheme`; the rule for formats without their own.
    activations
        A format, with an optional ``@scale-rule``, for what enters linear layers: one scale
        per token, from the token itself. None leaves activations as they are.
    kv
        The same for the key-value cache: see :class:`~studentfloat.models.KVCacheScheme`.
    text
        A file, or None for the text that every CPython carries.
    windows, window_length
        How many, and tokens in each.
    weights_only
        Weight errors alone, no evaluation.
    embeddings, head
        Quantize those too.
    seed
        Of the bootstrap.
    hardware
        What to cost the formats as, in silicon; None does without.
    """

    model: str = "smollm2-135m"
    formats: tuple[str, ...] = DEFAULT_FORMATS
    methods: tuple[str, ...] = ("rtn",)
    calibration: str | None = None
    calibration_windows: int = 32
    calibration_length: int = 512
    activations: str | None = None
    kv: str | None = None
    block_size: int | str = 128
    scale_rule: str = "absmax"
    scale_dtype: str = "float32"
    text: str | None = None
    windows: int = 12
    window_length: int = 384
    weights_only: bool = False
    embeddings: bool = False
    head: bool = False
    seed: int = 0
    hardware: HardwareOptions | None = None
    trust: Trust = field(default_factory=Trust)


@dataclass(frozen=True)
class Request:
    """One row of the table to be."""

    name: str
    scheme: Scheme
    method: Method
    note: str
    asked: Format
    """The format as it was asked for; the scheme's is rounded where silicon would round it."""
    lookup_bits: int | None = None

    @property
    def needs_inputs(self) -> bool:
        """Whether it is calibrated."""
        return self.method.needs_inputs(self.scheme)

    @property
    def unit_format(self) -> Format | None:
        """The one format that silicon could be made for; None where there are several."""
        return None if self.method.learns_codebook or self.scheme.has_choice else self.scheme.format

    @property
    def address(self) -> dict[str, Any]:
        """All of the row that its numbers depend on."""
        scheme = self.scheme
        return {
            "formats": [[f.bits, f.values, f.codes] for f in scheme.formats],
            "block_size": scheme.block_size,
            "scale_rule": scheme.scale_rule.name,
            "scale_dtype": scheme.scale_dtype_name,
            "method": self.method.to_json(),
        }


def make_requests(options: CompareOptions) -> list[Request]:
    """The rows that options ask for: every format under every method.

    Raises
    ------
    StudentFloatError
        If a format, rule or method is unknown, given twice, or does not go with another.
    """
    methods = [parse_method(spelled) for spelled in options.methods]
    if not methods:
        raise ConfigError("no methods: give at least one, such as --methods rtn,gptq")
    requests: list[Request] = []
    for spec in options.formats:
        name, rule = split_rule(spec)
        scheme = Scheme(
            name,
            block_size=options.block_size,
            scale_rule=rule or options.scale_rule,
            scale_dtype=options.scale_dtype,
        )
        asked = scheme.format
        width = None if options.hardware is None else options.hardware.lookup_bits
        scheme, lookup_bits = as_in_silicon(scheme, width)
        shown = f"{scheme.format_name}@{rule}" if rule else scheme.format_name
        for other in requests:
            same_name = other.scheme.format_name == scheme.format_name
            if same_name and (other.scheme.formats != scheme.formats or other.asked != asked):
                raise ConfigError(
                    f"two different formats are called {scheme.format_name!r}: rename one"
                )
        for method in methods:
            plain = method == Method()
            row = shown if plain else f"{shown} {method.name}"
            if row in {request.name for request in requests}:
                what = f"format {shown!r}" if plain else f"row {row!r}"
                raise ConfigError(f"{what} is given twice")
            requests.append(Request(row, scheme, method, row_note(scheme), asked, lookup_bits))
    if not requests:
        raise ConfigError("no formats to compare: give at least one, such as --formats nf4,sf4")
    return requests


def per_token_scheme(spec: str) -> Scheme:
    """What ``format@scale-rule`` means of activations and caches: a scale per token."""
    name, rule = split_rule(spec)
    return Scheme.per_token(name, rule or "absmax")


def activation_scheme(options: CompareOptions) -> Scheme | None:
    """One scale per token, in bfloat16 as activations have."""
    return None if options.activations is None else per_token_scheme(options.activations)


def kv_scheme(options: CompareOptions) -> Scheme | None:
    """One scale per token and head for values, per channel and group of tokens for keys."""
    return None if options.kv is None else per_token_scheme(options.kv)


def as_in_silicon(scheme: Scheme, lookup_bits: int | None) -> tuple[Scheme, int | None]:
    """The values to measure: where silicon is costed, those that it would hold.

    Parameters
    ----------
    lookup_bits
        Width of the fixed-point numbers that silicon looks values up in; None without silicon.

    Returns
    -------
    Scheme, int or None
        The width is given where the scheme's values were rounded to it.
    """
    if lookup_bits is None or scheme.has_choice:
        return scheme, None
    held = held_format(scheme.format, lookup_bits)
    if held is scheme.format:
        return scheme, None
    return replace_scheme(scheme, format=held), lookup_bits


def row_note(scheme: Scheme) -> str:
    """What a reader of the row must know."""
    words = []
    if scheme.scale_rule.for_comparison:
        words.append(f"{scheme.scale_rule.name} scaling: for comparison only")
    if scheme.format.minimum >= 0 or scheme.format.maximum <= 0:
        side = "negative" if scheme.format.minimum >= 0 else "positive"
        words.append(f"it has no {side} levels: {side} weights take the level nearest to zero")
    return "; ".join(words)


def split_rule(spec: str) -> tuple[str, str]:
    """Split ``format@scale-rule``; a file's path may hold an '@' of its own."""
    name, at, rule = spec.rpartition("@")
    if not at or "/" in rule or rule.lower().endswith(".toml"):
        return spec, ""
    return name, rule
