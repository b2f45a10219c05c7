"""Packed weights in a model's own modules: put in, taken out, listed, offloaded.

While a model is loaded, the stored tensors of a weight are plain parameters (bytes) and buffers of
its module, named as in the checkpoint, so that they load, move and offload like any others.
:func:`assemble` then makes each weight one parameter, a :class:`PackedTensor`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.packed.packing import Packing
from studentfloat.models.packed.tensor import PackedTensor
from studentfloat.models.packed_files import TORCH_TYPES
from studentfloat.models.walk import WeightSite
from studentfloat.quantize.parts.part import TensorSpec
from studentfloat.quantize.stored import StoredWeight

__all__ = [
    "assemble",
    "at_its_holder",
    "declare",
    "dense_weights",
    "flat_state",
    "keep_types",
    "packed_tensors",
    "packed_weights",
    "shield",
    "unshield",
]


def at_its_holder(model: nn.Module, site: WeightSite) -> WeightSite:
    """The same site, named as the parameter that the model ties others to: files have that."""
    tied = getattr(model, "all_tied_weights_keys", {})
    names = (site.name, *site.tied)
    holder = next((name for name in names if name not in tied), site.name)
    return replace(site, name=holder, tied=tuple(name for name in names if name != holder))


def declare(model: nn.Module, site: WeightSite, stored: StoredWeight) -> None:
    """Put empty stored tensors where a weight and its ties are.

    Raises
    ------
    ModelError
        If shapes differ.
    """
    if tuple(site.parameter.shape) != stored.shape:
        raise ModelError(
            f"{site.name} has the shape {list(site.parameter.shape)} in the model, "
            f"{list(stored.shape)} in the packed checkpoint"
        )
    device = site.parameter.device
    for name in (site.name, *site.tied):
        module, leaf = _place(model, name)
        # transformers would else draw numbers at random.
        module.__dict__["_is_hf_initialized"] = True
        for suffix, part in stored.tensors.items():
            if suffix and name != site.name:
                continue  # a tie has the codes alone
            empty = torch.empty(part.shape, dtype=part.dtype, device=device)
            _put(module, leaf + suffix, empty)


def shield(
    model: nn.Module,
    places: Mapping[str, tuple[WeightSite, torch.dtype]],
    weights: Mapping[str, StoredWeight],
) -> None:
    """Let what the model does to missing weights, once others are loaded, see no bytes.

    Some models set rows of a table, or compute with a weight, in passing; what is loaded already
    would be damaged. :func:`unshield` ends it. A stored tensor that was not loaded is refused.
    """
    original = cast(Any, model).initialize_weights

    def initialize(*args: Any, **kwargs: Any) -> Any:
        for name, stored in weights.items():
            _refuse_missing(model, name, stored)
        kept: list[tuple[nn.Module, str, Any]] = []
        for site, dtype in places.values():
            for name in (site.name, *site.tied):
                module, leaf = _place(model, name)
                kept.append((module, leaf, module._parameters[leaf]))
                empty = torch.empty(site.parameter.shape, dtype=dtype, device="meta")
                stand_in: Any = nn.Parameter(empty, requires_grad=False)
                stand_in._is_hf_initialized = True
                module._parameters[leaf] = stand_in
        try:
            return original(*args, **kwargs)
        finally:
            for module, leaf, parameter in kept:
                module._parameters[leaf] = parameter

    model.__dict__["initialize_weights"] = initialize


def _refuse_missing(model: nn.Module, name: str, stored: StoredWeight) -> None:
    module, leaf = _place(model, name)
    for suffix in stored.tensors:
        part = getattr(module, leaf + suffix)
        # On the meta device it waits on the disk.
        if not part.is_meta and not getattr(part, "_is_hf_initialized", False):
            raise ModelError(f"the packed checkpoint's tensor {name}{suffix} was not loaded")


def keep_types(
    model: nn.Module,
    places: Mapping[str, tuple[WeightSite, torch.dtype]],
    weights: Mapping[str, StoredWeight],
) -> None:
    """Except stored tensors from what transformers would load in float32, by parts of names.

    :func:`unshield` ends it.
    """
    types = {
        name + suffix: part.dtype
        for holder, stored in weights.items()
        for name in (holder, *places[holder][0].tied)
        for suffix, part in stored.tensors.items()
    }

    def excepted(plan: Mapping[str, torch.dtype]) -> dict[str, torch.dtype]:
        wanted = [re.compile(pattern.replace("*", ".*")) for pattern in plan]
        kept = {
            f"^{re.escape(name)}$": dtype
            for name, dtype in types.items()
            if any(pattern.search(name) for pattern in wanted)
        }
        return {**kept, **plan}  # the first that fits decides

    loaded = cast(Any, model)
    if hasattr(loaded, "_get_dtype_plan"):
        original = loaded._get_dtype_plan
        model.__dict__["_get_dtype_plan"] = lambda dtype: excepted(original(dtype))
    elif getattr(loaded, "dtype_plan", None):  # transformers 5.0
        loaded.dtype_plan = excepted(loaded.dtype_plan)


def unshield(model: nn.Module) -> None:
    """End what :func:`shield` and :func:`keep_types` began."""
    model.__dict__.pop("initialize_weights", None)
    model.__dict__.pop("_get_dtype_plan", None)


def assemble(
    model: nn.Module, site: WeightSite, stored: StoredWeight, dtype: torch.dtype
) -> PackedTensor:
    """Make one packed parameter of a weight's stored tensors, its ties included.

    Every number that is in memory is checked; see :meth:`StoredWeight.check`.
    """
    module, leaf = _place(model, site.name)
    parts = {suffix: _take(module, leaf + suffix) for suffix in stored.tensors}
    if all(part.device.type != "meta" for part in parts.values()):
        stored.check(parts, site.name)
    packed = PackedTensor.of(Packing(stored, parts, site.name), dtype)
    parameter: Any = nn.Parameter(packed, requires_grad=False)
    parameter._is_hf_initialized = True
    for name in (site.name, *site.tied):
        owner, last = _place(model, name)
        owner._parameters[last] = parameter
        hook = getattr(owner, "_hf_hook", None)
        if getattr(hook, "offload", False):
            _bring_whole(hook, last, parameter)
    return cast(PackedTensor, parameter)


def packed_tensors(model: nn.Module) -> dict[str, PackedTensor]:
    """Every packed parameter in a model, once: by the name that others are tied to."""
    found: dict[int, tuple[str, PackedTensor]] = {}
    tied = getattr(model, "all_tied_weights_keys", {})
    parameters: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        if isinstance(parameter, PackedTensor):
            known = found.get(id(parameter))
            if known is None or (known[0] in tied and name not in tied):
                found[id(parameter)] = (name, parameter)
    return dict(found.values())


def packed_weights(model: nn.Module) -> dict[str, StoredWeight]:
    """What describes each packed weight of a model, by its full name."""
    return {name: tensor.packing.stored for name, tensor in packed_tensors(model).items()}


def dense_weights(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Put ordinary parameters where packed ones are; ties hold."""
    made: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not isinstance(parameter, PackedTensor):
            continue
        if id(parameter) not in made:
            values = _in_memory(model, name, parameter).dequantize().contiguous()
            kind = parameter.dtype if dtype is None else dtype
            made[id(parameter)] = nn.Parameter(values.to(kind))
        module, leaf = _place(model, name)
        module._parameters[leaf] = made[id(parameter)]


