"""ONNX out, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import studentfloat.transformers  # noqa: F401  (registers the packed layers)
from studentfloat.errors import SchemeError
from studentfloat.models import PackedCheckpoint, find_model, quantize_checkpoint
from studentfloat.models.exchange import export_model
from studentfloat.quantize import ROW, QuantizedWeight, Scheme, quantize
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.stored import StoredWeight
from tests import tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def llama() -> torch.nn.Module:
    return tiny.llama(num_hidden_layers=1).bfloat16()


def gpt2() -> torch.nn.Module:
    config = {"vocab_size": tiny.VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, n_positions=128))


def pack(scheme: Scheme, place: Path, make, **options) -> Path:
    source = find_model(str(tiny.save(make, place / "source")))
    quantize_checkpoint(source, scheme, place / "packed", **options)
    return place / "packed"


def logits_of(packed: Path, tokens: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32)
    model.dequantize()
    with torch.no_grad():
        return model.eval()(tokens).logits


SCHEMES = {
    "any table": Scheme("sf4", 16, scale_dtype="bfloat16"),
    "signed scales and tails": Scheme("bof4-s", 20, scale_rule="signed-absmax"),
    "five bits": Scheme("sf5-nu5", 16, scale_rule="mse", scale_dtype="float16"),
    "three bits": Scheme("int3", ROW, scale_dtype="e8m0"),
    "two bits": Scheme("int2", 8),
    "eight bits with codes that are no numbers": Scheme("e4m3", 16),
    "double quantization": Scheme("nf4", 16).with_double_quantization(),
    "two-level scales": Scheme("e2m1", 16, scale_dtype="e4m3"),
}


@pytest.mark.parametrize("orientation", Orientation)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", SCHEMES)
def test_a_subgraph_makes_the_weight(case: str, dtype, orientation: Orientation) -> None:
    from studentfloat.models.exchange.onnx_out import _subgraph

    shape = (6, 48, 3) if orientation is Orientation.FLATTENED else (48, 6)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    tensor = quantize(orientation.to_matrix(values), SCHEMES[case])
    stored = StoredWeight.of(QuantizedWeight(tensor), shape, orientation)
    nodes, constants = _subgraph("w", stored, tensor)
    output = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, shape)
    graph = onnx.helper.make_graph(nodes, "g", [], [output], constants)
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    (made,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    expected = orientation.from_matrix(tensor.dequantize().float(), shape).numpy()
    assert np.array_equal(made, expected)


@pytest.mark.parametrize(
    ("make", "scheme", "options"),
    [
        (llama, Scheme("sf4", 36, scale_dtype="bfloat16"), {"embeddings": True}),
        (gpt2, Scheme("nf4", 16).with_double_quantization(), {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_computes_the_same(make, scheme, options, tmp_path: Path) -> None:
    packed = pack(scheme, tmp_path, make, **options)
    export_model(packed, "onnx", tmp_path / "out")
    file = tmp_path / "out" / "model.onnx"
    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file)
    for shape in ((1, 3), (2, 17)):
        tokens = torch.randint(4, 200, shape, generator=torch.Generator().manual_seed(1))
        expected = logits_of(packed, tokens).numpy()
        (found,) = session.run(None, {"input_ids": tokens.numpy()})
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
        assert np.ptp(expected) > 0.1
    tensors = {tensor.name: tensor for tensor in onnx.load(file).graph.initializer}
    codes = [tensor for name, tensor in tensors.items() if name.endswith(".codes")]
    assert len(codes) == len(PackedCheckpoint.open(packed).weights)
    assert all(tensor.data_type == onnx.TensorProto.UINT4 for tensor in codes)
    assert not any(name.endswith("proj.weight") for name in tensors)


def test_what_cannot_be_carried_is_refused(tmp_path: Path) -> None:
    packed = pack(Scheme("e2m1+sp|e2m1+sr", 16), tmp_path / "a", tiny.llama)
    with pytest.raises(SchemeError, match="chooses among"):
        export_model(packed, "onnx", tmp_path / "out")
    packed = pack(Scheme("sf4", 16), tmp_path / "b", tiny.bert)
    with pytest.raises(SchemeError, match="BertModel"):
        export_model(packed, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
