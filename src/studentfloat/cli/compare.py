"""``studentfloat compare [MODEL]``: the main job."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studentfloat.cli.shared import calibration_options, path_text, trust_options, trusted

if TYPE_CHECKING:
    from studentfloat.study import HardwareOptions

__all__ = ["compare"]

_PIPE_WIDTH = 132


@click.command()
@click.argument("model", default="smollm2-135m")
@click.option(
    "--formats",
    "--format",
    "formats",
    help="Comma-separated names or .toml files, each with an optional @scale-rule, or several "
    "joined by '|' for a choice per block; a leading '+' adds to the default ones. Default: the "
    "paper's eleven and two variants.",
)
@click.option(
    "--methods",
    "--method",
    "methods",
    default="rtn",
    show_default=True,
    help="Comma-separated methods, steps joined by '+': rtn, x2-mse, gptq, smooth=0.5+gptq ... "
    "(docs/methods.md).",
)
@calibration_options
@click.option(
    "--activations",
    help="Format of what enters linear layers, one scale per token: int8, sf4, fmt@scale-rule.",
)
@click.option("--kv", help="Format of the key-value cache: sf4, int8 ... (docs/methods.md).")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="For results.json and report.html (default: studentfloat-compare-MODEL).",
)
@click.option(
    "--block-size",
    default="128",
    show_default=True,
    help="Numbers that share a scale: a number, 'row' or 'tensor'.",
)
@click.option(
    "--scale-rule",
    default="absmax",
    show_default=True,
    help="absmax, signed-absmax, mse, or published (for comparison only).",
)
@click.option(
    "--scale-dtype",
    default="bfloat16",
    show_default=True,
    help="float32, float16, bfloat16, e8m0 or e4m3.",
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Text to measure on: a UTF-8 file, a data set as hub:owner/name,split=test,field=text, or "
    "a standard text: pydoc (default), articles; may be given again, ranks are by the mean.",
)
@click.option("--windows", default=12, show_default=True, help="How many windows of each text.")
@click.option("--window-length", default=384, show_default=True, help="Tokens in a window.")
@click.option("--weights-only", is_flag=True, help="Weight errors alone, no evaluation: seconds.")
@click.option("--embeddings", is_flag=True, help="Quantize the token embeddings too.")
@click.option("--head", is_flag=True, help="Quantize the output head too.")
@click.option(
    "--hardware/--no-hardware",
    default=None,
    help="Area, delay and energy of each format's multiply-accumulate unit, and the Pareto "
    "frontiers. Default: if the extra 'hardware' is installed.",
)
@click.option("--unit", default="mac", show_default=True, help="mac, dotN (dot16) or systolic.")
@click.option(
    "--liberty", multiple=True, type=click.Path(), help="Your cell library; may be given again."
)
@click.option(
    "--lookup-bits",
    default=8,
    show_default=True,
    help="With silicon: fixed-point width of a second row for formats without an integer grid.",
)
@click.option("--seed", default=0, show_default=True, help="Seed for the bootstrap.")
@click.option("--percentiles", is_flag=True, help="Show percentiles of KL over tokens too.")
@click.option("--json", "as_json", is_flag=True, help="results.json on stdout instead of a table.")
@click.option("--no-page", is_flag=True, help="Do not write report.html.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@trust_options
def compare(model: str, **options: Any) -> None:
    """What each number format costs MODEL.

    MODEL is 'smollm2-135m' (embedded, the default), a directory with safetensors, a .gguf
    file, or a Hugging Face id. Its linear weights are quantized to each format in turn; the
    table tells bits per weight, weight error, perplexity, divergence from the original and
    agreement with it, and which differences are real. Interrupted, the same command goes on
    where it stopped.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.records import record_to_json, write_json, write_text_atomically
    from studentfloat.report import comparison_page, print_comparison
    from studentfloat.study import CompareOptions
    from studentfloat.study import compare as run

    directory: Path = options["output"] or Path(f"studentfloat-compare-{_slug(model)}")
    wanted = CompareOptions(
        model=model,
        formats=_formats(options["formats"]),
        methods=tuple(m.strip() for m in options["methods"].split(",") if m.strip()),
        calibration=path_text(options["calibration"]),
        calibration_windows=options["calibration_windows"],
        calibration_length=options["calibration_length"],
        activations=options["activations"],
        kv=options["kv"],
        block_size=options["block_size"],
        scale_rule=options["scale_rule"],
        scale_dtype=options["scale_dtype"],
        texts=_texts(options["texts"]),
        windows=options["windows"],
        window_length=options["window_length"],
        weights_only=options["weights_only"],
        embeddings=options["embeddings"],
        head=options["head"],
        seed=options["seed"],
        hardware=_hardware(
            options["hardware"], options["unit"], options["liberty"], options["lookup_bits"]
        ),
        trust=trusted(options),
    )
    with progress_on_stderr(quiet=options["quiet"]) as progress:
        result = run(wanted, directory=directory, progress=progress)
    write_json(directory / "results.json", record_to_json(result))
    written = f"results: {directory / 'results.json'}"
    if not options["no_page"]:
        write_text_atomically(directory / "report.html", comparison_page(result))
        written += f"\npage:    {(directory / 'report.html').resolve()}"
    if options["as_json"]:
        click.echo((directory / "results.json").read_text(encoding="utf-8"), nl=False)
    else:
        from rich.console import Console

        # A pipe has no width; a table cut to 80 columns there would only lose figures.
        console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
        print_comparison(result, console, details=options["percentiles"])
    click.echo(written, err=options["as_json"])


def _hardware(
    asked: bool | None, unit: str, liberty: tuple[str, ...], lookup_bits: int
) -> HardwareOptions | None:
    from studentfloat.study import HardwareOptions, hardware_is_installed

    if asked is None and not hardware_is_installed():
        click.echo(
            "note: no area, delay and energy, since the extra 'hardware' is not installed "
            "(pip install 'studentfloat[hardware]')",
            err=True,
        )
        return None
    return None if asked is False else HardwareOptions((unit,), liberty, lookup_bits)


def _texts(given: tuple[Path, ...]) -> tuple[str, ...]:
    from studentfloat.study.options import DEFAULT_TEXTS

    return tuple(map(str, given)) or DEFAULT_TEXTS


def _formats(given: str | None) -> tuple[str, ...]:
    from studentfloat.study import DEFAULT_FORMATS

    if given is None:
        return DEFAULT_FORMATS
    added = given.startswith("+")
    names = tuple(name.strip() for name in given.removeprefix("+").split(",") if name.strip())
    return (*DEFAULT_FORMATS, *names) if added else names


def _slug(model: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(model).name or "model").strip("-") or "model"
