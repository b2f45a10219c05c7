"""compressed-tensors out: INT4 and INT8, MXFP4, NVFP4, as vLLM and transformers load them.

The layouts are those of the package compressed-tensors: ``weight_packed`` and
``weight_scale`` beside each other, NVFP4 with ``weight_global_scale`` that its scales are divided
by (``compressors/pack_quantized``, ``mxfp4``, ``nvfp4`` there).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import SchemeError
from studentfloat.formats import Format, get_format
from studentfloat.models.exchange.blocks import code_table, codes_of, exponents_of, refuse_extras
from studentfloat.models.exchange.places import whole_directory
from studentfloat.models.pack_writer import save_shard
from studentfloat.models.packed_files import CONFIG_KEY, INDEX, PackedCheckpoint, read_raw
from studentfloat.models.side_files import copy_side_files
from studentfloat.models.skeleton import skeleton
from studentfloat.models.sources import ModelSource
from studentfloat.progress import Progress, silent
from studentfloat.quantize.packing import pack_codes
from studentfloat.quantize.scheme import ROW, TENSOR, Scheme
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.records import write_json

__all__ = ["export_compressed_tensors"]

_INTEGER_BITS = (4, 8)
_MX_BLOCK, _NV_BLOCK = 32, 16
_DIVISORS_TRIED = 64


@dataclass(frozen=True)
class _Kind:
    """How all weights of a model are laid out."""

    format: str
    bits: int
    type: str
    strategy: str
    group_size: int | None

    def to_json(self) -> dict[str, Any]:
        scales = {"tensor_group": "torch.float8_e4m3fn"}
        scale = "torch.uint8" if self.format.startswith("mxfp4") else scales.get(self.strategy)
        return {
            "num_bits": self.bits,
            "type": self.type,
            "symmetric": True,
            "strategy": self.strategy,
            "group_size": self.group_size,
            "dynamic": False,
            "scale_dtype": scale,
        }


def export_compressed_tensors(
    checkpoint: PackedCheckpoint, out: Path, progress: Progress = silent
) -> Path:
    """Write a packed model as a compressed-tensors checkpoint.

    Parameters
    ----------
    checkpoint
        Whose weights are linear layers', in integers, MXFP4 or NVFP4, all in the same way.
    out
        A directory that must not exist.
    progress
        Told about every tensor.

    Returns
    -------
    Path
        `out`. The package compressed-tensors decompresses its weights to the same numbers:
        integers in the weight's type, the others in bfloat16.

    Raises
    ------
    SchemeError
        If a weight cannot be carried; the message names the reason and another way.
    """
    linear = _linear_layers(checkpoint)
    kind = _kind(checkpoint)
    with whole_directory(out) as work:
        copy_side_files(checkpoint.directory, work)
        weight_map = _write_shards(checkpoint, kind, work, progress)
        size = sum(file.stat().st_size for file in work.glob("*.safetensors"))
        write_json(work / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        ignored = sorted(linear - {name.removesuffix(".weight") for name in checkpoint.weights})
        config = {**checkpoint.config, CONFIG_KEY: _configuration(kind, ignored)}
        write_json(work / "config.json", config)
    return out


def _configuration(kind: _Kind, ignored: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": kind.format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": kind.to_json()}},
        "ignore": ignored,
    }


def _write_shards(
    checkpoint: PackedCheckpoint, kind: _Kind, work: Path, progress: Progress
) -> dict[str, str]:
    names = [*checkpoint.weights, *checkpoint.plain_names()]
    shards: dict[str, list[str]] = {}
    for name in names:
        shards.setdefault(checkpoint.files[name].shard.name, []).append(name)
    weight_map: dict[str, str] = {}
    done = 0
    for number, (_, members) in enumerate(sorted(shards.items()), 1):
        tensors: dict[str, Tensor] = {}
        for name in members:
            if name in checkpoint.weights:
                tensors |= _layer(checkpoint.weight(name).base, kind, name)
            else:
                tensors[name] = read_raw(checkpoint.files[name])
            done += 1
            progress(done / len(names), name)
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_shard(tensors, work / file)
        weight_map |= dict.fromkeys(tensors, file)
    return weight_map


def _linear_layers(checkpoint: PackedCheckpoint) -> set[str]:
    """Names of the model's linear layers, by which compressed-tensors knows what is packed."""
    source = ModelSource(str(checkpoint.directory), checkpoint.directory, "packed")
    modules = skeleton(source).named_modules()
    linear = {name for name, module in modules if isinstance(module, nn.Linear)}
    for name in checkpoint.weights:
        if name.removesuffix(".weight") not in linear:
            raise SchemeError(
                f"compressed-tensors packs linear layers; {name} is none. Quantize without "
                "--embeddings, or `studentfloat dequantize`"
            )
    return linear


