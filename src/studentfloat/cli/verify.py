"""``studentfloat verify DIR``: is a packed model what it says it is?"""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["verify"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--source", help="The model it was made of: names, shapes, and what was left alone.")
@click.option("--json", "as_json", is_flag=True, help="The findings on stdout as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def verify(directory: Path, source: str | None, as_json: bool, quiet: bool) -> None:
    """Read every tensor of the packed model in DIRECTORY and check it.

    Hashes, types, shapes, codes and scales. Exit status 1 if anything is wrong.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.errors import ModelError
    from studentfloat.models import find_model, verify_checkpoint
    from studentfloat.records import record_to_json

    with progress_on_stderr(quiet=quiet) as progress:
        origin = None if source is None else find_model(source)
        found = verify_checkpoint(directory, source=origin, progress=progress)
    if as_json:
        click.echo(json.dumps(record_to_json(found), indent=1))
    else:
        for problem in found.problems:
            click.echo(problem)
        click.echo(
            f"{found.weights} packed weights, {found.tensors} tensors, {found.hashed} of them "
            f"with a hash; {len(found.problems)} problems"
        )
    if found.problems:
        raise ModelError(f"{directory} has {len(found.problems)} problems: {found.problems[0]}")
