"""``studentfloat quantize MODEL -o DIR``: a packed model in any format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studentfloat.cli.shared import calibration_options, path_text, trust_options, trusted

if TYPE_CHECKING:
    from studentfloat.models import Calibration
    from studentfloat.quantize import Scheme
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
    help="float32, float16, bfloat16, e8m0, e4m3 (under a float32 per tensor) or e4m3/e8m0.",
)
@click.option(
    "--method",
    default="rtn",
    show_default=True,
    help="Steps joined by '+': rtn, x2-mse, gptq, awq, smooth=0.5+gptq ... (docs/methods.md).",
)
@click.option("--smooth", type=float, help="SmoothQuant's alpha, as the step smooth=ALPHA.")
@calibration_options
@click.option(
    "--activations",
    help="Round inputs of linear layers to this format too, one scale per token: int8, sf4 ...",
)
@click.option("--kv", help="Format of the key-value cache: sf4, int8 ... (docs/transformers.md).")
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
@trust_options
def quantize(model: str, **options: Any) -> None:
    """Quantize MODEL and write it packed, ready for `from_pretrained`.

    One tensor at a time, so that memory holds little of the model; interrupted, the same
    command goes on where it stopped and ends with the same bytes.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.models import calibrate_checkpoint, find_model, quantize_checkpoint
    from studentfloat.models.packed_files import Companions
    from studentfloat.quantize import Scheme, parse_method

    share = _share(options["shard"])
    spelled = options["method"]
    if options["smooth"] is not None:
        spelled += f"+smooth={options['smooth']}"
    method = parse_method(spelled)
    scheme = Scheme(
        options["number_format"],
        block_size=options["block_size"],
        scale_rule=options["scale_rule"],
        scale_dtype=options["scale_dtype"],
    )
    with progress_on_stderr(quiet=options["quiet"]) as progress:
        progress(0.0, f"finding model {model}")
        source = find_model(model, trusted(options))
        wanted = {name: options[name] for name in ("embeddings", "head")}
        wanted["companions"] = Companions(
            _per_token(options["activations"]), _per_token(options["kv"])
        )
        if method.only_rounds(scheme):
            done = quantize_checkpoint(
                source,
                method.on_scheme(scheme),
                options["output"],
                share=share,
                progress=progress,
                **wanted,
            )
        else:
            _refuse_share(share, spelled)
            done = calibrate_checkpoint(
                source,
                scheme,
                method,
                options["output"],
                calibration=_calibration(options),
                progress=progress,
                **wanted,
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


def _calibration(options: dict[str, Any]) -> Calibration:
    from studentfloat.models import Calibration

    return Calibration(
        text=path_text(options["calibration"]),
        windows=options["calibration_windows"],
        window_length=options["calibration_length"],
    )


def _per_token(name: str | None) -> Scheme | None:
    from studentfloat.quantize import Scheme

    return None if name is None else Scheme.per_token(name)


def _refuse_share(share: tuple[int, int], method: str) -> None:
    from studentfloat.errors import ConfigError

    if share != (1, 1):
        raise ConfigError(
            f"--shard {share[0]}/{share[1]} with --method {method}: each block is calibrated on "
            "the outputs of those before it, so one machine does them all"
        )


def _share(given: str) -> tuple[int, int]:
    from studentfloat.errors import ConfigError

    part, slash, whole = given.partition("/")
    if not slash or not part.isdecimal() or not whole.isdecimal():
        raise ConfigError(f"--shard {given!r}: as in 1/4, the first of four parts")
    return int(part), int(whole)
