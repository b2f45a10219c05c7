"""Channels of a Llama-type model in another order: the same function, exactly.

A model whose weights were quantized in blocks keeps the blocks' grids when it is dequantized, and
a format with such blocks finds them again. In another order of its channels no block lies on one
grid. Three orders are free, and all are taken: of the residual stream's channels, of each MLP's
neurons, of the value channels within each head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError

__all__ = ["permute_channels"]


def permute_channels(model: nn.Module, seed: int = 0) -> None:
    """Put a causal model of Llama's architecture into a random order of channels, in place.

    Each number of a result is the sum of the same products, added up in another order.

    Parameters
    ----------
    model
        As transformers builds it: ``model.layers`` with ``self_attn`` and ``mlp``, RMS norms.
    seed
        Of the orders.

    Raises
    ------
    ModelError
        If its architecture is another.
    """
    config: Any = model.config
    if getattr(config, "model_type", None) != "llama":
        raise ModelError(
            f"channels of a {getattr(config, 'model_type', type(model).__name__)} model cannot be "
            "permuted: llama can"
        )
    generator = torch.Generator().manual_seed(seed)
    body: Any = model.get_submodule("model")
    stream = torch.randperm(config.hidden_size, generator=generator)
    _permute(body.embed_tokens.weight, 1, stream)
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        neurons = torch.randperm(config.intermediate_size, generator=generator)
        values, outputs = _value_orders(config, attention.head_dim, generator)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            _permute(linear.weight, 1, stream)
        _permute_outputs(attention.v_proj, values)
        _permute(attention.o_proj.weight, 1, outputs)
        _permute_outputs(attention.o_proj, stream)
        for linear in (mlp.gate_proj, mlp.up_proj):
            _permute(linear.weight, 1, stream)
            _permute_outputs(linear, neurons)
        _permute(mlp.down_proj.weight, 1, neurons)
        _permute_outputs(mlp.down_proj, stream)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            _permute(norm.weight, 0, stream)
    _permute(body.norm.weight, 0, stream)
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if head.weight is not body.embed_tokens.weight:
        _permute(head.weight, 1, stream)


def _value_orders(config: Any, head_dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orders of ``v_proj``'s outputs and of ``o_proj``'s inputs, which repeat them by group."""
    groups = config.num_key_value_heads
    within = [torch.randperm(head_dim, generator=generator) for _ in range(groups)]
    values = torch.cat([i * head_dim + order for i, order in enumerate(within)])
    heads = config.num_attention_heads
    group_of = [head * groups // heads for head in range(heads)]
    outputs = torch.cat([head * head_dim + within[group_of[head]] for head in range(heads)])
    return values, outputs


def _permute_outputs(linear: Any, order: Tensor) -> None:
    _permute(linear.weight, 0, order)
    if linear.bias is not None:
        _permute(linear.bias, 0, order)


def _permute(parameter: nn.Parameter, axis: int, order: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(parameter.index_select(axis, order))
