"""bitsandbytes checkpoints in, against bitsandbytes' own dequantization."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from studentfloat.errors import ModelError, SchemeError, StudentFloatError
from studentfloat.models import PackedCheckpoint, verify_checkpoint
from studentfloat.models.exchange import import_model
from tests import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    functional = pytest.importorskip("bitsandbytes.functional")

WEIGHT = "model.layers.0.mlp.up_proj.weight"


def by_bitsandbytes(make, place: Path, dtype: torch.dtype = torch.float32, **options) -> Path:
    """A tiny model quantized and saved by transformers with bitsandbytes."""
    tiny.save(make, place / "dense")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            place / "dense", quantization_config=config, dtype=dtype, device_map="cpu"
        )
        model.save_pretrained(place / "bnb", max_shard_size="60KB")
    tiny.byte_tokenizer().save_pretrained(place / "bnb")
    return place / "bnb"


def state_of(place: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in place.glob("*.safetensors") for k, v in load_file(file).items()}


def own_dequantization(place: Path) -> dict[str, torch.Tensor]:
    """What bitsandbytes makes of every weight in a checkpoint."""
    state, found = state_of(place), {}
    for key in state:
        name, marker, _ = key.partition(".quant_state.bitsandbytes__")
        if marker:
            parts = {k: v for k, v in state.items() if k.startswith(f"{name}.")}
            quant_state = functional.QuantState.from_dict(parts, torch.device("cpu"))
            shape = quant_state.shape
            # As one row: where rows end inside of a block, bitsandbytes 0.50's CPU kernel takes
            # the wrong scale. Its blocks run over the flattened weight, as its quantizer has them.
            quant_state.shape = torch.Size([1, shape.numel()])
            flat = functional.dequantize_4bit(state[name], quant_state)
            found[name] = flat.reshape(shape)
    return found


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_is_bitsandbytes_own(kind, double, dtype, tmp_path: Path) -> None:
    place = by_bitsandbytes(
        lambda: tiny.llama(hidden_size=64, intermediate_size=160),  # 160 is no multiple of 64
        tmp_path,
        dtype,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
    )
    report = import_model(str(place), tmp_path / "packed")
    checkpoint = PackedCheckpoint.open(tmp_path / "packed")
    expected = own_dequantization(place)
    assert len(expected) == 14
    assert checkpoint.weights.keys() == expected.keys()
    for name, values in expected.items():
        made = checkpoint.weight(name).dequantize()
        assert made.dtype == values.dtype == dtype
        assert torch.equal(made, values), name
    plain = set(checkpoint.plain_names())
    assert plain == {s.name for s in report.skipped}
    state = state_of(place)
    assert all(torch.equal(state_of(tmp_path / "packed")[name], state[name]) for name in plain)
    assert 4.5 < report.bits_per_weight < 5
    assert not verify_checkpoint(tmp_path / "packed").problems


def test_transposed_weights(tmp_path: Path) -> None:
    """GPT-2's Conv1D: bitsandbytes stores it as a linear layer's weight."""
    place = by_bitsandbytes(tiny.gpt2, tmp_path, bnb_4bit_quant_type="nf4")
    import_model(str(place), tmp_path / "packed")
    checkpoint = PackedCheckpoint.open(tmp_path / "packed")
    name = "transformer.h.0.attn.c_attn.weight"
    assert checkpoint.weights[name].shape == (48, 144)
    assert torch.equal(checkpoint.weight(name).dequantize(), own_dequantization(place)[name])


def test_the_model_computes_the_same(tmp_path: Path) -> None:
    import studentfloat.transformers  # noqa: F401  (registers the packed layers)

    make = lambda: tiny.llama(hidden_size=64, intermediate_size=128)  # noqa: E731
    place = by_bitsandbytes(make, tmp_path, bnb_4bit_use_double_quant=True)
    import_model(str(place), tmp_path / "packed")
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    with torch.no_grad():
        for name, values in own_dequantization(place).items():
            dense.get_parameter(name).copy_(values)
        tokens = torch.arange(4, 40)[None]
        assert torch.allclose(packed(tokens).logits, dense(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bnb")
    return by_bitsandbytes(tiny.llama, place, bnb_4bit_use_double_quant=True)


def rewrite(place: Path, out: Path, change) -> Path:
    """A copy as one shard, its tensors changed."""
    state = state_of(place)
    change(state)
    out.mkdir()
    for file in place.glob("*.json"):
        if "index" not in file.name:
            (out / file.name).write_bytes(file.read_bytes())
    save_file({k: v.clone() for k, v in state.items()}, out / "model.safetensors", {"format": "pt"})
    return out


def text(data: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(data).encode()), dtype=torch.uint8)


STATE = f"{WEIGHT}.quant_state.bitsandbytes__fp4"
SOUND = {"shape": [80, 48], "dtype": "float32", "blocksize": 64, "nested_blocksize": 256}
FAULTS = {
    "no scales": (lambda s: s.pop(f"{WEIGHT}.absmax"), "lacks the tensor .*absmax"),
    "too few scales": (lambda s: s.update({f"{WEIGHT}.absmax": s["x"]}), "absmax holds 3 numbers"),
    "no JSON": (lambda s: s.update({STATE: s["x"]}), "is not the JSON"),
    "a huge shape": (lambda s: s.update({STATE: text({**SOUND, "shape": [1 << 40, 48]})}), "holds"),
    "a negative block": (
        lambda s: s.update({STATE: text({**SOUND, "blocksize": -1})}),
        "describes",
    ),
    "a flat shape": (lambda s: s.update({STATE: text({**SOUND, "shape": [5]})}), "describes"),
    "an odd type": (lambda s: s.update({STATE: text({**SOUND, "dtype": "int3"})}), "int3"),
    "a scale that is NaN": (
        lambda s: s.update({f"{WEIGHT}.nested_absmax": s[f"{WEIGHT}.nested_absmax"] * torch.nan}),
        "NaN",
    ),
    "a value that is NaN": (
        lambda s: s.update({f"{WEIGHT}.quant_map": s[f"{WEIGHT}.quant_map"] * torch.nan}),
        "no table",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named(fault: str, sound: Path, tmp_path: Path) -> None:
    change, said = FAULTS[fault]

    def spoil(state) -> None:
        state["x"] = torch.tensor([1, 2, 3], dtype=torch.uint8)
        change(state)

    place = rewrite(sound, tmp_path / "spoiled", spoil)
    with pytest.raises(StudentFloatError, match=said) as caught:
        import_model(str(place), tmp_path / "packed")
    assert WEIGHT in str(caught.value)
    assert not (tmp_path / "packed" / "config.json").exists()


def test_blocks_that_do_not_fit_rows(tmp_path: Path) -> None:
    make = lambda: tiny.llama(hidden_size=36, num_attention_heads=2)  # noqa: E731
    place = by_bitsandbytes(make, tmp_path)
    with pytest.raises(SchemeError, match="rows of 36 numbers"):
        import_model(str(place), tmp_path / "packed")


def test_interrupted_and_resumed(sound: Path, tmp_path: Path) -> None:
    import_model(str(sound), tmp_path / "whole")

    def stop(share: float, what: str) -> None:
        if share > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_model(str(sound), tmp_path / "packed", stop)
    assert not (tmp_path / "packed" / "config.json").exists()
    import_model(str(sound), tmp_path / "packed")
    for file in (tmp_path / "whole").iterdir():
        if file.name != "quantization-report.json":
            assert file.read_bytes() == (tmp_path / "packed" / file.name).read_bytes()


def test_eight_bits_and_dense_models_are_refused(sound: Path, tmp_path: Path) -> None:
    dense = tiny.save(tiny.llama, tmp_path / "dense")
    with pytest.raises(StudentFloatError, match="is not quantized"):
        import_model(str(dense), tmp_path / "packed")
    config = json.loads((dense / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (dense / "config.json").write_text(json.dumps(config))
    with pytest.raises(SchemeError, match="8-bit"):
        import_model(str(dense), tmp_path / "packed")
    config["quantization_config"] = {"quant_method": "awq"}
    (dense / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudentFloatError, match="awq"):
        import_model(str(dense), tmp_path / "packed")
    with pytest.raises(ModelError, match="there is no"):
        import_model(str(tmp_path / "nowhere"), tmp_path / "packed")
