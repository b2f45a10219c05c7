"""The cache in a format: one pass equals generation, and each part is as it says."""

from __future__ import annotations

import inspect

import pytest
import torch

from studentfloat.errors import ConfigError, ModelError
from studentfloat.models.kv_cache import KVCacheScheme, _rotate, _unrotate, quantized_kv_cache
from studentfloat.quantize import Scheme, fake_quantize
from tests import tiny

from .test_driver import loaded, windows

HOW = KVCacheScheme(Scheme("int4", 8), key_group=4, window=5, sink=2)
FAMILIES = ["llama", "qwen3", "mistral", "gemma2", "gpt2", "opt", "phi", "phi3", "gpt-neox"]


def logits(model, tokens, how=None):
    with torch.no_grad():
        if how is None:
            return model.module(input_ids=tokens).logits
        with quantized_kv_cache(model.module, how):
            return model.module(input_ids=tokens).logits


def cache_argument(module) -> str:
    """What transformers calls the cache: `cache` from 5.24 on, `past_key_values` before."""
    parameters = inspect.signature(module.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


@pytest.mark.parametrize("family", FAMILIES)
def test_all_recent_is_the_model_itself(family) -> None:
    model, tokens = loaded(tiny.FAMILIES[family]), windows(2).tokens
    whole = KVCacheScheme(Scheme("int2", 8), window=1000)
    torch.testing.assert_close(
        logits(model, tokens, whole), logits(model, tokens), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_is_generation(family) -> None:
    """Token by token with a cache, every step sees what one pass over the window saw."""
    model, tokens = loaded(tiny.FAMILIES[family]), windows(1, 22).tokens
    at_once = logits(model, tokens, HOW)
    assert not torch.allclose(at_once, logits(model, tokens), atol=1e-3)
    steps, cache, argument = [], None, cache_argument(model.module)
    with torch.no_grad(), quantized_kv_cache(model.module, HOW):
        for t in range(tokens.shape[1]):
            out = model.module(input_ids=tokens[:, t : t + 1], use_cache=True, **{argument: cache})
            cache = out[argument]
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, rtol=1e-4, atol=1e-4)


def test_which_tokens_are_old() -> None:
    positions = torch.arange(20)
    keys, values = HOW.old_keys(positions, 20), HOW.old_values(positions, 20)
    for t in range(20):
        for j in range(20):
            recent = j > t - 5
            assert bool(values[t, j]) == (j >= 2 and not recent)
            last_of_group = 2 + (j - 2) // 4 * 4 + 3
            assert bool(keys[t, j]) == (j >= 2 and last_of_group <= t - 5)


def test_keys_per_channel_values_per_token() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, 14, 8, generator=generator)
    keys, values = HOW.round_keys(states), HOW.round_values(states)
    assert torch.equal(keys[:, :, :2], states[:, :, :2])
    for head in range(2):
        for channel in range(8):
            group = states[0, head, 6:10, channel]
            expected, _ = fake_quantize(group, Scheme("int4", "row"))
            assert torch.equal(keys[0, head, 6:10, channel], expected)
        for token in range(14):
            expected, _ = fake_quantize(states[0, head, token], Scheme("int4", "row"))
            assert torch.equal(values[0, head, token], expected)


def test_keys_are_rounded_before_rotation_where_they_can_be() -> None:
    for family, sound in (("llama", True), ("qwen3", True), ("phi3", False)):
        model = loaded(tiny.FAMILIES[family])
        with torch.no_grad(), quantized_kv_cache(model.module, HOW) as report:
            model.module(input_ids=windows(1).tokens)
        assert bool(report.notes) is not sound, family
        if not sound:
            assert "after rotation" in next(iter(report.notes.values()))
    model, tokens = loaded(tiny.llama), windows(1).tokens
    turned = KVCacheScheme(Scheme("int4", 8), 4, 5, 2, rotated=True)
    assert not torch.equal(logits(model, tokens, HOW), logits(model, tokens, turned))


def test_rotation_is_undone() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 2, 6, 8, generator=generator, dtype=torch.float64)
    angle = torch.rand(1, 1, 6, 2, generator=generator, dtype=torch.float64).repeat(1, 1, 1, 2)
    for stretch in (1.0, 1.3):
        cos, sin = angle.cos() * stretch, angle.sin() * stretch
        torch.testing.assert_close(_unrotate(_rotate(keys, cos, sin), cos, sin), keys)


def test_bytes_per_token() -> None:
    model = loaded(tiny.llama)  # 2 layers, 2 key heads of 12 channels
    how = KVCacheScheme(Scheme("e2m1", 4, scale_dtype="bfloat16"), key_group=8)
    with torch.no_grad(), quantized_kv_cache(model.module, how) as report:
        model.module(input_ids=windows(1).tokens)
    keys, values = 12 * (4 + 16 / 8), 12 * 4 + 3 * 16
    assert report.bytes_per_token == 2 * 2 * (keys + values) / 8
    assert report.bytes_per_token_16bit == 2 * 2 * 24 * 2


def test_finer_formats_are_nearer() -> None:
    model, tokens = loaded(tiny.llama), windows().tokens
    plain = logits(model, tokens)
    off = [
        float((logits(model, tokens, KVCacheScheme(Scheme(f, 8), 4, 5, 2)) - plain).norm())
        for f in ("int2", "int4", "int8")
    ]
    assert off[0] > off[1] > off[2]


def test_misuse() -> None:
    with pytest.raises(ConfigError, match="window of 0"):
        KVCacheScheme(Scheme("int4"), window=0)
    with pytest.raises(ConfigError, match="tokens come one by one"):
        KVCacheScheme(Scheme("int4", scale_dtype="e4m3"))
    with (
        pytest.raises(ModelError, match="Linear has no attention"),
        quantized_kv_cache(torch.nn.Linear(2, 2), HOW),
    ):
        pass
