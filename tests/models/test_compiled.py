"""Packed models under torch.compile: one graph, the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from transformers import AutoModelForCausalLM

import studentfloat.transformers  # noqa: F401
from studentfloat.errors import ModelError
from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.models.packed.modules import packed_tensors
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


def collecting(graphs: list):
    """A backend that keeps what torch's operators a graph comes down to."""

    def keep(graph, example):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=keep)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_graph_for_the_whole_model(make, dtype, tmp_path: Path) -> None:
    model = load(tmp_path, make, dtype=dtype)
    graphs = []
    compiled = torch.compile(model, backend=collecting(graphs), fullgraph=True)
    with torch.no_grad():
        for count in (12, 12, 1):
            expected = model(tokens(count), use_cache=False).logits
            assert torch.equal(compiled(tokens(count), use_cache=False).logits, expected)
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    # The table of embeddings is the head's too; GPT-2 has another, of positions.
    tables = sum("packed_rows" in target for target in targets)
    products = sum("packed_linear" in target for target in targets)
    assert tables + products == len(packed_tensors(model)) + 1
    assert not any("packed_dense" in target for target in targets)
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


def test_a_copy_is_another_weight(tmp_path: Path) -> None:
    first = load(tmp_path, tiny.llama).model.layers[0].mlp.up_proj
    second = copy.deepcopy(first)
    parts = second.weight.parts
    second.weight.packing.take({**parts, "_scale": parts["_scale"] * 2})
    x = torch.randn(1, first.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in (first, second):
            assert torch.equal(torch.compile(layer, backend=BACKEND)(x), layer(x))
        assert not torch.equal(first(x), second(x))


def test_blocks_share_a_graph(tmp_path: Path) -> None:
    """A graph holds no weight: one block's serves the next."""
    model = load(tmp_path, tiny.llama)
    graphs = []
    backend = collecting(graphs)
    x = torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.compile(backend=backend, fullgraph=True)
            expected = block.mlp.forward(x)
            assert torch.equal(block.mlp(x), expected)
    assert len(graphs) == 1


def test_a_weight_that_is_gone_is_named(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.llama)
    handle = model.model.layers[0].mlp.up_proj.weight.handle
    del model
    with pytest.raises(
        ModelError, match=f"packed weight {int(handle)} of a compiled graph is gone"
    ):
        torch.ops.studentfloat.packed_linear(torch.ones(1, 48), handle, -1, False, 80)


def test_the_operators_keep_torchs_rules(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.llama)
    weight = model.model.layers[0].mlp.up_proj.weight
    x = torch.randn(2, 3, 48, requires_grad=True)
    ops = torch.ops.studentfloat
    torch.library.opcheck(ops.packed_linear.default, (x, weight.handle, -1, False, 80))
    table = model.get_input_embeddings().weight
    torch.library.opcheck(
        ops.packed_rows.default, (tokens(4), table.handle, table.shape[1], torch.float32)
    )
    cpu = torch.device("cpu")
    torch.library.opcheck(
        ops.packed_dense.default, (weight.handle, [80, 48], torch.float32, cpu, -1, False)
    )


def test_the_operator_of_experts_keeps_torchs_rules(tmp_path: Path) -> None:
    model = load(tmp_path, tiny.mixtral)
    weight = model.model.layers[0].mlp.experts.gate_up_proj
    x = torch.randn(6, weight.shape[2], requires_grad=True)
    offsets = torch.tensor([1, 1, 4, 6], dtype=torch.int32)
    torch.library.opcheck(
        torch.ops.studentfloat.packed_grouped.default,
        (x, offsets, weight.handle, False, weight.shape[1]),
    )
