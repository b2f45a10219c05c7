"""GGUF in and out: against gguf's own dequantizer, transformers' reader, and llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import studentfloat.transformers  # noqa: F401  (registers the packed layers)
from studentfloat.errors import ConfigError, ModelError, SchemeError, StudentFloatError
from studentfloat.models import PackedCheckpoint, find_model, quantize_checkpoint, verify_checkpoint
from studentfloat.models.exchange import export_model, import_model
from studentfloat.models.exchange.gguf_blocks import BLOCK_TYPES
from studentfloat.quantize import Scheme
from tests import tiny

SCHEMES = {
    "Q4_0": Scheme("int4", 32, scale_rule="signed-absmax", scale_dtype="float16"),
    "MXFP4": Scheme("e2m1", 32, scale_dtype="e8m0"),
    "IQ4_NL": Scheme("iq4_nl", 32, scale_rule="mse", scale_dtype="float16"),
    "Q8_0": Scheme("int8", 32, scale_dtype="float16"),
}


def llama(**changes) -> torch.nn.Module:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 270}
    return tiny.llama(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, **changes})


def qwen(kind: str) -> torch.nn.Module:
    config = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[kind]
    return {"qwen2": transformers.Qwen2ForCausalLM, "qwen3": transformers.Qwen3ForCausalLM}[kind](
        config(
            vocab_size=270,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def source_of(make, place: Path):
    tiny.save(make, place, tokenizer=False, spread=4.0)
    tiny.bpe_tokenizer().save_pretrained(place)
    return find_model(str(place))


def pack(scheme: Scheme, place: Path, make=llama, **options) -> Path:
    quantize_checkpoint(source_of(make, place / "source"), scheme, place / "packed", **options)
    return place / "packed"


def logits_of(directory: Path, **options) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, **options
        )
    with torch.no_grad():
        return model.eval()(torch.arange(4, 44)[None]).logits


@pytest.mark.parametrize("kind", SCHEMES)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    packed = pack(SCHEMES[kind], tmp_path, embeddings=True)
    export_model(packed, "gguf", tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == kind
    before = PackedCheckpoint.open(packed)
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
    ):
        made = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert np.array_equal(made, before.weight(ours).dequantize().numpy())
    assert torch.allclose(
        logits_of(tmp_path, gguf_file="model.gguf"), logits_of(packed), rtol=1e-4, atol=1e-4
    )

    import_model(str(tmp_path / "model.gguf"), tmp_path / "again")
    after = PackedCheckpoint.open(tmp_path / "again")
    assert after.weights.keys() == before.weights.keys()
    for name in before.weights:
        assert torch.equal(after.weight(name).dequantize(), before.weight(name).dequantize())
    assert not verify_checkpoint(tmp_path / "again").problems
    assert torch.allclose(logits_of(tmp_path / "again"), logits_of(packed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@given(data=st.data())
def test_any_block_of_bytes(kind: str, data) -> None:
    """Codes and scales of any bytes are what gguf makes of them, and give the bytes again."""
    block = BLOCK_TYPES[kind]
    raw = data.draw(st.binary(min_size=4 * block.block_bytes, max_size=4 * block.block_bytes))
    rows = np.frombuffer(raw, np.uint8).reshape(2, -1)
    codes, scales, minima = block.unpack(rows)
    assert np.array_equal(block.pack(codes, scales, minima), rows)
    values = torch.from_numpy(block.format.decode_table.copy()).float()[codes.int()]
    if scales.dtype == torch.uint8:
        if bool((scales == 255).any()):  # NaN in the standard; a number to ggml, refused here
            return
        numbers = torch.ldexp(torch.ones(scales.shape), scales.int() - 127)
    else:
        numbers = scales.float()
    with np.errstate(invalid="ignore", over="ignore"):
        expected = gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])
    made = values.reshape(2, -1, 32) * numbers[..., None]
    if minima is not None:
        made = made + minima.float()[..., None]
    made = made.reshape(2, -1).numpy()
    assert np.array_equal(made, expected, equal_nan=True)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_architectures_whose_rows_stay(kind: str, tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path, lambda: qwen(kind))
    export_model(packed, "gguf", tmp_path / "model.gguf")
    import_model(str(tmp_path / "model.gguf"), tmp_path / "again")
    # transformers' own reader takes every head of a Qwen3 to be of size 128.
    assert torch.allclose(logits_of(tmp_path / "again"), logits_of(packed), rtol=1e-4, atol=1e-4)


# In a process of its own: it aborts where other libraries' C++ was loaded before its own.
_LLAMA_CPP = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 128, 1, 1
params.warmup, params.verbosity, params.use_jinja = False, -1, False
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
answer = xllamacpp.Server(params).handle_completions(json.loads(sys.argv[2]))
print("answer", json.dumps(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]))
"""