def _kind(checkpoint: PackedCheckpoint) -> _Kind:
    """The one way in which all weights can be laid out."""
    kinds: dict[_Kind, str] = {}
    for name, stored in checkpoint.weights.items():
        refuse_extras(name, stored, "compressed-tensors")
        kinds.setdefault(_kind_of(name, stored), name)
    if len(kinds) > 1:
        first, second = list(kinds)[:2]
        raise SchemeError(
            f"compressed-tensors export lays all weights out alike: {kinds[first]} would be "
            f"{first.format} in groups of {first.group_size}, {kinds[second]} {second.format} in "
            f"groups of {second.group_size}. `studentfloat dequantize` makes a dense model"
        )
    return next(iter(kinds))


def _kind_of(name: str, stored: StoredWeight) -> _Kind:
    scheme, columns = stored.scheme, stored.matrix_shape[-1]
    block = scheme.block_size if isinstance(scheme.block_size, int) else columns
    if columns % block:
        raise SchemeError(
            f"compressed-tensors cannot carry {name}: its rows of {columns} numbers are no whole "
            f"groups of {block}. Quantize with a block size that divides {columns}, or 'row'"
        )
    integers = [b for b in _INTEGER_BITS if _within(scheme.format, get_format(f"int{b}"))]
    if _within(scheme.format, get_format("e2m1")) and (not integers or _is_two_level(scheme)):
        return _four_bit_float(name, scheme, block)
    if not integers:
        raise SchemeError(
            f"compressed-tensors cannot carry {name}: format {scheme.format.name!r} is neither "
            "integers of 4 or 8 bits nor within E2M1, and it has no tables of values. ONNX carries "
            "any; `studentfloat dequantize` makes a dense model"
        )
    by_row = scheme.block_size == ROW
    return _Kind(
        "pack-quantized",
        integers[0],
        "int",
        "channel" if by_row else "group",
        None if by_row else block,
    )


def _four_bit_float(name: str, scheme: Scheme, block: int) -> _Kind:
    if _is_two_level(scheme) and block % _NV_BLOCK == 0:
        return _Kind("nvfp4-pack-quantized", 4, "float", "tensor_group", _NV_BLOCK)
    if scheme.scale_dtype_name == "e8m0" and block % _MX_BLOCK == 0:
        return _Kind("mxfp4-pack-quantized", 4, "float", "group", _MX_BLOCK)
    raise SchemeError(
        f"compressed-tensors cannot carry {name}: E2M1 goes with e8m0 scales and blocks of "
        f"{_MX_BLOCK} (MXFP4), or with e4m3 scales and blocks of {_NV_BLOCK} (NVFP4), not with "
        f"{scheme.scale_dtype_name} scales and blocks of {block}"
    )


def _is_two_level(scheme: Scheme) -> bool:
    inner = scheme.scale_dtype
    return (
        isinstance(inner, Scheme)
        and inner.block_size == TENSOR
        and not isinstance(inner.scale_dtype, Scheme)
        and _within(inner.format, get_format("e4m3"))
    )


def _within(given: Format, wanted: Format) -> bool:
    return not set(given.levels) - set(wanted.levels)


