"""A tokenizer as GGUF's keys: byte-level BPE or SentencePiece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studentfloat.errors import MissingDependencyError, ModelError, SchemeError
from studentfloat.models.quiet import quiet_logger
from studentfloat.untrusted import read_json, table

__all__ = ["tokenizer_metadata"]

# How llama.cpp calls the ways to cut text before BPE; a wrong one gives other tokens in silence.
_GPT2 = {"type": "ByteLevel", "use_regex": True}
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUTS: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("gpt-2", (_GPT2,)),
    ("smollm", ({"type": "Digits", "individual_digits": True}, _GPT2)),
    (
        "llama-bpe",
        (
            {"type": "Split", "pattern": {"Regex": rf"{_WORDS}\p{{N}}{{1,3}}{_REST}"}},
            {"type": "ByteLevel", "use_regex": False},
        ),
    ),
    (
        "qwen2",
        (
            {"type": "Split", "pattern": {"Regex": rf"{_WORDS}\p{{N}}{_REST}"}},
            {"type": "ByteLevel", "use_regex": False},
        ),
    ),
)


def tokenizer_metadata(writer: Any, directory: Path, size: int) -> None:
    """Tell a GGUF writer a model's tokenizer, special tokens and chat template.

    Parameters
    ----------
    writer
        A ``gguf.GGUFWriter``.
    directory
        With ``tokenizer.json`` (byte-level BPE) or ``tokenizer.model`` (SentencePiece).
    size
        Rows of the embedding; ids without a token are marked unused.

    Raises
    ------
    SchemeError
        If llama.cpp would cut text otherwise.
    """
    from gguf import SpecialVocab, TokenType

    if (directory / "tokenizer.model").is_file():
        model, tokens = "llama", _sentencepiece(directory / "tokenizer.model")
    elif (directory / "tokenizer.json").is_file():
        data = _tokenizer_json(directory)
        writer.add_tokenizer_pre(_cut(data))
        model, tokens = "gpt2", _byte_level(data)
    else:
        raise ModelError(f"{directory} has no tokenizer: no tokenizer.json or tokenizer.model")
    _add_extra(tokens, directory)
    _check_size(tokens, size, directory)
    unused = int(TokenType.UNUSED)
    rows = [tokens.get(i, (f"[PAD{i}]", 0.0, unused)) for i in range(size)]
    writer.add_tokenizer_model(model)
    writer.add_token_list([text for text, _, _ in rows])
    if model == "llama":
        writer.add_token_scores([score for _, score, _ in rows])
    writer.add_token_types([kind for _, _, kind in rows])
    with quiet_logger("gguf"):
        special = SpecialVocab(directory, load_merges=model == "gpt2", n_vocab=size)
        special.add_to_gguf(writer, quiet=True)


Tokens = dict[int, tuple[str, float, int]]


def _byte_level(data: dict[str, Any]) -> Tokens:
    from gguf import TokenType

    return {
        number: (text, 0.0, int(TokenType.NORMAL))
        for text, number in data["model"]["vocab"].items()
    }


def _sentencepiece(file: Path) -> Tokens:
    from gguf import TokenType

    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("sentencepiece", "models") from error
    model = SentencePieceProcessor()
    model.LoadFromFile(str(file))
    kinds = (
        (model.IsUnknown, TokenType.UNKNOWN),
        (model.IsControl, TokenType.CONTROL),
        (model.IsUnused, TokenType.UNUSED),
        (model.IsByte, TokenType.BYTE),
    )
    return {
        number: (
            model.IdToPiece(number),
            model.GetScore(number),
            int(next((kind for test, kind in kinds if test(number)), TokenType.NORMAL)),
        )
        for number in range(model.GetPieceSize())
    }


def _add_extra(tokens: Tokens, directory: Path) -> None:
    """Tokens beyond the vocabulary: special ones are control tokens, others the user's own."""
    from gguf import TokenType

    file = directory / "tokenizer.json"
    if not file.is_file():
        return
    for number, extra in enumerate(_tokenizer_json(directory).get("added_tokens", [])):
        try:
            kind = TokenType.CONTROL if extra.get("special") else TokenType.USER_DEFINED
            tokens[int(extra["id"])] = (str(extra["content"]), -1000.0, int(kind))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{file}: added_tokens[{number}] must have an 'id' and a 'content'"
            ) from error


def _tokenizer_json(directory: Path) -> dict[str, Any]:
    file = directory / "tokenizer.json"
    return table(read_json(file, error=ModelError, lenient=True), str(file), error=ModelError)


def _check_size(tokens: Tokens, size: int, directory: Path) -> None:
    if tokens and max(tokens) >= size:
        raise ModelError(
            f"the tokenizer in {directory} has a token {max(tokens)}, the embedding {size} rows"
        )


def _cut(data: dict[str, Any]) -> str:
    """llama.cpp's name for how text is cut before BPE."""
    if data.get("model", {}).get("type") != "BPE":
        raise SchemeError(
            f"GGUF export knows byte-level BPE and SentencePiece, not a tokenizer of type "
            f"{data.get('model', {}).get('type')!r}"
        )
    if not data["model"].get("merges"):
        raise SchemeError(
            "GGUF export: the tokenizer's BPE merges nothing, which llama.cpp refuses"
        )
    given = data.get("pre_tokenizer") or {}
    steps = given.get("pretokenizers", [given]) if given.get("type") == "Sequence" else [given]
    for name, wanted in _CUTS:
        if len(steps) == len(wanted) and all(
            step.get(key) == value
            for step, one in zip(steps, wanted, strict=True)
            for key, value in one.items()
        ):
            return name
    raise SchemeError(
        "GGUF export does not know how this tokenizer cuts text, and llama.cpp would cut it "
        f"otherwise: {json.dumps(given)[:160]}. Known are {', '.join(name for name, _ in _CUTS)}; "
        "a tokenizer.model of SentencePiece is carried too"
    )
