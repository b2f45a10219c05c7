"""Packed models in transformers: loading, saving, casting, moving, training on top."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from studentfloat.errors import ConfigError, ModelError
from studentfloat.models import PackedCheckpoint, find_model, quantize_checkpoint
from studentfloat.models.packed.modules import flat_state, packed_tensors
from studentfloat.models.packed.tensor import PackedTensor
from studentfloat.models.packed_files import Companions
from studentfloat.quantize import Scheme, fake_quantize
from studentfloat.transformers import StudentFloatConfig, packed_kv_cache
from tests import tiny

SCHEME = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
DECODERS = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "mixtral": tiny.mixtral,
    "gpt_oss": tiny.gpt_oss,
}
NEWEST = hasattr(transformers.quantizers.auto, "LOADING_ATTRIBUTES_CONFIG_TYPES")


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "embeddings"])
def embeddings(request) -> bool:
    return request.param


@pytest.fixture(scope="module", params=DECODERS)
def place(request, embeddings, tmp_path_factory) -> Path:
    """A directory with a dense tiny model and the same packed."""
    where = tmp_path_factory.mktemp(request.param)
    source = find_model(str(tiny.save(DECODERS[request.param], where / "dense")))
    quantize_checkpoint(source, SCHEME, where / "packed", embeddings=embeddings)
    return where


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "dense")))
    quantize_checkpoint(source, SCHEME, tmp_path / "packed", embeddings=True)
    return tmp_path / "packed"


def tokens(count: int = 24) -> torch.Tensor:
    return torch.randint(4, 200, (2, count), generator=torch.Generator().manual_seed(5))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens()).logits


def by_hand(place: Path):
    """The dense model with its weights put through the quantizer one by one."""
    model = AutoModelForCausalLM.from_pretrained(place / "dense")
    names = set(
        json.loads((place / "packed/config.json").read_text())["quantization_config"]["tensors"]
    )
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        expert = parameter.dim() == 3
        if name not in names and not expert:
            continue
        conv = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        turned = conv or (expert and "GptOss" in type(model).__name__)
        matrix = parameter.data.transpose(-1, -2) if turned else parameter.data
        values, _ = fake_quantize(matrix.contiguous(), SCHEME)
        parameter.data = values.transpose(-1, -2).contiguous() if turned else values
    return model


def test_logits_are_those_of_the_quantized_weights(place: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "packed")
    assert packed_tensors(model)
    torch.testing.assert_close(logits(model), logits(by_hand(place)), rtol=1e-4, atol=1e-4)


def test_quantized_while_loading(place: Path, embeddings: bool) -> None:
    config = StudentFloatConfig("sf4", block_size=16, embeddings=embeddings)
    model = AutoModelForCausalLM.from_pretrained(place / "dense", quantization_config=config)
    packed = AutoModelForCausalLM.from_pretrained(place / "packed")
    assert torch.equal(logits(model), logits(packed))


def test_saved_and_loaded_again(place: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "packed")
    expected = logits(model)
    model.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    assert PackedCheckpoint.open(tmp_path / "again").weights
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), expected)
    # Saving must not disturb the model that was saved.
    assert torch.equal(logits(model), expected)


def test_dequantized(place: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "packed")
    expected = logits(model)
    dense = model.dequantize()
    assert not packed_tensors(dense)
    torch.testing.assert_close(logits(dense), expected, rtol=1e-4, atol=1e-4)
    dense.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense/config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    torch.testing.assert_close(logits(again), logits(dense), rtol=1e-5, atol=1e-5)
    original = AutoModelForCausalLM.from_pretrained(place / "dense")
    assert {n: type(m) for n, m in again.named_modules()} == {
        n: type(m) for n, m in original.named_modules()
    }


@pytest.mark.skipif(not NEWEST, reason="this transformers cannot pass dequantize=True on")
def test_dequantized_while_loading(place: Path) -> None:
    config = StudentFloatConfig(dequantize=True)
    with pytest.warns(UserWarning, match="already has"):
        dense = AutoModelForCausalLM.from_pretrained(place / "packed", quantization_config=config)
    assert not packed_tensors(dense)
    packed = AutoModelForCausalLM.from_pretrained(place / "packed")
    torch.testing.assert_close(logits(dense), logits(packed), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(NEWEST, reason="this transformers passes dequantize=True on")
def test_dequantizing_while_loading_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dequantize\(\)"):
        StudentFloatConfig(dequantize=True)


def test_generate(place: Path) -> None:
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_pretrained(place / "packed")
    expected = by_hand(place).generate(tokens(), **settings)
    assert torch.equal(model.generate(tokens(), **settings), expected)


def test_casting_leaves_scales_alone(llama: Path) -> None:
    source = AutoModelForCausalLM.from_pretrained(
        llama.parent / "dense",
        quantization_config=StudentFloatConfig(
            "sf4", block_size=16, scale_dtype="float32", embeddings=True
        ),
    )
    before = {n: b.clone() for n, b in flat_state(source).items() if n.endswith("_scale")}
    assert {b.dtype for b in before.values()} == {torch.float32}
    expected = logits(source)
    matrix = source.model.layers[0].mlp.up_proj.weight.dequantize()
    cast = source.to(torch.bfloat16)
    after = flat_state(cast)
    assert all(torch.equal(after[n], b) and after[n].dtype == b.dtype for n, b in before.items())
    assert cast.get_input_embeddings()(tokens()).dtype == torch.bfloat16
    assert logits(cast).dtype == torch.bfloat16
    torch.testing.assert_close(logits(cast).float(), expected, rtol=0.1, atol=0.15)
    layer = cast.model.layers[0].mlp.up_proj
    assert torch.equal(layer.weight.dequantize(), matrix.to(torch.bfloat16))
    assert torch.equal(layer.float().weight.dequantize(), matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_half_precision(place: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "packed", dtype=dtype)
    assert model.dtype == dtype
    assert logits(model).dtype == dtype
    scales = {b.dtype for n, b in flat_state(model).items() if n.endswith("_scale")}
    assert scales == {torch.bfloat16}


PLACEMENT = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "lm_head": "cpu",
}


# float16 has not all of the scales' numbers: whatever is read from the disk must keep its type.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("buffers", [False, True])
def test_device_map_and_offload_to_disk(
    llama: Path, tmp_path: Path, dtype: torch.dtype, buffers: bool
) -> None:
    expected = logits(AutoModelForCausalLM.from_pretrained(llama, dtype=dtype))
    whole = AutoModelForCausalLM.from_pretrained(llama, dtype=dtype, device_map="cpu")
    assert torch.equal(logits(whole), expected)
    split = AutoModelForCausalLM.from_pretrained(
        llama,
        dtype=dtype,
        device_map=PLACEMENT,
        offload_folder=tmp_path / "offload",
        offload_buffers=buffers,
    )
    assert split.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    torch.testing.assert_close(logits(split), expected)
    torch.testing.assert_close(logits(split), expected)


# Codes of eight bits have the shape of the dense weight, those of four bits have not.
@pytest.mark.parametrize("name", ["sf4", "e4m3"])
def test_what_is_quantized_while_loading_cannot_stay_on_the_disk(
    llama: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ModelError, match=r"layers\.1\..* is mapped to the disk, .*not.* packed"):
        AutoModelForCausalLM.from_pretrained(
            llama.parent / "dense",
            device_map=PLACEMENT,
            offload_folder=tmp_path / "offload",
            quantization_config=StudentFloatConfig(name, block_size=16),
        )


def test_tied_head_is_stored_once(llama: Path) -> None:
    names = PackedCheckpoint.open(llama).weights
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert type(model.get_output_embeddings()) is nn.Linear
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in flat_state(model)


def test_codes_live_once(llama: Path) -> None:
    """After the first product codes are held by the kernel alone, and come back unharmed."""
    model = AutoModelForCausalLM.from_pretrained(llama)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.parts[""].clone()
    assert weight.packing._parts[""].untyped_storage().nbytes() == before.nbytes
    expected = logits(model)
    assert weight.packing.kernels
    assert weight.packing._parts[""].untyped_storage().nbytes() == 1
    assert torch.equal(weight.parts[""], before)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), expected)


def test_a_weight_is_a_tensor_of_its_shape_and_type(llama: Path) -> None:
    """Before a product and after it, for all that reads a parameter."""
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    dense = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).dequantize()

    def seen(of) -> list[tuple]:
        return [
            (n, p.shape, p.dtype, p.device, p.stride(), p.numel(), p.is_leaf, p.is_contiguous())
            for n, p in of.named_parameters()
        ]

    for _ in range(2):
        assert seen(model) == seen(dense)
        assert list(model.state_dict()) == list(dense.state_dict())
        assert model.num_parameters() == dense.num_parameters()
        for name, parameter in model.named_parameters():
            values = dense.get_parameter(name)
            assert torch.equal(parameter, values)
            assert torch.equal(parameter.reshape(-1)[:3], values.reshape(-1)[:3])
            assert torch.equal(parameter.sum(), values.sum())
            assert parameter.new_zeros(2).dtype == values.dtype
            assert torch.zeros_like(parameter).shape == values.shape
        logits(model)


def test_data_can_be_exchanged(llama: Path) -> None:
    one, other = (AutoModelForCausalLM.from_pretrained(llama) for _ in range(2))
    expected = logits(one)
    a, b = (model.model.layers for model in (one, other))
    kept = a[0].mlp.up_proj.weight.data
    a[0].mlp.up_proj.weight.data = a[1].mlp.up_proj.weight.data
    assert torch.equal(a[0].mlp.up_proj.weight, b[1].mlp.up_proj.weight)
    assert not torch.equal(logits(one), expected)
    a[0].mlp.up_proj.weight.data = kept
    assert torch.equal(logits(one), expected)
    with torch.no_grad():
        a[0].mlp.up_proj.weight.copy_(b[1].mlp.up_proj.weight)
        assert not torch.equal(logits(one), expected)
    one.load_state_dict(other.state_dict())
    assert torch.equal(logits(one), expected)


def test_single_numbers_cannot_be_changed(llama: Path) -> None:
    """A change to the dequantized numbers would be lost: it is refused."""
    weight = AutoModelForCausalLM.from_pretrained(llama).model.layers[0].mlp.up_proj.weight
    name = r"model\.layers\.0\.mlp\.up_proj\.weight"
    for change in (
        lambda: weight.data.mul_(2),
        lambda: weight.data.copy_(torch.zeros(weight.shape)),
        lambda: nn.init.zeros_(weight),
        lambda: setattr(weight, "data", torch.zeros(weight.shape)),
    ):
        with pytest.raises(ModelError, match=name):
            change()


def test_products_of_every_spelling(llama: Path) -> None:
    weight = AutoModelForCausalLM.from_pretrained(llama).model.layers[0].mlp.up_proj.weight
    dense = weight.dequantize()
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 3, 48, generator=draw), torch.randn(2, 3, 80, generator=draw)
    bias = torch.randn(80, generator=draw)
    for product in (
        lambda w: nn.functional.linear(x, w, bias),
        lambda w: nn.functional.linear(input=x, weight=w, bias=bias),
        lambda w: nn.functional.linear(y, w.T),
        lambda w: x @ w.t(),
        lambda w: torch.matmul(y, w),
        lambda w: torch.matmul(input=y, other=w),
        lambda w: torch.mm(y[0], w),
        lambda w: torch.mm(input=y[0], mat2=w),
        lambda w: torch.mm(y[0], w, out=torch.empty(3, 48)),
        lambda w: y[0] @ w.transpose(dim0=0, dim1=1).swapaxes(axis0=0, axis1=1),
        lambda w: w @ x[0].T,
        lambda w: torch.addmm(bias, x[0], w.transpose(0, 1)),
        lambda w: torch.addmm(input=bias, mat1=x[0], mat2=w.T),
        lambda w: nn.functional.embedding(input=torch.arange(80), weight=w),
        lambda w: torch.einsum("bti,oi->bto", x, w),
        lambda w: torch.bmm(x, w.mT.expand(2, 48, 80)),
    ):
        torch.testing.assert_close(product(weight), product(dense), rtol=1e-5, atol=1e-5)


def test_int8_arithmetic_is_close_and_opt_in(llama: Path) -> None:
    exact = AutoModelForCausalLM.from_pretrained(llama)
    config = StudentFloatConfig("sf4", block_size=16, compute="int8")
    rounded = AutoModelForCausalLM.from_pretrained(
        llama.parent / "dense", quantization_config=config
    )
    assert {tensor.packing.compute for tensor in packed_tensors(rounded).values()} == {"int8"}
    a = exact.model.layers[0].mlp.up_proj
    b = rounded.model.layers[0].mlp.up_proj
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    error = (a(x) - b(x)).norm() / a(x).norm()
    assert 1e-5 < float(error) < 0.03
    with pytest.raises(ConfigError, match="int3"):
        StudentFloatConfig(compute="int3")


def test_gradients_flow_to_inputs_only(llama: Path) -> None:
    layer = AutoModelForCausalLM.from_pretrained(llama).model.layers[0].mlp.up_proj
    x = torch.randn(3, 48, dtype=torch.float32, requires_grad=True)
    layer(x).square().sum().backward()
    weight = layer.weight.dequantize().float()
    y = x.detach().clone().requires_grad_()
    nn.functional.linear(y, weight).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for n, p in layer.named_parameters() if n != "bias")


def test_lora_by_hand_learns(llama: Path) -> None:
    """A short fine-tune of a low-rank path beside one packed layer: the loss falls."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(llama)
    layer = model.model.layers[1].mlp.down_proj
    down = nn.Parameter(0.1 * torch.randn(4, layer.in_features))
    up = nn.Parameter(torch.zeros(layer.out_features, 4))
    layer.register_forward_hook(lambda module, args, out: out + args[0] @ down.T @ up.T)
    optimizer = torch.optim.Adam([down, up], lr=0.02)
    losses = []
    for _ in range(12):
        loss = model(tokens(), labels=tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_accepts_it(llama: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(llama)
    expected = logits(model)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model, config)
    torch.testing.assert_close(logits(tuned), expected)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    assert trained
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(12):
        loss = tuned(tokens(), labels=tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


def test_encoder(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.bert, tmp_path / "dense")))
    quantize_checkpoint(source, SCHEME, tmp_path / "packed")
    model = AutoModel.from_pretrained(tmp_path / "packed")
    dense = AutoModel.from_pretrained(tmp_path / "packed").dequantize()
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens()).last_hidden_state, dense(tokens()).last_hidden_state
        )


