"""``studentfloat export DIR --to TARGET -o OUT``: a packed model as another tool reads it."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["export"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--to", "target", required=True, help="gguf, compressed-tensors or onnx; see docs/exchange.md."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def export(directory: Path, target: str, output: Path, quiet: bool) -> None:
    """Write the packed model in DIRECTORY for another tool, code by code.

    What the tool cannot represent exactly is refused, with the reason and what can.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.models.exchange import export_model

    with progress_on_stderr(quiet=quiet) as progress:
        done = export_model(directory, target, output, progress)
    click.echo(f"{target}: {done}")
