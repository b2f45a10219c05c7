"""``studentfloat hardware [FORMAT ...]``."""

from __future__ import annotations

import click

from studentfloat.errors import FailureError

__all__ = ["hardware"]


@click.command()
@click.argument("formats", nargs=-1, metavar="[FORMAT]...")
@click.option(
    "--unit", default="mac", show_default=True, help="mac, dotN (dot16), systolic, dequantizer."
)
@click.option(
    "--activations", help="The other operand: int8, fp8, int16, fp16 or any format. [default: same]"
)
@click.option(
    "--scale-type", default="bf16", show_default=True, help="A dequantizer's scale: bf16 or fp16."
)
@click.option(
    "--liberty", multiple=True, type=click.Path(), help="Your cell library; may be given again."
)
@click.option(
    "--dont-use",
    multiple=True,
    metavar="PATTERN",
    help="Cells not to use ('*x1p*'), or a file that lists such; may be given again.",
)
@click.option("--dot-length", default=128, show_default=True, help="Terms the accumulator holds.")
@click.option(
    "--lookup-bits",
    multiple=True,
    type=int,
    help="Fixed-point width where there is no integer grid; may be given again. [default: 8 12]",
)
@click.option(
    "--collapsed-levels",
    default=0,
    show_default=True,
    help="How many levels of a format may fall together in its lookup.",
)
@click.option("--accumulator-bits", type=int, help="Width of the accumulator. [default: exact]")
@click.option(
    "--overflow",
    default="wrap",
    show_default=True,
    help="What a narrower accumulator does: wrap or saturate.",
)
@click.option(
    "--codes-from",
    metavar="MODEL",
    help="Energy (or overflows) also on the codes that meet in MODEL, such as smollm2-135m.",
)
@click.option("--mac-share", default=0.10, show_default=True, help="MACs' share of the die.")
@click.option("--no-proof", is_flag=True, help="Synthesize and measure only.")
@click.option("--no-cache", is_flag=True, help="Neither read nor write cached results.")
@click.option(
    "--study",
    type=click.Choice(["sweep", "accumulators"]),
    help="Instead of the table: area at several clock targets, or by accumulator width.",
)
@click.option("--verilog", "as_verilog", is_flag=True, help="Print the best unit's Verilog.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
@click.pass_context
def hardware(
    context: click.Context,
    *,
    formats: tuple[str, ...],
    unit: str,
    activations: str | None,
    scale_type: str,
    liberty: tuple[str, ...],
    dont_use: tuple[str, ...],
    collapsed_levels: int,
    dot_length: int,
    lookup_bits: tuple[int, ...],
    accumulator_bits: int | None,
    overflow: str,
    codes_from: str | None,
    mac_share: float,
    no_proof: bool,
    no_cache: bool,
    study: str | None,
    as_verilog: bool,
    as_json: bool,
) -> None:
    """What a format costs in silicon: area, delay and energy of proved hardware.

    FORMAT is a name or a .toml file; without any, the eleven formats of arXiv 2405.03103.
    Needs the extra 'hardware' (pip install 'studentfloat[hardware]').
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.formats import PUBLISHED_ELEVEN, resolve_format
    from studentfloat.hardware import cost, load_library, show, studies, unit_verilog
    from studentfloat.hardware.operands import LOOKUP_BITS

    if as_verilog and (len(formats) != 1 or as_json or study):
        raise click.UsageError("--verilog prints one FORMAT's unit, and nothing else")
    if study is not None:
        _check_study(context, study)
    shares = studies.ChipShares(mac=mac_share)
    wanted = [resolve_format(name) for name in formats or PUBLISHED_ELEVEN]
    library = load_library(liberty, dont_use)
    with progress_on_stderr() as progress:
        counts, codes = None, None
        if codes_from is not None:
            from studentfloat.study.code_pairs import hardware_code_pairs

            met = hardware_code_pairs(
                codes_from,
                wanted,
                lookup_bits=lookup_bits or LOOKUP_BITS,
                activations=activations,
                progress=progress,
            )
            counts, codes = met.counts, met.codes
        if study == "sweep":
            swept = studies.sweep_all(
                wanted,
                activations=activations,
                library=library,
                prove=not no_proof,
                use_cache=not no_cache,
                progress=progress,
            )
            click.echo(show.json_text(swept) if as_json else show.sweep_text(swept), nl=False)
            return
        if study == "accumulators":
            points = studies.accumulators_all(
                wanted,
                activations=activations,
                code_histograms=counts,
                codes=codes or "uniform",
                library=library,
                prove=not no_proof,
                use_cache=not no_cache,
                progress=progress,
            )
            click.echo(
                show.json_text(points) if as_json else show.accumulator_text(points), nl=False
            )
            return
        table = cost(
            wanted,
            unit=unit,
            activations=activations,
            scale_type=scale_type,
            dot_length=dot_length,
            lookup_bits=lookup_bits or LOOKUP_BITS,
            accumulator_bits=accumulator_bits,
            overflow=overflow,
            code_histograms=counts,
            codes=codes,
            most_collapsed=collapsed_levels,
            library=library,
            prove=not no_proof,
            use_cache=not no_cache,
            progress=progress,
        )
    if as_verilog:
        click.echo(unit_verilog(wanted[0], table.formats[0], table), nl=False)
    elif as_json:
        click.echo(show.json_text(table), nl=False)
    else:
        click.echo(show.table_text(table, shares), nl=False)
    unproved = [row.name for row in table.formats if not (row.proved or no_proof)]
    if unproved:
        raise FailureError(f"not proved: {', '.join(unproved)}; the table says why")


# What a study takes beside formats, a library and how results are shown.
_STUDY_OPTIONS = {
    "sweep": {"activations"},
    "accumulators": {"activations", "codes_from"},
}
_ALWAYS = {"formats", "liberty", "dont_use", "study", "no_proof", "no_cache", "as_json"}


def _check_study(context: click.Context, study: str) -> None:
    """Refuse options that were given and that the study does not look at."""
    heeded = _ALWAYS | _STUDY_OPTIONS[study]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in heeded:
            raise click.UsageError(f"--study {study} takes no {parameter.opts[0]}")
