"""The standard texts, the mixture that calibration reads, and what windows begin with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from studentfloat.errors import DataError
from studentfloat.models.load import ModelKind
from studentfloat.models.standard_texts import CALIBRATION_MIXTURE, EVALUATION_TEXTS, STANDARD_TEXTS
from studentfloat.models.text import (
    EvaluationText,
    TextMixture,
    cut_windows,
    load_calibration_text,
    load_text,
    load_texts,
    window_start,
)


class Tokenizer:
    """A token a letter; 1 at the beginning where it `adds` that."""

    bos_token_id = 1

    def convert_ids_to_tokens(self, index: int) -> str:
        return "<s>" if index == 1 else chr(index)

    def __init__(self, adds: bool) -> None:
        self.adds = adds

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        begins = [1] if self.adds and add_special_tokens else []
        return {"input_ids": [*begins, *(ord(letter) for letter in text)]}


def model(*, adds: bool):
    return SimpleNamespace(
        kind=ModelKind.CAUSAL,
        tokenizer=Tokenizer(adds),
        longest_window=None,
        source=SimpleNamespace(name="m"),
        module=SimpleNamespace(config=SimpleNamespace(vocab_size=200)),
    )


@pytest.mark.embedded
def test_no_text_is_calibrated_and_evaluated_on() -> None:
    read = {name: load_text(name).content for name in STANDARD_TEXTS}
    assert all(len(content) > 100_000 for content in read.values())
    held_out = "\n\n".join(read[name] for name in EVALUATION_TEXTS)
    for name in CALIBRATION_MIXTURE:
        lines = {line for line in read[name].splitlines() if len(line) > 120}
        assert not lines & set(held_out.splitlines())
    assert "<doc" not in read["articles"]


@pytest.mark.embedded
def test_the_default_mixture_says_what_it_is() -> None:
    mixture = load_calibration_text()
    assert sum(share for _, share in mixture.parts) == pytest.approx(1)
    assert "35% web pages" in mixture.source
    assert [text.source for text in load_texts()] == [load_text(t).source for t in EVALUATION_TEXTS]


def test_shares_become_whole_windows() -> None:
    texts = [EvaluationText(letter * 400, letter) for letter in "abc"]
    mixture = TextMixture(tuple(zip(texts, (0.5, 0.3, 0.2), strict=True)))
    windows = mixture.cut(model(adds=False), count=7, length=10, seed=0)
    assert [chr(int(row[0])) for row in windows] == list("aaaabbc")
    one = mixture.cut(model(adds=False), count=1, length=10, seed=0)
    assert [chr(int(row[0])) for row in one] == ["a"]


def test_the_hash_of_a_mixture_tells_texts_and_shares_apart() -> None:
    a, b = EvaluationText("a", "a"), EvaluationText("b", "b")
    hashes = {
        TextMixture(parts).sha256
        for parts in (((a, 1.0),), ((a, 0.5), (b, 0.5)), ((a, 0.4), (b, 0.6)), ((b, 1.0),))
    }
    assert len(hashes) == 4
    assert TextMixture(((a, 1.0),)).sha256 == a.sha256


@pytest.mark.parametrize("adds", [True, False])
def test_windows_begin_as_the_tokenizer_does(adds) -> None:
    windows = cut_windows(EvaluationText("abcdef" * 20, "t"), model(adds=adds), count=2, length=8)
    assert windows.shape == (2, 8)
    assert [row[0] == 1 for row in windows.tolist()] == [adds, adds]
    assert 1 not in windows[:, 1:]
    assert window_start(model(adds=adds)) == ("<s>" if adds else None)


def test_a_byte_order_mark_is_no_text(tmp_path) -> None:
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfwords")
    assert load_text(tmp_path / "t").content == "words"


def test_a_missing_text_says_what_would_be_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"cannot read the text wkik: No such file.*articles"):
        load_text("wkik")
    (tmp_path / "code").write_text("of my own")
    assert load_text("code").content == "of my own"
