"""ONNX out: the whole decoder, each packed weight as codes, a table, a Gather and a product.

ONNX has no type for a table of values, but operators that make one: the graph that torch
exports is kept, and every weight in it that is packed becomes a subgraph that dequantizes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studentfloat.errors import MissingDependencyError, ModelError, SchemeError
from studentfloat.models.exchange.blocks import codes_of, refuse_extras
from studentfloat.models.exchange.places import whole_directory
from studentfloat.models.packed_files import PackedCheckpoint
from studentfloat.models.quiet import quiet_logger, quiet_transformers
from studentfloat.models.side_files import copy_side_files
from studentfloat.progress import Progress, silent
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.packing import pack_codes
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.records import write_json

__all__ = ["export_onnx"]

_OPSET = 21  # the first with 4-bit integers
_NARROW = 4
# A protobuf message ends at 2 GiB; what is larger goes to a file beside it.
_MOST_INSIDE = 1 << 30
_WRAPPER = "model."


def export_onnx(checkpoint: PackedCheckpoint, out: Path, progress: Progress = silent) -> Path:
    """Write a packed decoder as an ONNX graph from tokens to logits.

    Parameters
    ----------
    checkpoint
        Of a causal language model, in any format, block size and scale type.
    out
        A directory that must not exist; gets ``model.onnx``, with input ``input_ids``, int64 of
        shape ``(batch, length)``, and output ``logits``, float32 of shape ``(batch, length,
        vocabulary)``, without a cache. The dense model is in memory meanwhile.
    progress
        Told about every weight.

    Returns
    -------
    Path
        `out`. Its subgraphs yield the very weights that the packed model has; what follows is
        computed in float32.

    Raises
    ------
    SchemeError
        If a weight cannot be carried, or the model is no decoder.
    ModelError
        If torch cannot export it.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch exports with it)
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra(str(error.name), "exchange") from error
    names = [str(name) for name in checkpoint.config.get("architectures") or ()]
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        raise SchemeError(
            f"ONNX export makes decoders, from tokens to logits: {checkpoint.directory} is of "
            f"architecture {', '.join(names) or 'none'}. `studentfloat dequantize` makes a dense "
            "model for other exporters"
        )
    for name, stored in checkpoint.weights.items():
        refuse_extras(name, stored, "ONNX")
    progress(0.0, "torch exports the dense model")
    model = _dense_model(checkpoint)
    graph = _exported(model, checkpoint)
    _replace_weights(graph.graph, model, checkpoint, progress)
    graph.metadata_props.add(key="studentfloat.weights", value=_description(checkpoint))
    with whole_directory(out) as work:
        copy_side_files(checkpoint.directory, work)
        # What is written is no packed checkpoint: transformers must not take it for one.
        config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
        write_json(work / "config.json", config)
        size = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
        onnx.save_model(
            graph,
            work / "model.onnx",
            save_as_external_data=size > _MOST_INSIDE,
            location="model.onnx.data",
        )
    return out


class _Logits(nn.Module):
    """A decoder as a function of tokens alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def _dense_model(checkpoint: PackedCheckpoint) -> Any:
    from transformers import AutoModelForCausalLM

    from studentfloat.models.integration import register

    register()
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.directory, dtype=torch.float32, local_files_only=True
        )
        model.dequantize()
    return model.eval()


def _exported(model: Any, checkpoint: PackedCheckpoint) -> Any:
    dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    tokens = torch.zeros((2, 5), dtype=torch.int64)
    try:
        with quiet_logger("torch.onnx"), torch.no_grad():
            program = torch.onnx.export(
                _Logits(model),
                (tokens,),
                dynamo=True,
                # Folding would turn weights and what uses them into constants without names.
                optimize=False,
                verbose=False,
                dynamic_shapes={"input_ids": dimensions},
                input_names=["input_ids"],
                output_names=["logits"],
                opset_version=_OPSET,
            )
    except Exception as error:
        # torch raises whatever it meets; the user needs the model and the reason.
        raise ModelError(
            f"torch cannot export {checkpoint.directory} to ONNX: "
            f"{' '.join(str(error).split())[:240]}"
        ) from error
    assert program is not None
    return program.model_proto


def _replace_weights(
    graph: Any, model: nn.Module, checkpoint: PackedCheckpoint, progress: Progress
) -> None:
    """Put the subgraph of each packed weight where the dense one was."""
    aliases = _aliases(model)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for done, (name, stored) in enumerate(checkpoint.weights.items()):
        progress(0.5 + done / len(checkpoint.weights) / 2, name)
        spellings = {_WRAPPER + alias for alias in aliases.get(_in_model(name, aliases), ())}
        found = sorted(spellings & initializers.keys())
        if not found:
            raise ModelError(f"the graph that torch exported has no weight {name}")
        tensor = checkpoint.weight(name).base
        made, constants = _subgraph(found[0], stored, tensor)
        nodes += made
        for alias in found:
            graph.initializer.remove(initializers[alias])
            if alias != found[0]:
                nodes.append(_node("Identity", [found[0]], alias))
        graph.initializer.extend(constants)
    first = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *first])
    # Shapes were inferred for the dense initializers under these names; they still hold.


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each parameter to all its names: tied ones have several."""
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    return {name: names for names in by_parameter.values() for name in names}


