"""``studentfloat derive --profile profile.json -o fmt.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["derive"]


@click.command()
@click.option(
    "--profile",
    "profile_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="What `studentfloat profile -o` wrote.",
)
@click.option("--model", help="Which model's, where the file has the profiles of several.")
@click.option("--bits", default=4, show_default=True, help="Width of a code, 2 to 8.")
@click.option(
    "--criterion",
    default="quantile",
    show_default=True,
    help="quantile (Student Float), lloyd, or block-optimal.",
)
@click.option(
    "--from",
    "source",
    default="law",
    show_default=True,
    help="law: the fitted t law; histogram: the numbers themselves.",
)
@click.option(
    "--per", default="model", show_default=True, help="One format per model, kind or layer."
)
@click.option("--numbers", default="weight", show_default=True, help="weight, or activation.")
@click.option("--block-size", default=128, show_default=True, help="Of block-optimal.")
@click.option("--scale-rule", default="absmax", show_default=True, help="Of block-optimal.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The format (TOML); with more than one, the group's name goes before the ending.",
)
@click.option("--json", "as_json", is_flag=True, help="The formats on stdout as JSON.")
def derive(
    profile_file: Path, model: str | None, output: Path | None, as_json: bool, **options: Any
) -> None:
    """The format that follows from a profile.

    `studentfloat compare --formats fmt.toml` then tells whether it was worth it.
    """
    import json
    import re

    from studentfloat.formats import format_to_toml, save_format
    from studentfloat.profile.derive import DeriveOptions, derive_formats
    from studentfloat.profile.files import read_profile

    formats = derive_formats(read_profile(profile_file, model), DeriveOptions(**options))
    if as_json:
        data = {
            name or "model": {
                "name": derived.name,
                "bits": derived.bits,
                "values": list(derived.values),
                "description": derived.description,
            }
            for name, derived in formats.items()
        }
        click.echo(json.dumps(data, indent=1))
    for name, derived in formats.items():
        if output is not None:
            # Names of layers and kinds come from the profile's file.
            safe = re.sub(r"[^\w.+-]+", "-", name)
            path = output.with_name(f"{output.stem}-{safe}{output.suffix}") if name else output
            save_format(derived, path)
            click.echo(f"{derived.name}: {derived.description}: {path}", err=as_json)
        elif not as_json:
            click.echo(format_to_toml(derived))
