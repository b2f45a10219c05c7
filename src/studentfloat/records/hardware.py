"""What a row's format costs in silicon."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AreaBreakdown", "FormatHardware"]


@dataclass(frozen=True)
class AreaBreakdown:
    """Where a unit's area goes, in the unit's area unit.

    Measured with the boundaries between the parts kept during synthesis, which costs some area:
    the parts add up to a little more than the whole.
    """

    decoder: float
    multiplier: float
    adder: float
    register: float


@dataclass(frozen=True)
class FormatHardware:
    """What a multiply-accumulate unit of one row's format costs in silicon.

    Attributes
    ----------
    name
        Of the row.
    lookup_bits
        Width of the fixed-point numbers that the format's values are rounded to in the
        unit, None where they are exact.
    area, area_spread
        In `area_unit`; the spread over synthesis recipes is the noise bar.
    area_relative_to_int4
        Over int4's area in the same unit and library.
    delay_ns, energy_fj, energy_spread_fj
        Shortest clock period; per clock cycle on uniform codes, and half its range over the
        recipes.
    energy_real_fj, codes
        On the pairs of codes that meet in real layers, and in which.
    proved
        Whether Verilog and netlist were shown equal to the format's values.
    area_breakdown
        By part of the unit, None where it was not taken.
    """

    name: str
    unit: str
    library: str
    lookup_bits: int | None
    area: float
    area_unit: str
    area_spread: float
    area_relative_to_int4: float | None
    delay_ns: float
    energy_fj: float | None
    proved: bool
    energy_spread_fj: float | None = None
    energy_real_fj: float | None = None
    codes: str | None = None
    area_breakdown: AreaBreakdown | None = None
