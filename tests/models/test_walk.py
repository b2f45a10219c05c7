from __future__ import annotations

import pytest
import torch

from studentfloat.errors import ModelError
from studentfloat.models import WeightKind, walk_weights
from studentfloat.quantize import Scheme, fake_quantize
from tests import tiny


def by_name(sites):
    return {site.name: site for site in sites}


def test_llama_linears_only_and_the_rest_listed_with_reasons() -> None:
    model = tiny.llama()
    sites, skipped = walk_weights(model)
    assert len(sites) == 14
    assert {site.kind for site in sites} == {WeightKind.LINEAR}
    assert [site.layer for site in sites] == [0] * 7 + [1] * 7
    assert sites[0].role == "q_proj"
    reasons = {tensor.name: tensor.reason for tensor in skipped}
    assert "embedding: not asked for (tied to lm_head.weight)" in reasons.values()
    assert reasons["model.norm.weight"].startswith("vector")
    assert len(sites) + len(skipped) == len(list(model.parameters()))


def test_tied_weights_are_one_site_and_stay_tied() -> None:
    model = tiny.llama()
    for options in ({"embeddings": True}, {"head": True}, {"embeddings": True, "head": True}):
        sites, _ = walk_weights(model, **options)
        assert len(sites) == 15
        tied = next(site for site in sites if site.tied)
        tied.apply(lambda w: w * 0.5)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_untied_embedding_and_head_are_asked_for_one_by_one() -> None:
    model = tiny.llama(tie_word_embeddings=False)
    assert len(walk_weights(model)[0]) == 14
    kinds = {site.kind for site in walk_weights(model, head=True)[0]}
    assert kinds == {WeightKind.LINEAR, WeightKind.HEAD}
    kinds = {site.kind for site in walk_weights(model, embeddings=True)[0]}
    assert kinds == {WeightKind.LINEAR, WeightKind.EMBEDDING}


def test_gpt2_conv1d_blocks_run_along_the_inputs() -> None:
    sites, _ = walk_weights(tiny.gpt2())
    site = by_name(sites)["transformer.h.0.mlp.c_fc.weight"]
    assert site.kind is WeightKind.TRANSPOSED_LINEAR
    assert tuple(site.parameter.shape) == (48, 192)
    assert tuple(site.matrix(site.parameter.data).shape) == (192, 48)
    before = site.parameter.detach().clone()
    site.apply(lambda w: fake_quantize(w, Scheme("nf4", block_size=16))[0])
    expected = fake_quantize(before, Scheme("nf4", block_size=16, axis=0))[0]
    assert torch.equal(site.parameter.data, expected)


@pytest.mark.parametrize(
    ("make", "kind", "up"),
    [
        (tiny.mixtral, WeightKind.EXPERTS, (4, 96, 32)),
        (tiny.gpt_oss, WeightKind.TRANSPOSED_EXPERTS, (4, 96, 32)),
    ],
)
def test_fused_experts_are_found_with_their_inputs_last(make, kind, up) -> None:
    sites, skipped = walk_weights(make())
    experts = [site for site in sites if site.kind is kind]
    assert len(experts) == 4
    up_site = next(site for site in experts if site.role == "gate_up_proj")
    assert tuple(up_site.matrix(up_site.parameter.data).shape) == up
    assert any("router" in t.name or "gate" in t.name for t in skipped)


def test_convolutions_are_one_row_per_output_channel() -> None:
    sites, _ = walk_weights(tiny.resnet())
    kernels = [site for site in sites if site.kind is WeightKind.CONVOLUTION]
    assert kernels
    for site in kernels:
        shape = site.parameter.shape
        assert site.matrix(site.parameter.data).shape == (shape[0], shape[1:].numel())
    site = kernels[0]
    site.apply(torch.zeros_like)
    assert not site.parameter.any()


def test_a_class_token_and_positions_are_no_experts() -> None:
    sites, skipped = walk_weights(tiny.vit())
    assert {site.kind for site in sites} <= {WeightKind.LINEAR, WeightKind.CONVOLUTION}
    names = " ".join(tensor.name for tensor in skipped)
    assert "cls_token" in names
    assert "position_embeddings" in names


def test_a_kernel_in_another_memory_layout_is_changed_too() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3)).to(memory_format=torch.channels_last)
    (site,), _ = walk_weights(model)
    site.apply(torch.zeros_like)
    assert not model[0].weight.any()


def test_encoder_and_encoder_decoder() -> None:
    assert len(walk_weights(tiny.bert())[0]) == 13  # 2 × 6 and the pooler
    sites, _ = walk_weights(tiny.t5())
    assert len(sites) == 2 * (4 + 2) + 2 * (8 + 2)


def test_nothing_to_quantize_is_an_error() -> None:
    with pytest.raises(ModelError, match="LayerNorm has no weight to quantize"):
        walk_weights(torch.nn.LayerNorm(4))
