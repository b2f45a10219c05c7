"""The cells of a study: what is measured of what, in which order, under which address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from studentfloat.errors import StudentFloatError
from studentfloat.formats import Format
from studentfloat.records import Configuration
from studentfloat.study.options import StudyOptions, matches
from studentfloat.study.resolve import Resolution
from studentfloat.study.variants import ORIGINAL_VARIANT, Variant, variants

__all__ = ["HARDWARE", "LAWS", "QUALITY", "Group", "Plan", "PlannedCell", "count_by", "digest",
           "make_plan"]  # fmt: skip

QUALITY, LAWS, HARDWARE = "quality", "laws", "hardware"

# Goes into every cell's address: raise it when what a cell means changes.
_CELL_VERSION = 2
_ADDRESS_DIGITS = 32


@dataclass(frozen=True, eq=False, slots=True)
class PlannedCell:
    """One cell to be computed.

    Attributes
    ----------
    address
        Hash of all that its numbers depend on.
    group
        Index of its :class:`Group`.
    text
        Of a quality cell: which of the study's texts; None measures weight errors alone.
    unit, format
        Of a hardware cell: the unit, and the format as it was asked for.
    """

    address: str
    configuration: Configuration
    evaluation: str
    group: int
    text: int | None = None
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
    """All cells of a study, cheap and informative ones first, a model's together.

    Attributes
    ----------
    twins, excluded
        How many cells share another's address, and how many were left out.
    notes
        What cannot be measured, and why.
    """

    options: StudyOptions
    resolution: Resolution
    groups: tuple[Group, ...]
    twins: int = 0
    excluded: int = 0
    notes: tuple[str, ...] = ()

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


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """What is measured of a model in one state."""

    name: str
    digest: str
    text: int | None = None


@dataclass
class _Layout:
    """Groups and cells as they are laid out."""

    options: StudyOptions
    known: Resolution
    only: Sequence[dict[str, Any]]
    groups: list[Group] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    buildable: dict[Format, bool] = field(default_factory=dict)
    twins: int = 0
    excluded: int = 0

    def plan(self) -> Plan:
        options = self.options
        found = variants(options)
        found.sort(key=_cost)
        evaluations = self._evaluations()
        every = (ORIGINAL_VARIANT, *found)
        digests = [self._of_variant(variant) for variant in every]
        for model in sorted(options.models, key=lambda m: self.known.size(m.id)):
            of_model = digest(self.known.model_key(model.id))
            for variant, of_variant in zip(every, digests, strict=True):
                its = evaluations
                if options.laws and variant is ORIGINAL_VARIANT:
                    laws = digest([LAWS, self.known.law_versions])
                    its = [*evaluations, _Evaluation(LAWS, laws)]
                if its:
                    self._add(model.name, variant, [of_model, of_variant], its)
        if options.hardware is not None:
            self._add_hardware(found)
        return Plan(
            options, self.known, tuple(self.groups), self.twins, self.excluded, tuple(self.notes)
        )

    def _evaluations(self) -> list[_Evaluation]:
        """The cheap first."""
        options, known = self.options, self.known
        found: list[_Evaluation] = []
        if options.quality is not None:
            sizes = [options.quality.windows, options.quality.window_length]
            found += [
                _Evaluation(QUALITY, digest([QUALITY, known.text_key(index), *sizes]), index)
                for index in range(len(options.quality.texts))
            ] or [_Evaluation(QUALITY, digest([QUALITY, None]))]
        if options.tasks is not None:
            asked = [options.tasks.limit, options.tasks.shots, options.seed]
            found += [
                _Evaluation(name, digest([name, known.task_key(name), *asked]))
                for name in options.tasks.names
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
        self, model: str, variant: Variant, digests: list[str], evaluations: list[_Evaluation]
    ) -> None:
        configuration = replace(variant.configuration, model=model)
        index = len(self.groups)
        cells = []
        for evaluation in evaluations:
            if self._wanted(configuration, variant, evaluation.name):
                parts = [*digests, evaluation.digest, self.known.model_versions]
                address = self._address(parts)
                cells.append(
                    PlannedCell(address, configuration, evaluation.name, index, evaluation.text)
                )
        if cells:
            self.groups.append(Group(index, model, variant, tuple(cells)))

    def _add_hardware(self, found: list[Variant]) -> None:
        hardware = self.options.hardware
        assert hardware is not None
        several = [variant.name for variant in found if variant.unit_format is None]
        if several:
            self.notes.append(
                f"{', '.join(several)}: several formats each, or codes of several numbers, so no "
                "one unit to cost"
            )
        built = [variant for variant in found if self._in_silicon(variant, hardware.lookup_bits)]
        if not hardware.real_codes:
            formats = {fmt.name: fmt for variant in built if (fmt := variant.unit_format)}
            for (name, fmt), unit in product(formats.items(), hardware.units):
                shown = name if len(hardware.units) == 1 else f"{name} {unit}"
                self._add_unit(Configuration(model="", name=shown, format=name), fmt, unit, [])
            return
        for model, variant, unit in product(self.options.models, built, hardware.units):
            asked = variant.unit_format
            assert asked is not None
            codes = [self.known.model_key(model.id), self.known.text_key(0), variant.address]
            configuration = replace(variant.configuration, model=model.name)
            where = [*codes, self.known.model_versions]
            self._add_unit(configuration, asked, unit, where, variant)

    def _in_silicon(self, variant: Variant, lookup_bits: int) -> bool:
        """Whether a unit holds exactly the variant's values; a format that none can is noted."""
        from studentfloat.hardware import resolve_operand

        asked = variant.silicon_format
        if asked is None:
            return False
        if asked not in self.buildable:
            try:
                resolve_operand(asked, (lookup_bits,))
                self.buildable[asked] = True
            except StudentFloatError as error:
                self.buildable[asked] = False
                self.notes.append(f"{asked.name} is not costed in silicon: {error}")
        return self.buildable[asked]

    def _add_unit(
        self,
        configuration: Configuration,
        fmt: Format,
        unit: str,
        codes: list[Any],
        variant: Variant | None = None,
    ) -> None:
        hardware = self.options.hardware
        assert hardware is not None
        if not self._wanted(configuration, variant, HARDWARE):
            return
        values = [fmt.bits, fmt.values, fmt.codes, fmt.special_codes]
        how = [unit, hardware.activations, hardware.lookup_bits, self.known.library]
        address = self._address([HARDWARE, values, how, self.known.hardware_versions, *codes])
        index = len(self.groups)
        cell = PlannedCell(address, configuration, HARDWARE, index, unit=unit, format=fmt)
        self.groups.append(Group(index, configuration.model, variant, (cell,)))

    def _wanted(
        self, configuration: Configuration, variant: Variant | None, evaluation: str
    ) -> bool:
        """What silicon holds of a format goes with the format itself."""
        its = [configuration]
        if variant is not None and variant.exact is not None:
            its.append(replace(variant.exact.configuration, model=configuration.model))

        def match(table: dict[str, Any]) -> bool:
            return any(matches(table, one, evaluation) for one in its)

        excluded = any(match(table) for table in self.options.exclude)
        left = not self.only or any(match(table) for table in self.only)
        self.excluded += excluded or not left
        return left and not excluded

    def _address(self, parts: list[Any]) -> str:
        address = digest([_CELL_VERSION, *parts])
        self.twins += address in self.seen
        self.seen.add(address)
        return address


def _cost(variant: Variant) -> tuple[bool, bool]:
    """Plain rounding first, calibrated methods last; else the order of the file."""
    return variant.needs_inputs, not _only_rounds(variant)


def _only_rounds(variant: Variant) -> bool:
    return variant.scheme is not None and variant.method.only_rounds(variant.scheme)


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
