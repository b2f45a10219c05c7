"""The blocks of a model, found by structure, and run one at a time on stored inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError

__all__ = ["BlockCall", "BlockRunner", "find_blocks"]


def find_blocks(model: nn.Module, parameters: set[int]) -> list[tuple[str, nn.Module]]:
    """Members of the outermost module lists whose every member holds some of the parameters.

    Parameters
    ----------
    model
        Any module.
    parameters
        ``id`` of the parameters that matter (the weights to quantize).

    Returns
    -------
    list of (name, module)
        In the model's order; empty where there is no such list.
    """
    found: list[str] = []
    blocks: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if any(name.startswith(f"{outer}.") for outer in found):
            continue
        members = list(module)
        if all(any(id(p) in parameters for p in member.parameters()) for member in members):
            found.append(name)
            blocks += [(f"{name}.{i}", member) for i, member in enumerate(members)]
    return blocks


@dataclass(eq=False)
class BlockCall:
    """What a block was called with: all but the hidden states, which flow from block to block."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[BlockCall, Tensor]:
        """Split a call into its hidden states (its first tensor of numbers) and the rest."""
        for index, value in enumerate(args):
            if _is_states(value):
                return cls((*args[:index], None, *args[index + 1 :]), kwargs, index), value
        for key in ("hidden_states", *kwargs):
            if _is_states(kwargs.get(key)):
                return cls(args, {**kwargs, key: None}, key), kwargs[key]
        raise ModelError("a block was called without hidden states")

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Call a block on other hidden states."""
        if isinstance(self.place, int):
            args = (*self.args[: self.place], hidden, *self.args[self.place + 1 :])
            return _hidden(block(*args, **self.kwargs))
        return _hidden(block(*self.args, **{**self.kwargs, self.place: hidden}))


def _is_states(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


class BlockRunner:
    """Runs a model's blocks on calibration windows, each on its own.

    Memory holds the inputs of one block at a time. What else a block is called with (masks,
    positions) does not depend on the hidden states: one pass through the model, in which
    blocks hand their input on, collects it.

    Parameters
    ----------
    model
        In evaluation mode.
    blocks
        From :func:`find_blocks`; those that never run (of a vision tower, say) are left out
        of :attr:`blocks`.
    batches
        Token ids, int64, each of shape ``(windows, length)``.

    Raises
    ------
    ModelError
        If more than hidden states passes between the blocks, so that running them one by
        one would not be running the model.
    """

    def __init__(
        self, model: nn.Module, blocks: list[tuple[str, nn.Module]], batches: list[Tensor]
    ) -> None:
        self._model, self._batches = model, batches
        self._returns_tuple: dict[int, bool] = {}
        self.blocks = self._probe(blocks)
        self._calls: list[list[BlockCall]] = []
        self.hidden: list[Tensor] = []
        for batch in batches:
            calls, first = self._collect(batch)
            self._calls.append(calls)
            self.hidden.append(first)

    def run(self, index: int) -> Iterator[Tensor]:
        """Outputs of one block on its stored inputs, batch by batch."""
        block = self.blocks[index][1]
        with torch.no_grad():
            for hidden, calls in zip(self.hidden, self._calls, strict=True):
                yield calls[index].run(block, hidden)

    def sample(self, index: int) -> Tensor:
        """Output of one block on its first stored window."""
        call, hidden = self._calls[0][index], self.hidden[0]
        with torch.no_grad():
            return call.run(self.blocks[index][1], hidden)

    def advance(self, index: int) -> None:
        """Make a block's outputs, as it now is, the next block's inputs."""
        self.hidden = list(self.run(index))

    def finish(self) -> Iterator[None]:
        """Run what lies outside of the blocks, which hand on what went through them all."""
        with torch.no_grad():
            for batch, hidden in zip(self._batches, self.hidden, strict=True):

                def choose(block: nn.Module, given: Tensor, out: Tensor = hidden) -> Tensor:
                    return out if block is self.blocks[-1][1] else given

                with self._passing(choose):
                    self._call_model(batch)
                yield

    def _call_model(self, batch: Tensor) -> None:
        config: Any = getattr(self._model, "config", None)
        options = {"use_cache": False} if hasattr(config, "use_cache") else {}
        with torch.no_grad():
            self._model(input_ids=batch, **options)

    def _probe(self, blocks: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        """Run one window truly: which blocks run, what they return, and that they form a chain."""
        order: list[tuple[str, nn.Module]] = []
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        with ExitStack() as stack:
            for name, block in blocks:

                def before(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    order.append((name, module))
                    inputs.append(BlockCall.of(args, kwargs)[1].clone())

                def after(module: nn.Module, _args: Any, output: Any) -> None:
                    self._returns_tuple[id(module)] = isinstance(output, tuple)
                    outputs.append(_hidden(output).clone())

                handle = block.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(handle.remove)
                stack.callback(block.register_forward_hook(after).remove)
            self._call_model(self._batches[0][:1])
        if not order:
            raise ModelError("none of the model's blocks runs on a text: nothing to calibrate")
        _check_chain(order, inputs, outputs)
        return order

    def _collect(self, batch: Tensor) -> tuple[list[BlockCall], Tensor]:
        calls: list[BlockCall] = []
        first: list[Tensor] = []

        def note(args: Any, kwargs: Any) -> None:
            call, hidden = BlockCall.of(args, kwargs)
            calls.append(call)
            first.append(hidden)

        with self._passing(lambda _block, given: given, note):
            self._call_model(batch)
        return calls, first[0]

    @contextmanager
    def _passing(
        self,
        choose: Callable[[nn.Module, Tensor], Tensor],
        note: Callable[[Any, Any], None] = lambda args, kwargs: None,
    ) -> Iterator[None]:
        """Blocks that do nothing but hand on what `choose` says."""
        with ExitStack() as stack:
            for _, block in self.blocks:

                def forward(*args: Any, _block: nn.Module = block, **kwargs: Any) -> Any:
                    note(args, kwargs)
                    given = choose(_block, BlockCall.of(args, kwargs)[1])
                    return (given, None) if self._returns_tuple[id(_block)] else given

                block.forward = forward
                stack.callback(delattr, block, "forward")
            yield


def _hidden(output: Any) -> Tensor:
    value = output[0] if isinstance(output, tuple) else output
    if not isinstance(value, Tensor):
        raise ModelError(f"a block returned {type(value).__name__}, not hidden states")
    return value


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN to NaN: what is wrong with numbers, others say."""
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


def _check_chain(
    order: list[tuple[str, nn.Module]], inputs: list[Tensor], outputs: list[Tensor]
) -> None:
    """Each block's input must be the one before's output, and no block may run twice."""
    if len({id(block) for _, block in order}) < len(order):
        raise ModelError("a block of the model runs more than once: it cannot be calibrated alone")
    for i in range(1, len(order)):
        if not _is_same(inputs[i], outputs[i - 1]):
            raise ModelError(
                f"the input of {order[i][0]} is not the output of {order[i - 1][0]}: more than "
                "hidden states passes between the blocks, so they cannot be calibrated one by one"
            )
