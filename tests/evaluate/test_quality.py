from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate import OriginalOutputs, cut_windows, load_text, quality, score_windows
from studentfloat.models import find_model, load_model, walk_weights
from studentfloat.models.text import load_calibration_text
from tests import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        name: load_model(find_model(str(tiny.save(make, root / name))))
        for name, make in (
            ("llama", tiny.llama),
            ("bert", tiny.bert),
            ("masked", lambda: tiny.bert(head=True)),
            ("t5", tiny.t5),
        )
    }


def damaged(model):
    """The same model with its weights rounded to 2 bits; restores them afterwards."""
    sites, _ = walk_weights(model.module)
    kept = [site.parameter.detach().clone() for site in sites]
    for site in sites:
        site.apply(lambda w: (w * 20).round() / 20)
    return lambda: [s.parameter.data.copy_(k) for s, k in zip(sites, kept, strict=True)]


def test_scores_against_a_plain_computation(models) -> None:
    """The oracle: softmax in float64, sums written out."""
    model = models["llama"]
    windows = cut_windows(load_text(), model, count=3, length=40)
    original = OriginalOutputs(model, windows)
    with torch.no_grad():
        before = model.module(input_ids=windows).logits.double().numpy()
    restore = damaged(model)
    scores = score_windows(model, windows, original)
    with torch.no_grad():
        after = model.module(input_ids=windows).logits.double().numpy()
    restore()

    def probabilities(logits):
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    p, q = probabilities(before), probabilities(after)
    for i in range(3):
        kl = (p[i] * np.log(p[i] / q[i])).sum(axis=-1).mean()
        assert scores["kl"][i] == pytest.approx(kl, rel=1e-4)
        assert scores["agreement"][i] == np.mean(p[i].argmax(-1) == q[i].argmax(-1))
        likelihood = [q[i, t, windows[i, t + 1]] for t in range(39)]
        assert scores["nll"][i] == pytest.approx(-np.mean(np.log(likelihood)), rel=1e-5)
        reference = [p[i, t, windows[i, t + 1]] for t in range(39)]
        assert original.nll[i] == pytest.approx(-np.mean(np.log(reference)), rel=1e-5)
    assert min(scores["kl"]) > 0.01


def test_an_unchanged_model_loses_nothing(models) -> None:
    for name in ("llama", "masked", "bert"):
        windows = cut_windows(load_text(), models[name], count=2, length=32)
        scores = score_windows(models[name], windows, OriginalOutputs(models[name], windows))
        assert all(abs(v) < 1e-7 for v in (*scores["kl"], *scores["output_nmse"]))
        assert all(v == 1 for v in scores["agreement"])


def test_encoders_are_scored_by_their_outputs(models) -> None:
    model = models["bert"]
    windows = cut_windows(load_text(), model, count=2, length=32)
    assert windows[:, 0].tolist() == [1, 1]  # <cls>
    assert windows[:, -1].tolist() == [2, 2]  # <sep>
    original = OriginalOutputs(model, windows)
    restore = damaged(model)
    scores = score_windows(model, windows, original)
    restore()
    assert scores["nll"] == ()
    assert scores["kl"] == ()
    assert all(0 < v < 2 for v in scores["output_nmse"])


def test_large_outputs_go_to_a_file_and_read_back_the_same(models, monkeypatch, tmp_path) -> None:
    model = models["llama"]
    windows = cut_windows(load_text(), model, count=2, length=16)
    in_memory = OriginalOutputs(model, windows)
    monkeypatch.setattr(quality, "_LARGEST_IN_MEMORY", 10)
    on_disk = OriginalOutputs(model, windows, scratch=tmp_path)
    assert all(torch.equal(in_memory[i], on_disk[i]) for i in range(2))


def test_windows_spread_without_overlap(models) -> None:
    model = models["llama"]
    text = load_text()
    windows = cut_windows(text, model, count=4, length=100)
    tokens = model.tokenizer(text.content, add_special_tokens=False)["input_ids"]
    assert windows[0].tolist() == tokens[:100]
    assert windows[-1].tolist() == tokens[-100:]
    assert cut_windows(text, model, count=1, length=64).shape == (1, 64)


def test_text_that_cannot_be_used(models, tmp_path) -> None:
    model = models["llama"]
    (tmp_path / "empty").write_text("  \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short").write_text("a few words")
    for name, message in (("empty", "is empty"), ("binary", "not UTF-8"), ("none", "cannot read")):
        with pytest.raises(DataError, match=message):
            load_text(tmp_path / name)
    short = load_text(tmp_path / "short")
    with pytest.raises(DataError, match=r"11 tokens, too few for 2 windows of 8: use --windows 1"):
        cut_windows(short, model, count=2, length=8)
    with pytest.raises(DataError, match="--window-length 11"):
        cut_windows(short, model, count=1, length=64)
    with pytest.raises(ConfigError, match="at most 128"):
        cut_windows(load_text(), model, count=1, length=129)
    with pytest.raises(ConfigError, match="at least 1 window"):
        cut_windows(load_text(), model, count=0, length=16)


def test_windows_of_special_tokens_alone_are_refused(models) -> None:
    with pytest.raises(ConfigError, match=r"only the special tokens.*at least 4"):
        cut_windows(load_text(), models["bert"], count=3, length=2)


def test_a_tokenizer_of_another_model_is_named(models) -> None:
    model = models["llama"]
    model.module.config.vocab_size, kept = 50, model.module.config.vocab_size
    with pytest.raises(DataError, match="vocabulary ends at 49"):
        cut_windows(load_text(), model, count=1, length=16)
    model.module.config.vocab_size = kept


def test_models_that_read_no_text(models) -> None:
    with pytest.raises(ConfigError, match="takes no plain text"):
        OriginalOutputs(models["t5"], torch.zeros(1, 4, dtype=torch.int64))


def test_overflow_is_named(models) -> None:
    model = models["llama"]
    windows = cut_windows(load_text(), model, count=1, length=16)
    norm = model.module.model.norm.weight
    kept = norm.detach().clone()
    norm.data.fill_(math.inf)
    with pytest.raises(DataError, match="NaN or infinity on window 1"):
        OriginalOutputs(model, windows)
    norm.data.copy_(kept)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path) -> None:
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_bytes("Łódź\r\nand more".encode())
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert load_text(marked).content == "Łódź\nand more"
    assert load_text(marked).sha256 == load_text(plain).sha256
    assert load_calibration_text(marked).sha256 == load_calibration_text(plain).sha256
