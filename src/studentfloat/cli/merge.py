"""``studentfloat merge DIR [PART ...]``: join what ``quantize --shard`` made."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["merge"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.argument("parts", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="The report on stdout as JSON.")
def merge(directory: Path, parts: tuple[Path, ...], as_json: bool) -> None:
    """Complete the packed model in DIRECTORY with the shards in PARTS, which are moved."""
    from studentfloat.cli.quantize import show_packed
    from studentfloat.models import merge_parts

    show_packed(merge_parts(directory, parts), as_json=as_json)
