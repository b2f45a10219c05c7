"""``studentfloat doctor``."""

from __future__ import annotations

import dataclasses
import json

import click

__all__ = ["doctor"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def doctor(as_json: bool) -> None:
    """Show what is installed, which kernels run, and what is missing for which command."""
    from studentfloat.doctor import checks

    found = checks()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in found], indent=1))
        return
    width = max(len(check.name) for check in found)
    for check in found:
        mark = "-" if check.missing else "+"
        click.echo(f"{mark} {check.name:{width}}  {check.found}")
        if check.missing:
            click.echo(f"  {'':{width}}  missing: {check.missing}")
            click.echo(f"  {'':{width}}  needed for {check.needed_for}: {check.remedy}")
