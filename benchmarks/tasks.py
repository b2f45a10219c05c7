"""Log-likelihoods for tasks: our scorer beside lm-evaluation-harness's HFLM, same items.

    pip install 'studentfloat[tasks]' && python benchmarks/tasks.py --data DIR

The embedded model in float32. Both score the same requests in turns of a few items within one
process, so that a machine whose speed drifts hurts both alike; the ratio is what counts. Figures
are of the process's own time on one thread, which others on the machine do not add to. The sums of
log-likelihoods are compared on the way. Without --data items come from the hub.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from studentfloat.evaluate.tasks import StudentFloatLM, TaskOptions, load_tasks
from studentfloat.models import LoadedModel, find_model, load_model


def main() -> None:
    """Let the two take turns on each task, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="piqa,arc_easy,lambada_openai")
    parser.add_argument("--data")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--turn", type=int, default=20, help="items in a turn")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tasks = load_tasks(TaskOptions(tuple(options.tasks.split(",")), options.data, options.limit))
    model = load_model(find_model("smollm2-135m"))
    contestants = {
        "studentfloat": StudentFloatLM(model, batch_size=options.batch_size),
        "HFLM": stock(model, options.batch_size),
    }
    print(f"batches of {options.batch_size}, {options.threads} thread(s)")
    for task in tasks.tasks:
        compare(task.name, turns(task, options.turn), contestants)


def stock(model: LoadedModel, batch_size: int) -> Any:
    """The harness's own, on the same weights."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=batch_size)


def turns(task: Any, size: int) -> list[list[Any]]:
    """A task's requests, a few whole items at a time."""
    found: dict[tuple[str, int], list[Any]] = {}
    for request in task.requests:
        found.setdefault((request.task_name, request.doc_id // size), []).append(request)
    return list(found.values())


def compare(name: str, parts: Sequence[list[Any]], contestants: dict[str, Any]) -> None:
    """Run all parts by each in turn, first now this, now that one; print seconds and ratio."""
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    farthest = 0.0
    for turn, part in enumerate(parts):
        order = list(contestants) if turn % 2 else list(reversed(contestants))
        totals = {}
        for who in order:
            run: Callable[..., Any] = contestants[who].loglikelihood
            started = time.process_time()
            answers = run(part, disable_tqdm=True)
            seconds[who].append(time.process_time() - started)
            totals[who] = [total for total, _ in answers]
        ours, theirs = totals.values()
        differences = (abs(a - b) for a, b in zip(ours, theirs, strict=True))
        farthest = max(farthest, *differences)
    ours, theirs = seconds["studentfloat"], seconds["HFLM"]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{name:16} ours {sum(ours):7.1f} s   HFLM {sum(theirs):7.1f} s   "
        f"HFLM / ours, median of {len(ratios)} turns {statistics.median(ratios):5.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})   farthest {farthest:.1e} nats",
        flush=True,
    )


if __name__ == "__main__":
    main()