def flat_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state with the stored tensors of packed weights, named as in a checkpoint."""
    state: dict[str, Tensor] = {}
    stored = packed_tensors(model)
    parameters: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    for name, value in model.state_dict().items():
        if name in stored:
            whole = _in_memory(model, name, stored[name])
            state |= {name + suffix: part for suffix, part in whole.parts.items()}
        elif not isinstance(parameters.get(name), PackedTensor):
            state[name] = value
    return state


class _WholeWeights(MutableMapping[str, Tensor]):
    """What an offloading hook reads: packed weights put together, the rest as it is."""

    def __init__(self, others: Any) -> None:
        self._others = others
        self.kept: dict[str, PackedTensor] = {}

    def check(self, name: str, packing: Packing) -> None:
        """See that what the disk has of a weight is packed, and have it read in its own types.

        Raises
        ------
        ModelError
            If it is the dense weight, of a model that was quantized while it was loaded.
        """
        index = getattr(getattr(self._others, "dataset", None), "index", None) or {}
        for suffix, part in packing.stored.tensors.items():
            entry = index.get(f"{getattr(self._others, 'prefix', '')}{name}{suffix}")
            if entry is None or "safetensors_file" not in entry:
                continue
            if not _is_on_disk(entry, part):
                raise ModelError(
                    f"{packing.name} is mapped to the disk, which does not have it packed: what "
                    "is quantized while it is loaded must stay in memory; `studentfloat quantize` "
                    "packs a checkpoint that can be left on the disk"
                )
            # transformers 5.0 would have all of them read in the model's type.
            entry["dtype"] = str(part.dtype).removeprefix("torch.")

    def __getitem__(self, name: str) -> Tensor:
        packed = self.kept.get(name)
        if packed is None:
            return cast(Tensor, self._others[name])
        waiting = packed.packing
        parts = {
            suffix: cast(Tensor, self._others[name + suffix]) if part.is_meta else part
            for suffix, part in waiting.parts().items()
        }
        packing = Packing(waiting.stored, parts, waiting.name)
        packing.compute, packing.activations = waiting.compute, waiting.activations
        return PackedTensor.of(packing, packed.dtype)

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._others[name] = value

    def __delitem__(self, name: str) -> None:
        del self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)


def _is_on_disk(entry: Mapping[str, str], part: TensorSpec) -> bool:
    """Whether a file that accelerate reads has a stored tensor, by its type and shape."""
    with safe_open(entry["safetensors_file"], framework="pt") as file:
        found = file.get_slice(entry["weight_name"])
        dtype, shape = TORCH_TYPES.get(found.get_dtype()), tuple(found.get_shape())
    return dtype == part.dtype and shape == part.shape


def _bring_whole(hook: Any, name: str, parameter: Any) -> None:
    """Let a hook of accelerate's that brings codes from the disk bring packed weights."""
    if not isinstance(hook.weights_map, _WholeWeights):
        hook.weights_map = _WholeWeights(hook.weights_map)
    hook.weights_map.check(name, parameter.packing)
    hook.weights_map.kept[name] = parameter


def _in_memory(model: nn.Module, name: str, parameter: PackedTensor) -> PackedTensor:
    """The packed parameter; what is offloaded is read."""
    if parameter.device.type != "meta":
        return parameter
    module, leaf = _place(model, name)
    waiting = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    if not isinstance(waiting, _WholeWeights):
        raise ModelError(f"{name} is not in memory, and nothing says where it is")
    return cast(PackedTensor, waiting[leaf])


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return (model.get_submodule(owner) if owner else model), leaf


def _put(module: nn.Module, name: str, part: Tensor) -> None:
    """Bytes as a frozen parameter; the rest as buffers, which casting a model must not see."""
    if part.dtype == torch.uint8:
        module._parameters[name] = nn.Parameter(part, requires_grad=False)
    else:
        module._buffers[name] = part


def _take(module: nn.Module, name: str) -> Tensor:
    found = module._parameters.pop(name, None)
    if found is not None:
        return found.data
    part = module._buffers.pop(name, None)
    if part is None:
        raise ModelError(f"{type(module).__name__} has lost its stored tensor {name}")
    return part