def llama_cpp_logprobs(file: Path, tokens: list[int]) -> dict[int, float]:
    """What llama.cpp gives each next token."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    # A token that ends inside of a UTF-8 character would be held back, and its figures with it.
    request = {"prompt": tokens, "n_predict": 1, "n_probs": 270, "grammar": "root ::= [a-z]+"}
    command = [sys.executable, "-c", _LLAMA_CPP, str(file)]
    done = subprocess.run(
        [*command, json.dumps({**request, "temperature": 0.0})],
        check=False,
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    assert said, done.stderr[-2000:]
    return {entry["id"]: entry["logprob"] for entry in json.loads(said[-1].partition(" ")[2])}


LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
# llama.cpp rounds activations to int8: some hundredths.
TOLERANCE = 0.06


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        *((kind, llama) for kind in SCHEMES),
        ("Q4_0", lambda: llama().bfloat16()),
        ("IQ4_NL", lambda: llama(rope_parameters=LLAMA3)),
        ("Q4_0", lambda: llama(rope_parameters=LINEAR, tie_word_embeddings=False)),
        ("Q4_0", lambda: qwen("qwen2")),
        ("MXFP4", lambda: qwen("qwen3")),
    ],
)
def test_llama_cpp_computes_the_same(kind: str, make, tmp_path: Path) -> None:
    packed = pack(SCHEMES[kind], tmp_path, make)
    export_model(packed, "gguf", tmp_path / "model.gguf")
    found = llama_cpp_logprobs(tmp_path / "model.gguf", list(range(4, 44)))
    expected = torch.log_softmax(logits_of(packed)[0, -1].double(), -1)
    assert len(found) == 270
    assert max(abs(float(expected[i]) - value) for i, value in found.items()) < TOLERANCE
    assert float(expected.max() - expected.min()) > 30 * TOLERANCE


def test_a_tied_pair_stored_as_the_head(tmp_path: Path) -> None:
    place = source_of(llama, tmp_path / "source").directory
    state = load_file(place / "model.safetensors")
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    save_file(state, place / "model.safetensors", {"format": "pt"})
    quantize_checkpoint(find_model(str(place)), SCHEMES["Q4_0"], tmp_path / "packed")
    export_model(tmp_path / "packed", "gguf", tmp_path / "model.gguf")
    import_model(str(tmp_path / "model.gguf"), tmp_path / "again")
    expected = logits_of(tmp_path / "packed")
    assert torch.allclose(logits_of(tmp_path / "again"), expected, rtol=1e-4, atol=1e-4)


def test_blocks_of_64_and_rows_are_split(tmp_path: Path) -> None:
    scheme = Scheme("int4-symmetric", 64, scale_dtype="float16")
    make = lambda: llama(intermediate_size=128)  # noqa: E731
    packed = pack(scheme, tmp_path, make)
    export_model(packed, "gguf", tmp_path / "model.gguf")
    import_model(str(tmp_path / "model.gguf"), tmp_path / "again")
    before, after = PackedCheckpoint.open(packed), PackedCheckpoint.open(tmp_path / "again")
    for name in before.weights:
        assert torch.equal(after.weight(name).dequantize(), before.weight(name).dequantize())


REFUSED = {
    "another table": (Scheme("sf4", 32, scale_dtype="float16"), llama, "values of format 'sf4'"),
    "short blocks": (Scheme("int4", 16, scale_dtype="float16"), llama, "blocks of 32"),
    "scales in float32": (Scheme("int4", 32), llama, "float16"),
    "scales in float32 for MXFP4": (Scheme("e2m1", 32), llama, "e8m0"),
    "alternatives": (Scheme("e2m1+sp|e2m1+sr", 32), llama, "chooses among 2 formats"),
    "a tensor's scale": (Scheme("int4", "tensor"), llama, "blocks across rows"),
    "an activation": (SCHEMES["Q4_0"], lambda: llama(hidden_act="gelu"), "activation 'gelu'"),
    "a rope": (
        SCHEMES["Q4_0"],
        lambda: llama(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
        "'yarn'",
    ),
    "an architecture": (Scheme("int4", 16, scale_dtype="float16"), tiny.gpt2, "architecture gpt2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_carried_is_refused(what: str, tmp_path: Path) -> None:
    scheme, make, said = REFUSED[what]
    packed = pack(scheme, tmp_path, make)
    with pytest.raises(SchemeError, match=said):
        export_model(packed, "gguf", tmp_path / "out" / "model.gguf")
    assert not list(tmp_path.glob("out/*"))


def test_a_tokenizer_that_llama_cpp_would_read_otherwise(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    data = json.loads((packed / "tokenizer.json").read_text())
    merges = data["model"]["merges"]
    data["model"]["merges"] = []
    (packed / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(SchemeError, match="merges nothing"):
        export_model(packed, "gguf", tmp_path / "model.gguf")
    data["model"]["merges"] = merges
    data["pre_tokenizer"] = {"type": "Whitespace"}
    (packed / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(SchemeError, match="Whitespace"):
        export_model(packed, "gguf", tmp_path / "model.gguf")


def test_places_that_are_taken(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        export_model(packed, "gguf", tmp_path / "mine")
    with pytest.raises(ConfigError, match="one of gguf"):
        export_model(packed, "ggml", tmp_path / "out")


def requantized(file: Path, out: Path, kinds: dict[str, str]) -> Path:
    """A copy of a GGUF file with some tensors in other types."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        raw, kind = tensor.data, tensor.tensor_type
        if tensor.name in kinds:
            kind = gguf.GGMLQuantizationType[kinds[tensor.name]]
            raw = gguf.quantize(gguf.dequantize(tensor.data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_other_types_are_refused_but_for_the_embedding(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    export_model(packed, "gguf", tmp_path / "model.gguf")
    with_embedding = {"token_embd.weight": "Q5_1"}
    mixed = requantized(tmp_path / "model.gguf", tmp_path / "mixed.gguf", with_embedding)
    report = import_model(str(mixed), tmp_path / "again")
    skip = next(s for s in report.skipped if s.name == "model.embed_tokens.weight")
    assert "Q5_1" in skip.reason
    assert torch.allclose(
        logits_of(tmp_path / "again"),
        logits_of(tmp_path, gguf_file="mixed.gguf"),
        rtol=1e-4,
        atol=1e-4,
    )
    layers = {"blk.0.ffn_up.weight": "Q5_1"}
    other = requantized(tmp_path / "model.gguf", tmp_path / "other.gguf", layers)
    with pytest.raises(SchemeError, match="1 matrices in Q5_1"):
        import_model(str(other), tmp_path / "other")


def test_a_minimum_per_block_there_and_back(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    file = export_model(packed, "gguf", tmp_path / "model.gguf")
    # Queries are the matrix whose rows llama.cpp has in another order.
    layers = dict.fromkeys(("blk.0.ffn_up.weight", "blk.1.attn_q.weight"), "Q4_1")
    mixed = requantized(file, tmp_path / "mixed.gguf", layers)
    import_model(str(mixed), tmp_path / "again")
    checkpoint = PackedCheckpoint.open(tmp_path / "again")
    up = checkpoint.weight("model.layers.0.mlp.up_proj.weight")
    assert [part.kind for part in up.parts] == ["offsets"]
    assert up.bits_per_weight == 5.0
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(mixed).tensors}
    made = theirs["blk.0.ffn_up.weight"]
    assert np.array_equal(gguf.dequantize(made.data, made.tensor_type), up.dequantize().numpy())
    expected = logits_of(tmp_path, gguf_file="mixed.gguf")
    assert torch.allclose(logits_of(tmp_path / "again"), expected, rtol=1e-4, atol=1e-4)
    # The tokenizer that transformers reads from a GGUF file has a token more.
    for part in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(packed / part, tmp_path / "again")
    export_model(tmp_path / "again", "gguf", tmp_path / "back.gguf")
    for tensor in gguf.GGUFReader(tmp_path / "back.gguf").tensors:
        assert tensor.tensor_type == theirs[tensor.name].tensor_type
        assert np.array_equal(tensor.data, theirs[tensor.name].data)
    with pytest.raises(SchemeError, match=r"ONNX cannot carry .* adds an offset to each block"):
        export_model(tmp_path / "again", "onnx", tmp_path / "onnx")


def test_damaged_files(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    file = export_model(packed, "gguf", tmp_path / "model.gguf")
    raw = file.read_bytes()
    (tmp_path / "short.gguf").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "noise.gguf").write_bytes(b"noise" * 100)
    for name in ("short.gguf", "noise.gguf", "none.gguf"):
        with pytest.raises(ModelError, match=name):
            import_model(str(tmp_path / name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_any_byte_changed(tmp_path: Path) -> None:
    """An error of ours or a sound model, whichever byte of the header is another."""
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    raw = export_model(packed, "gguf", tmp_path / "model.gguf").read_bytes()
    start = min(t.data_offset for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors)
    chance, said = random.Random(0), []
    for turn in range(40):
        changed = bytearray(raw)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(start)] = chance.randrange(256)
        file = tmp_path / f"{turn}.gguf"
        file.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                import_model(str(file), tmp_path / f"out-{turn}")
            except StudentFloatError as error:
                said.append(str(error))
            else:
                assert not verify_checkpoint(tmp_path / f"out-{turn}").problems
    assert not any("\n" in message for message in said)
    assert 0 < len(said) < 40


def test_scales_that_are_not_numbers(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q4_0"], tmp_path)
    file = export_model(packed, "gguf", tmp_path / "model.gguf")
    tensor = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.0.ffn_up.weight")
    raw = bytearray(file.read_bytes())
    raw[tensor.data_offset : tensor.data_offset + 2] = b"\x00\x7e"
    file.write_bytes(raw)
    with pytest.raises(StudentFloatError, match=r"layers\.0\.mlp\.up_proj.*NaN"):
        import_model(str(file), tmp_path / "out")


def test_no_scale_no_code(tmp_path: Path) -> None:
    """Blocks of zeros: IQ4_NL has no zero in its table, so any code may stand there."""

    def make() -> torch.nn.Module:
        model = llama()
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[:, :32] = 0
        return model

    packed = pack(SCHEMES["IQ4_NL"], tmp_path, make)
    export_model(packed, "gguf", tmp_path / "model.gguf")
    import_model(str(tmp_path / "model.gguf"), tmp_path / "again")
    name = "model.layers.0.mlp.up_proj.weight"
    made = PackedCheckpoint.open(tmp_path / "again").weight(name).dequantize()
    assert not made[:, :32].any()
    assert torch.equal(made, PackedCheckpoint.open(packed).weight(name).dequantize())


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENTFLOAT_CACHE", str(tmp_path / "cache"))


# The second cannot be told from another scaling by its factors alone: its bounds are unusual.
UNUSUAL = {"rope_theta": 100.0, "low_freq_factor": 1.5, "high_freq_factor": 5.0, "factor": 4.0}
SCALED = [LLAMA3, {**LLAMA3, **UNUSUAL}]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("rope", SCALED, ids=["usual", "unusual"])
def test_a_scaled_rope_is_read_from_its_factors(rope, tmp_path: Path) -> None:
    """Transformers leaves the tensor out: the model would lose its long context."""
    packed = pack(SCHEMES["Q8_0"], tmp_path, lambda: llama(rope_parameters=rope))
    file = export_model(packed, "gguf", tmp_path / "model.gguf")
    assert "rope_freqs.weight" in {tensor.name for tensor in gguf.GGUFReader(file).tensors}
    import_model(str(file), tmp_path / "again")
    dense = find_model(str(file)).directory
    if rope is LLAMA3:
        found = json.loads((dense / "config.json").read_text())["rope_parameters"]
        assert found == pytest.approx(rope)
    expected = logits_of(packed)
    for place in (tmp_path / "again", dense):
        assert torch.allclose(logits_of(place), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight", r"layers\.1\.mlp\.up_proj"),
        (b"rope_freqs.weight", b"rope_fraqs.weight", r"rope_fraqs\.weight, which transformers"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    old: bytes, new: bytes, message: str, tmp_path: Path
) -> None:
    """What is missing would be drawn at random, and what has no place would be left out."""
    packed = pack(SCHEMES["Q8_0"], tmp_path, lambda: llama(rope_parameters=LLAMA3))
    file = export_model(packed, "gguf", tmp_path / "model.gguf")
    raw = file.read_bytes()
    assert raw.count(old) == 1
    file.write_bytes(raw.replace(old, new))
    with pytest.raises(ModelError, match=message):
        find_model(str(file))
    with pytest.raises(StudentFloatError, match=new.decode()):
        import_model(str(file), tmp_path / "again")


@pytest.mark.usefixtures("own_cache")
def test_one_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    for name in ("token_embd.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = tmp_path / "m-00001-of-00002.gguf"
    for read in (lambda: find_model(str(first)), lambda: import_model(str(first), tmp_path / "o")):
        with pytest.raises(ModelError, match=r"part 1 of 2 .*llama-gguf-split --merge"):
            read()


@pytest.mark.usefixtures("own_cache")
def test_what_a_file_is_converted_to_has_the_embedding(tmp_path: Path) -> None:
    packed = pack(SCHEMES["Q8_0"], tmp_path, llama)
    file = export_model(packed, "gguf", tmp_path / "model.gguf")
    state = {}
    for shard in find_model(str(file)).weight_files:
        state |= load_file(shard)
    assert "model.embed_tokens.weight" in state
    assert "lm_head.weight" not in state
