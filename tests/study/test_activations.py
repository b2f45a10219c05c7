from __future__ import annotations

import pytest
import torch

from studentfloat.errors import ConfigError, DataError
from studentfloat.models import Trust
from studentfloat.study.profile import ActivationSettings, ProfileSettings, profile_model
from studentfloat.study.profiles import profile_models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny trained language model with a tokenizer, as transformers saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("activations") / "model"
    vocabulary = {word: i for i, word in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(5):
        ids = torch.randint(0, len(vocabulary), (4, 32))
        network(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(directory)
    return directory


def settings(text, **options) -> ProfileSettings:
    return ProfileSettings(activations=ActivationSettings(text=str(text), **options))


def test_activations_stand_beside_the_weights(model, tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 40)
    capture = ("linear", "kv-cache", "scores", "residual")
    profile = profile_model(
        str(model), settings(text, windows=3, window_length=32, capture=capture)
    )
    assert {row.kind for row in profile.summary} == {
        "weight", "activation", "kv-cache", "scores", "residual",
    }  # fmt: skip
    entered = {tensor.name: tensor for tensor in profile.tensors if tensor.part == "linear"}
    down = entered["model.layers.1.mlp.down_proj"]
    assert (down.kind, down.layer, down.role, down.count) == (
        "activation",
        1,
        "down_proj",
        3 * 32 * 48,
    )
    assert "lm_head" not in entered
    assert (
        entered["model.layers.0.self_attn.q_proj"].laws
        == entered["model.layers.0.self_attn.k_proj"].laws
    )


def test_a_text_shorter_than_a_window_gives_what_it_has(model, tmp_path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("only a few letters")
    profile = profile_model(str(model), settings(text, windows=4, window_length=32))
    assert any("only 18 tokens" in note for note in profile.notes)
    (down,) = {
        tensor.count
        for tensor in profile.tensors
        if tensor.role == "down_proj" and tensor.kind == "activation"
    }
    assert down == 18 * 48
    assert any(tensor.kind == "weight" and tensor.laws for tensor in profile.tensors)


def test_a_text_of_one_token_keeps_the_weights_of_every_model(model, tmp_path) -> None:
    (tmp_path / "one.txt").write_text("a")
    result = profile_models(
        (str(model), str(model)),
        settings(tmp_path / "one.txt"),
        listed=None,
        merge=False,
        output=None,
        trust=Trust(),
        progress=lambda share, what: None,
    )
    assert len(result.profiles) == 2
    for profile in result.profiles:
        assert {row.kind for row in profile.summary} == {"weight"}
        assert any("1 tokens" in note and "at least 2" in note for note in profile.notes)


def test_windows_longer_than_the_model_takes_are_cut(model, tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abc " * 400)
    profile = profile_model(str(model), settings(text, windows=2, window_length=512))
    assert any("windows of 64 tokens" in note for note in profile.notes)


def test_an_empty_text_is_an_error(model, tmp_path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="empty"):
        profile_model(str(model), settings(tmp_path / "empty.txt"))


def test_a_hook_that_never_fires_is_told_and_the_rest_stands(model, tmp_path, monkeypatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
    (tmp_path / "text.txt").write_text("abc " * 200)
    profile = profile_model(
        str(model), settings(tmp_path / "text.txt", windows=1, window_length=32)
    )
    idle = [tensor for tensor in profile.tensors if tensor.kind == "activation" and tensor.problem]
    assert {tensor.role for tensor in idle} == {"gate_proj"}
    assert "never fired" in idle[0].problem


def test_a_model_without_a_tokenizer_keeps_its_weights_profile(tmp_path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8,
    )  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path / "vit")
    profile = profile_model(
        str(tmp_path / "vit"), ProfileSettings(activations=ActivationSettings())
    )
    assert any("no tokenizer" in note for note in profile.notes)
    assert {row.kind for row in profile.summary} == {"weight"}


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="1 of 2 tokens"):
        ActivationSettings(window_length=1)
