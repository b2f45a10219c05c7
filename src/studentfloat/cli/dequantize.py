"""``studentfloat dequantize DIR -o OUT``: a dense checkpoint that any tool loads."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["dequantize"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--dtype", help="float32, float16 or bfloat16 (default: what each weight was before)."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def dequantize(directory: Path, output: Path, dtype: str | None, quiet: bool) -> None:
    """Turn the packed model in DIRECTORY into a dense one, one tensor at a time."""
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.models import dequantize_checkpoint

    with progress_on_stderr(quiet=quiet) as progress:
        done = dequantize_checkpoint(directory, output, dtype=dtype, progress=progress)
    click.echo(f"dense model: {done}")
