"""The published sets on the embedded model, where their files are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from studentfloat.evaluate.tasks import StudentFloatLM, TaskOptions, load_tasks
from studentfloat.models import find_model, load_model
from tests.evaluate.tasks.test_scorer import assert_same, stock

BESIDE = Path(__file__).parents[4] / "shared" / "data"
DATA = Path(os.environ.get("STUDENTFLOAT_TASK_DATA", BESIDE))
SIZES = {
    "lambada_openai": 5153,
    "piqa": 1838,
    "winogrande": 1267,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "openbookqa": 500,
    "wikitext": 62,
}

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        not DATA.is_dir(), reason="no published sets: set STUDENTFLOAT_TASK_DATA to their folder"
    ),
]


@pytest.fixture(scope="module")
def model():
    return load_model(find_model("smollm2-135m"))


def there(*names: str) -> tuple[str, ...]:
    found = tuple(name for name in names if any(DATA.glob(f"{name}*/*")))
    return found or pytest.skip(f"{DATA} has none of {', '.join(names)}")


@pytest.mark.parametrize("name", SIZES)
def test_whole_sets_are_read(name) -> None:
    """Every row passes the checks; wikitext is cut into its 62 articles."""
    from studentfloat.evaluate.tasks.definitions import TASKS
    from studentfloat.evaluate.tasks.local import read_rows, task_file

    there(name)
    rows = read_rows(task_file(str(DATA), name, TASKS[name].split), name, TASKS[name])
    assert len(rows) == SIZES[name]


def test_log_likelihoods_of_the_embedded_model_are_those_of_the_harness(model) -> None:
    names = there("piqa", "arc_easy", "lambada_openai", "winogrande")
    tasks = load_tasks(TaskOptions(names, data=str(DATA), limit=3))
    asked = [request for task in tasks.tasks for request in task.requests]
    ours = StudentFloatLM(model)
    theirs = stock(model, batch_size=4).loglikelihood(asked, disable_tqdm=True)
    assert_same(ours.loglikelihood(asked), theirs)
    assert ours.notes == ()
