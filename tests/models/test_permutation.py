"""Channels in another order: the same function, and no block on its old grid."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from studentfloat.errors import ModelError
from studentfloat.models.permutation import permute_channels


def small(**changes) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, vocab_size=50, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_function_stays_and_every_matrix_changes(tied, bias) -> None:
    model = small(tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias)
    tokens = torch.randint(0, 50, (2, 30), generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
        permute_channels(model)
        # Norms compute in float32, whatever the model's type.
        torch.testing.assert_close(model(input_ids=tokens).logits, logits, rtol=0, atol=1e-6)
    unchanged = {
        name for name, value in model.named_parameters() if torch.equal(value, before[name])
    }
    # Rows of queries and keys meet in rotary pairs: their biases keep their order.
    assert unchanged == {name for name in before if "q_proj.bias" in name or "k_proj.bias" in name}


def test_a_block_mixes_the_grids_of_many() -> None:
    """Blocks of 8 on grids of their own with 4 values each: afterwards a block has more."""
    model = small()
    down = model.model.layers[0].mlp.down_proj.weight
    grids = torch.rand(24, 5, 1, generator=torch.Generator().manual_seed(2)).double()
    codes = torch.randint(0, 4, (24, 5, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        down.copy_((grids * codes).reshape(24, 40))
        permute_channels(model)
    distinct = [len(block.unique()) for block in down.reshape(-1, 8)]
    assert sum(distinct) / len(distinct) > 4.5


def test_other_architectures_are_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=10))
    with pytest.raises(ModelError, match="gpt2 model cannot be permuted: llama can"):
        permute_channels(model)
