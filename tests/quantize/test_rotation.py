"""Rotated weights: the same product in another basis, on every route."""

from __future__ import annotations

import pytest
import torch

from studentfloat.errors import ConfigError, ModelError, SchemeError
from studentfloat.kernels import use_instruction_set
from studentfloat.kernels.hadamard import Rotation
from studentfloat.quantize import GPTQOptions, QuantizedWeight, Scheme, gptq, parse_method, quantize
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.parts import InputRotation, InputScale
from studentfloat.quantize.parts.part import MatrixSpec
from studentfloat.quantize.parts.rotation import InputRotationSpec
from studentfloat.quantize.pipeline import quantize_weight
from studentfloat.quantize.rotation import rotate
from studentfloat.quantize.stored import StoredWeight


def layer(width: int = 48, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, width, generator=generator, dtype=dtype)
    x = x * torch.exp(torch.randn(width, generator=generator, dtype=dtype))
    weight = torch.randn(24, width, generator=generator, dtype=dtype)
    inputs = InputStatistics.empty_for(x)
    inputs.add(x)
    return weight, x, inputs


@pytest.mark.parametrize(("width", "block"), [(48, 48), (48, 16), (27, 27), (64, 64), (80, 80)])
@pytest.mark.parametrize("inverse", [False, True])
def test_tensors_are_multiplied_by_the_dense_matrix(width, block, inverse) -> None:
    rotation = Rotation(width, block, seed=3)
    dense = torch.from_numpy(rotation.matrix())
    dense = dense.T if inverse else dense
    x = torch.randn(2, 3, width, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, rotation, inverse=inverse), x @ dense)
    compiled = rotate(x.float(), rotation, inverse=inverse)
    torch.testing.assert_close(compiled.double(), x @ dense, atol=2e-6, rtol=1e-5)
    half = rotate(x.bfloat16(), rotation, inverse=inverse)
    assert half.dtype == torch.bfloat16
    exact = (x.bfloat16().double() @ dense).bfloat16()
    torch.testing.assert_close(half, exact, rtol=1 / 128, atol=1e-6)
    before = use_instruction_set("none")
    plain = rotate(x.float(), rotation, inverse=inverse)
    use_instruction_set(before)
    torch.testing.assert_close(plain, compiled, atol=2e-6, rtol=1e-5)


def test_inputs_are_left_as_they_were_and_gradients_flow() -> None:
    rotation = Rotation(48, 48)
    x = torch.randn(5, 48)
    kept = x.clone()
    rotated = rotate(x, rotation)
    assert torch.equal(x, kept)
    x.requires_grad_()
    weight = torch.randn(5, 48)
    (rotate(x, rotation) * weight).sum().backward()
    torch.testing.assert_close(x.grad, rotate(weight, rotation, inverse=True))
    torch.testing.assert_close(rotate(x, rotation), rotated)


def test_statistics_are_those_of_the_rotated_inputs() -> None:
    _, x, inputs = layer()
    part = InputRotation(Rotation(48, 48, 1))
    found = part.statistics(inputs)
    dense = torch.from_numpy(part.rotation.matrix())
    torch.testing.assert_close(found.hessian, dense.T @ inputs.hessian @ dense)
    rotated = part.transform(x)
    torch.testing.assert_close(found.hessian, rotated.T @ rotated)
    assert found.magnitude.isnan().all()
    experts = InputStatistics(
        torch.stack([inputs.hessian, 2 * inputs.hessian]),
        *(torch.zeros(2, 48),) * 2,
        torch.tensor([300, 300]),
    )
    torch.testing.assert_close(part.statistics(experts).hessian[1], 2 * found.hessian)


@pytest.mark.parametrize("block", [None, 16])
def test_gptq_works_in_the_rotated_basis(block) -> None:
    weight, x, inputs = layer()
    scheme = Scheme("int4", 16)
    rotation = Rotation(48, block or 48)
    dense = torch.from_numpy(rotation.matrix())
    wanted = gptq(weight @ dense, dense.T @ inputs.hessian @ dense, scheme).tensor
    spelled = "rotate+gptq" if block is None else f"rotate={block}+gptq"
    got = quantize_weight(weight, scheme, parse_method(spelled), inputs).weight
    assert torch.equal(got.base.codes, wanted.codes)
    torch.testing.assert_close(got.dequantize(), wanted.dequantize() @ dense.T)
    product = got.transform_inputs(x) @ got.product_matrix().T
    torch.testing.assert_close(product, x @ got.dequantize().T)
    assert got.bits == wanted.bits


