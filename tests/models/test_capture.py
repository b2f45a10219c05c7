from __future__ import annotations

import pytest
import torch
from torch import nn

from studentfloat.errors import ConfigError
from studentfloat.models.capture import capture_activations
from studentfloat.statistics import Sketch


class Twins(nn.Module):
    """Two layers that share their input, one after them, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last, self.idle = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.left(x)
        x = x.clone() if self.training else x
        return self.last(left + self.right(x))


def test_hooks_see_exactly_what_enters() -> None:
    torch.manual_seed(0)
    model = Twins().eval()
    batches = [{"x": torch.randn(5, 8)}, {"x": torch.randn(3, 8)}]
    sketches = capture_activations(model, batches)
    expected = Sketch.of(torch.cat([batch["x"] for batch in batches]).numpy())
    assert sketches.by_name["left"] == expected
    assert sketches.by_name["right"] == expected
    with torch.no_grad():
        inner = torch.cat([model.left(b["x"]) + model.right(b["x"]) for b in batches])
    assert sketches.by_name["last"] == Sketch.of(inner.numpy())
    assert sketches.by_name["idle"].count == 0
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_tensor_changed_in_place_is_seen_anew() -> None:
    class InPlace(Twins):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.left(x)
            x += 1
            return y + self.right(x)

    x = torch.zeros(2, 8)
    sketches = capture_activations(InPlace().eval(), [{"x": x}])
    assert sketches.by_name["left"].maximum == 0
    assert sketches.by_name["right"].minimum == 1


def test_hooks_are_gone_after_an_error() -> None:
    model = Twins()
    with pytest.raises(RuntimeError):
        capture_activations(model, [{"x": torch.randn(2, 5)}])
    assert not any(module._forward_pre_hooks for module in model.modules())


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_cache_scores_and_residual_of_a_llama() -> None:
    model = tiny_llama()
    ids = torch.randint(0, 64, (1, 12))
    before = model(ids).logits
    kinds = ("linear", "kv-cache", "scores", "residual")
    sketches = capture_activations(model, [{"input_ids": ids}], kinds)
    assert sketches.notes == []
    assert sum(kind == "kv-cache" for kind in sketches.kinds.values()) == 4
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        hidden = model(ids, output_hidden_states=True).hidden_states
    name = "model.layers.1.self_attn"
    for attribute, part in (("keys", "key"), ("values", "value")):
        held = getattr(cache.layers[1], attribute).numpy()
        sketch = sketches.by_name[f"{name}.{part}"]
        assert sketch.maximum == pytest.approx(held.max(), rel=1e-5)
        assert sketch.count == held.size
    # A causal mask leaves 12 * 13 / 2 scores for each of 4 heads.
    assert sketches.by_name[f"{name}.scores"].count == 4 * 78
    residual = sketches.by_name["model.layers.1.residual"]
    assert residual.maximum == pytest.approx(hidden[1].max().item(), rel=1e-5)
    torch.testing.assert_close(model(ids).logits, before)


def test_a_vision_model_and_a_convolution() -> None:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = ResNetModel(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    sketches = capture_activations(model, [{"pixel_values": pixels}], ("linear", "scores"))
    assert sketches.by_name["embedder.embedder.convolution"] == Sketch.of(pixels.numpy())
    assert any("attention" in note for note in sketches.notes)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="'logits'"):
        capture_activations(nn.Linear(2, 2), [], ("logits",))
