"""Studies beyond the table: area against delay, accumulator width, share of the chip."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from studentfloat.errors import ConfigError
from studentfloat.formats import Format
from studentfloat.hardware.cache import ContentCache, content_key
from studentfloat.hardware.cost import library_key, load_library
from studentfloat.hardware.decoders import UnavailableError
from studentfloat.hardware.energy import code_pairs
from studentfloat.hardware.liberty import Library
from studentfloat.hardware.mac_rows import kept_modules, prove_result
from studentfloat.hardware.multipliers import ARCHITECTURES
from studentfloat.hardware.operands import Operand, resolve_operand
from studentfloat.hardware.overflow import draw_dot_products
from studentfloat.hardware.proof import Proof
from studentfloat.hardware.records import AccumulatorPoint, SweepPoint
from studentfloat.hardware.rows import METHOD_VERSION
from studentfloat.hardware.synthesis import (
    AREA_RECIPES,
    Recipe,
    SynthesisResult,
    speed_recipes,
    synthesize,
)
from studentfloat.hardware.timing import analyze_timing
from studentfloat.hardware.units import DEFAULT_DOT_LENGTH, Unit, accumulator_width, mac
from studentfloat.hardware.yosys import yosys_version
from studentfloat.progress import Progress, silent

__all__ = [
    "MAC_SHARE",
    "ChipShares",
    "accumulator_study",
    "accumulators_all",
    "chip_overhead",
    "sweep",
    "sweep_all",
]

MAC_SHARE = 0.10
"""Default share of the die that MAC units take."""


@dataclass(frozen=True)
class ChipShares:
    """What part of the die a figure concerns; the rest of the die stays as it is.

    Attributes
    ----------
    mac
        Share of the die that multiply-accumulate units take, 0 to 1.
    sram
        Share that memory for weights takes. It grows with the bits per weight; 0 leaves it out.
    """

    mac: float = MAC_SHARE
    sram: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.mac <= 1 and 0 <= self.sram <= 1 and self.mac + self.sram <= 1):
            raise ConfigError(
                f"shares of the die: MAC {self.mac:g} and SRAM {self.sram:g} must be 0 to 1 "
                "and together at most 1"
            )


def chip_overhead(
    relative_area: float, shares: ChipShares | None = None, relative_bits: float = 1.0
) -> float:
    """Growth of the die, as a share of it, when its MAC units take another format.

    ``mac * (relative_area - 1) + sram * (relative_bits - 1)``.

    Parameters
    ----------
    relative_area
        MAC area over that of the format that the die had.
    relative_bits
        Bits per weight over those of the format that the die had.

    Examples
    --------
    >>> round(chip_overhead(1.122), 4)
    0.0122
    """
    chosen = shares or ChipShares()
    return chosen.mac * (relative_area - 1) + chosen.sram * (relative_bits - 1)


@dataclass(frozen=True)
class _Frame:
    """What all points of a study share."""

    library: Library
    activations: str | Format | None
    prove: bool
    cache: ContentCache | None

    @classmethod
    def of(
        cls,
        library: Library | None,
        activations: str | Format | None,
        prove: bool,
        cache: ContentCache | None,
        use_cache: bool,
    ) -> _Frame:
        chosen = (cache or ContentCache()) if use_cache else None
        return cls(load_library(library), activations, prove, chosen)

    def operands(self, number_format: Format | str) -> tuple[Operand, Operand]:
        a = resolve_operand(number_format)
        return a, a if self.activations is None else resolve_operand(self.activations)

    def cached(self, what: str, make: Callable[[], Any], **parts: Any) -> Any:
        """What `make` gives (JSON data), from the cache where all parts agree."""
        library = self.library
        key = content_key(
            method=METHOD_VERSION,
            study=what,
            library=library_key(library),
            prove=self.prove,
            tool=yosys_version(),
            **parts,
        )
        known = self.cache.get(key) if self.cache else None
        if known is None:
            known = make()
            if self.cache:
                self.cache.put(key, known)
        return known

    def proof(self, unit: Unit, result: SynthesisResult) -> Proof:
        if not self.prove:
            return Proof(False, "", "not asked for")
        return prove_result(unit, result, self.library)


def _architectures(a: Operand, b: Operand, dot_length: int) -> list[Unit]:
    units = []
    for architecture in ARCHITECTURES:
        with contextlib.suppress(UnavailableError):
            units.append(mac(a, b, architecture, dot_length))
    return units


def sweep(
    number_format: Format | str,
    targets_ns: Sequence[float] | None = None,
    *,
    activations: str | Format | None = None,
    dot_length: int = 128,
    library: Library | None = None,
    prove: bool = True,
    cache: ContentCache | None = None,
    use_cache: bool = True,
) -> list[SweepPoint]:
    """Smallest MAC that reaches each clock target, over all architectures and speed recipes.

    Parameters
    ----------
    targets_ns
        Clock periods; by default five, from a half of the area-optimal delay up to it.
    prove
        Whether to prove the netlist of each point.

    Returns
    -------
    list of SweepPoint
        One for each target; where none reaches it, the fastest, with `met` false.
    """
    if targets_ns is not None and not all(target > 0 for target in targets_ns):
        raise ConfigError(f"clock targets {list(targets_ns)}: above 0 ns")
    frame = _Frame.of(library, activations, prove, cache, use_cache)
    a, b = frame.operands(number_format)
    units = _architectures(a, b, dot_length)
    points = frame.cached(
        "sweep",
        lambda: [dataclasses.asdict(point) for point in _swept(a, units, targets_ns, frame)],
        verilog=[unit.verilog for unit in units],
        targets=targets_ns,
    )
    return [SweepPoint(**point) for point in points]


def _swept(
    a: Operand, units: Sequence[Unit], targets_ns: Sequence[float] | None, frame: _Frame
) -> list[SweepPoint]:
    found = [_points(unit, frame.library, AREA_RECIPES) for unit in units]
    slowest = min((point for points in found for point in points), key=_area_of).delay
    targets = list(targets_ns or (slowest * share for share in (1.0, 0.85, 0.7, 0.6, 0.5)))
    # The flat tables are large and slow: what is far behind in area and delay cannot win.
    least = min(points[0].area for points in found)
    entries: list[_Point] = []
    for unit, points in zip(units, found, strict=True):
        if points[0].area > 1.6 * least:
            continue
        recipes = [recipe for target in targets for recipe in speed_recipes(target)]
        entries += [*points, *_points(unit, frame.library, recipes)]
    results = []
    proofs: dict[int, Proof] = {}
    for target in targets:
        meeting = [entry for entry in entries if entry.delay <= target]
        fallback = min(entries, key=lambda entry: entry.delay)
        best = min(meeting, key=_area_of) if meeting else fallback
        if id(best) not in proofs:
            proofs[id(best)] = frame.proof(best.unit, best.result)
        proof = proofs[id(best)]
        results.append(
            SweepPoint(
                format=a.name,
                architecture=best.unit.architecture,
                target_ns=target,
                area=best.area,
                area_unit=frame.library.area_unit,
                delay_ns=best.delay,
                met=bool(meeting),
                proved=proof.proved,
                proof=proof.method if proof.proved else proof.detail,
            )
        )
    return results


@dataclass(frozen=True, eq=False)
class _Point:
    """One architecture by one recipe."""

    area: float
    delay: float
    unit: Unit
    result: SynthesisResult


def _area_of(point: _Point) -> float:
    return point.area


def _points(unit: Unit, library: Library, recipes: Sequence[Recipe]) -> list[_Point]:
    results = synthesize(unit.verilog, unit.top, library, recipes, keep=kept_modules(unit))
    return [_Point(r.netlist.area, analyze_timing(r.netlist).delay_ns, unit, r) for r in results]


def accumulator_study(
    number_format: Format | str,
    dot_lengths: Sequence[int] = (16, 128, 1024),
    *,
    activations: str | Format | None = None,
    pairs: npt.ArrayLike | None = None,
    codes: str = "uniform",
    library: Library | None = None,
    prove: bool = True,
    cache: ContentCache | None = None,
    use_cache: bool = True,
) -> list[AccumulatorPoint]:
    """Area of a MAC by the width of its accumulator, and how often that overflows.

    For each length of a dot product three widths: the exact one, which never overflows; the
    least that saturated in none of the dot products drawn; and two bits less.

    Parameters
    ----------
    pairs, codes
        How often each pair of codes meets, of shape ``(2**bits, 2**activation bits)``, and of
        what that is; by default uniform.
    """
    frame = _Frame.of(library, activations, prove, cache, use_cache)
    a, b = frame.operands(number_format)
    counts = code_pairs(a, b, pairs)
    best = frame.cached(
        "best architecture",
        lambda: _best_architecture(a, b, frame.library),
        verilog=[unit.verilog for unit in _architectures(a, b, DEFAULT_DOT_LENGTH)],
    )
    points = []
    for length in dot_lengths:
        exact = accumulator_width(a, b, length)
        drawn = draw_dot_products(a, b, length, counts)
        least = _least_width(a, b, best)
        quiet = min(exact, max(least, drawn.least_bits("saturate")))
        narrow = max(least, quiet - 2)
        for width, overflow in dict.fromkeys(
            [(exact, "wrap"), (quiet, "saturate"), (narrow, "saturate")]
        ):
            if overflow == "saturate" and width >= exact:
                continue  # it never would
            unit = mac(a, b, best, length, accumulator_bits=width, overflow=overflow)
            measured = _measured_mac(unit, frame)
            points.append(
                AccumulatorPoint(
                    format=a.name,
                    dot_length=length,
                    exact_bits=exact,
                    accumulator_bits=width,
                    overflow=overflow,
                    overflow_share=drawn.overflow_share(width, overflow),
                    draws=drawn.draws,
                    codes=codes if pairs is not None else "uniform",
                    area_unit=frame.library.area_unit,
                    **measured,
                )
            )
    return points


def _best_architecture(a: Operand, b: Operand, library: Library) -> str:
    units = _architectures(a, b, DEFAULT_DOT_LENGTH)
    best = min(units, key=lambda unit: _points(unit, library, AREA_RECIPES[:1])[0].area)
    return best.architecture


def _least_width(a: Operand, b: Operand, architecture: str) -> int:
    """Least width of an accumulator that such a MAC can be built with."""
    return mac(a, b, architecture, 1).addend_bits


def _measured_mac(unit: Unit, frame: _Frame) -> dict[str, Any]:
    """Area, its spread over recipes, and whether the smallest netlist was proved."""

    def make() -> dict[str, Any]:
        points = _points(unit, frame.library, AREA_RECIPES)
        areas = [point.area for point in points]
        best = min(points, key=_area_of)
        return {
            "area": best.area,
            "area_spread": (max(areas) - min(areas)) / 2,
            "proved": frame.proof(unit, best.result).proved,
        }

    measured: dict[str, Any] = frame.cached("accumulator", make, verilog=unit.verilog)
    return measured


def sweep_all(
    formats: Sequence[Format],
    *,
    activations: str | Format | None = None,
    library: Library | None = None,
    prove: bool = True,
    use_cache: bool = True,
    progress: Progress = silent,
) -> list[SweepPoint]:
    """:func:`sweep` of several formats."""
    points = []
    for i, number_format in enumerate(formats):
        progress(i / len(formats), f"clock targets of {number_format.name}")
        points += sweep(
            number_format,
            activations=activations,
            library=library,
            prove=prove,
            use_cache=use_cache,
        )
    return points


def accumulators_all(
    formats: Sequence[Format],
    *,
    activations: str | Format | None = None,
    code_histograms: Mapping[str, npt.ArrayLike] | None = None,
    codes: str = "uniform",
    library: Library | None = None,
    prove: bool = True,
    use_cache: bool = True,
    progress: Progress = silent,
) -> list[AccumulatorPoint]:
    """:func:`accumulator_study` of several formats; histograms by their names."""
    points = []
    for i, number_format in enumerate(formats):
        progress(i / len(formats), f"accumulators of {number_format.name}")
        points += accumulator_study(
            number_format,
            activations=activations,
            pairs=(code_histograms or {}).get(number_format.name),
            codes=codes,
            library=library,
            prove=prove,
            use_cache=use_cache,
        )
    return points
