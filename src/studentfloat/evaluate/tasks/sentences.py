"""Similarity of sentences: do a model's embeddings order pairs as people do?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor

from studentfloat.errors import ConfigError, DataError, MissingDependencyError
from studentfloat.evaluate.tasks.asked import TaskOptions
from studentfloat.evaluate.tasks.definitions import TASKS
from studentfloat.evaluate.tasks.local import read_rows, task_file
from studentfloat.models import LoadedModel, ModelKind
from studentfloat.models.quiet import quiet_logger, quiet_transformers
from studentfloat.records import TaskScore, read_json

__all__ = ["SentenceTask", "load_sentence_task"]

Floats = npt.NDArray[np.float64]

_LONGEST = 512
_FEWEST = 4


@dataclass(frozen=True, eq=False)
class SentenceTask:
    """Pairs of sentences, each with how similar people found them."""

    name: str
    source: str
    limit: int | None
    _rows: tuple[dict[str, Any], ...] = field(repr=False)
    shots: int = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def sha256(self) -> str:
        """Hash of the pairs and their scores."""
        lines = (json.dumps(list(row.values()), ensure_ascii=False) for row in self._rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def score(
        self, model: LoadedModel, *, batch_size: int, tick: Callable[[], None]
    ) -> tuple[TaskScore, ...]:
        """Spearman's correlation of cosine similarity with people's scores.

        A sentence's embedding is the mean of its tokens' last hidden states, as sentence
        encoders are mostly trained (Reimers and Gurevych, arXiv 1908.10084).
        """
        _check_kind(model)
        first = _embeddings(model, [row["sentence1"] for row in self._rows], batch_size)
        second = _embeddings(model, [row["sentence2"] for row in self._rows], batch_size)
        similar = torch.cosine_similarity(first, second, dim=-1).numpy()
        for _ in self._rows:
            tick()
        people = np.array([row["score"] for row in self._rows], dtype=np.float64)
        value, items = _spearman_and_shares(similar, people)
        deviation = float(np.std(items, ddof=1))
        return (
            TaskScore(
                task=self.name,
                metric="spearman",
                value=value,
                standard_error=deviation / math.sqrt(len(items)),
                higher_is_better=True,
                primary=True,
                items=tuple(items.tolist()),
                limit=self.limit,
                shots=0,
                source=self.source,
                data_sha256=self.sha256,
                notes=_pooling_notes(model),
            ),
        )


def load_sentence_task(name: str, options: TaskOptions) -> SentenceTask:
    """Find the pairs of a task.

    Raises
    ------
    DataError
        If they are not to be had, or are too few.
    """
    definition = TASKS[name]
    if options.data is None:
        rows, source = _from_hub(name, definition.hub, definition.split), f"hub: {definition.hub}"
    else:
        file = task_file(options.data, name, definition.split)
        rows = read_rows(file, name, definition)
        source = f"file: {file.relative_to(options.data)}"
    rows = rows[: options.limit]
    if len(rows) < _FEWEST:
        raise DataError(f"{len(rows)} pairs for task {name}: a correlation needs {_FEWEST}")
    if len({row["score"] for row in rows}) < 2:
        raise DataError(f"all {len(rows)} pairs of task {name} have the same score: none to order")
    return SentenceTask(name, source, options.limit, tuple(rows))


def _from_hub(name: str, path: str, split: str) -> list[dict[str, Any]]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("datasets", "tasks") from error
    try:
        with quiet_logger("datasets"):
            found = datasets.load_dataset(path, split=split)
        fields = TASKS[name].fields
        return [{field: row[field] for field in fields} for row in found]
    except Exception as error:
        # datasets raises whatever it meets; the user needs the set and the reason.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"the items of task {name} ({path} on the hub) cannot be had: {reason}; go online "
            "once, or give local files with --data"
        ) from error


def _check_kind(model: LoadedModel) -> None:
    if model.kind not in (ModelKind.ENCODER, ModelKind.MASKED):
        raise ConfigError(f"{model.source.name} is no encoder of sentences but {model.kind.value}")
    if model.tokenizer is None:
        raise DataError(f"model {model.source.name} has no tokenizer, so it can read no sentence")


def _embeddings(model: LoadedModel, sentences: Sequence[str], batch_size: int) -> Tensor:
    """Mean last hidden states, float64 on the CPU, of shape ``(sentences, width)``."""
    tokenizer: Any = model.tokenizer
    module: Any = model.module
    body = module.base_model if model.kind is ModelKind.MASKED else module
    longest = min(model.longest_window or _LONGEST, _LONGEST)
    with quiet_transformers():
        tokens = [tokenizer.encode(s, truncation=True, max_length=longest) for s in sentences]
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    padding = getattr(tokenizer, "pad_token_id", None) or 0
    found: dict[int, Tensor] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            length = max(len(tokens[i]) for i in batch)
            ids = torch.full((len(batch), length), padding)
            mask = torch.zeros(len(batch), length, dtype=torch.int64)
            for row, i in enumerate(batch):
                ids[row, : len(tokens[i])] = torch.tensor(tokens[i])
                mask[row, : len(tokens[i])] = 1
            ids, mask = ids.to(module.device), mask.to(module.device)
            states = body(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[..., None].double()
            means = (states.double() * weight).sum(dim=1) / weight.sum(dim=1)
            found.update(zip(batch, means.cpu(), strict=True))
    embeddings = torch.stack([found[i] for i in range(len(tokens))])
    if not bool(torch.isfinite(embeddings).all()):
        raise DataError(
            f"{model.source.name} gives NaN or infinity: the weights or the number type overflow"
        )
    return embeddings


def _spearman_and_shares(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, Floats]:
    """Spearman's correlation, and each pair's share of it: jackknife pseudo-values.

    Their standard deviation over the root of their number is the jackknife's standard error,
    and they are moved (by less than that) to have the correlation itself as mean. Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    count = len(x)
    value = _spearman(x, y)
    keep = ~np.eye(count, dtype=bool)
    shares = np.array([count * value - (count - 1) * _spearman(x[k], y[k]) for k in keep])
    return value, shares - shares.mean() + value


def _spearman(x: Floats, y: Floats) -> float:
    """0 where one of them is the same everywhere: then it orders nothing."""
    x, y = rankdata(x), rankdata(y)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else 0.0


def _pooling_notes(model: LoadedModel) -> tuple[str, ...]:
    """Whether the model says that it pools otherwise."""
    file = model.source.directory / "1_Pooling" / "config.json"
    if not file.is_file() or read_json(file).get("pooling_mode_mean_tokens", True):
        return ()
    return ("the model was trained with another pooling than the mean, see 1_Pooling/config.json",)
