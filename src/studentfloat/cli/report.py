"""``studentfloat report DIR``: the page of what is in a directory, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from studentfloat.records import Comparison, StudyResult

__all__ = ["report"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page (default: report.html in DIRECTORY).",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write every figure as SVG and PNG into this directory.",
)
def report(directory: Path, output: Path | None, figures: Path | None) -> None:
    """One self-contained page of what DIRECTORY holds.

    DIRECTORY is a study's, or what `compare` wrote to. The page needs no network and no server:
    it has the frontier of quality against area, energy and bits, the table, every figure, and
    the full record of every row. It is made from the records alone.
    """
    from studentfloat.records import Comparison, write_text_atomically
    from studentfloat.report import comparison_page, save_figures, study_figures, study_page

    result = _result(directory)
    page = comparison_page(result) if isinstance(result, Comparison) else study_page(result)
    target = output or directory / "report.html"
    write_text_atomically(target, page)
    click.echo(f"page:    {target.resolve()}")
    if figures is not None:
        written = save_figures(study_figures(result), figures)
        click.echo(f"figures: {len(written)} files in {figures.resolve()}")


def _result(directory: Path) -> Comparison | StudyResult:
    from studentfloat.errors import ConfigError
    from studentfloat.records import Comparison, StudyResult, read_json, record_from_json

    if not directory.is_dir():
        raise ConfigError(f"{directory} is not a directory: give a study's, or one of `compare`")
    path = directory / "results.json"
    if not path.is_file():
        from studentfloat.study import read_study

        try:
            return read_study(directory)
        except ConfigError as error:
            raise ConfigError(
                f"{directory} has no results: no results.json of `compare`, and {error}"
            ) from error
    data = read_json(path)
    schema = data.get("schema") if isinstance(data, dict) else None
    # What `study export --to json` gives may lie there too.
    if str(schema).partition("/")[0] == StudyResult.KIND:
        return record_from_json(StudyResult, data, where=str(path))
    return record_from_json(Comparison, data, where=str(path))
