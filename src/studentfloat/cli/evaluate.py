"""``studentfloat evaluate MODEL``: what it scores on tasks."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studentfloat.cli.shared import trust_options, trusted

if TYPE_CHECKING:
    from studentfloat.evaluate.tasks import LoadedTasks, TaskOptions
    from studentfloat.models import ModelSource
    from studentfloat.records import Evaluation, Provenance

__all__ = ["evaluate"]


@click.command()
@click.argument("model", default="smollm2-135m")
@click.option(
    "--tasks",
    default="lambada_openai,piqa,winogrande,arc_easy",
    show_default=True,
    help="Comma-separated; all of them are in docs/tasks.md.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Directory of local files, TASK/SPLIT.jsonl (default: the Hugging Face hub).",
)
@click.option("--limit", type=int, help="At most so many items of each task (default: all).")
@click.option("--shots", default=0, show_default=True, help="Solved examples before each item.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of those.")
@click.option("--batch-size", default=8, show_default=True, help="Items run at a time.")
@click.option("--json", "as_json", is_flag=True, help="The result on stdout as JSON.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the result to this JSON file."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@trust_options
def evaluate(model: str, tasks: str, data: Path | None, **options: Any) -> None:
    """What MODEL scores on tasks, with lm-evaluation-harness's prompts.

    MODEL is 'smollm2-135m' (embedded, the default), a directory with safetensors, a .gguf
    file, a Hugging Face id, or a packed directory that `quantize` wrote.
    """
    from studentfloat.cli.progress import progress_on_stderr
    from studentfloat.errors import FailureError
    from studentfloat.evaluate.tasks import TaskOptions, evaluate_model, load_tasks
    from studentfloat.models import find_model
    from studentfloat.records import Evaluation, record_to_json, write_json

    output: Path | None = options["output"]
    if output is not None and output.is_dir():
        raise FailureError(f"cannot write {output}: it is a directory")
    wanted = TaskOptions(
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        data=None if data is None else str(data),
        limit=options["limit"],
        shots=options["shots"],
        seed=options["seed"],
        batch_size=options["batch_size"],
    )
    started = time.monotonic()
    try:
        with progress_on_stderr(quiet=options["quiet"]) as progress:
            progress(0.0, "building prompts")
            loaded = load_tasks(wanted)
            progress(0.0, f"finding model {model}")
            source = find_model(model, trusted(options), packed=True)
            scores = evaluate_model(source, loaded, progress=progress)
    except KeyboardInterrupt:
        raise FailureError("interrupted: nothing is kept, the same command begins anew") from None
    result = Evaluation(
        model=model,
        scores=scores,
        provenance=_provenance(source, wanted, loaded),
        seconds=round(time.monotonic() - started, 1),
        cautions=source.cautions,
    )
    record = record_to_json(result)
    if output is not None:
        write_json(output, record)
    if options["as_json"]:
        click.echo(json.dumps(record, indent=1))
    else:
        _print(result)
        if output is not None:
            click.echo(f"results: {output}")


def _provenance(source: ModelSource, wanted: TaskOptions, loaded: LoadedTasks) -> Provenance:
    from dataclasses import asdict, replace

    from studentfloat.records.provenance import make_provenance

    made = make_provenance(
        seed=wanted.seed,
        model_sha256=source.sha256,
        model_source=source.description,
        settings=asdict(wanted),
    )
    if all(task.name in ("stsb", "images") for task in loaded.tasks):
        return made
    return replace(made, versions={**made.versions, "lm_eval": version("lm_eval")})


def _print(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("task", "measure", "score", "items", "source"):
        table.add_column(column, justify="right" if column in ("score", "items") else "left")
    for score in result.scores:
        error = "" if score.standard_error is None else f" ± {score.standard_error:.4f}"
        table.add_row(
            score.task,
            f"{score.metric} *" if score.primary else score.metric,
            f"{score.value:.4f}{error}",
            str(len(score.items)),
            score.source,
        )
    console = Console()
    console.print(table)
    console.print("* what comparisons go by; ± one standard error over items", style="dim")
    for note in dict.fromkeys((*result.cautions, *(n for s in result.scores for n in s.notes))):
        console.print(note, style="dim")
