"""The cells of a study: what is measured of what, in which order, under which address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from studentfloat.errors import ConfigError
from studentfloat.formats import Format, format_from_toml, resolve_format
from studentfloat.quantize import Method, Scheme, parse_method
from studentfloat.quantize.scheme import replace_scheme
from studentfloat.records.study import StudyConfiguration
from studentfloat.study.requests import Request, as_in_silicon, row_note, split_rule
from studentfloat.study.sweep.options import ORIGINAL, SchemeSettings, StudyOptions, matches
from studentfloat.study.sweep.resolve import Resolution

__all__ = ["HARDWARE", "LAWS", "ORIGINAL", "QUALITY", "Group", "Plan", "PlannedCell", "Variant",
           "count_by", "digest", "make_plan", "variants"]  # fmt: skip

QUALITY, LAWS, HARDWARE = "quality", "laws", "hardware"

# Goes into every cell's address: raise it when what a cell means changes.
_CELL_VERSION = 1
_ADDRESS_DIGITS = 32


@dataclass(frozen=True, eq=False)
class Variant:
    """What is done to a model, whichever it is.

    Attributes
    ----------
    request
        How the weights are quantized; None leaves the model as it is.
    activations, kv
        Schemes at run time.
    fields
        Of a :class:`StudyConfiguration`, but for the model.
    """

    request: Request | None
    activations: Scheme | None
    kv: Scheme | None
    fields: dict[str, Any]

    @cached_property
    def address(self) -> dict[str, Any] | None:
        """All that numbers depend on beside the model, the calibration and the evaluation."""
        if self.request is None:
            return None
        at_run_time = [_scheme_values(scheme) for scheme in (self.activations, self.kv)]
        return {**self.request.address, "at_run_time": at_run_time}

    @property
    def needs_inputs(self) -> bool:
        """Whether it is calibrated."""
        return self.request is not None and self.request.needs_inputs


@dataclass(frozen=True, eq=False, slots=True)
class PlannedCell:
    """One cell to be computed.

    Attributes
    ----------
    address
        Hash of all that its numbers depend on.
    group
        Index of its :class:`Group`.
    unit, format
        Of a hardware cell: the unit, and the format as it was asked for.
    """

    address: str
    configuration: StudyConfiguration
    evaluation: str
    group: int
    unit: str = ""
    format: Format | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Cells that share a model in one state: whoever begins one does well to finish it."""

    index: int
    model: str
    variant: Variant | None
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """All cells of a study, cheap and informative ones first, a model's together."""

    options: StudyOptions
    resolution: Resolution
    groups: tuple[Group, ...]
    twins: int = 0
    excluded: int = 0

    @cached_property
    def cells(self) -> tuple[PlannedCell, ...]:
        """In the order in which one worker takes them."""
        return tuple(cell for group in self.groups for cell in group.cells)

    @cached_property
    def by_address(self) -> dict[str, PlannedCell]:
        """The first cell of each address."""
        found: dict[str, PlannedCell] = {}
        for cell in self.cells:
            found.setdefault(cell.address, cell)
        return found


def make_plan(
    options: StudyOptions,
    resolution: Resolution | None = None,
    *,
    only: Sequence[dict[str, Any]] = (),
) -> Plan:
    """Lay out the cells of a study.

    Parameters
    ----------
    resolution
        Hashes of models, texts and sets, for the addresses; without, cells have preliminary
        ones.
    only
        Filters, as exclusions are: cells that match none are left out.
    """
    known = resolution or Resolution()
    layout = _Layout(options, known, only)
    return layout.plan()


