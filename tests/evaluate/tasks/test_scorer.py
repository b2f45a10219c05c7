"""Our scorer against lm-evaluation-harness's own, on the same requests."""

from __future__ import annotations

import pytest

from studentfloat.evaluate.tasks import StudentFloatLM, TaskOptions, load_tasks
from studentfloat.models import LoadedModel


def stock(model: LoadedModel, **options):
    """The harness's scorer on the same model; what it says of itself is not our concern."""
    from lm_eval.models.huggingface import HFLM

    # The tests' tokenizer has neither a beginning nor an end: the harness must be told one.
    prefix = StudentFloatLM(model).prefix_token_id
    return HFLM(
        pretrained=model.module, tokenizer=model.tokenizer, prefix_token_id=prefix, **options
    )


def requests(data: str, *names: str, **options):
    return [
        r for t in load_tasks(TaskOptions(names, data=data, **options)).tasks for r in t.requests
    ]


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for (our_total, our_greedy), (total, greedy) in zip(ours, theirs, strict=True):
        assert our_total == pytest.approx(total, rel=1e-5, abs=1e-4)
        assert our_greedy == greedy


ASKED_ONCE = ("piqa", "winogrande", "lambada_openai", "arc_easy", "openbookqa", "boolq")


@pytest.mark.parametrize("name", [*ASKED_ONCE, "hellaswag", "mmlu"])
def test_log_likelihoods_are_those_of_the_harness(llama, data, name) -> None:
    asked = requests(data, name)
    for batch_size in (1, 3, 8):
        scorer = StudentFloatLM(llama, batch_size=batch_size)
        assert_same(
            scorer.loglikelihood(asked), stock(llama).loglikelihood(asked, disable_tqdm=True)
        )
        assert scorer.notes == ()
