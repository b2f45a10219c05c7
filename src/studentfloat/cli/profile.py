"""``studentfloat profile MODEL...``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from studentfloat.cli.shared import trust_remote_code, trusted

__all__ = ["profile"]


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--list",
    "listed",
    type=click.Path(path_type=Path),
    help="A study file (TOML) with more models, such as studies/paper-networks.toml.",
)
@click.option("--activations", is_flag=True, help="Also what enters linear layers, on a text.")
@click.option(
    "--capture",
    default="linear",
    show_default=True,
    help="Activations to listen to: linear, kv-cache, scores, residual; comma-separated.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="UTF-8 text for the activations (default: the language reference in CPython).",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="For vision models: a .npy file (n, channels, height, width), normalized as the model "
    "takes them (default: noise, as in the paper).",
)
@click.option(
    "--windows", default=8, show_default=True, help="How many windows of the text, or images."
)
@click.option("--window-length", default=512, show_default=True, help="Tokens in a window.")
@click.option("--blocks", type=int, help="Also fit weights scaled by blocks of this size.")
@click.option("--channels", is_flag=True, help="Also fit weights scaled by row.")
@click.option(
    "--location",
    type=click.Choice(["zero", "free"]),
    default="zero",
    show_default=True,
    help="Whether the laws are centered at 0 or fitted a center.",
)
@click.option(
    "--shard",
    default="1/1",
    help="I/N: every N-th weight, and every N-th window, from the I-th; to be merged.",
)
@click.option(
    "--keep-sketches",
    is_flag=True,
    help="Keep what activations add up by, to merge with those of another text.",
)
@click.option(
    "--merge", is_flag=True, help="MODEL... are profile.json files of parts: add them up."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the profile (JSON); a run that was interrupted goes on from there.",
)
@click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page."
)
@click.option("--json", "as_json", is_flag=True, help="The profile on stdout instead of a table.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@trust_remote_code
def profile(models: tuple[str, ...], **options: Any) -> None:
    """Which law do the weights and activations of MODEL follow?

    MODEL is 'smollm2-135m' (embedded, the default), a directory with safetensors, a .gguf
    file, or a Hugging Face id; with more than one, the table has a line for each. Student's t,
    normal, Laplace, generalized normal and logistic are fitted to every tensor by maximum
    likelihood; weights are read one at a time, without building the model.
    """
    import json

    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.profile import several
    from studentfloat.records import write_json, write_text_atomically

    settings = several.settings_of(options)
    with progress_on_stderr(quiet=options["quiet"]) as progress:
        result = several.profile_models(
            models,
            settings,
            listed=options["listed"],
            merge=options["merge"],
            output=options["output"],
            trust=trusted(options),
            progress=progress,
        )
    data = several.result_to_json(result)
    if options["output"]:
        write_json(options["output"], data)
    if options["page"]:
        from studentfloat.report import profile_page

        write_text_atomically(options["page"], profile_page(result.profiles, result.not_run))
    if options["as_json"]:
        click.echo(json.dumps(data, indent=1, allow_nan=False))
    else:
        from rich.console import Console

        from studentfloat.report import print_profiles

        print_profiles(result.profiles, result.not_run, Console(soft_wrap=True))
    for what, path in (("profile", options["output"]), ("page", options["page"])):
        if path:
            click.echo(f"{what}: {path.resolve()}", err=options["as_json"])
    if not result.profiles:
        raise SystemExit(1)
