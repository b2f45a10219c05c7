"""The cache in a format: one pass equals generation, and each part is as it says."""

from __future__ import annotations

import copy
import inspect
import weakref
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache

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


FOLLOWED = ["llama", "mistral", "gemma3", "gpt2", "phi3"]
ALL_RECENT = KVCacheScheme(Scheme("int2", 8), window=1000)
GENERATION = {
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
}


@pytest.mark.parametrize("how", GENERATION)
@pytest.mark.parametrize("family", FOLLOWED)
def test_generation_is_the_plain_one_where_all_is_recent(family: str, how: str) -> None:
    model = loaded(tiny.FAMILIES[family])
    # A prompt that repeats itself, so that looking up finds something to propose and to reject.
    tokens = windows(1, 7).tokens.repeat(1, 3)[:, :20]
    said = []
    for cache in (nullcontext(), quantized_kv_cache(model.module, ALL_RECENT)):
        torch.manual_seed(0)
        with torch.no_grad(), cache:
            said.append(
                model.module.generate(
                    tokens, max_new_tokens=12, min_new_tokens=12, pad_token_id=0, **GENERATION[how]
                )
            )
    assert said[0].shape[1] == 32
    assert torch.equal(*said)


def steps(module, tokens, cache, size: int = 1):
    """Logits of tokens handed over a few at a time."""
    parts = [
        module(input_ids=part, use_cache=True, **{cache_argument(module): cache}).logits
        for part in tokens.split(size, dim=1)
    ]
    return torch.cat(parts, dim=1)


def branches(module, one, two):
    """A prefix, two branches of it in turns, and one of them cut back and taken again."""
    prefix, cache = one[:, :9], DynamicCache(config=module.config)
    told = {"prefix": steps(module, prefix, cache, 4)}
    mine, other = copy.deepcopy(cache), copy.deepcopy(cache)
    first = [steps(module, one[:, 9:12], mine)]
    second = [steps(module, two[:, 9:12], other)]
    first.append(steps(module, one[:, 12:15], mine, 3))
    second.append(steps(module, two[:, 12:14], other, 2))
    told["cut"] = steps(module, two[:, 14:], other)
    other.crop(-(two.shape[1] - 12))
    told["again"] = steps(module, two[:, 12:], other, 2)
    told["rows"] = steps(module, torch.cat([two, one, one])[:, 9:11], _three(cache))
    return {**told, "first": torch.cat(first, dim=1), "second": torch.cat(second, dim=1)}


def _three(cache):
    cache.batch_repeat_interleave(3)
    return cache


@pytest.mark.parametrize("how", [ALL_RECENT, HOW], ids=["all recent", "rounded"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "phi3"])
def test_branches_turns_and_cuts_see_what_one_pass_sees(family: str, how) -> None:
    model = loaded(tiny.FAMILIES[family])
    one, two = windows(2, 15).tokens.split(1)  # shorter than what slides, so that it can be cut
    two = torch.cat([one[:, :9], two[:, 9:]], dim=1)
    with torch.no_grad(), quantized_kv_cache(model.module, how):
        told = branches(model.module, one, two)
        ones, twos = (model.module(input_ids=t, use_cache=False).logits for t in (one, two))
    expected = {
        "prefix": ones[:, :9],
        "first": ones[:, 9:15],
        "second": twos[:, 9:14],
        "cut": twos[:, 14:],
        "again": twos[:, 12:],
        "rows": torch.cat([twos, ones, ones])[:, 9:11],
    }
    for name, logits_ in expected.items():
        torch.testing.assert_close(told[name], logits_, rtol=1e-4, atol=1e-4, msg=name)


def test_sequences_longer_than_what_slides_in_turns() -> None:
    model = loaded(tiny.FAMILIES["mistral"])  # 16 tokens
    tokens = windows(3, 24).tokens
    with torch.no_grad(), quantized_kv_cache(model.module, HOW):
        caches = [DynamicCache(config=model.module.config) for _ in tokens]
        parts: list[list[torch.Tensor]] = [[] for _ in tokens]
        for part in tokens.split(5, dim=1):
            for row, cache in enumerate(caches):
                parts[row].append(steps(model.module, part[row : row + 1], cache, 5))
        at_once = model.module(input_ids=tokens, use_cache=False).logits
    turns = torch.cat([torch.cat(part, dim=1) for part in parts])
    torch.testing.assert_close(turns, at_once, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_followed_is_refused() -> None:
    model, tokens = loaded(tiny.llama), windows(1, 20).tokens
    module = model.module
    with torch.no_grad():
        before = module(input_ids=tokens, use_cache=True).past_key_values
        with quantized_kv_cache(module, HOW):
            with pytest.raises(ModelError, match="20 tokens that this simulation has not seen"):
                steps(module, tokens[:, :1], before)
            with pytest.raises(ModelError, match="cache of Static"):
                module.generate(tokens, max_new_tokens=2, cache_implementation="static")
            caches = [
                module(input_ids=tokens + n, use_cache=True).past_key_values for n in range(9)
            ]
            steps(module, tokens[:, :1], caches[1])
            with pytest.raises(ModelError, match="not among its last 8 sequences"):
                steps(module, tokens[:, :1], caches[0])


def test_what_is_remembered_ends_with_its_cache() -> None:
    from studentfloat.models.cache_states import CacheStates, Handed, State

    module, states = torch.nn.Linear(1, 1), CacheStates()
    for n in range(4):
        cache = DynamicCache()
        keys = torch.full((1, 1, 3, 2), float(n))
        states.keep(module, State(keys, keys, None), Handed(weakref.ref(cache), 0))
        assert len(states._states[id(module)]) <= 2