def _layer(tensor: QuantizedTensor, kind: _Kind, name: str) -> dict[str, Tensor]:
    """The tensors of one layer, by the names that they have there."""
    stem = name.removesuffix(".weight")
    if kind.type == "int":
        return {f"{stem}.{part}": t for part, t in _integers(tensor, kind.bits, name).items()}
    codes = code_table(tensor.scheme.format, get_format("e2m1"))[codes_of(tensor).int()]
    parts = {"weight_packed": pack_codes(codes, 4)}
    assert kind.group_size is not None
    blocks = tensor.row_length // kind.group_size
    if kind.strategy == "group":
        exponents = exponents_of(tensor.block_scales(), name)
        parts["weight_scale"] = _spread(exponents, blocks)
    else:
        scales, divisor = _divided_scales(tensor, name)
        parts["weight_scale"] = _spread(scales, blocks)
        parts["weight_global_scale"] = divisor
    return {f"{stem}.{part}": values for part, values in parts.items()}


def _spread(scales: Tensor, blocks: int) -> Tensor:
    return scales.repeat_interleave(blocks // scales.shape[1], dim=1).contiguous()


def _integers(tensor: QuantizedTensor, bits: int, name: str) -> dict[str, Tensor]:
    codes = code_table(tensor.scheme.format, get_format(f"int{bits}"))[codes_of(tensor).int()]
    # They count from the least integer up: two's complement with the highest bit turned over.
    raw = pack_codes(codes ^ (1 << (bits - 1)), bits)
    raw = nn.functional.pad(raw, (0, -raw.shape[1] % 4))
    scales = tensor.block_scales()
    stored = scales.to(tensor.dtype)
    if not bool((stored.float() == scales).all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise SchemeError(
            f"compressed-tensors cannot carry {name}: it multiplies in the scales' own type, "
            f"which must be the weight's, {dtype}, and {dtype} does not hold them. Quantize with "
            f"--scale-dtype {dtype}"
        )
    return {
        "weight_packed": raw.contiguous().view(torch.int32),
        "weight_scale": stored,
        "weight_shape": torch.tensor(tensor.shape, dtype=torch.int64),
    }


def _divided_scales(tensor: QuantizedTensor, name: str) -> tuple[Tensor, Tensor]:
    """NVFP4's E4M3 scales, and what they are divided by, where ours are multiplied.

    Not every product is a quotient too. The divisor is the first near the reciprocal by which
    every weight comes out the same in bfloat16, in which compressed-tensors computes.
    """
    inner = tensor.scales
    assert isinstance(inner, QuantizedTensor)
    table = torch.from_numpy(inner.scheme.format.decode_table.copy()).float()
    small = table[codes_of(inner).int()].reshape(tensor.packed.shape[0], -1)
    if bool((small < 0).any()):
        raise SchemeError(
            f"NVFP4 has no negative scales: compressed-tensors cannot carry {name}. Quantize with "
            "--scale-rule absmax"
        )
    above = inner.block_scales().flatten()[0]
    levels = torch.tensor(tensor.scheme.format.levels)[:, None]
    used = torch.unique(small)
    wanted = (levels * (used * above)).bfloat16()
    divisor = 1 / above if above else torch.ones(())
    for candidate in _neighbors(divisor):
        if torch.equal((levels * (used / candidate)).bfloat16(), wanted):
            return small.to(torch.float8_e4m3fn), candidate.reshape(1)
    raise SchemeError(
        f"NVFP4 divides scales by one float32, and none gives the weights of {name} to the last "
        "bit of bfloat16. Quantize with --scale-dtype e4m3/e8m0: a power of two divides exactly"
    )


def _neighbors(value: Tensor) -> list[Tensor]:
    """A number and those next to it in float32, the nearest first."""
    up, down, found = value, value, [value]
    for _ in range(_DIVISORS_TRIED):
        up = torch.nextafter(up, torch.tensor(torch.inf))
        down = torch.nextafter(down, torch.tensor(0.0))
        found += [up, down]
    return found
