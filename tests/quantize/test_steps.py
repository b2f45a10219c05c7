"""Methods as lists of steps: one order, refusals by the steps, and a new step in one file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from studentfloat.errors import ConfigError
from studentfloat.models import ModelQuantizer
from studentfloat.quantize import (
    METHOD_STEPS,
    GPTQOptions,
    InputScale,
    Method,
    Scheme,
    parse_method,
    quantize,
)
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.pipeline import quantize_weight
from studentfloat.quantize.steps import STEPS, Gptq, Nearest, Stage, Step, register_step
from studentfloat.quantize.steps.step import number
from studentfloat.study import CompareOptions
from studentfloat.study.variants import variants
from tests import tiny
from tests.models.test_driver import loaded, windows

METHODS_PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_order_in_which_steps_are_written_does_not_matter() -> None:
    parts = ["rank=2", "smooth=0.4", "lloyd", "gptq", "outliers=0.01", "mse"]
    methods = {parse_method("+".join(order)) for order in permutations(parts)}
    assert len(methods) == 1
    (method,) = methods
    assert [step.spelling for step in method.steps] == [
        *("mse", "smooth", "outliers", "lloyd", "gptq", "rank")
    ]


def test_a_method_that_does_not_round_rounds_to_nearest() -> None:
    assert Method().steps == parse_method("rtn").steps == (Nearest(),)
    assert parse_method("mse").steps[-1] == Nearest()
    assert parse_method("mse+gptq") != parse_method("mse")


def test_options_reach_gptq() -> None:
    options = GPTQOptions(damping=0.5)
    assert parse_method("gptq+mse", options).steps[-1] == Gptq(options)
    assert parse_method("mse", options) == parse_method("mse")


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("rtn+gptq", "'rtn' and 'gptq' are both a rounding"),
        ("awq+smooth", "'awq' and 'smooth' are both a scale per input channel"),
        ("rank=2+rank8=3", "both a low-rank correction"),
        ("lloyd+lloyd-row", "both a codebook"),
        ("mse+x2-mse", "both a scale rule"),
        ("gptq+gptq", "'gptq' is given twice"),
        ("gtpq", "no step is called 'gtpq'"),
        ("smooth=2", "smooth=2: a number from 0 to 1"),
        ("rank", "a number from 1 to 4096"),
        ("gptq=3", "takes no value"),
    ],
)
def test_what_cannot_be_combined_is_refused(spelled: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"method '{spelled.replace('+', '.')}': .*{said}"):
        parse_method(spelled)


@pytest.mark.parametrize(
    ("format_name", "method", "needed"),
    [
        ("sf4@weighted-mse", "rtn", True),
        ("sf4@weighted-mse", "mse", False),
        ("sf4", "weighted-mse", True),
        ("sf4", "mse", False),
        ("sf4", "gptq", True),
        ("sf4", "lloyd+rank=2", False),
    ],
)
def test_inputs_are_needed_by_one_rule_everywhere(format_name, method, needed) -> None:
    options = CompareOptions(formats=(format_name,), methods=(method,), block_size=16)
    (variant,) = variants(options.study())
    assert variant.needs_inputs is needed
    assert variant.method.needs_inputs(variant.scheme) is needed
    work = ModelQuantizer(loaded(tiny.llama), variant.scheme, variant.method, windows())
    assert (work.settings["calibration_windows"] is not None) is needed


def test_every_step_is_described() -> None:
    table = METHODS_PAGE.read_text(encoding="utf-8").split("| step |")[1].split("\n\n")[0]
    undescribed = [s for s in METHOD_STEPS if f"`{s}`" not in table and f"`{s}=" not in table]
    # Rules that do not search are those of schemes: docs/quantization.md.
    assert undescribed == ["absmax", "published", "signed-absmax"]


@dataclass(frozen=True)
class Prune(Step):
    """Zero the smallest of the weights."""

    share: float

    spellings: ClassVar[tuple[str, ...]] = ("prune",)
    kind: ClassVar[str] = "pruning"
    stage: ClassVar[Stage] = Stage.KEEP

    @classmethod
    def parse(cls, spelling, value):
        return cls(number(value, float, 0, 1))

    def refuses(self, other):
        if other.spelling == "outliers":
            return "pruning and outliers both want the extremes"
        return super().refuses(other)

    def apply(self, state):
        limit = state.weight.abs().quantile(self.share)
        small = state.weight.abs() < limit
        note = f"{int(small.sum())} pruned"
        return replace(state, weight=state.weight.masked_fill(small, 0), notes=(*state.notes, note))


@dataclass(frozen=True)
class Tune(Prune):
    """Something that wants gradients."""

    spellings: ClassVar[tuple[str, ...]] = ("toy-tune",)
    kind: ClassVar[str] = "tuning"

    @property
    def needs_gradients(self) -> bool:
        return True


@pytest.fixture
def toys(monkeypatch):
    before = dict(STEPS)
    register_step(Prune)
    register_step(Tune)
    yield
    STEPS.clear()
    STEPS.update(before)


@pytest.mark.usefixtures("toys")
class TestANewStep:
    """One class and one call are all that a step takes: nothing else knows its name."""

    def test_is_spelled_and_sorted_like_any(self) -> None:
        method = parse_method("gptq+prune=0.5+mse")
        assert [step.spelling for step in method.steps] == ["mse", "prune", "gptq"]
        assert method.to_json()[1] == {"step": "prune", "share": 0.5}
        with pytest.raises(ConfigError, match=r"prune=2: a number from 0 to 1"):
            parse_method("prune=2")
        with pytest.raises(ConfigError, match="both want the extremes"):
            parse_method("outliers=0.1+prune=0.5")
        with pytest.raises(ValueError, match="'prune' is there already"):
            register_step(Prune)

    def test_is_taken_on_a_weight(self) -> None:
        weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
        scheme = Scheme("nf4", 16)
        got = quantize_weight(weight, scheme, parse_method("prune=0.5"))
        wanted = weight.masked_fill(weight.abs() < weight.abs().quantile(0.5), 0)
        assert torch.equal(got.weight.dequantize(), quantize(wanted, scheme).dequantize())
        assert got.notes == ("128 pruned",)

    def test_is_taken_on_a_model(self) -> None:
        method = parse_method("prune=0.9+gptq")
        work = ModelQuantizer(loaded(tiny.llama), Scheme("nf4", 16), method, windows())
        records = work.result(list(work.run())).records
        assert all("pruned" in " ".join(record.notes) for record in records)
        assert {record.method for record in records} == {"prune=0.9+gptq"}

    def test_that_needs_what_nobody_computes_is_refused(self) -> None:
        method = parse_method("toy-tune=0.1")
        with pytest.raises(ConfigError, match="needs gradients"):
            ModelQuantizer(loaded(tiny.llama), Scheme("nf4", 16), method)


def test_a_weight_alone_chooses_its_own_transform() -> None:
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    x = x * torch.linspace(0.1, 3, 32)
    inputs = InputStatistics.empty_for(x)
    inputs.add(x)
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(2))
    got = quantize_weight(weight, Scheme("int8", 16), parse_method("smooth"), inputs).weight
    assert got.part(InputScale) is not None
    torch.testing.assert_close(got.dequantize(), weight, atol=0.05, rtol=0.05)