# float16 is the type that later versions keep some weights out of, 5.0 does in any.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_stored_tensors_keep_their_types_where_a_model_wants_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4
    )
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "dense")
    source = find_model(str(tmp_path / "dense"))
    quantize_checkpoint(source, SCHEME, tmp_path / "packed", embeddings=True)
    model = transformers.T5EncoderModel.from_pretrained(tmp_path / "packed", dtype=dtype)
    weight = model.encoder.block[0].layer[1].DenseReluDense.wo.weight
    stored = PackedCheckpoint.open(tmp_path / "packed").weight(
        "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    )
    assert torch.equal(weight.dequantize().float(), stored.dequantize(dtype).float())
    with torch.no_grad():
        packed = model(tokens() % 64).last_hidden_state
        dense = model.dequantize()(tokens() % 64).last_hidden_state
    torch.testing.assert_close(packed, dense, rtol=1e-2, atol=1e-2)
    assert "_get_dtype_plan" not in vars(model)


def test_convolutions(tmp_path: Path) -> None:
    source = find_model(str(tiny.save(tiny.resnet, tmp_path / "dense", tokenizer=False, spread=1)))
    quantize_checkpoint(source, SCHEME, tmp_path / "packed")
    load = transformers.ResNetForImageClassification.from_pretrained
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        packed = load(tmp_path / "packed")(images).logits
        dense = load(tmp_path / "packed").dequantize()(images).logits
        original = load(tmp_path / "dense")(images).logits
    torch.testing.assert_close(packed, dense, rtol=1e-2, atol=1e-2)
    assert not torch.equal(packed, original)


def test_modules_left_alone(llama: Path) -> None:
    config = StudentFloatConfig("nf4", modules_to_not_convert=["down_proj"])
    model = AutoModelForCausalLM.from_pretrained(llama.parent / "dense", quantization_config=config)
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    assert not isinstance(model.model.layers[0].mlp.down_proj.weight, PackedTensor)
    assert isinstance(model.model.layers[0].mlp.up_proj.weight, PackedTensor)


def test_misuse() -> None:
    with pytest.raises(ConfigError, match="surprise"):
        StudentFloatConfig(surprise=1)
    with pytest.raises(ConfigError, match="calibration"):
        StudentFloatConfig(scale_rule="weighted-mse")
    with pytest.raises(ModelError, match="version 9"):
        StudentFloatConfig(version=9, formats={}, schemes=[], tensors={})


def test_damaged_scales_are_refused(llama: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = next(llama.glob("*.safetensors"))
    state = load_file(file)
    state["model.layers.0.mlp.up_proj.weight_scale"][0, 0] = float("inf")
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj\.weight_scale"):
        AutoModelForCausalLM.from_pretrained(llama)


def test_registering_again_does_nothing() -> None:
    from studentfloat.models.integration import register

    register()
    register()


def test_without_the_plug_in_it_fails_loudly(llama: Path) -> None:
    script = (
        f"import transformers\ntransformers.AutoModelForCausalLM.from_pretrained({str(llama)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode != 0
    assert "mismatch" in done.stderr.lower()


def test_activations_in_a_format(llama: Path, tmp_path: Path) -> None:
    """W4A8: inputs of packed layers are rounded token by token; the head's are not."""
    source = find_model(str(llama.parent / "dense"))
    beside = Companions(activations=Scheme("int8", block_size="row", scale_dtype="bfloat16"))
    quantize_checkpoint(source, SCHEME, tmp_path / "a8", companions=beside)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a8")
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    rounded, _ = fake_quantize(x, beside.activations)
    torch.testing.assert_close(
        layer(x),
        nn.functional.linear(rounded, layer.weight.dequantize().float()),
        rtol=1e-4,
        atol=1e-5,
    )
    assert not isinstance(model.get_output_embeddings().weight, PackedTensor)
    expected = logits(model)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), expected)
    config = StudentFloatConfig("sf4", block_size=16, activations="int8")
    onload = AutoModelForCausalLM.from_pretrained(
        llama.parent / "dense", quantization_config=config
    )
    assert torch.equal(logits(onload), expected)


def test_key_value_cache_in_a_format(llama: Path, tmp_path: Path) -> None:
    source = find_model(str(llama.parent / "dense"))
    beside = Companions(kv_cache=Scheme("sf4", block_size="row", scale_dtype="bfloat16"))
    quantize_checkpoint(source, SCHEME, tmp_path / "kv", companions=beside)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "kv")
    long = torch.randint(4, 200, (1, 100), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        before = model(long).logits
        with packed_kv_cache(model) as report:
            within = model(long).logits
        assert torch.equal(model(long).logits, before)
    assert not torch.equal(within, before)
    assert 0 < report.bytes_per_token < report.bytes_per_token_16bit
    with (
        pytest.raises(ConfigError, match="--kv"),
        packed_kv_cache(AutoModelForCausalLM.from_pretrained(llama)),
    ):
        pass
