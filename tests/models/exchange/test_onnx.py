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
from studentfloat.quantize import ROW, Scheme
from tests import tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def pack(scheme: Scheme, place: Path, make, **options) -> Path:
    source = find_model(str(tiny.save(make, place / "source")))
    quantize_checkpoint(source, scheme, place / "packed", **options)
    return place / "packed"


def logits_of(packed: Path, tokens: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32)
    model.dequantize()
    with torch.no_grad():
        return model.eval()(tokens).logits


def weights_in(file: Path, names: list[str]) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of the subgraphs that end in these names."""
    graph = onnx.load(file)
    for name in names:
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return dict(
        zip(names, session.run(names, {"input_ids": np.zeros((1, 1), np.int64)}), strict=True)
    )


def half_llama() -> torch.nn.Module:
    return tiny.llama().bfloat16()


CASES = {
    "any table": (Scheme("sf4", 16, scale_dtype="bfloat16"), half_llama, {}),
    "tails, five bits": (Scheme("sf5-nu5", 36, scale_rule="mse"), tiny.llama, {"embeddings": True}),
    "rows, three bits": (Scheme("int3", ROW, scale_dtype="e8m0"), tiny.llama, {}),
    "Conv1D, double quantization": (
        Scheme("nf4", 16).with_double_quantization(),
        tiny.gpt2,
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_computes_the_same(case: str, tmp_path: Path) -> None:
    scheme, make, options = CASES[case]
    packed = pack(scheme, tmp_path, make, **options)
    export_model(packed, "onnx", tmp_path / "out")
    file = tmp_path / "out" / "model.onnx"
    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file)
    for shape in ((1, 3), (2, 17)):
        tokens = torch.randint(4, 200, shape, generator=torch.Generator().manual_seed(1))
        expected = logits_of(packed, tokens)
        (found,) = session.run(None, {"input_ids": tokens.numpy()})
        scale = float(expected.abs().max())
        assert np.abs(found - expected.numpy()).max() < 1e-5 * max(1.0, scale)

    checkpoint = PackedCheckpoint.open(packed)
    names = {f"model.{name}": name for name in checkpoint.weights if "embed" not in name}
    for theirs, made in weights_in(file, list(names)).items():
        stored = checkpoint.weights[names[theirs]]
        matrix = checkpoint.weight(names[theirs]).dequantize(torch.float32)
        expected = stored.orientation.from_matrix(matrix, stored.shape).numpy()
        assert np.array_equal(made, expected), theirs


@pytest.mark.filterwarnings("ignore")
def test_codes_are_four_bits_in_the_file(tmp_path: Path) -> None:
    packed = pack(Scheme("sf4", 16, scale_dtype="bfloat16"), tmp_path, tiny.llama)
    export_model(packed, "onnx", tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    checkpoint = PackedCheckpoint.open(packed)
    for name, stored in checkpoint.weights.items():
        codes = tensors[f"model.{name}.codes"]
        assert codes.data_type == onnx.TensorProto.UINT4
        assert len(codes.raw_data) == np.prod(stored.shape) // 2
        assert f"model.{name}" not in tensors


def test_what_cannot_be_carried_is_refused(tmp_path: Path) -> None:
    packed = pack(Scheme("e2m1+sp|e2m1+sr", 16), tmp_path / "a", tiny.llama)
    with pytest.raises(SchemeError, match="chooses among"):
        export_model(packed, "onnx", tmp_path / "out")
    packed = pack(Scheme("sf4", 16), tmp_path / "b", tiny.bert)
    with pytest.raises(SchemeError, match="BertModel"):
        export_model(packed, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
