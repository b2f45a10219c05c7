"""Plans and states of studies as text and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from studentfloat.records import StudyFailure
from studentfloat.study.plan import Plan, count_by
from studentfloat.study.sweep.status import StudyStatus

__all__ = ["outcome_text", "plan_json", "plan_text", "status_text"]

_FAILURES_SHOWN = 10


def plan_json(plan: Plan) -> str:
    """Every cell, in order."""
    cells = [{**asdict(c.configuration), "evaluation": c.evaluation} for c in plan.cells]
    data = {
        "name": plan.options.name,
        "cells": cells,
        "excluded": plan.excluded,
        "notes": [*plan.options.notes, *plan.notes],
    }
    return json.dumps(data, indent=1)


def plan_text(plan: Plan) -> str:
    """How many cells there are of each kind."""
    counts = count_by(plan.cells)
    width = max([11, *map(len, counts)])
    lines = [f"{plan.options.title}: {len(plan.cells)} cells"]
    for model, its in counts.items():
        words = ", ".join(f"{evaluation} {count}" for evaluation, count in its.items())
        lines.append(f"  {model or '(any model)':{width}}  {words}")
    if plan.excluded:
        lines.append(f"{plan.excluded} cells are excluded")
    lines += [f"note: {note}" for note in (*plan.options.notes, *plan.notes)]
    return "\n".join(lines)


def status_text(status: StudyStatus) -> str:
    """The state as a table, then who is at work and what failed."""
    width = max([11, *(len(row.model) for row in status.counts)])
    lines = [f"{status.name}: {status.done} of {status.planned} cells done"]
    lines.append(f"  {'model':{width}}  {'evaluation':16} {'done':>7} {'failed':>7} {'planned':>8}")
    lines += [
        f"  {row.model or '(any model)':{width}}  {row.evaluation:16} {row.done:7} "
        f"{row.failed:7} {row.planned:8}"
        for row in status.counts
    ]
    for run in status.running:
        lines.append(
            f"at work: {run.model} {run.name}, {run.evaluation}, on {run.host} (process {run.pid}, "
            f"last sign {run.silent_seconds:.0f} s ago)"
        )
    if status.seconds_left is not None and status.done + status.failed < status.planned:
        lines.append(f"about {status.seconds_left:.0f} s left")
    return "\n".join([*lines, *_failures(status), *(f"note: {note}" for note in status.notes)])


def outcome_text(directory: Path, status: StudyStatus) -> str:
    """What a run came to."""
    lines = [f"{status.done} of {status.planned} cells done: {directory}", *_failures(status)]
    return "\n".join([*lines, *(f"note: {note}" for note in status.notes)])


def _failures(status: StudyStatus) -> list[str]:
    """Failures, those of one reason together."""
    alike: dict[tuple[str, str], list[StudyFailure]] = {}
    for failure in status.failures:
        alike.setdefault((failure.configuration.model, failure.error), []).append(failure)
    lines = []
    for (model, error), its in list(alike.items())[:_FAILURES_SHOWN]:
        first = f"{its[0].configuration.name}, {its[0].evaluation}"
        what = f"{first} and {len(its) - 1} more" if len(its) > 1 else first
        lines.append(f"failed: {f'{model} ' if model else ''}{what}: {error}")
    if len(alike) > _FAILURES_SHOWN:
        lines.append(f"... and {len(alike) - _FAILURES_SHOWN} more reasons (status --json has all)")
    return lines
