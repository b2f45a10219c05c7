"""What quantizing did to a model: perplexity, divergence, agreement, with uncertainty."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from studentfloat.errors import MissingDependencyError
from studentfloat.evaluate.bootstrap import mean_and_error, paired_differences, ranks

if TYPE_CHECKING:
    from studentfloat.evaluate.quality import OriginalOutputs, WindowScores, score_windows
    from studentfloat.models.text import EvaluationText, cut_windows, load_text

__all__ = [
    "EvaluationText",
    "OriginalOutputs",
    "WindowScores",
    "cut_windows",
    "load_text",
    "mean_and_error",
    "paired_differences",
    "ranks",
    "score_windows",
]

_HOMES = {
    "EvaluationText": "models.text",
    "cut_windows": "models.text",
    "load_text": "models.text",
    "OriginalOutputs": "evaluate.quality",
    "WindowScores": "evaluate.quality",
    "score_windows": "evaluate.quality",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'studentfloat.evaluate' has no attribute {name!r}")
    try:
        return getattr(import_module(f"studentfloat.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingDependencyError.for_extra("torch", "models") from None
        raise
