"""A model of which one block at a time is in memory: the others wait in their shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.conversions import ParameterSource
from studentfloat.models.load import LoadedModel, ModelKind, kind_of, load_tokenizer
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.skeleton import check_complete, map_checkpoint
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import list_sound_tensors

__all__ = ["BlockResidency", "everything_resident", "load_block_by_block"]


class BlockResidency:
    """Brings a block's parameters into memory when it is held or runs, and lets them go after.

    Parameters
    ----------
    module
        The model; parameters in `waiting` hold no numbers yet.
    waiting
        By a parameter's name, where its numbers are.
    """

    def __init__(self, module: nn.Module, waiting: Mapping[str, ParameterSource]) -> None:
        self._module, self._waiting = module, waiting
        self._held: set[str] = set()

    def value(self, name: str) -> Tensor | None:
        """A parameter as its checkpoint has it, where it waits there; else None."""
        source = self._waiting.get(name)
        return None if source is None else source.read()

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Keep one block in memory, with whatever is changed in it meanwhile."""
        block = self._module.get_submodule(name) if name else None
        if block is None or not self._waiting:
            yield
            return
        self._held.add(name)
        try:
            self._bring(name, block)
            yield
        finally:
            self._held.discard(name)
            self._let_go(name, block)

    @contextmanager
    def on_demand(self, blocks: list[tuple[str, nn.Module]]) -> Iterator[None]:
        """While this lasts a block that runs and is not held is in memory just for that."""
        handles: list[Any] = []
        if self._waiting:
            for name, block in blocks:
                handles.append(block.register_forward_pre_hook(self._before(name)))
                handles.append(block.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(block: nn.Module, _arguments: Any) -> None:
            if name not in self._held:
                self._bring(name, block)

        return hook

    def _after(self, name: str) -> Any:
        def hook(block: nn.Module, _arguments: Any, _output: Any) -> None:
            if name not in self._held:
                self._let_go(name, block)

        return hook

    def _bring(self, name: str, block: nn.Module) -> None:
        for inner, parameter in block.named_parameters():
            source = self._waiting.get(f"{name}.{inner}")
            if source is not None:
                parameter.data = _numbers(source, parameter.shape)

    def _let_go(self, name: str, block: nn.Module) -> None:
        for inner, parameter in block.named_parameters():
            if f"{name}.{inner}" in self._waiting:
                parameter.data = _nothing(parameter.shape)


def everything_resident(module: nn.Module) -> BlockResidency:
    """For a model that is in memory as a whole: nothing is brought and nothing let go."""
    return BlockResidency(module, {})


def load_block_by_block(source: ModelSource, blocks_in: Any) -> tuple[LoadedModel, BlockResidency]:
    """Load what lies outside of blocks in float32, and blocks not at all.

    Parameters
    ----------
    source
        From :func:`~studentfloat.models.find_model`.
    blocks_in
        Gives the names of a module's blocks.

    Raises
    ------
    ModelError
        If a parameter can neither be found in the checkpoint nor made of tensors that are
        there: such a model is loaded as a whole.
    """
    mapped = map_checkpoint(source, list_sound_tensors(source.weight_files), buffers=True)
    check_complete(mapped, source)
    module, sources = mapped.module, mapped.sources
    missing = [name for name, _ in module.named_parameters() if name not in sources]
    kind = kind_of(source.config)
    if missing or kind is ModelKind.OTHER:
        what = missing[0] if missing else kind.value
        raise ModelError(f"{source.name} cannot be loaded block by block: {what}")
    blocks = tuple(f"{name}." for name in blocks_in(module))
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    shared = _shared_by_blocks(module, blocks)
    waiting: dict[str, ParameterSource] = {}
    real: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        its = sources[first[id(parameter)]]
        if not its.joined:
            _check_shape(its, its.stored.shape, parameter.shape)
        if name.startswith(blocks) and id(parameter) not in shared:
            waiting[name] = its
            data = _nothing(parameter.shape)
        elif id(parameter) not in real:
            data = _numbers(its, parameter.shape)
        new = real.setdefault(id(parameter), nn.Parameter(data, requires_grad=False))
        owner, _, leaf = name.rpartition(".")
        (module.get_submodule(owner) if owner else module)._parameters[leaf] = new
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
    return LoadedModel(source, module.eval(), tokenizer, kind), BlockResidency(module, waiting)


def _shared_by_blocks(module: nn.Module, blocks: tuple[str, ...]) -> set[int]:
    """``id`` of parameters that several blocks use: letting one go must not take them away."""
    used: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        block = next((block for block in blocks if name.startswith(block)), "")
        used.setdefault(id(parameter), set()).add(block)
    return {number for number, its in used.items() if len(its) > 1}


def _numbers(source: ParameterSource, shape: torch.Size) -> Tensor:
    """In float32, the type that models are calibrated in."""
    value = source.read()
    _check_shape(source, tuple(value.shape), shape)
    return value.to(torch.float32)


def _check_shape(source: ParameterSource, found: tuple[int, ...], wanted: torch.Size) -> None:
    if found != tuple(wanted):
        raise ModelError(
            f"{source.stored.name} has the shape {list(found)}, the model wants {list(wanted)}"
        )


def _nothing(shape: torch.Size) -> Tensor:
    """A tensor of a shape that takes no memory."""
    return torch.zeros(1).expand(shape)
