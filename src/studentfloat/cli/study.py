"""``studentfloat study``: plan, run, status, resume, export, and single workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from studentfloat.cli.shared import trust_options, trusted

if TYPE_CHECKING:
    from studentfloat.study.sweep.drive import Executor, RunSettings
    from studentfloat.study.sweep.status import StudyStatus

__all__ = ["study"]

_SOME_FAILED = 3
_FORMATS = ("json", "jsonl", "csv", "parquet", "lm-eval", "latex", "markdown")

Command = TypeVar("Command", bound=Callable[..., Any])

_file = click.argument("file", type=click.Path(path_type=Path))
_directory = click.argument("directory", type=click.Path(path_type=Path))
_data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Directory with the tasks' sets, in place of what FILE says.",
)
_only = click.option(
    "--only",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only cells that match, such as format=sf4 or evaluation=quality; values of one key "
    "are alternatives, several keys must all match.",
)
_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")


def _run_options(command: Command) -> Command:
    """What `run` and `resume` share."""
    for option in (
        click.option(
            "--workers", type=click.IntRange(1), help="How many (default: one for four cores)."
        ),
        click.option("--threads", type=click.IntRange(1), help="Of each local worker."),
        click.option(
            "--executor", type=click.Choice(["local", "ray", "slurm"]), default="local",
            show_default=True, help="What starts the workers.",
        ),
        click.option("--attempts", default=1, show_default=True, type=click.IntRange(1),
                     help="How often a cell may fail before it is left alone."),
        click.option("--ray-address", help="Of a Ray cluster (default: one on this machine)."),
        click.option("--slurm", multiple=True, metavar="KEY=VALUE",
                     help="Parameters of the array job: partition=gpu, time=120, cluster=debug."),
        _only, _quiet,
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def study() -> None:
    """Many models, formats, methods and tasks, cell by cell.

    A study is a file (docs/studies.md). Its cells are computed by any number of workers, each
    once; killed at any moment, `resume` goes on. Exit status of run and resume: 0 all cells
    done, 3 some failed, 1 stopped before the end, 2 misuse.
    """


@study.command()
@_file
@_data
@_only
@_as_json
def plan(file: Path, data: Path | None, only: tuple[str, ...], as_json: bool) -> None:
    """What FILE asks for, without doing it: every cell, in order."""
    from studentfloat.study.plan import make_plan
    from studentfloat.study.sweep.show import plan_json, plan_text
    from studentfloat.study.sweep.study_file import read_study_file

    options = read_study_file(file, data=data)
    laid = make_plan(options, only=_filters(only))
    click.echo(plan_json(laid) if as_json else plan_text(laid))


@study.command()
@_file
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="The study's directory (default: study-NAME).")  # fmt: skip
@_data
@_run_options
@trust_options
def run(file: Path, output: Path | None, data: Path | None,
        **options: Any) -> int:  # fmt: skip
    """Do what FILE asks for; what is done already stays done."""
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.study.sweep.drive import begin_study, run_study
    from studentfloat.study.sweep.study_file import read_study_file

    wanted = read_study_file(file, data=data, trust=trusted(options))
    directory = output or Path(f"study-{wanted.name}")
    settings = _run_settings(options)
    with progress_on_stderr(quiet=options["quiet"]) as progress:
        text = file.read_text(encoding="utf-8")
        begin_study(wanted, directory, text=text, progress=progress)
        status = run_study(directory, settings, progress)
    return _finish(directory, status)


@study.command()
@_directory
@click.option("--retry-failed", is_flag=True, help="Try cells again that failed.")
@_run_options
def resume(directory: Path, retry_failed: bool, **options: Any) -> int:
    """Go on with the study in DIRECTORY."""
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.study.sweep.drive import begin_study, run_study
    from studentfloat.study.sweep.store import Store

    wanted, _ = Store(directory).load_study()
    settings = _run_settings({**options, "retry_failed": retry_failed})
    with progress_on_stderr(quiet=options["quiet"]) as progress:
        begin_study(wanted, directory, progress=progress)
        status = run_study(directory, settings, progress)
    return _finish(directory, status)


@study.command()
@_directory
@_as_json
def status(directory: Path, as_json: bool) -> None:
    """How far the study in DIRECTORY is."""
    from studentfloat.records import record_to_json
    from studentfloat.study.sweep.drive import open_study
    from studentfloat.study.sweep.show import status_text
    from studentfloat.study.sweep.status import study_status

    found = study_status(*open_study(directory))
    click.echo(json.dumps(record_to_json(found), indent=1) if as_json else status_text(found))


@study.command()
@_directory
@click.option("--to", "target", type=click.Choice(_FORMATS), default="json", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="A file; for lm-eval a directory (default: stdout, if it is text).")  # fmt: skip
@_quiet
def export(directory: Path, target: str, output: Path | None, quiet: bool) -> None:
    """What the study in DIRECTORY has found so far, for other tools."""
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.study.sweep.export import export_study

    with progress_on_stderr(quiet=quiet) as progress:
        text = export_study(directory, target, output, progress)
    if text is not None:
        click.echo(text, nl=False)


@study.command()
@_directory
@click.option("--settings", default="{}", hidden=True)
def work(directory: Path, settings: str) -> int:
    """One worker on the study in DIRECTORY, until no cell is left: what executors start."""
    from studentfloat.errors import ConfigError
    from studentfloat.study.sweep.settings import WorkSettings
    from studentfloat.study.sweep.worker import work as loop
    from studentfloat.untrusted import parse_json, typed

    given = parse_json(settings, "--settings", error=ConfigError)
    worked = loop(directory, typed(WorkSettings, given, where="--settings", error=ConfigError))
    click.echo(f"{worked.computed} cells computed, {worked.failed} failed")
    return 0


def _run_settings(options: dict[str, Any]) -> RunSettings:
    from studentfloat.study.sweep.drive import RunSettings

    return RunSettings(
        executor=_executor(options),
        only=_filters(options["only"]),
        attempts=options["attempts"],
        retry_failed=options.get("retry_failed", False),
    )


def _executor(options: dict[str, Any]) -> Executor:
    from studentfloat.study.sweep.local import LocalExecutor, default_workers

    workers = options["workers"] or default_workers()
    if options["executor"] == "ray":
        from studentfloat.study.sweep.on_ray import RayExecutor

        return RayExecutor(workers, address=options["ray_address"], threads=options["threads"])
    if options["executor"] == "slurm":
        from studentfloat.study.sweep.on_slurm import SlurmExecutor

        return SlurmExecutor(workers, parameters=dict(map(_pair, options["slurm"])))
    return LocalExecutor(workers, threads=options["threads"])


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        raise click.UsageError(f"{text!r}: KEY=VALUE such as format=sf4")
    return key, value


def _filters(given: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    from studentfloat.study.options import EXCLUDABLE

    table: dict[str, list[Any]] = {}
    for key, value in map(_pair, given):
        if key not in EXCLUDABLE:
            raise click.UsageError(f"--only {key}={value}: keys are {', '.join(EXCLUDABLE)}")
        table.setdefault(key, []).append(int(value) if value.isdigit() else value)
    return (table,) if table else ()


def _finish(directory: Path, status: StudyStatus) -> int:
    """What came of it, and the exit status."""
    from studentfloat.errors import FailureError
    from studentfloat.study.sweep.show import outcome_text

    click.echo(outcome_text(directory, status))
    if status.done + status.failed < status.planned:
        raise FailureError(
            f"{status.planned - status.done - status.failed} cells are not done: "
            f"studentfloat study resume {directory}"
        )
    return _SOME_FAILED if status.failed else 0
