"""A study's results for other tools: records, long tables, lm-evaluation-harness, LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError, MissingDependencyError
from studentfloat.progress import Progress, silent
from studentfloat.records import (
    Comparison,
    Configuration,
    StudyResult,
    TaskScore,
    record_to_json,
    write_json,
    write_text_atomically,
)
from studentfloat.records.temporary import temporary_beside
from studentfloat.study.options import ORIGINAL
from studentfloat.study.sweep.drive import open_study
from studentfloat.study.sweep.measures import COLUMNS, measure_rows
from studentfloat.study.sweep.results import read_study
from studentfloat.study.sweep.tables import latex_tables, markdown_tables

__all__ = ["export_study"]

_TABLES = {"latex": latex_tables, "markdown": markdown_tables}


def export_study(
    directory: Path,
    target: str,
    output: Path | None = None,
    progress: Progress = silent,
) -> str | None:
    """Write what a study has found so far.

    Parameters
    ----------
    target
        ``json`` (a :class:`~studentfloat.records.StudyResult`), ``jsonl``, ``csv`` or
        ``parquet`` (a row for each configuration and measure), ``lm-eval`` (a directory of
        result files as lm-evaluation-harness writes them), ``latex`` or ``markdown``.
    output
        A file, or a directory for ``lm-eval``; None gives the text.

    Returns
    -------
    str or None
        The text where there is no `output`.

    Raises
    ------
    ConfigError
        If the target needs an output, or the directory holds no study.
    """
    if target == "lm-eval":
        _write_lm_eval(read_study(directory, progress), _needed(output, target, "a directory"))
        return None
    if target == "parquet":
        rows = measure_rows(*open_study(directory), progress)
        _write_parquet(rows, _needed(output, target, "a file"))
        return None
    text = _text(directory, target, progress)
    if output is None:
        return text
    write_text_atomically(output, text)
    return None


def _text(directory: Path, target: str, progress: Progress) -> str:
    if target == "json":
        result = read_study(directory, progress)
        return json.dumps(record_to_json(result), indent=1, allow_nan=False) + "\n"
    if target in _TABLES:
        return _TABLES[target](read_study(directory, progress))
    rows = measure_rows(*open_study(directory), progress)
    if target == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _needed(output: Path | None, target: str, what: str) -> Path:
    if output is None:
        raise ConfigError(f"--to {target} needs {what}: -o PATH")
    return output


def _write_parquet(rows: Iterable[dict[str, Any]], output: Path) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("pyarrow", "parquet") from error
    schema = arrow.schema([(name, _arrow_type(arrow, name)) for name in COLUMNS])
    plain = [{**row, "block_size": str(row["block_size"]),
              "higher_is_better": bool(row["higher_is_better"])} for row in rows]  # fmt: skip
    temporary = temporary_beside(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(plain, schema=schema), temporary)
        temporary.replace(output)
    except OSError as error:
        raise FailureError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _arrow_type(arrow: Any, column: str) -> Any:
    if column in ("value", "standard_error", "bits_per_weight"):
        return arrow.float64()
    if column == "lookup_bits":
        return arrow.int64()
    return arrow.bool_() if column == "higher_is_better" else arrow.string()


def _write_lm_eval(result: StudyResult, directory: Path) -> None:
    """One directory for each model and configuration that did tasks."""
    for model in result.models:
        original = Configuration(model.model, ORIGINAL, ORIGINAL)
        rows = [(original, model.original_scores)]
        rows += [(row.configuration, row.scores) for row in model.formats]
        for configuration, scores in rows:
            if scores:
                name = f"{_slug(model.model)}__{_slug(configuration.name)}"
                data = _lm_eval(model, configuration, scores)
                write_json(directory / name / "results.json", data)


def _lm_eval(
    model: Comparison, configuration: Configuration, scores: tuple[TaskScore, ...]
) -> dict[str, Any]:
    """The layout of lm-evaluation-harness's own results file, as far as it is known here."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    results: dict[str, dict[str, Any]] = {task: {"alias": task} for task in tasks}
    better: dict[str, dict[str, bool]] = {task: {} for task in tasks}
    for score in scores:
        error = "N/A" if score.standard_error is None else score.standard_error
        results[score.task] |= {
            f"{score.metric},none": score.value,
            f"{score.metric}_stderr,none": error,
        }
        better[score.task][score.metric] = score.higher_is_better
    first = {score.task: score for score in reversed(scores)}
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: {"task": task, "num_fewshot": first[task].shots} for task in tasks},
        "n-shot": {task: first[task].shots for task in tasks},
        "higher_is_better": better,
        "n-samples": {task: {"effective": len(first[task].items)} for task in tasks},
        "config": {
            "model": "studentfloat",
            "model_args": asdict(configuration),
            "limit": first[tasks[0]].limit,
            "bootstrap_iters": 0,
        },
        "versions": model.provenance.versions,
        "model_name": f"{model.model} {configuration.name}",
        "model_source": "studentfloat",
        "model_sha256": model.provenance.model_sha256,
        "task_hashes": {task: first[task].data_sha256 for task in tasks},
    }


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-")
