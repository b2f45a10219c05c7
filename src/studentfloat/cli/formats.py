"""``studentfloat formats [NAME]``."""

from __future__ import annotations

import click

__all__ = ["formats"]


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
@click.option(
    "--toml", "as_toml", is_flag=True, help="Write the format as TOML, to edit and reuse."
)
def formats(name: str | None, as_json: bool, as_toml: bool) -> None:
    """List the number formats, or show one: values, codes, boundaries, a plot.

    NAME is a catalog entry, a family with its parameters (sf4-nu6.5, int5-symmetric, e3m3,
    bo4-nu8-b64), a code of several numbers (trellis3, trellis4-nu5, e8p, vq-d4-k256), or a .toml
    file of your own.
    """
    from studentfloat.formats import show

    if as_toml and name is None:
        raise click.UsageError("--toml needs the NAME of one format")
    if as_json and as_toml:
        raise click.UsageError("--json and --toml exclude each other")
    if name is None:
        click.echo(show.catalog_json() if as_json else show.catalog_table(), nl=False)
        return
    from studentfloat.formats import code_to_toml, resolve_code

    wanted = resolve_code(name)
    if as_toml:
        click.echo(code_to_toml(wanted), nl=False)
    elif as_json:
        click.echo(show.format_json(wanted), nl=False)
    else:
        click.echo(show.format_view(wanted), nl=False)