@pytest.mark.parametrize("method", ["rotate", "rotate+mse", "rotate+lloyd", "smooth+rotate+gptq"])
def test_a_rotated_weight_is_the_weight(method) -> None:
    """At eight bits the layer must compute what it did."""
    weight, x, inputs = layer()
    options = GPTQOptions(damping=0.1)
    got = quantize_weight(weight, Scheme("int8", 16), parse_method(method, options), inputs).weight
    kinds = [type(part) for part in got.transforms]
    assert kinds == ([InputScale] if "smooth" in method else []) + [InputRotation]
    wanted = x @ weight.T
    torch.testing.assert_close(x @ got.dequantize().T, wanted, rtol=0.05, atol=0.5)
    torch.testing.assert_close(
        got.transform_inputs(x) @ got.product_matrix().T, x @ got.dequantize().T
    )


def test_channels_that_stick_out_cost_less_once_they_are_spread() -> None:
    weight, _, _ = layer()
    weight[:, 5] *= 20
    scheme = Scheme("int4", 16)

    def error(method: str) -> float:
        got = quantize_weight(weight, scheme, parse_method(method)).weight.dequantize()
        return float((got - weight).square().sum())

    assert error("rotate") < 0.5 * error("rtn")


def test_files_hold_the_seed_alone() -> None:
    weight = torch.randn(8, 48)
    base = quantize(weight, Scheme("nf4", 16))
    whole = QuantizedWeight(base, (InputRotation(Rotation(48, 16, 9)),))
    assert set(whole.tensors()) == set(QuantizedWeight(base).tensors())
    stored = StoredWeight.of(whole, (8, 48))
    again = stored.assemble(whole.tensors())
    assert torch.equal(again.dequantize(), whole.dequantize())
    with pytest.raises(SchemeError, match="rotation of 48 inputs does not fit"):
        QuantizedWeight(quantize(torch.randn(8, 32), Scheme("nf4", 16)), whole.parts)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"block": 16}, "seed is None, not a whole number"),
        ({"block": True, "seed": 0}, "block is True"),
        ({"block": 16, "seed": -1}, "seed is -1"),
        ({"block": 16, "seed": 0, "signs": 1}, "signs"),
    ],
)
def test_hostile_descriptions_are_refused(data, said) -> None:
    with pytest.raises(ModelError, match=said):
        InputRotationSpec.from_json(data, None, "w")


@pytest.mark.parametrize("block", [0, 5, 96, 2**70])
def test_blocks_that_do_not_fit_are_refused(block) -> None:
    spec = InputRotationSpec.from_json({"block": block, "seed": 2**62}, None, "w")
    with pytest.raises(ModelError, match=f"blocks of {block} does not fit"):
        spec.tensors(MatrixSpec((8, 48), Scheme("nf4", 16)))


@pytest.mark.parametrize(
    ("method", "width", "said"),
    [
        ("rotate", 48, "inputs rotated"),
        ("rotate=64", 48, "inputs rotated in blocks of 16, not 64, for a width of 48"),
        ("rotate", 6, "inputs rotated by Hartley's matrix of order 3: Paley has none"),
        ("rotate", 2 * 1031, "inputs rotated in blocks of 2, not 2062, for a width of 2062"),
        ("rotate=16", 9, "not rotated: its odd width has no block that is a power of two"),
    ],
)
def test_what_was_really_done_is_said(method, width, said) -> None:
    (step,) = parse_method(method).transforms
    from studentfloat.quantize.steps.state import SharedInput

    found = step.find(SharedInput((torch.ones(1, width),), None, Scheme("nf4", 16)))
    assert step.note(found) == said
    assert (found is None) == said.startswith("not")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("rotate=100", "a power of two from 16 to 4096"),
        ("rotate=8", "a power of two from 16"),
        ("rotate=x", "a power of two"),
        ("awq+rotate", "'awq' searches scales for channels, which 'rotate' mixes"),
        ("rotate+rotate=64", "'rotate' is given twice"),
    ],
)
def test_spellings_that_cannot_be(method, said) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_method(method)


def test_compiled_graphs_hold_it_as_one_operator() -> None:
    rotation = Rotation(48, 16, 3)
    compiled = torch.compile(lambda x: rotate(x, rotation), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 48, requires_grad=True)
    got = compiled(x)
    torch.testing.assert_close(got, rotate(x, rotation))
    weight = torch.randn(3, 48)
    (got * weight).sum().backward()
    torch.testing.assert_close(x.grad, rotate(weight, rotation, inverse=True))
