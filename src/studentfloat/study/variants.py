"""What is done to a model, whichever it is: every format under every scheme and method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from studentfloat.errors import ConfigError
from studentfloat.formats import AnyFormat, Format, code_from_toml, resolve_code
from studentfloat.formats.codes_toml import code_to_data
from studentfloat.hardware.operands import needs_lookup
from studentfloat.quantize import Method, Scheme, parse_method
from studentfloat.quantize.scheme import replace_scheme
from studentfloat.records import Configuration
from studentfloat.study.code_pairs import held_format
from studentfloat.study.options import ORIGINAL, SchemeSettings, StudyOptions

__all__ = [
    "ORIGINAL_VARIANT",
    "Variant",
    "per_token_scheme",
    "split_rule",
    "variants",
]


_NEAREST = Method()


@dataclass(frozen=True, eq=False)
class Variant:
    """How weights are quantized, and what is in which format while the model runs.

    Attributes
    ----------
    configuration
        As it is recorded, with no model yet.
    scheme
        Of the weights; None leaves the model as it is.
    method
        How their codes are found.
    activations, kv
        Schemes at run time.
    asked
        The format as it was asked for; the scheme's is rounded in a row of what silicon holds.
    exact
        Of such a row, the variant with the exact values.
    """

    configuration: Configuration
    scheme: Scheme | None = None
    method: Method = _NEAREST
    activations: Scheme | None = None
    kv: Scheme | None = None
    asked: AnyFormat | None = None
    exact: Variant | None = None

    @property
    def name(self) -> str:
        """Of the row."""
        return self.configuration.name

    @cached_property
    def address(self) -> dict[str, Any] | None:
        """All that numbers depend on beside the model, the calibration and the evaluation."""
        if self.scheme is None:
            return None
        return {
            "formats": _values(self.scheme),
            "block_size": self.scheme.block_size,
            "scale_rule": self.scheme.scale_rule.name,
            "scale_dtype": self.scheme.scale_dtype_name,
            "method": self.method.to_json(),
            "at_run_time": [
                None if scheme is None else [scheme.scale_rule.name, _values(scheme)]
                for scheme in (self.activations, self.kv)
            ],
        }

    @property
    def needs_inputs(self) -> bool:
        """Whether it is calibrated."""
        if self.scheme is None:
            return False
        return self.method.needs_inputs(self.scheme)

    @property
    def unit_format(self) -> Format | None:
        """The one format that silicon could be made for; None where there are several."""
        if self.scheme is None or self.scheme.has_choice:
            return None
        if self.method.learns_codebook or not isinstance(self.asked, Format):
            return None
        return self.asked

    @property
    def silicon_format(self) -> Format | None:
        """The format of a unit that holds exactly these values; None where no unit does."""
        asked = self.unit_format
        looked_up = asked is not None and needs_lookup(asked)
        return None if looked_up and self.exact is None else asked

    @property
    def note(self) -> str:
        """What a reader of the row must know."""
        if self.scheme is None:
            return ""
        words = []
        if self.exact is not None:
            words.append(
                f"{self.exact.name} in {self.configuration.lookup_bits}-bit fixed point, as "
                "silicon holds it"
            )
        if self.scheme.scale_rule.for_comparison:
            words.append(f"{self.scheme.scale_rule.name} scaling: for comparison only")
        code = self.scheme.code
        if not isinstance(code, Format):
            words.append(f"{code.dimension} numbers are encoded together")
        elif code.minimum >= 0 or code.maximum <= 0:
            side = "negative" if code.minimum >= 0 else "positive"
            words.append(f"it has no {side} levels: {side} weights take the level nearest to zero")
        return "; ".join(words)


ORIGINAL_VARIANT = Variant(Configuration("", ORIGINAL, ORIGINAL))
"""The model as it is."""


def _values(scheme: Scheme) -> list[Any]:
    if not isinstance(scheme.code, Format):
        said = ("name", "description", "source")
        data = code_to_data(scheme.code)
        return [{key: value for key, value in data.items() if key not in said}]
    return [[f.bits, f.values, f.codes] for f in scheme.formats]


def variants(options: StudyOptions) -> list[Variant]:
    """Everything that is done to each model: formats × schemes × methods × run time.

    Where silicon is costed, a format that it cannot hold as it is has a second row, of the
    fixed-point values that it looks up.

    Raises
    ------
    StudentFloatError
        If a format, rule or method is unknown, given twice, or does not go with another.
    """
    methods = [parse_method(spelled) for spelled in options.methods]
    if not methods:
        raise ConfigError("no methods: give at least one, such as rtn or gptq")
    found: list[Variant] = []
    files = {file.path: file.text for file in options.format_files}
    for settings, spec in product(options.schemes, options.formats):
        one = _Spec.read(spec, settings, files)
        for method, activations, kv in product(methods, options.activations, options.kv):
            exact = one.variant(options, method, activations=activations, kv=kv)
            found.append(exact)
            if options.hardware is not None:
                found += one.held(options, exact, options.hardware.lookup_bits)
    if not found:
        raise ConfigError("no formats: give at least one, such as nf4 or sf4")
    _check_names(found)
    return found


@dataclass(frozen=True)
class _Spec:
    """A format as it was asked for, under one scheme."""

    formats: tuple[AnyFormat, ...]
    rule: str
    settings: SchemeSettings
    scheme: Scheme

    @classmethod
    def read(cls, spec: str, settings: SchemeSettings, files: dict[str, str]) -> _Spec:
        name, rule = split_rule(spec)
        formats = tuple(
            code_from_toml(files[part], where=part) if part in files else resolve_code(part)
            for part in name.split("|")
        )
        scheme = Scheme(
            formats[0],
            block_size=settings.block_size,
            scale_rule=rule or settings.scale_rule,
            scale_dtype=settings.scale_dtype,
            alternatives=formats[1:],
        )
        return cls(formats, rule, settings, scheme)

    def variant(
        self, options: StudyOptions, method: Method, *, activations: str | None, kv: str | None
    ) -> Variant:
        """Under a method, and with formats at run time."""
        shown = self._shown(self.scheme.format_name)
        own = activations == "same"
        entering = shown if own else activations
        scheme = self._at_run_time(self.formats) if own else _per_token(activations)
        configuration = Configuration(
            model="",
            name=self._name(options, shown, method, activations=entering, kv=kv),
            format=shown,
            method=method.name,
            block_size=self.scheme.block_size,
            scale_rule=self.rule or self.settings.scale_rule,
            scale_dtype=self.settings.scale_dtype,
            activations=entering,
            kv=kv,
        )
        return Variant(configuration, self.scheme, method, scheme, _per_token(kv), self.scheme.code)

    def held(self, options: StudyOptions, exact: Variant, bits: int) -> list[Variant]:
        """The row of what silicon holds, where that is not the format itself."""
        asked = exact.unit_format
        if asked is None or (held := held_format(asked, bits)) is asked:
            return []
        before = exact.configuration
        shown = self._shown(f"{asked.name}-fixed{bits}")
        own = before.activations == before.format
        entering = shown if own else before.activations
        name = self._name(options, shown, exact.method, activations=entering, kv=before.kv)
        configuration = replace(
            before,
            name=name,
            format=shown,
            activations=entering,
            lookup_bits=bits,
            exact=exact.name,
        )
        return [
            replace(
                exact,
                configuration=configuration,
                scheme=replace_scheme(self.scheme, format=held),
                activations=self._at_run_time((held,)) if own else exact.activations,
                exact=exact,
            )
        ]

    def _shown(self, name: str) -> str:
        return f"{name}@{self.rule}" if self.rule else name

    def _at_run_time(self, formats: tuple[AnyFormat, ...]) -> Scheme:
        scheme = Scheme.per_token(formats[0], self.rule or "absmax")
        if len(formats) > 1:
            scheme = replace_scheme(scheme, alternatives=formats[1:])
        return scheme

    def _name(
        self,
        options: StudyOptions,
        shown: str,
        method: Method,
        *,
        activations: str | None,
        kv: str | None,
    ) -> str:
        """Short, and unique: only what differs within the study is said, beside the format."""
        parts = [shown]
        for key, sign in (("block_size", "b"), ("scale_rule", ""), ("scale_dtype", "")):
            if len({getattr(scheme, key) for scheme in options.schemes}) > 1:
                parts.append(f"{sign}{getattr(self.settings, key)}")
        if method != Method():
            parts.append(method.name)
        if activations is not None and len(options.activations) > 1:
            parts.append(f"a:{activations}")
        if kv is not None and len(options.kv) > 1:
            parts.append(f"kv:{kv}")
        return " ".join(parts)


def per_token_scheme(spec: str) -> Scheme:
    """What ``format@scale-rule`` means of activations and caches: a scale per token."""
    name, rule = split_rule(spec)
    return Scheme.per_token(name, rule or "absmax")


def _per_token(spec: str | None) -> Scheme | None:
    return None if spec is None else per_token_scheme(spec)


def split_rule(spec: str) -> tuple[str, str]:
    """Split ``format@scale-rule``; a file's path may hold an '@' of its own."""
    name, at, rule = spec.rpartition("@")
    if not at or "/" in rule or rule.lower().endswith(".toml"):
        return spec, ""
    return name, rule


def _check_names(found: list[Variant]) -> None:
    """Each row has a name of its own, and each format's name one meaning."""
    seen: dict[str, Variant] = {}
    formats: dict[str, tuple[AnyFormat, ...]] = {}
    for variant in found:
        for fmt in _asked(variant):
            if formats.setdefault(fmt.name, (fmt,)) != (fmt,):
                raise ConfigError(f"two different formats are called {fmt.name!r}: rename one")
        if variant.name in seen:
            raise ConfigError(f"{variant.name!r} is given twice")
        seen[variant.name] = variant


def _asked(variant: Variant) -> Iterator[AnyFormat]:
    """The formats as they were asked for."""
    assert variant.scheme is not None
    assert variant.asked is not None
    yield variant.asked
    yield from variant.scheme.alternatives
