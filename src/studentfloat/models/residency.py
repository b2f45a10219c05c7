"""A model of which one block at a time is in memory: the others wait in their shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.load import LoadedModel, ModelKind, kind_of, load_tokenizer
from studentfloat.models.packed_files import read_raw
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.skeleton import share_tied_parameters, skeleton
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import StoredTensor, list_sound_tensors, spellings

__all__ = ["BlockResidency", "everything_resident", "load_block_by_block", "stored_names"]


class BlockResidency:
    """Brings a block's parameters into memory when it is held or runs, and lets them go after.

    Parameters
    ----------
    module
        The model; parameters in `waiting` hold no numbers yet.
    waiting
        By a parameter's name, where its numbers are.
    """

    def __init__(self, module: nn.Module, waiting: Mapping[str, StoredTensor]) -> None:
        self._module, self._waiting = module, waiting
        self._held: set[str] = set()

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
            stored = self._waiting.get(f"{name}.{inner}")
            if stored is not None:
                parameter.data = read_raw(stored).to(torch.float32)

    def _let_go(self, name: str, block: nn.Module) -> None:
        for inner, parameter in block.named_parameters():
            if f"{name}.{inner}" in self._waiting:
                parameter.data = _nothing(parameter.shape)


def everything_resident(module: nn.Module) -> BlockResidency:
    """For a model that is in memory as a whole: nothing is brought and nothing let go."""
    return BlockResidency(module, {})


def stored_names(module: nn.Module, files: Mapping[str, StoredTensor]) -> dict[str, str]:
    """The checkpoint's name for each parameter that has one of its own there."""
    prefix = getattr(module, "base_model_prefix", "")
    found = {}
    for name, _ in module.named_parameters():
        its = next((n for n in spellings(name, prefix) if n in files), None)
        if its is not None:
            found[name] = its
    return found


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
        If the checkpoint's tensors are not the model's parameters one to one (experts that
        transformers joins, names that it changes): such a model is loaded as a whole.
    """
    tensors = list_sound_tensors(source.weight_files)
    files = {tensor.name: tensor for tensor in tensors}
    module = skeleton(source, buffers=True)
    share_tied_parameters(module)
    names = stored_names(module, files)
    missing = [name for name, _ in module.named_parameters() if name not in names]
    kind = kind_of(source.config)
    if missing or kind is ModelKind.OTHER:
        what = missing[0] if missing else kind.value
        raise ModelError(f"{source.name} cannot be loaded block by block: {what}")
    blocks = tuple(f"{name}." for name in blocks_in(module))
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    waiting: dict[str, StoredTensor] = {}
    real: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        stored = files[names[first[id(parameter)]]]
        if stored.shape != tuple(parameter.shape):
            raise ModelError(
                f"{stored.name} has the shape {list(stored.shape)}, the model wants "
                f"{list(parameter.shape)}"
            )
        if name.startswith(blocks):
            waiting[name] = stored
            data = _nothing(parameter.shape)
        elif id(parameter) not in real:
            data = read_raw(stored).to(torch.float32)
        new = real.setdefault(id(parameter), nn.Parameter(data, requires_grad=False))
        owner, _, leaf = name.rpartition(".")
        (module.get_submodule(owner) if owner else module)._parameters[leaf] = new
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
    return LoadedModel(source, module.eval(), tokenizer, kind), BlockResidency(module, waiting)


def _nothing(shape: torch.Size) -> Tensor:
    """A tensor of a shape that takes no memory."""
    return torch.zeros(1).expand(shape)
