"""Texts that models are measured and calibrated on, and the windows cut from them."""

from __future__ import annotations

import ast
import hashlib
import random
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ConfigError, DataError
from studentfloat.models.hub_text import HUB_PREFIX, parse_data_set, read_data_set
from studentfloat.models.load import LoadedModel, ModelKind
from studentfloat.models.quiet import quiet_transformers

__all__ = ["EvaluationText", "cut_windows", "load_calibration_text", "load_text"]

_LARGEST_TEXT = 256 << 20
_SHORTEST_WINDOW = 2
_SHORTEST_DOCSTRING = 400
# The evaluation text is in pydoc_data; the rest is no library or not always there.
_NOT_LIBRARY = frozenset(
    {"pydoc_data", "site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo"}
    | {"lib2to3", "ensurepip", "__pycache__"}
)


@dataclass(frozen=True)
class EvaluationText:
    """A text and where it comes from."""

    content: str
    source: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the text in UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def load_text(path: str | Path | None = None) -> EvaluationText:
    """Read a text file in UTF-8, a data set, or the text that every CPython carries.

    A byte-order mark at the beginning is no part of the text.

    Parameters
    ----------
    path
        A file of up to 256 MiB; ``hub:owner/name,split=...`` for a data set, of which as much
        is read (:func:`~studentfloat.models.hub_text.parse_data_set`); None for
        ``pydoc_data.topics``, the language reference as shown by ``help()``. That differs a
        little between Python versions: results record its hash.

    Raises
    ------
    DataError
        If the file or data set cannot be read, is not text, or is empty.
    """
    if isinstance(path, str) and path.startswith(HUB_PREFIX):
        content = read_data_set(parse_data_set(path), _LARGEST_TEXT).removeprefix("\ufeff")
        return EvaluationText(content, f"data set {path.removeprefix(HUB_PREFIX)}")
    if path is None:
        from pydoc_data.topics import topics

        content = "\n\n".join(topics[key].strip() for key in sorted(topics))
        return EvaluationText(content, "pydoc_data.topics, the Python language reference")
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST_TEXT:
            raise DataError(f"the text {file} is larger than 256 MiB: cut it")
        content = file.read_text(encoding="utf-8-sig")  # a byte-order mark is no part of it
    except OSError as error:
        raise DataError(f"cannot read the text {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the text {file} is not UTF-8 (byte {error.start})") from error
    if not content.strip():
        raise DataError(f"the text {file} is empty")
    return EvaluationText(content, f"file {file.name}")


def load_calibration_text(path: str | Path | None = None) -> EvaluationText:
    """Read a text as :func:`load_text` does, or the docstrings of CPython's standard library.

    Parameters
    ----------
    path
        As for :func:`load_text`; None for every docstring of 400 characters or more in the
        standard library, in the order of its files. None of it is in the text that
        :func:`load_text` gives. It differs between Python versions: results record its hash.

    Raises
    ------
    DataError
        As for :func:`load_text`.
    """
    if path is not None:
        return load_text(path)
    content = _library_docstrings()
    if not content:
        raise DataError("this Python has no standard library in source: give a calibration text")
    return EvaluationText(content, "docstrings of the Python standard library")


@cache
def _library_docstrings() -> str:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for file in sorted(root.rglob("*.py")):
        if not _NOT_LIBRARY.isdisjoint(file.relative_to(root).parts):
            continue
        found += [text for text in _docstrings(file) if len(text) >= _SHORTEST_DOCSTRING]
    return "\n\n".join(found)


def _docstrings(file: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that a later Python will refuse
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, OSError, ValueError):
            return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):
            yield ast.get_docstring(node) or ""


def cut_windows(
    text: EvaluationText, model: LoadedModel, *, count: int, length: int, seed: int | None = None
) -> Tensor:
    """Cut windows of tokens, evenly spread over a text, without overlap.

    Parameters
    ----------
    text, model
        The model's tokenizer makes the tokens. For encoders a window begins and ends with
        the special tokens that they expect.
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


def _special_tokens(model: LoadedModel) -> tuple[list[int], list[int]]:
    if model.kind is ModelKind.CAUSAL or model.tokenizer is None:
        return [], []
    first = getattr(model.tokenizer, "cls_token_id", None)
    last = getattr(model.tokenizer, "sep_token_id", None)
    return ([first] if first is not None else []), ([last] if last is not None else [])
