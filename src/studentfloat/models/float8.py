"""Checkpoints in 8-bit floats: dequantized with their scales, to a directory that anything loads.

Covered are scales that the weight is multiplied by, one per tensor, per row or per block, under
the names that they have in the field: ``weight_scale_inv`` (DeepSeek, transformers' "fp8") and
``weight_scale`` (compressed-tensors, FBGEMM, ModelOpt).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import ModelError
from studentfloat.models.pack_writer import save_shard
from studentfloat.models.packed_files import CONFIG_KEY, INDEX, read_raw
from studentfloat.models.side_files import copy_side_files
from studentfloat.models.stream import StoredTensor, list_sound_tensors
from studentfloat.records import write_json

__all__ = ["convert_float8", "is_float8", "refuse_codes"]

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
# Of activations and of the key-value cache: nothing that a dense weight needs.
_LEFT_OUT = ("input_scale", "output_scale", "activation_scale", "k_scale", "v_scale", "q_scale")
_CODES = {
    **dict.fromkeys(("qweight", "qzeros", "g_idx"), "GPTQ or AWQ"),
    **dict.fromkeys(("weight_packed", "weight_global_scale"), "compressed-tensors"),
    **dict.fromkeys(("SCB", "absmax", "nested_absmax"), "bitsandbytes"),
    **dict.fromkeys(("weight_scale_2",), "ModelOpt, in NVFP4"),
    **dict.fromkeys(("weight_blocks", "gate_up_proj_blocks", "down_proj_blocks"), "MXFP4"),
}
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
_USUAL_BLOCK = 128


def is_float8(tensors: list[StoredTensor]) -> bool:
    """Whether a checkpoint holds weights in 8-bit floats, and no other codes."""
    if any(_code(tensor) is not None for tensor in tensors):
        return False
    return any(tensor.dtype in _FLOAT8 for tensor in tensors)


def refuse_codes(tensors: list[StoredTensor], model: str) -> None:
    """Refuse weights that another tool quantized, whatever the configuration says of them.

    Raises
    ------
    ModelError
        That names the tensor and the tool.
    """
    for tensor in tensors:
        tool = _code(tensor)
        if tool is not None:
            raise ModelError(
                f"model {model} is quantized already: {tensor.name} is of {tool}. Load it with "
                "that tool and save it dequantized"
            )
        if tensor.dtype in _INTEGERS and len(tensor.shape) > 1 and tensor.name.endswith(".weight"):
            raise ModelError(
                f"model {model} is quantized already: {tensor.name} is of type {tensor.dtype}, "
                "codes of a tool that its configuration does not name"
            )


def _code(tensor: StoredTensor) -> str | None:
    return _CODES.get(tensor.name.rpartition(".")[2])


def convert_float8(
    shards: list[Path], directory: Path, out: Path, config: Mapping[str, Any], *, code: bool = False
) -> None:
    """Write a checkpoint in 8-bit floats as a dense one in float32.

    Parameters
    ----------
    shards
        The source's.
    directory
        Of the source, whose companions go along.
    out
        Where to; exists.
    config
        The source's ``config.json``.
    code
        Whether Python files go along.

    Raises
    ------
    ModelError
        If a weight has no scale beside it, or one of a shape that does not fit.
    """
    tensors = list_sound_tensors(shards)
    files = {tensor.name: tensor for tensor in tensors}
    settings = config.get(CONFIG_KEY)
    block = settings.get("weight_block_size") if isinstance(settings, dict) else None
    scales = {t.name: _scale_of(t, files) for t in tensors if t.dtype in _FLOAT8}
    beside = {scale.name for scale in scales.values()}
    weight_map: dict[str, str] = {}
    size = 0
    for number, shard in enumerate(shards, 1):
        dense: dict[str, Tensor] = {}
        for tensor in (t for t in tensors if t.shard == shard and t.name not in beside):
            if tensor.name in scales:
                dense[tensor.name] = _dequantize(tensor, scales[tensor.name], block)
            elif tensor.name.rpartition(".")[2] not in _LEFT_OUT:
                dense[tensor.name] = read_raw(tensor)
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_shard(dense, out / file)
        weight_map |= dict.fromkeys(dense, file)
        size += sum(values.nbytes for values in dense.values())
    write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    copy_side_files(directory, out, code=code)
    plain = {key: value for key, value in config.items() if key not in (CONFIG_KEY, "torch_dtype")}
    (out / "config.json").write_text(json.dumps({**plain, "dtype": "float32"}, indent=1))


def _scale_of(tensor: StoredTensor, files: Mapping[str, StoredTensor]) -> StoredTensor:
    for suffix in _SCALES:
        if (found := files.get(tensor.name + suffix)) is not None:
            return found
    raise ModelError(
        f"{tensor.name} is {tensor.dtype} and has neither {' nor '.join(_SCALES)} beside it: what "
        "its codes stand for is not said"
    )


def _dequantize(tensor: StoredTensor, scale: StoredTensor, block: Any) -> Tensor:
    """The weight in float32: its codes' values times their scales."""
    values = read_raw(tensor).to(torch.float32)
    factors = _read_scale(scale)
    if factors.dim() == 1 and factors.numel() > 1:
        factors = factors.reshape(-1, *[1] * (values.dim() - 1))
    if factors.numel() == 1:
        factors = factors.reshape([1] * values.dim())
    if factors.dim() != values.dim():
        raise _unfit(tensor, scale)
    sizes = list(block) if isinstance(block, (list, tuple)) else []
    for axis, (wanted, given) in enumerate(zip(values.shape, factors.shape, strict=True)):
        if given in (1, wanted):
            continue
        from_end = axis - values.dim()
        length = sizes[from_end] if len(sizes) >= -from_end else None
        if length is None:
            usual = -(-wanted // _USUAL_BLOCK) == given
            length = _USUAL_BLOCK if usual else wanted // given
        if length < 1 or -(-wanted // length) != given:
            raise _unfit(tensor, scale)
        factors = factors.repeat_interleave(length, dim=axis).narrow(axis, 0, wanted)
    return values.mul_(factors)


def _read_scale(scale: StoredTensor) -> Tensor:
    if scale.dtype == "F8_E8M0":
        exponents = read_raw(replace(scale, dtype="U8")).to(torch.float32)
        return torch.exp2(exponents - 127)
    return read_raw(scale).to(torch.float32)


def _unfit(tensor: StoredTensor, scale: StoredTensor) -> ModelError:
    return ModelError(
        f"{scale.name} has the shape {list(scale.shape)}, which is no scale per tensor, row or "
        f"block of {tensor.name} of shape {list(tensor.shape)}"
    )
