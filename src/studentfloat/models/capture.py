"""Activations sketched on the fly as a model runs: seen by hooks, never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from studentfloat.errors import ConfigError
from studentfloat.statistics import Sketch

__all__ = ["CAPTURE_KINDS", "ActivationSketches", "capture_activations"]

CAPTURE_KINDS = ("linear", "kv-cache", "scores", "residual")
"""What can be captured: inputs of linear layers and convolutions; keys (after rotation) and
values as a cache holds them; attention scores before the softmax; inputs of the blocks."""

_ATTENTION = "studentfloat_capture"


@dataclass
class ActivationSketches:
    """One sketch for each place that was listened to.

    Attributes
    ----------
    by_name
        Module name, with ``.key``, ``.value`` or ``.scores`` appended inside attention.
        A place whose hook never fired has an empty sketch.
    kinds
        Which of :data:`CAPTURE_KINDS` each name is.
    notes
        What could not be listened to, and why.
    """

    by_name: dict[str, Sketch] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _last: tuple[torch.Tensor, int, Sketch] | None = None

    def expect(self, name: str, kind: str) -> None:
        """Announce a place before it is heard from."""
        self.by_name[name] = Sketch()
        self.kinds[name] = kind

    def see(self, name: str, tensor: torch.Tensor) -> None:
        """Count a tensor; one that enters several layers in a row is sketched once."""
        last = self._last
        if last is not None and last[0] is tensor and last[1] == tensor._version:
            part = last[2]
        else:
            part = Sketch.of(_as_array(tensor))
            self._last = (tensor, tensor._version, part)
        self.by_name[name].merge(part)

    def forget_last(self) -> None:
        """Let go of the tensor seen last."""
        self._last = None


def capture_activations(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    kinds: tuple[str, ...] = ("linear",),
) -> ActivationSketches:
    """Run a model over batches and sketch what goes through it.

    Parameters
    ----------
    model
        Any module; for "kv-cache" and "scores" a transformers model.
    batches
        Keyword arguments of each forward pass.
    kinds
        Of :data:`CAPTURE_KINDS`.

    Raises
    ------
    ConfigError
        If a kind is unknown.
    """
    for kind in kinds:
        if kind not in CAPTURE_KINDS:
            raise ConfigError(f"cannot capture {kind!r}: known are {', '.join(CAPTURE_KINDS)}")
    sketches = ActivationSketches()
    # no_grad, not inference_mode: tensors of that keep no version, which `see` looks at.
    with listening(model, kinds, sketches), torch.no_grad():
        for batch in batches:
            model(**batch)
            sketches.forget_last()
    return sketches


@contextmanager
def listening(
    model: nn.Module, kinds: tuple[str, ...], sketches: ActivationSketches
) -> Iterator[None]:
    """Hooks in place for the time of the ``with`` block."""
    with ExitStack() as stack:
        if "linear" in kinds:
            for name, module in model.named_modules():
                if _multiplies(module):
                    _listen(stack, sketches, name, module, "linear")
        if "residual" in kinds:
            blocks = list(_blocks(model))
            for name, module in blocks:
                _listen(stack, sketches, f"{name}.residual", module, "residual")
            if not blocks:
                sketches.notes.append("residual stream: the model has no list of like blocks")
        inside = tuple(kind for kind in kinds if kind in ("kv-cache", "scores"))
        if inside:
            stack.enter_context(_attention(model, inside, sketches))
        yield


def _multiplies(module: nn.Module) -> bool:
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return True
    # GPT-2's linear layer, which is no torch class.
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Members of the outermost lists of two or more modules of one class."""
    found: list[str] = []
    for name, module in model.named_modules():
        members = list(module.children()) if isinstance(module, nn.ModuleList) else []
        alike = len(members) > 1 and len({type(member) for member in members}) == 1
        if alike and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
            yield from ((f"{name}.{i}", member) for i, member in enumerate(members))


def _listen(
    stack: ExitStack, sketches: ActivationSketches, name: str, module: nn.Module, kind: str
) -> None:
    sketches.expect(name, kind)

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        candidates = (*args, *(kwargs[k] for k in ("hidden_states", "input", "x") if k in kwargs))
        for candidate in candidates:
            if isinstance(candidate, torch.Tensor) and candidate.is_floating_point():
                sketches.see(name, candidate)
                return

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    stack.callback(handle.remove)


@contextmanager
def _attention(
    model: nn.Module, kinds: tuple[str, ...], sketches: ActivationSketches
) -> Iterator[None]:
    """Stand in for the attention function: it is handed queries, and keys as they are cached."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if before is None or not hasattr(model, "set_attn_implementation"):
        sketches.notes.append(
            f"{' and '.join(kinds)}: {type(model).__name__} has no attention of transformers' kind"
        )
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask

    names = {id(module): name for name, module in model.named_modules()}

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        **options: Any,
    ) -> Any:
        name = names.get(id(module), type(module).__name__)
        if "kv-cache" in kinds:
            _see_inside(sketches, f"{name}.key", "kv-cache", lambda: key)
            _see_inside(sketches, f"{name}.value", "kv-cache", lambda: value)
        if "scores" in kinds:
            scale = options.get("scaling") or query.shape[-1] ** -0.5
            _see_inside(
                sketches, f"{name}.scores", "scores", lambda: _scores(query, key, mask, scale)
            )
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register(_ATTENTION, attend)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)  # one that is never left out
    chosen: Any = model
    chosen.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        chosen.set_attn_implementation(before)
    if not any(kind in kinds for kind in sketches.kinds.values()):
        sketches.notes.append(f"{' and '.join(kinds)}: the attention of this model never called in")


def _see_inside(
    sketches: ActivationSketches, name: str, kind: str, make: Callable[[], torch.Tensor]
) -> None:
    if name not in sketches.by_name:
        sketches.expect(name, kind)
    sketches.see(name, make())


def _scores(query: torch.Tensor, key: torch.Tensor, mask: Any, scale: float) -> torch.Tensor:
    """Scaled scores of the positions that attention may look at, in one row."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, dim=1).transpose(-1, -2) * scale
    if not isinstance(mask, torch.Tensor):
        return scores.flatten()
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return scores[seen[..., : scores.shape[-1]].expand_as(scores)]


def _as_array(tensor: torch.Tensor) -> Any:
    values = tensor.detach()
    if values.dtype in (torch.bfloat16,):
        values = values.float()
    return values.cpu().numpy()
