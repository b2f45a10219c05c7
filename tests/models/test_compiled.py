"""Packed models under torch.compile: one graph, the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import studentfloat.transformers  # noqa: F401
from studentfloat.errors import ModelError
from studentfloat.models import find_model, operators, quantize_checkpoint
from studentfloat.models.packed_layers import PackedLinear
from studentfloat.quantize import Scheme
from tests import tiny

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
# Traces as the default does, and compiles nothing.
BACKEND = "aot_eager"


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def load(where: Path, make, **changes) -> nn.Module:
    source = find_model(str(tiny.save(make, where / "dense")))
    quantize_checkpoint(source, SCHEME, where / "packed", embeddings=True)
    return AutoModelForCausalLM.from_pretrained(where / "packed", **changes).eval()


def tokens(count: int) -> torch.Tensor:
    return torch.randint(4, 200, (1, count), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_graph_for_the_whole_model(make, dtype, tmp_path: Path) -> None:
    model = load(tmp_path, make, dtype=dtype)
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        for count in (12, 12, 1):
            expected = model(tokens(count), use_cache=False).logits
            assert torch.equal(compiled(tokens(count), use_cache=False).logits, expected)
    calls = [node for node in graphs[0].graph.nodes if "packed_linear" in str(node.target)]
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(calls) == len(packed)
    # One for each length: none for each layer.
    assert len(graphs) <= 2


def test_generates_the_same(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.llama)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    settings["cache_implementation"] = "static"
    expected = model.generate(tokens(6), disable_compile=True, **settings)
    model.forward = torch.compile(model.forward, backend=BACKEND)
    assert torch.equal(model.generate(tokens(6), disable_compile=True, **settings), expected)


def test_gradients_flow_to_inputs(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.llama)
    embedded = model.get_input_embeddings()(tokens(7)).detach()

    def gradient(run) -> torch.Tensor:
        x = embedded.clone().requires_grad_()
        run(inputs_embeds=x, use_cache=False).logits.square().sum().backward()
        assert x.grad is not None
        return x.grad

    expected = gradient(model)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(gradient(torch.compile(model, backend=BACKEND)), expected)


def test_a_copy_is_another_layer(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.llama)
    first = next(m for m in model.modules() if isinstance(m, PackedLinear))
    second = copy.deepcopy(first)
    second.part("weight").zero_()
    x = torch.randn(1, first.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in (first, second):
            assert torch.equal(torch.compile(layer, backend=BACKEND)(x), layer(x))
        assert not torch.equal(first(x), second(x))


def test_a_layer_that_is_gone_is_named() -> None:
    number = operators.enroll(nn.Linear(1, 1))
    with pytest.raises(ModelError, match=f"packed layer {number} of a compiled graph is gone"):
        operators.linear(torch.ones(1, 1), number, 1)


def test_the_operators_keep_torchs_rules(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.llama)
    layer = next(m for m in model.modules() if isinstance(m, PackedLinear))
    number = layer.__dict__["_number"]
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    operator = torch.ops.studentfloat.packed_linear.default
    torch.library.opcheck(operator, (x, number, layer.out_features))
    table = model.get_input_embeddings()
    torch.library.opcheck(
        torch.ops.studentfloat.packed_rows.default,
        (tokens(4), table.__dict__["_number"], table.embedding_dim, torch.float32),
    )
