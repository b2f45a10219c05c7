from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from studentfloat.errors import ConfigError, DataError
from studentfloat.models import Trust
from studentfloat.profile import ActivationSettings, ProfileSettings, profile_model
from studentfloat.profile.files import profile_from_json, profile_to_json
from studentfloat.profile.merge import merge_profiles
from studentfloat.profile.several import profile_models
from studentfloat.statistics import Sketch, fit_laws, record_of
from tests import tiny


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


def by_place(profile) -> dict:
    return {(tensor.kind, tensor.part, tensor.name): tensor for tensor in profile.tensors}


def test_shards_with_activations_add_up_to_the_whole(model, tmp_path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 40)
    wanted = ActivationSettings(
        str(tmp_path / "text.txt"), windows=5, window_length=32,
        capture=("linear", "kv-cache", "scores", "residual"),
    )  # fmt: skip
    whole = profile_model(str(model), ProfileSettings(activations=wanted))
    parts = [
        profile_model(str(model), ProfileSettings(activations=wanted, shard=(i, 3)))
        for i in (2, 3, 1)
    ]
    stored = [profile_from_json(json.loads(json.dumps(profile_to_json(part)))) for part in parts]
    merged = merge_profiles(stored)
    assert by_place(merged) == by_place(whole)
    assert set(merged.windows) == set(whole.windows)
    assert len(whole.windows) == 5
    assert merged.settings == whole.settings
    with pytest.raises(ConfigError, match="more than one part"):
        merge_profiles([stored[0], stored[0]])
    damaged = [replace(t, sketch="AAAA") if t.sketch else t for t in stored[0].tensors]
    with pytest.raises(DataError, match="sketch that cannot be read"):
        merge_profiles([replace(stored[0], tensors=tuple(damaged)), stored[1]])


def test_profiles_of_two_texts_add_up_if_their_sketches_were_kept(model, tmp_path) -> None:
    texts = {"one": "the quick brown fox ", "two": "jumps over the lazy dog "}
    for name, words in texts.items():
        (tmp_path / name).write_text(words * 40)

    def run(name: str, keep: bool = True):
        return profile_model(
            str(model),
            settings(tmp_path / name, windows=2, window_length=32, keep_sketches=keep),
        )

    one, two = run("one"), run("two")
    merged = merge_profiles([one, two])
    down = "model.layers.0.mlp.down_proj"
    expected = Sketch.from_text(by_place(one)["activation", "linear", down].sketch)
    expected.merge(Sketch.from_text(by_place(two)["activation", "linear", down].sketch))
    found = by_place(merged)["activation", "linear", down]
    assert found.laws == record_of(fit_laws(expected))
    assert found.count == 2 * 2 * 32 * 48
    for place, tensor in by_place(one).items():
        assert place[0] == "activation" or by_place(merged)[place] == tensor
    assert merged.settings["activations"]["windows"] == 4
    # What was merged may be merged on; what was counted already may not.
    with pytest.raises(ConfigError, match=r"window \w+ of the text is in more than one part"):
        merge_profiles([merged, two])
    with pytest.raises(ConfigError, match="--keep-sketches"):
        merge_profiles([run("one", keep=False), run("two", keep=False)])


def test_a_shard_without_a_window_says_so(model, tmp_path) -> None:
    (tmp_path / "text.txt").write_text("abc " * 100)
    activations = ActivationSettings(str(tmp_path / "text.txt"), windows=1, window_length=32)
    part = profile_model(str(model), ProfileSettings(activations=activations, shard=(2, 2)))
    assert any("no window falls to shard 2/2" in note for note in part.notes)
    assert {tensor.kind for tensor in part.tensors} == {"weight"}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    directory = tmp_path_factory.mktemp("seeing")
    return {
        make.__name__: tiny.save(make, directory / make.__name__, tokenizer=False, spread=1.0)
        for make in (tiny.vit, tiny.resnet)
    }


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_vision_models_see_noise_or_the_users_images(seeing, tmp_path, name) -> None:
    images = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    own = ActivationSettings(images=str(tmp_path / "images.npy"), windows=2)
    profile = profile_model(str(seeing[name]), ProfileSettings(activations=own))
    entered = {t.name: t for t in profile.tensors if t.kind == "activation"}
    first = next(iter(entered.values()))
    expected = fit_laws(images[:2])
    assert first.laws == record_of(expected)
    # Every weight but the classifier's, which the model without its head does not have.
    weights = [t for t in profile.tensors if t.kind == "weight" and "classifier" not in t.name]
    assert len(entered) == sum(t.part == "linear" for t in weights)
    assert all(tensor.laws is not None for tensor in entered.values())
    noise = profile_model(
        str(seeing[name]), ProfileSettings(activations=ActivationSettings(windows=1))
    )
    assert any("1 images of noise, 3 x" in note for note in noise.notes)
    (seen,) = [t for t in noise.tensors if t.name == first.name and t.kind == "activation"]
    assert seen.laws.normal.scale == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 3, 8, 8), np.uint8), "uint8: an array of floating point"),
        (np.zeros((3, 8, 8), np.float32), r"\(3, 8, 8\)"),
        (np.zeros((2, 1, 32, 32), np.float32), "3 channels"),
        (None, "cannot read the images"),
    ],
)
def test_what_are_no_images_costs_the_activations_only(seeing, tmp_path, array, message) -> None:
    if array is not None:
        np.save(tmp_path / "images.npy", array)
    wanted = ActivationSettings(images=str(tmp_path / "images.npy"))
    profile = profile_model(str(seeing["vit"]), ProfileSettings(activations=wanted))
    assert {row.kind for row in profile.summary} == {"weight"}
    assert any(re.search(message, note) for note in profile.notes)


def test_an_encoder_decoder_is_profiled_on_both_sides(tmp_path) -> None:
    directory = tiny.save(tiny.t5, tmp_path / "t5", spread=1.0)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 20)
    profile = profile_model(
        str(directory),
        settings(
            tmp_path / "text.txt", windows=2, window_length=64, capture=("linear", "residual")
        ),
    )
    found = by_place(profile)
    for name in (
        "encoder.block.1.layer.0.SelfAttention.q",
        "decoder.block.1.layer.0.SelfAttention.q",
        "decoder.block.1.layer.1.EncDecAttention.k",
    ):
        assert found["weight", "linear", f"{name}.weight"].count == 32 * 32
        entered = found["activation", "linear", name]
        assert entered.count == 2 * 64 * 32
        assert entered.laws is not None
    assert found["weight", "embedding", "shared.weight"].count == 260 * 32
    assert ("activation", "residual", "decoder.block.1.residual") in found
    # What crosses over is the encoder's output, so keys and values see the same numbers.
    crossing = "decoder.block.0.layer.1.EncDecAttention"
    assert (
        found["activation", "linear", f"{crossing}.k"].laws
        == found["activation", "linear", f"{crossing}.v"].laws
    )


def test_a_model_of_sound_keeps_its_weights_profile(tmp_path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        conv_dim=(8,), conv_kernel=(3,), conv_stride=(2,), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=1,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(tmp_path / "sound")
    profile = profile_model(
        str(tmp_path / "sound"), ProfileSettings(activations=ActivationSettings())
    )
    assert any("takes input_values, neither text nor images" in note for note in profile.notes)
    assert {row.kind for row in profile.summary} == {"weight"}


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="1 of 2 tokens"):
        ActivationSettings(window_length=1)
