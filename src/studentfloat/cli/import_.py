"""``studentfloat import SOURCE -o DIR``: what another tool quantized, packed."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("import")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="The report on stdout as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def command(source: str, output: Path, as_json: bool, quiet: bool) -> None:
    """Pack SOURCE, a model that another tool quantized, code by code.

    A directory with a bitsandbytes NF4 or FP4 checkpoint, or a .gguf file in Q4_0, MXFP4,
    IQ4_NL or Q8_0. The packed model has the same weights to the last bit.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.cli.quantize import show_packed
    from studentfloat.models.exchange import import_model

    with progress_on_stderr(quiet=quiet) as progress:
        done = import_model(source, output, progress)
    show_packed(done, as_json=as_json)