def variants(options: StudyOptions) -> list[Variant]:
    """Everything that is done to each model: formats × schemes × methods × run time.

    Raises
    ------
    StudentFloatError
        If a format, rule or method is unknown, or one does not go with another.
    """
    methods = [parse_method(spelled) for spelled in options.methods]
    found: list[Variant] = []
    files = {file.path: file.text for file in options.format_files}
    for settings, spec in product(options.schemes, options.formats):
        name, rule = split_rule(spec)
        formats = [_format(part, files) for part in name.split("|")]
        scheme = Scheme(
            formats[0],
            block_size=settings.block_size,
            scale_rule=rule or settings.scale_rule,
            scale_dtype=settings.scale_dtype,
            alternatives=formats[1:],
        )
        width = None if options.hardware is None else options.hardware.lookup_bits
        asked = scheme.format
        scheme, lookup_bits = as_in_silicon(scheme, width)
        base = Request("", scheme, Method(), row_note(scheme), asked, lookup_bits)
        shown = f"{scheme.format_name}@{rule}" if rule else scheme.format_name
        own = _run_time(spec, formats, rule)
        for method, activations, kv in product(methods, options.activations, options.kv):
            at_run_time = own if activations == "same" else _per_token(activations)
            row = _row_name(options, shown, settings, method, activations=at_run_time[1], kv=kv)
            fields = {
                "name": row,
                "format": shown,
                "method": method.name,
                "block_size": settings.block_size,
                "scale_rule": rule or settings.scale_rule,
                "scale_dtype": settings.scale_dtype,
                "activations": at_run_time[1],
                "kv": kv,
            }
            request = replace(base, name=row, method=method)
            found.append(Variant(request, at_run_time[0], _per_token(kv)[0], fields))
    _check_names(found)
    return found


def _format(part: str, files: dict[str, str]) -> Format:
    return format_from_toml(files[part], where=part) if part in files else resolve_format(part)


def _run_time(spec: str, formats: list[Format], rule: str) -> tuple[Scheme, str]:
    scheme = Scheme.per_token(formats[0], rule or "absmax")
    if len(formats) > 1:
        scheme = replace_scheme(scheme, alternatives=tuple(formats[1:]))
    return scheme, f"{scheme.format_name}@{rule}" if rule else scheme.format_name


def _per_token(spec: str | None) -> tuple[Scheme | None, str | None]:
    from studentfloat.study.requests import per_token_scheme

    return (None, None) if spec is None else (per_token_scheme(spec), spec)


def _row_name(
    options: StudyOptions,
    shown: str,
    settings: SchemeSettings,
    method: Method,
    *,
    activations: str | None,
    kv: str | None,
) -> str:
    """Short, and unique: only what differs within the study is said, beside the format."""
    parts = [shown]
    for key, sign in (("block_size", "b"), ("scale_rule", ""), ("scale_dtype", "")):
        if len({getattr(scheme, key) for scheme in options.schemes}) > 1:
            parts.append(f"{sign}{getattr(settings, key)}")
    if method != Method():
        parts.append(method.name)
    if activations is not None:
        parts.append(f"a:{activations}")
    if kv is not None:
        parts.append(f"kv:{kv}")
    return " ".join(parts)


def _scheme_values(scheme: Scheme | None) -> list[Any] | None:
    if scheme is None:
        return None
    return [scheme.scale_rule.name, [[f.bits, f.values, f.codes] for f in scheme.formats]]


