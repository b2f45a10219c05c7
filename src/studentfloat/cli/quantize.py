"""``studentfloat quantize MODEL -o DIR``: a packed model in any format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from studentfloat.records import PackedModel

__all__ = ["quantize"]


@click.command()
@click.argument("model", default="smollm2-135m")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "number_format",
    default="sf4",
    show_default=True,
    help="A name, a .toml file, or several with '|' between them: each block chooses.",
)
@click.option("--block-size", default="128", show_default=True, help="A number, 'row' or 'tensor'.")
@click.option("--scale-rule", default="absmax", show_default=True, help="How scales are found.")
@click.option(
    "--scale-dtype",
    default="bfloat16",
    show_default=True,
    help="float32, float16, bfloat16, e8m0 or e4m3.",
)
@click.option("--embeddings", is_flag=True, help="Quantize the token embeddings too.")
@click.option("--head", is_flag=True, help="Quantize the output head too.")
@click.option(
    "--shard",
    default="1/1",
    show_default=True,
    metavar="I/N",
    help="Do the I-th of N parts only; `studentfloat merge` joins them.",
)
@click.option("--json", "as_json", is_flag=True, help="The report on stdout as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option(
    "--allow-pickle-code-execution",
    is_flag=True,
    help="Load pickled weights, which can run any code on this machine.",
)
@click.option(
    "--allow-remote-code-execution",
    is_flag=True,
    help="Run Python code that comes with the model, which can do anything.",
)
def quantize(model: str, **options: Any) -> None:
    """Quantize MODEL and write it packed, ready for `from_pretrained`.

    One tensor at a time, so that memory holds little of the model; interrupted, the same
    command goes on where it stopped and ends with the same bytes.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.models import Trust, find_model, quantize_checkpoint
    from studentfloat.quantize import Scheme

    share = _share(options["shard"])
    scheme = Scheme(
        options["number_format"],
        block_size=options["block_size"],
        scale_rule=options["scale_rule"],
        scale_dtype=options["scale_dtype"],
    )
    trust = Trust(
        pickle=options["allow_pickle_code_execution"],
        remote_code=options["allow_remote_code_execution"],
    )
    with progress_on_stderr(quiet=options["quiet"]) as progress:
        progress(0.0, f"finding model {model}")
        done = quantize_checkpoint(
            find_model(model, trust),
            scheme,
            options["output"],
            embeddings=options["embeddings"],
            head=options["head"],
            share=share,
            progress=progress,
        )
    if done is None:
        click.echo(f"part {options['shard']} is done: {options['output']}")
    else:
        show_packed(done, as_json=options["as_json"])


def show_packed(done: PackedModel, *, as_json: bool) -> None:
    """Tell what was written."""
    from studentfloat.records import record_to_json

    if as_json:
        click.echo(json.dumps(record_to_json(done), indent=1))
        return
    click.echo(
        f"{len(done.tensors)} weights, {done.quantized_weights:,} numbers in "
        f"{done.bits_per_weight:.3f} bits each; {len(done.skipped)} tensors, "
        f"{done.plain_weights:,} numbers as they were; {done.bytes / 1e6:.1f} MB"
    )
    click.echo(f"packed model: {done.directory}")


def _share(given: str) -> tuple[int, int]:
    from studentfloat.errors import ConfigError

    part, slash, whole = given.partition("/")
    if not slash or not part.isdecimal() or not whole.isdecimal():
        raise ConfigError(f"--shard {given!r}: as in 1/4, the first of four parts")
    return int(part), int(whole)