def _in_model(name: str, aliases: dict[str, list[str]]) -> str:
    """A checkpoint's name as the model has it, whose base model's prefix may be there or not."""
    for known in aliases:
        if known == name or known.endswith(f".{name}"):
            return known
    return name


def _subgraph(
    name: str, stored: StoredWeight, tensor: QuantizedTensor
) -> tuple[list[Any], list[Any]]:
    """Nodes and constants that make a weight, called `name`, as the model has it.

    As numbers they do what :meth:`QuantizedTensor.dequantize` does, in the same order.
    """
    size = tensor.scheme.block_size
    columns = tensor.row_length
    block = size if isinstance(size, int) else columns
    blocks = -(-columns // block)
    rows = tensor.packed.shape[0]
    codes = nn.functional.pad(codes_of(tensor), (0, blocks * block - columns))
    constants = [
        _codes(f"{name}.codes", codes, tensor.scheme.format.bits, (rows, blocks, block)),
        _constant(f"{name}.table", _table(tensor)),
        _scales(f"{name}.scale", tensor.block_scales()[..., None]),
        _constant(f"{name}.shape", np.array([rows, blocks * block], dtype=np.int64)),
    ]
    from onnx import TensorProto

    nodes = [
        _node("Cast", [f"{name}.codes"], f"{name}.index", to=TensorProto.INT32),
        _node("Gather", [f"{name}.table", f"{name}.index"], f"{name}.value", axis=0),
        _node("Cast", [f"{name}.scale"], f"{name}.scale32", to=TensorProto.FLOAT),
        _node("Mul", [f"{name}.value", f"{name}.scale32"], f"{name}.scaled"),
        _node("Reshape", [f"{name}.scaled", f"{name}.shape"], f"{name}.rows"),
    ]
    last = f"{name}.rows"
    if blocks * block != columns:
        for key, value in (("start", 0), ("end", columns), ("axis", 1)):
            constants.append(_constant(f"{name}.{key}", np.array([value], dtype=np.int64)))
        inputs = [last, f"{name}.start", f"{name}.end", f"{name}.axis"]
        nodes.append(_node("Slice", inputs, f"{name}.whole"))
        last = f"{name}.whole"
    if tensor.dtype != torch.float32:
        kind = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
        nodes.append(_node("Cast", [last], f"{name}.rounded", to=kind[tensor.dtype]))
        nodes.append(_node("Cast", [f"{name}.rounded"], f"{name}.float", to=TensorProto.FLOAT))
        last = f"{name}.float"
    matrix = np.array(stored.matrix_shape, dtype=np.int64)
    if stored.orientation is Orientation.TRANSPOSED:
        constants.append(_constant(f"{name}.matrix", matrix))
        nodes.append(_node("Reshape", [last, f"{name}.matrix"], f"{name}.summed_last"))
        axes = [*range(len(matrix) - 2), len(matrix) - 1, len(matrix) - 2]
        nodes.append(_node("Transpose", [f"{name}.summed_last"], name, perm=axes))
    else:
        shape = np.array(stored.shape, dtype=np.int64)
        constants.append(_constant(f"{name}.dense", shape))
        nodes.append(_node("Reshape", [last, f"{name}.dense"], name))
    return nodes, constants


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes)


def _constant(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)


def _table(tensor: QuantizedTensor) -> Any:
    # A code without value is never stored; ONNX Runtime need not meet a NaN.
    table = tensor.scheme.format.decode_table
    return np.where(np.isfinite(table), table, 0.0).astype(np.float32)


def _codes(name: str, codes: Tensor, bits: int, shape: tuple[int, ...]) -> Any:
    """Codes as UINT4 where they fit, low one first, else as UINT8."""
    from onnx import TensorProto, helper

    narrow = bits <= _NARROW
    raw = pack_codes(codes.reshape(1, -1), 4 if narrow else 8).numpy().tobytes()
    kind = TensorProto.UINT4 if narrow else TensorProto.UINT8
    return helper.make_tensor(name, kind, shape, raw, raw=True)


def _scales(name: str, scales: Tensor) -> Any:
    """Scales in the narrowest type that holds them exactly."""
    from onnx import TensorProto, helper

    kinds = {
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.float32: TensorProto.FLOAT,
    }
    dtype = next(dtype for dtype in kinds if bool((scales.to(dtype).float() == scales).all()))
    raw = scales.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()
    return helper.make_tensor(name, kinds[dtype], tuple(scales.shape), raw, raw=True)


def _description(checkpoint: PackedCheckpoint) -> str:
    kinds = {
        f"{s.scheme.format_name}, blocks of {s.scheme.block_size}, {s.scheme.scale_dtype_name} "
        "scales"
        for s in checkpoint.weights.values()
    }
    return "; ".join(sorted(kinds))
