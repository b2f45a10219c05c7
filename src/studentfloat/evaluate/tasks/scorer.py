"""A causal language model as lm-evaluation-harness asks for it, scoring no more than is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate.tasks.sequences import ScoredTokens, SequenceScorer
from studentfloat.models import LoadedModel, ModelKind
from studentfloat.models.quiet import quiet_transformers

__all__ = ["StudentFloatLM"]

Tick = Callable[[], None]

# What lm-evaluation-harness takes where neither the model nor its tokenizer sets a bound.
_DEFAULT_WINDOW = 2048
_UNBOUNDED = 10**9
"""Tokenizers without a bound name an absurd one."""


class StudentFloatLM(TemplateLM):  # type: ignore[misc]
    """Log-likelihoods by a model in memory, for ``lm_eval.evaluate`` or for us.

    Equal to ``lm_eval.models.huggingface.HFLM`` within rounding, tokens and truncation
    included; the model is only read: nothing is tied again, moved or cast.

    Parameters
    ----------
    model
        A causal language model with its tokenizer.
    batch_size
        Items (a context with all its choices) that run at a time.
    share_prefix
        Run what the choices of an item have in common once, where the model allows it;
        otherwise each choice is run whole.
    tick
        Called after each item.

    Raises
    ------
    ConfigError
        If the model is no causal language model.
    DataError
        If it has no tokenizer.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        batch_size: int = 8,
        share_prefix: bool = True,
        tick: Tick = lambda: None,
    ) -> None:
        super().__init__()
        if model.kind is not ModelKind.CAUSAL:
            raise ConfigError(
                f"{model.source.name} is no causal language model but {model.kind.value}"
            )
        if model.tokenizer is None:
            raise DataError(f"model {model.source.name} has no tokenizer, so it can do no task")
        self.tokenizer = model.tokenizer
        self._model = model
        self._tick = tick
        self._prefix_text = str(self.tokenizer.decode(self.prefix_token_id))
        self._scorer = SequenceScorer(
            model.module,
            name=model.source.name,
            batch_size=batch_size,
            share_prefix=share_prefix,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than asked for, so far."""
        return tuple(self._scorer.notes)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context: that of beginning, or else of ending."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        # Neither: as a last resort whatever separates texts, since an empty context needs some.
        for token in (self.tokenizer.cls_token_id, self.tokenizer.pad_token_id):
            if token is not None:
                return int(token)
        return 0

    @property
    def max_length(self) -> int:
        """Most tokens that go into the model; longer contexts lose their beginning."""
        if self._model.longest_window is not None:
            return self._model.longest_window
        bound = getattr(self.tokenizer, "model_max_length", None)
        return int(bound) if bound and bound < _UNBOUNDED else _DEFAULT_WINDOW

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own caches of prompts, which we do not use."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_options: Any
    ) -> list[int]:
        """Tokens of a text, special ones as the tokenizer adds them unless told otherwise."""
        if add_special_tokens is None and string.startswith(self._prefix_text):
            add_special_tokens = False  # the text brings its own
        chosen = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        tokens: list[int] = self.tokenizer.encode(string, **chosen)
        return tokens

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding gives it.

        Parameters
        ----------
        requests
            The harness's, with ``args`` of context and continuation. Neighbors of the same
            task and document are the choices of one item.

        Returns
        -------
        list of (float, bool)
            Nats; one per request.
        """
        with quiet_transformers():
            pairs = [self._encode(*request.args) for request in requests]
        items = []
        numbered = enumerate(requests)
        for _, group in groupby(numbered, key=lambda r: (r[1].task_name, r[1].doc_id, _alone(r))):
            items.append([index for index, _ in group])
        return self._score(pairs, items)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-likelihood in nats of each whole text, in windows of the model's length."""
        pairs, owners = [], []
        with quiet_transformers():
            for index, request in enumerate(requests):
                windows = get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                for window in map(make_disjoint_window, windows):
                    pairs.append(window)
                    owners.append(index)
        scores = self._score(pairs, [[i] for i in range(len(pairs))], last=_ends(owners))
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, scores, strict=True):
            totals[owner] += total
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:
        """Not done here.

        Raises
        ------
        ConfigError
            Always.
        """
        raise ConfigError(
            "tasks that generate text are not scored here, only those that compare "
            "log-likelihoods; lm_eval's HFLM takes a packed model too (docs/tasks.md)"
        )

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context:
            pair: tuple[list[int], list[int]] = self._encode_pair(context, continuation)
            return pair
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        if tokens and tokens[0] == self.prefix_token_id:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_options: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self._score(pairs, [[i] for i in range(len(pairs))])

    def _score(
        self,
        pairs: Sequence[tuple[list[int], list[int]]],
        items: Iterable[list[int]],
        last: set[int] | None = None,
    ) -> list[tuple[float, bool]]:
        """Scores of tokenized pairs; `last` names those whose end is that of an item."""
        sequences = [self._sequence(*pair) for pair in pairs]

        def done(indices: Sequence[int]) -> None:
            if last is None or last.intersection(indices):
                self._tick()

        return self._scorer.score(sequences, list(items), done)

    def _sequence(self, context: list[int], continuation: list[int]) -> ScoredTokens:
        if not context or not continuation:
            raise DataError(
                f"an item of {len(context)} tokens of context and {len(continuation)} of "
                "continuation: it needs one of each"
            )
        if len(continuation) > self.max_length:
            raise DataError(
                f"a continuation of {len(continuation)} tokens is longer than "
                f"{self._model.source.name} takes: at most {self.max_length}"
            )
        size = getattr(self._model.module.config, "vocab_size", None)
        if size is not None and max(*context, *continuation) >= size:
            raise DataError(
                f"the tokenizer of {self._model.source.name} gives token "
                f"{max(*context, *continuation)}, but the model's vocabulary ends at {size - 1}: "
                "they do not belong together"
            )
        # What is too long loses its beginning; the last token is only predicted.
        tokens = (context + continuation)[-(self.max_length + 1) :]
        return ScoredTokens(tuple(tokens[:-1]), tuple(continuation))


def _alone(numbered: tuple[int, Instance]) -> int | None:
    """Requests that name no document belong to no item: each stands alone."""
    index, request = numbered
    return index if request.doc_id is None else None


def _ends(owners: Sequence[int]) -> set[int]:
    """Where a text's last window is."""
    return {max(i for i in group) for group in _runs(owners)}


def _runs(owners: Sequence[int]) -> Iterable[list[int]]:
    for _, group in groupby(range(len(owners)), key=lambda i: owners[i]):
        yield list(group)