@dataclass
class _Layout:
    """Groups and cells as they are laid out."""

    options: StudyOptions
    known: Resolution
    only: Sequence[dict[str, Any]]
    groups: list[Group] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    twins: int = 0
    excluded: int = 0

    def plan(self) -> Plan:
        options = self.options
        found = variants(options)
        found.sort(key=_cost)
        original = Variant(None, None, None, {"name": ORIGINAL, "format": ORIGINAL})
        evaluations = self._evaluations()
        digests = [self._of_variant(variant) for variant in (original, *found)]
        for model in sorted(options.models, key=lambda m: self.known.size(m.id)):
            of_model = digest(self.known.model_key(model.id))
            for variant, of_variant in zip((original, *found), digests, strict=True):
                its = evaluations
                if options.laws and variant is original:
                    its = [*evaluations, (LAWS, digest([LAWS, self.known.law_versions]))]
                if its:
                    self._add(model.name, variant, [of_model, of_variant], its)
        self._add_hardware(found)
        return Plan(options, self.known, tuple(self.groups), self.twins, self.excluded)

    def _evaluations(self) -> list[tuple[str, str]]:
        """Name and digest of each evaluation, the cheap first."""
        options, known, found = self.options, self.known, []
        if options.quality is not None:
            what = [known.text_sha256, options.quality.windows, options.quality.window_length]
            found.append((QUALITY, digest([QUALITY, *what])))
        if options.tasks is not None:
            asked = [options.tasks.limit, options.tasks.shots, options.seed]
            found += [
                (name, digest([name, known.task_key(name), *asked])) for name in options.tasks.names
            ]
        return found

    def _of_variant(self, variant: Variant) -> str:
        calibration = None
        if variant.needs_inputs:
            its = asdict(self.options.calibration)
            calibration = {**its, "text": self.known.calibration_sha256}
        what = [variant.address, calibration, self.options.embeddings, self.options.head]
        return digest(what)

    def _add(
        self, model: str, variant: Variant, digests: list[str], evaluations: list[tuple[str, str]]
    ) -> None:
        configuration = StudyConfiguration(model=model, **variant.fields)
        index = len(self.groups)
        cells = []
        for evaluation, its_digest in evaluations:
            if not self._wanted(configuration, evaluation):
                continue
            address = digest([_CELL_VERSION, *digests, its_digest, self.known.model_versions])
            self._note(address)
            cells.append(PlannedCell(address, configuration, evaluation, index))
        if cells:
            self.groups.append(Group(index, model, variant, tuple(cells)))

    def _add_hardware(self, found: list[Variant]) -> None:
        hardware = self.options.hardware
        if hardware is None:
            return
        formats: dict[str, Format] = {}
        for variant in found:
            assert variant.request is not None
            if variant.request.unit_format is not None:
                formats.setdefault(variant.request.asked.name, variant.request.asked)
        for (name, fmt), unit in product(formats.items(), hardware.units):
            shown = name if len(hardware.units) == 1 else f"{name} {unit}"
            configuration = StudyConfiguration(model="", name=shown, format=name)
            if not self._wanted(configuration, HARDWARE):
                continue
            values = [fmt.bits, fmt.values, fmt.codes, fmt.special_codes]
            how = [unit, hardware.activations, hardware.lookup_bits, self.known.library]
            address = digest([_CELL_VERSION, HARDWARE, values, how, self.known.hardware_versions])
            self._note(address)
            index = len(self.groups)
            cell = PlannedCell(address, configuration, HARDWARE, index, unit, fmt)
            self.groups.append(Group(index, "", None, (cell,)))

    def _wanted(self, configuration: StudyConfiguration, evaluation: str) -> bool:
        excluded = any(matches(table, configuration, evaluation) for table in self.options.exclude)
        left = not self.only or any(matches(t, configuration, evaluation) for t in self.only)
        self.excluded += excluded or not left
        return left and not excluded

    def _note(self, address: str) -> None:
        self.twins += address in self.seen
        self.seen.add(address)


def _check_names(found: list[Variant]) -> None:
    seen: set[str] = set()
    for variant in found:
        name = variant.fields["name"]
        if name in seen:
            raise ConfigError(f"two configurations are called {name!r}: one is given twice")
        seen.add(name)


def _cost(variant: Variant) -> tuple[bool, bool]:
    """Plain rounding first, calibrated methods last; else the order of the file."""
    assert variant.request is not None
    return variant.needs_inputs, not variant.request.method.only_rounds(variant.request.scheme)


def digest(what: Any) -> str:
    """Address of plain data, however its tables are ordered."""
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:_ADDRESS_DIGITS]


def count_by(cells: Sequence[PlannedCell]) -> dict[str, dict[str, int]]:
    """By model, then by evaluation, the number of cells."""
    counts: dict[str, dict[str, int]] = {}
    for cell in cells:
        its = counts.setdefault(cell.configuration.model, {})
        its[cell.evaluation] = its.get(cell.evaluation, 0) + 1
    return counts
