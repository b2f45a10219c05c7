"""Packed layers whose weights bear what a method added: kernels, copies, gradients, files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

import studentfloat.transformers  # noqa: F401
from studentfloat.kernels import PackedMatrix
from studentfloat.models import Calibration, calibrate_checkpoint, find_model, quantize_checkpoint
from studentfloat.models.packed.modules import flat_state, packed_tensors
from studentfloat.models.packed.packing import Packing
from studentfloat.quantize import Scheme, parse_method
from studentfloat.quantize.packed_weight import PackedWeight
from tests import tiny

FEW = Calibration(windows=2, window_length=32)
CASES = {
    "outliers and low rank": ("sf4", "outliers=0.02+rank=3", PackedWeight),
    "int8 factors": ("e2m1", "gptq+rank8=3", PackedWeight),
    "a choice per block": ("e2m1+sp|e2m1+sr|nf4", "gptq", PackedMatrix),
    "learned, a choice, outliers": ("sf4", "lloyd=2+outliers=0.02", PackedWeight),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> tuple[Path, type]:
    """A packed checkpoint, and what its layers multiply by."""
    formats, method, kind = CASES[request.param]
    place = tmp_path_factory.mktemp("extras")
    source = find_model(str(tiny.save(tiny.llama, place / "dense")))
    scheme = Scheme(formats, block_size=16, scale_dtype="bfloat16")
    recipe = parse_method(method)
    calibrate_checkpoint(source, scheme, recipe, place / "packed", calibration=FEW)
    return place / "packed", kind


def load(place: Path, **options):
    return AutoModelForCausalLM.from_pretrained(place, **options)


def logits(model) -> torch.Tensor:
    tokens = torch.randint(4, 200, (2, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(tokens).logits


def packings(model) -> list[Packing]:
    return [tensor.packing for tensor in packed_tensors(model).values()]


def test_every_layer_multiplies_by_the_kernel(case) -> None:
    place, kind = case
    model = load(place)
    expected = logits(load(place).dequantize())
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert len(packings(model)) == 14
    for packing in packings(model):
        assert [type(kernel) for kernel in packing.kernels] == [kind]
        # The kernel alone holds the codes.
        assert packing._parts[""].untyped_storage().nbytes() == 1


def test_what_was_stored_comes_back(case, tmp_path: Path) -> None:
    place, _ = case
    model = load(place)
    expected = logits(model)
    stored = {k: v for f in place.glob("*.safetensors") for k, v in load_file(f).items()}
    extras = ("outlier", "low_rank", "selector")
    assert any(extra in name for name in stored for extra in extras)
    state = flat_state(model)
    for name, tensor in stored.items():
        assert torch.equal(state[name], tensor)
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), expected)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again")), expected)
    model.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), expected)


def test_new_numbers_take_the_place_of_old_ones(case) -> None:
    """Loading other tensors into a layer that has multiplied already."""
    place, _ = case
    one, other = (load(place).model.layers[0].mlp.up_proj for _ in range(2))
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one(x)
        doubled = {k: v * 2 if k == "_scale" else v for k, v in other.weight.parts.items()}
        other.weight.packing.take(doubled)
        one.load_state_dict(other.state_dict())
        assert torch.equal(one(x), other(x))
        torch.testing.assert_close(
            one(x), x @ one.weight.dequantize().float().T, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(case, dtype) -> None:
    place, _ = case
    short, dense = load(place, dtype=dtype), load(place, dtype=dtype).dequantize()
    got, expected, exact = logits(short), logits(dense), logits(load(place))
    assert got.dtype == dtype
    # As far from what is exact as a dense model of that type, about.
    assert (got - exact).norm() < 1.5 * (expected - exact).norm() + 1e-3 * exact.norm()
    cast = load(place)
    logits(cast)
    cast.to(dtype)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    layers = [model.model.layers[0].mlp.up_proj for model in (cast, short)]
    assert torch.equal(layers[0](x), layers[1](x))


def test_int8_arithmetic(case) -> None:
    place, _ = case
    layer = load(place).model.layers[0].mlp.up_proj
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    exact = layer(x)
    layer.weight.packing.compute = "int8"
    assert 1e-5 < float((layer(x) - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients(case, dtype) -> None:
    place, _ = case
    layer = load(place).model.layers[0].mlp.down_proj
    x = torch.randn(3, 80, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    layer(x).square().sum().backward()
    y = x.detach().float().requires_grad_()
    nn.functional.linear(y, layer.weight.dequantize().float()).square().sum().backward()
    near = 1e-4 if dtype == torch.float32 else 2e-2
    assert (x.grad - y.grad).norm() <= near * y.grad.norm()


def test_compiled(case) -> None:
    place, _ = case
    torch.compiler.reset()
    layer = load(place).model.layers[0].mlp.down_proj
    x = torch.randn(3, 80, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))
    given, traced = (x.clone().requires_grad_() for _ in range(2))
    layer(given).square().sum().backward()
    compiled(traced).square().sum().backward()
    torch.testing.assert_close(traced.grad, given.grad)


def test_offloaded_to_disk(case, tmp_path: Path) -> None:
    place, _ = case
    expected = logits(load(place))
    split = load(
        place,
        device_map={"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
        | {"model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"},
        offload_folder=str(tmp_path / "offload"),
    )
    torch.testing.assert_close(logits(split), expected)
    torch.testing.assert_close(logits(split), expected)


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.gpt_oss], ids=lambda make: make.__name__)
def test_fused_experts_keep_their_extras(make, tmp_path: Path) -> None:
    source = find_model(str(tiny.save(make, tmp_path / "dense")))
    recipe = parse_method("outliers=0.05+rank=3")
    calibrate_checkpoint(
        source, Scheme("sf4", block_size=16), recipe, tmp_path / "packed", calibration=FEW
    )
    expected = logits(load(tmp_path / "packed").dequantize())
    torch.testing.assert_close(logits(load(tmp_path / "packed")), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("formats", "method", "reason"),
    [("sf4", "lloyd-row", "a table of values per row"), ("int8", "rtn", "codes of 8 bits")],
)
def test_what_has_no_kernel_is_said(formats, method, reason, tmp_path: Path, caplog) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    report = calibrate_checkpoint(
        source,
        Scheme(formats, block_size=16),
        parse_method(method),
        tmp_path / "packed",
        calibration=FEW,
    )
    for record in report.tensors:
        assert f"dequantized for every product: {reason}" in record.notes
    with caplog.at_level("WARNING", logger="studentfloat"):
        model = load(tmp_path / "packed")
    said = [record.getMessage() for record in caplog.records if record.name == "studentfloat"]
    assert said == [
        "14 linear layers (model.layers.0.self_attn.q_proj first) dequantize their weight for "
        f"every product, which is slow: no kernel takes {reason}"
    ]
    expected = logits(load(tmp_path / "packed").dequantize())
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_plain_layers_stay_plain_and_nothing_is_said(tmp_path: Path, caplog) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    scheme = Scheme("sf4", block_size=16)
    calibrate_checkpoint(source, scheme, parse_method("gptq"), tmp_path / "packed", calibration=FEW)
    model = load(tmp_path / "packed")
    logits(model)
    assert not [record for record in caplog.records if record.name == "studentfloat"]
    assert {type(one) for packing in packings(model) for one in packing.kernels} == {PackedMatrix}


@pytest.mark.parametrize("block_size", ["tensor", 4])
def test_embeddings_whose_blocks_lie_across_rows(block_size, tmp_path: Path) -> None:
    """Rows cannot be taken out of what is stored: the table is dequantized as a whole."""
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    axis = 0 if block_size == 4 else -1
    scheme = Scheme("nf4", block_size=block_size, axis=axis)
    quantize_checkpoint(source, scheme, tmp_path / "packed", embeddings=True)
    expected = logits(load(tmp_path / "packed").dequantize())
    assert torch.equal(logits(load(tmp_path / "packed")), expected)
