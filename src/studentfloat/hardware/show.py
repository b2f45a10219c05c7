"""The hardware table, sweep and accumulator study as text for a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

from studentfloat.hardware.records import (
    AccumulatorPoint,
    HardwareCost,
    HardwareTable,
    SweepPoint,
)
from studentfloat.hardware.studies import ChipShares, chip_overhead
from studentfloat.records import record_to_json

__all__ = ["accumulator_text", "json_text", "sweep_text", "table_text"]

_UNITS = {"GE": "GE", "um2": "µm²"}


def _render(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without lines between rows; the first column to the left, the rest to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def json_text(records: HardwareTable | Sequence[SweepPoint] | Sequence[AccumulatorPoint]) -> str:
    """Records as JSON, for machines."""
    if isinstance(records, HardwareTable):
        data: object = record_to_json(records)
    else:
        data = [record_to_json(record) for record in records]
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def table_text(table: HardwareTable, shares: ChipShares | None = None) -> str:
    """The table as ``studentfloat hardware`` prints it."""
    unit = _UNITS.get(table.area_unit, table.area_unit)
    rows = []
    of_macs = table.unit != "dequantizer"
    real = any(cost.energy_real_fj is not None for cost in table.formats)
    ranked = sorted(table.formats, key=lambda cost: cost.area)
    for cost in ranked:
        relative = cost.area_relative_to_int4
        split = cost.area_split
        parts = (split.decoder, split.multiplier, split.adder, split.register) if split else ()
        rows.append(
            [
                cost.name,
                f"{cost.area:.1f}",
                f"±{cost.area_spread:.1f}",
                "" if relative is None else f"{relative:.3f}",
                ""
                if relative is None or not of_macs
                else f"{chip_overhead(relative, shares):+.2%}",
                " ".join(f"{part:.0f}" for part in parts),
                f"{cost.delay_ns:.3f}",
                "" if cost.energy_fj is None else _energy(cost),
                *([] if not real else [_number(cost.energy_real_fj)]),
                "" if cost.accumulator_bits is None else str(cost.accumulator_bits),
                cost.architecture,
                "yes" if cost.proved else f"NO: {cost.proof}",
            ]
        )
    head = f"{table.unit}, library {table.library}"
    if table.activations:
        head += f", activations {table.activations}"
    if of_macs:
        head += (
            f", accumulator for dot products of {table.dot_length}"
            if table.accumulator_bits is None
            else f", accumulator of {table.accumulator_bits} bits that would {table.overflow}"
        )
    columns = ["format", f"area {unit}", "spread", "of int4", "die", "dec mul add reg", "delay ns",
               "energy fJ", *(["real codes"] if real else []),
               "acc bits", "architecture", "proved"]  # fmt: skip
    chosen = shares or ChipShares()
    notes = list(table.notes)
    if real:
        notes.append(f"energy fJ: on uniform codes; real codes: on those of {table.codes}")
    if of_macs:
        notes.append(f"die: overhead over int4 if MACs take {chosen.mac:.0%} of it")
    return f"{head}\n{_render(columns, rows)}" + "".join(f"  {note}\n" for note in notes)


def _energy(cost: HardwareCost) -> str:
    spread = "" if cost.energy_spread_fj is None else f" ±{cost.energy_spread_fj:.0f}"
    return f"{cost.energy_fj:.0f}{spread}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def sweep_text(points: Sequence[SweepPoint]) -> str:
    """Area for each clock target."""
    rows = [
        [
            point.format,
            f"{point.target_ns:.3f}",
            f"{point.area:.1f}",
            f"{point.delay_ns:.3f}",
            "met" if point.met else "not met: the fastest",
            point.architecture,
            "yes" if point.proved else f"NO: {point.proof}",
        ]
        for point in points
    ]
    unit = _UNITS.get(points[0].area_unit, points[0].area_unit) if points else ""
    columns = [
        "format",
        "target ns",
        f"area {unit}",
        "delay ns",
        "target",
        "architecture",
        "proved",
    ]
    return _render(columns, rows)


def accumulator_text(points: Sequence[AccumulatorPoint]) -> str:
    """Area and share of overflows for each dot length and accumulator width."""
    rows = [
        [
            point.format,
            str(point.dot_length),
            str(point.accumulator_bits),
            "exact" if point.accumulator_bits >= point.exact_bits else point.overflow,
            _share(point),
            f"{point.area:.1f}",
            f"±{point.area_spread:.1f}",
            "yes" if point.proved else "NO",
        ]
        for point in points
    ]
    unit = _UNITS.get(points[0].area_unit, points[0].area_unit) if points else ""
    columns = ["format", "dot length", "acc bits", "", "overflows", f"area {unit}", "spread",
               "proved"]  # fmt: skip
    codes = sorted({point.codes for point in points})
    return f"{_render(columns, rows)}  overflows: of dot products of codes: {', '.join(codes)}\n"


def _share(point: AccumulatorPoint) -> str:
    if point.accumulator_bits >= point.exact_bits:
        return "never"
    if not point.overflow_share:
        return f"0 of {point.draws}"
    return f"{point.overflow_share:.2%}"
