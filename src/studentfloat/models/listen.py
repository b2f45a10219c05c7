"""What the weights of a block are fed with: heard as it runs, summed up, never stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from studentfloat.models.walk import WeightKind, WeightSite
from studentfloat.quantize.inputs import InputStatistics

__all__ = ["InputListener", "input_groups", "listen"]

_EXPERTS = (WeightKind.EXPERTS, WeightKind.TRANSPOSED_EXPERTS)
_MATRIX_PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}


class InputListener:
    """Gathers statistics for weights of a block; weights that share an input share them.

    Parameters
    ----------
    model, sites
        The model, and those of its weights to listen for.

    Attributes
    ----------
    statistics
        By site name; the same object for all weights of a group. A weight that was never
        used has none.
    unheard
        By site name, why a weight cannot be listened to.
    """

    def __init__(self, model: nn.Module, sites: Sequence[WeightSite]) -> None:
        self.statistics: dict[str, InputStatistics] = {}
        self.unheard: dict[str, str] = {}
        self.groups: list[list[str]] = []
        self._modules: list[tuple[WeightSite, nn.Module]] = []
        self._experts: dict[int, WeightSite] = {}
        modules = dict(model.named_modules())
        for site in sites:
            if site.kind in _EXPERTS:
                self._experts[id(site.parameter)] = site
            elif site.kind is WeightKind.EMBEDDING:
                self.unheard[site.name] = "an embedding is looked up, not multiplied by"
            elif site.kind is WeightKind.CONVOLUTION:
                self.unheard[site.name] = "inputs of convolutions are not gathered"
            else:
                self._modules.append((site, modules[site.name.rpartition(".")[0]]))
        self._leader: dict[str, str] = {}
        self._seen: list[tuple[Tensor, str]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks in place for the time of the ``with`` block."""
        with ExitStack() as stack:
            for site, module in self._modules:

                def hook(
                    _module: nn.Module, args: Any, kwargs: Any, site: WeightSite = site
                ) -> None:
                    self._hear(site, args[0] if args else kwargs["input"])

                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            if self._experts:
                stack.enter_context(_ExpertProducts(self))
            yield

    def end_of_batch(self) -> None:
        """Let go of the tensors seen."""
        self._seen.clear()

    def _hear(self, site: WeightSite, inputs: Tensor) -> None:
        leader = self._leader.get(site.name)
        if leader is None:
            leader = next((name for seen, name in self._seen if seen is inputs), site.name)
            self._leader[site.name] = leader
            if leader == site.name:
                self.statistics[leader] = InputStatistics.empty_for(inputs)
                self.groups.append([leader])
            else:
                self.statistics[site.name] = self.statistics[leader]
                next(group for group in self.groups if group[0] == leader).append(site.name)
        if leader == site.name:
            self._seen.append((inputs, site.name))
            self.statistics[leader].add(inputs)

    def hear_expert(self, site: WeightSite, expert: int, inputs: Tensor) -> None:
        """Count inputs of one expert's matrix."""
        if site.name not in self.statistics:
            experts = site.parameter.shape[0]
            self.statistics[site.name] = InputStatistics.empty_for(inputs, experts=experts)
            self.groups.append([site.name])
        self.statistics[site.name].add(inputs, expert)

    def expert_site(self, parameter: Any) -> WeightSite | None:
        """The site of a fused expert parameter."""
        return self._experts.get(id(parameter))


class _ExpertProducts(TorchFunctionMode):
    """Sees each product of inputs with one expert's slice of a fused parameter.

    transformers multiplies expert by expert, in loops of its own for each architecture; what
    they have in common is that a slice of the parameter is taken, then multiplied with.
    """

    def __init__(self, listener: InputListener) -> None:
        super().__init__()
        self._listener = listener
        self._slices: dict[int, tuple[Tensor, WeightSite, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__:
            site = self._listener.expert_site(args[0])
            if site is not None:
                expert = int(args[1])
                self._slices = {
                    key: part for key, part in self._slices.items() if part[1] is not site
                }
                self._slices[id(result)] = (result, site, expert)
        elif (func is nn.functional.linear or func in _MATRIX_PRODUCTS) and len(args) > 1:
            found = self._slices.get(id(args[1]))
            if found is not None:
                self._listener.hear_expert(found[1], found[2], args[0])
        return result


def listen(model: nn.Module, sites: Sequence[WeightSite], runs: Iterable[object]) -> InputListener:
    """Exhaust `runs` (each a forward pass) with hooks in place; what was heard."""
    listener = InputListener(model, sites)
    with listener.listening(), torch.no_grad():
        for _ in runs:
            listener.end_of_batch()
    return listener


def input_groups(listener: InputListener, sites: Sequence[WeightSite]) -> list[list[WeightSite]]:
    """Sites that share an input together, those not heard alone; in the order of first use."""
    by_name = {site.name: site for site in sites}
    groups = [[by_name[name] for name in group] for group in listener.groups]
    heard = {name for group in listener.groups for name in group}
    return groups + [[site] for site in sites if site.name not in heard]
