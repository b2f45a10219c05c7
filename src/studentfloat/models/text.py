"""Texts that models are measured and calibrated on, and the windows cut from them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ConfigError, DataError
from studentfloat.models.hub_text import HUB_PREFIX, parse_data_set, read_data_set
from studentfloat.models.load import LoadedModel, ModelKind
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.standard_texts import (
    CALIBRATION_MIXTURE,
    EVALUATION_TEXTS,
    STANDARD_TEXTS,
    standard_text,
)

__all__ = [
    "EvaluationText",
    "TextMixture",
    "cut_windows",
    "load_calibration_text",
    "load_text",
    "load_texts",
    "window_start",
]

_LARGEST_TEXT = 256 << 20
_SHORTEST_WINDOW = 2


@dataclass(frozen=True)
class EvaluationText:
    """A text and where it comes from."""

    content: str
    source: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the text in UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True)
class TextMixture:
    """Texts of several kinds, each with its share of the windows that are cut.

    Attributes
    ----------
    parts
        Texts and shares, which sum to 1.
    """

    parts: tuple[tuple[EvaluationText, float], ...]

    @property
    def source(self) -> str:
        """Where the texts come from, in words."""
        if len(self.parts) == 1:
            return self.parts[0][0].source
        return "; ".join(f"{share:.0%} {text.source}" for text, share in self.parts)

    @property
    def sha256(self) -> str:
        """Hash of the texts and their shares; of one text, its own."""
        if len(self.parts) == 1:
            return self.parts[0][0].sha256
        told = "\n".join(f"{text.sha256} {share}" for text, share in self.parts)
        return hashlib.sha256(told.encode()).hexdigest()

    def cut(self, model: LoadedModel, *, count: int, length: int, seed: int) -> Tensor:
        """Windows of every text, as :func:`cut_windows` gives them: its share of `count` each.

        Shares are rounded to whole windows by the largest remainders.
        """
        counts = _whole_shares([share for _, share in self.parts], count)
        chosen = [(text, its) for (text, _), its in zip(self.parts, counts, strict=True) if its]
        return torch.cat(
            [cut_windows(text, model, count=its, length=length, seed=seed) for text, its in chosen]
        )


def _whole_shares(shares: Sequence[float], count: int) -> list[int]:
    exact = [share * count for share in shares]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: count - sum(whole)]:
        whole[i] += 1
    return whole


def load_text(path: str | Path | None = None) -> EvaluationText:
    """Read a text file in UTF-8, a data set, or one of the standard texts.

    A byte-order mark at the beginning is no part of the text.

    Parameters
    ----------
    path
        A file of up to 256 MiB; ``hub:owner/name,split=...`` for a data set, of which as much
        is read (:func:`~studentfloat.models.hub_text.parse_data_set`); the name of a standard
        text (:data:`~studentfloat.models.standard_texts.STANDARD_TEXTS`), unless a file has
        it; None for "pydoc", the language reference as shown by ``help()``. That differs a
        little between Python versions: results record its hash.

    Raises
    ------
    DataError
        If the file or data set cannot be read, is not text, or is empty.
    """
    if isinstance(path, str) and path.startswith(HUB_PREFIX):
        content = read_data_set(parse_data_set(path), _LARGEST_TEXT).removeprefix("\ufeff")
        return EvaluationText(content, f"data set {path.removeprefix(HUB_PREFIX)}")
    if path is None or (str(path) in STANDARD_TEXTS and not Path(path).exists()):
        return EvaluationText(*standard_text(EVALUATION_TEXTS[0] if path is None else str(path)))
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST_TEXT:
            raise DataError(f"the text {file} is larger than 256 MiB: cut it")
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read the text {file}: {error.strerror} (a file, hub:owner/name, or one of "
            f"{', '.join(STANDARD_TEXTS)})"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"the text {file} is not UTF-8 (byte {error.start})") from error
    if not content.strip():
        raise DataError(f"the text {file} is empty")
    return EvaluationText(content, f"file {file.name}")


def load_texts(paths: Sequence[str | Path] = ()) -> tuple[EvaluationText, ...]:
    """Read the texts that a model is measured on.

    Parameters
    ----------
    paths
        As for :func:`load_text`; none for
        :data:`~studentfloat.models.standard_texts.EVALUATION_TEXTS`.
    """
    return tuple(load_text(path) for path in paths or EVALUATION_TEXTS)


def load_calibration_text(path: str | Path | None = None) -> TextMixture:
    """Read a text as :func:`load_text` does, or the default mixture.

    Parameters
    ----------
    path
        As for :func:`load_text`; None for
        :data:`~studentfloat.models.standard_texts.CALIBRATION_MIXTURE`, none of which is in
        the texts that models are measured on by default.

    Raises
    ------
    DataError
        As for :func:`load_text`.
    """
    if path is not None:
        return TextMixture(((load_text(path), 1.0),))
    parts = [(load_text(name), share) for name, share in CALIBRATION_MIXTURE.items()]
    return TextMixture(tuple(parts))


def cut_windows(
    text: EvaluationText, model: LoadedModel, *, count: int, length: int, seed: int | None = None
) -> Tensor:
    """Cut windows of tokens, evenly spread over a text, without overlap.

    Parameters
    ----------
    text, model
        The model's tokenizer makes the tokens. A window of a causal model begins with the
        beginning-of-sequence token if the tokenizer adds one; a window of an encoder begins
        and ends with the special tokens that it expects.
    count, length
        Number of windows, tokens in each.
    seed
        Each window lies anywhere within its even share of the text, drawn with this seed;
        None spreads them evenly from the text's first token to its last.

    Returns
    -------
    Tensor
        int64, of shape ``(count, length)``.

    Raises
    ------
    DataError
        If the text is too short; the message says what would fit.
    ConfigError
        If the model cannot take windows of that length.
    """
    if length < _SHORTEST_WINDOW or count < 1:
        raise ConfigError(
            f"{count} windows of {length} tokens: at least 1 window of {_SHORTEST_WINDOW} tokens"
        )
    limit = model.longest_window
    if limit is not None and length > limit:
        raise ConfigError(
            f"windows of {length} tokens are longer than {model.source.name} takes: at most {limit}"
        )
    start, end = _special_tokens(model)
    inner = length - len(start) - len(end)
    if inner < _SHORTEST_WINDOW:
        raise ConfigError(
            f"windows of {length} tokens hold only the special tokens of {model.source.name}: "
            f"at least {_SHORTEST_WINDOW + len(start) + len(end)}"
        )
    tokens = _tokens(text, model.tokenizer, model.source.name)
    _check_vocabulary(tokens, model)
    if len(tokens) < count * inner:
        fit = len(tokens) // inner
        remedy = f"--windows {fit}" if fit else f"--window-length {max(2, len(tokens))} or shorter"
        raise DataError(
            f"the text ({text.source}) has {len(tokens)} tokens, too few for {count} windows of "
            f"{length}: use {remedy}, or a longer text"
        )
    starts = _starts(len(tokens), inner, count, seed)
    rows = [[*start, *tokens[begin : begin + inner], *end] for begin in starts]
    return torch.tensor(rows, dtype=torch.int64)


def _starts(tokens: int, inner: int, count: int, seed: int | None) -> list[int]:
    last = tokens - inner
    if seed is None:
        return [0] if count == 1 else [round(last * k / (count - 1)) for k in range(count)]
    draw = random.Random(seed)
    share = tokens / count
    return [int(k * share + draw.random() * (share - inner)) for k in range(count)]


def _tokens(text: EvaluationText, tokenizer: Any, name: str) -> Sequence[int]:
    if tokenizer is None:
        raise DataError(
            f"model {name} has no tokenizer, so it cannot read a text: use --weights-only"
        )
    with quiet_transformers():
        tokens: Sequence[int] = tokenizer(text.content, add_special_tokens=False)["input_ids"]
    return tokens


def _check_vocabulary(tokens: Sequence[int], model: LoadedModel) -> None:
    size = getattr(model.module.config, "vocab_size", None)
    if size is not None and tokens and max(tokens) >= size:
        raise DataError(
            f"the tokenizer of {model.source.name} gives token {max(tokens)}, but the model's "
            f"vocabulary ends at {size - 1}: they do not belong together"
        )


def window_start(model: LoadedModel) -> str | None:
    """The token that every window begins with, as the tokenizer spells it; None without one."""
    first, _ = _special_tokens(model)
    return (
        str(model.tokenizer.convert_ids_to_tokens(first[0])) if first and model.tokenizer else None
    )


def _special_tokens(model: LoadedModel) -> tuple[list[int], list[int]]:
    """What a window begins and ends with.

    A causal model's begin with the beginning-of-sequence token where its tokenizer adds one:
    models trained with it (Gemma) are off by orders of magnitude without.
    """
    if model.tokenizer is None:
        return [], []
    if model.kind is ModelKind.CAUSAL:
        first = getattr(model.tokenizer, "bos_token_id", None)
        with quiet_transformers():
            begins = model.tokenizer("a")["input_ids"][:1]
        return (begins if begins == [first] else []), []
    first = getattr(model.tokenizer, "cls_token_id", None)
    last = getattr(model.tokenizer, "sep_token_id", None)
    return ([first] if first is not None else []), ([last] if last is not None else [])
