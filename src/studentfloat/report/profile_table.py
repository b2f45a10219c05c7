"""Profiles as tables: the paper's, a line for each model and kind of tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from studentfloat.records import LawFits, Profile

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_profiles", "profile_notes", "role_rows", "summary_rows"]

_NAMES = {
    "student_t": "t",
    "normal": "normal",
    "laplace": "Laplace",
    "generalized_normal": "generalized normal",
    "logistic": "logistic",
}


def summary_rows(profiles: Sequence[Profile]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the paper's table."""
    headings = [
        *("model", "of", "tensors", "mean ν", "median ν", "10 % to 90 %", "KS t", "KS normal"),
        *("difference", "t is nearer"),
    ]
    rows = [
        [
            _short(profile.model),
            row.kind,
            str(row.tensors),
            _nu(row.mean_degrees_of_freedom) + (f" ({row.normal} normal)" if row.normal else ""),
            _nu(row.median_degrees_of_freedom),
            f"{_nu(row.low_degrees_of_freedom)} to {_nu(row.high_degrees_of_freedom)}",
            f"{row.mean_ks_student_t:.4f}",
            f"{row.mean_ks_normal:.4f}",
            f"{row.mean_ks_difference:+.4f}",
            f"{100 * row.student_t_fits_better:.1f} %",
        ]
        for profile in profiles
        for row in profile.summary
    ]
    return headings, rows


def role_rows(profile: Profile) -> tuple[list[str], list[list[str]]]:
    """Headings and cells by kind of layer: median ν of the numbers, of blocks, of channels."""
    groups: dict[tuple[str, str], list[tuple[LawFits | None, ...]]] = {}
    for tensor in profile.tensors:
        if tensor.laws is not None:
            key = (tensor.kind if tensor.part == "linear" else tensor.part, tensor.role)
            groups.setdefault(key, []).append((tensor.laws, tensor.blocks, tensor.channels))
    views = ["as they are", "by block", "by channel"]
    every = [fits for group in groups.values() for fits in group]
    shown = [i for i in range(3) if any(fits[i] is not None for fits in every)]
    rows = []
    for (kind, role), fits in groups.items():
        row = [kind, role, str(len(fits))]
        for i in shown:
            laws = [fit[i] for fit in fits]
            row.append(_median_nu([law for law in laws if law is not None]))
        rows.append(row)
    return ["of", "layer", "tensors", *(f"median ν {views[i]}" for i in shown)], rows


def _median_nu(laws: Sequence[LawFits]) -> str:
    values = sorted(
        math.inf if law.student_t.degrees_of_freedom is None else law.student_t.degrees_of_freedom
        for law in laws
    )
    return _nu(values[(len(values) - 1) // 2]) if values else "-"


def profile_notes(profiles: Sequence[Profile], not_run: Mapping[str, str]) -> list[str]:
    """What was left out, what could not be read, and every caution."""
    lines = []
    for profile in profiles:
        bad = [tensor for tensor in profile.tensors if tensor.problem]
        lines += [
            f"{_short(profile.model)}, {tensor.name}: {tensor.problem}." for tensor in bad[:20]
        ]
        if len(bad) > 20:
            lines.append(
                f"{_short(profile.model)}: {len(bad) - 20} more like these (see the JSON)."
            )
        lines += [
            f"{_short(profile.model)}, best law by AIC, {row.kind}: "
            + ", ".join(f"{_NAMES[law]} {count}" for law, count in row.best.items())
            + "."
            for row in profile.summary
        ]
        lines += [f"{_short(profile.model)}: {note}." for note in profile.notes]
        lines += [f"Caution: {caution}" for caution in profile.cautions]
    lines += [f"{name} was not run: {why}." for name, why in not_run.items()]
    return lines


def print_profiles(
    profiles: Sequence[Profile], not_run: Mapping[str, str], console: Console
) -> None:
    """Print the tables, and what to bear in mind."""
    from rich.console import Console as AnyConsole
    from rich.table import Table
    from rich.text import Text

    # Cut columns would mislead: in a narrow terminal the lines wrap.
    wide = AnyConsole(file=console.file, width=max(console.width, 120), soft_wrap=True)
    tables = [("Which law? Mean over tensors; ν = ∞ is the normal law", summary_rows(profiles))]
    if len(profiles) == 1:
        tables.append(("By kind of layer", role_rows(profiles[0])))
    for title, (headings, rows) in tables:
        if not rows:
            continue
        table = Table(title=title, title_justify="left")
        for heading in headings:
            is_text = heading in ("model", "of", "layer", "best law")
            table.add_column(heading, justify="left" if is_text else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        wide.print(table)
    for line in profile_notes(profiles, not_run):
        console.print(Text(line))


def _nu(value: float | None) -> str:
    if value is None:
        return "-"
    return "∞" if math.isinf(value) else f"{value:.1f}"


def _short(model: str) -> str:
    """A long path by its last two parts; hub ids and names as they are."""
    parts = model.rstrip("/").split("/")
    return model if len(parts) <= 2 else "…/" + "/".join(parts[-2:])
