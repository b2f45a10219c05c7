"""The key-value cache in a format: old tokens rounded, recent ones and the sink as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ConfigError, ModelError
from studentfloat.models.cache_states import CacheStates, Handed, State, handed_cache
from studentfloat.quantize.rounding.nearest import fake_quantize
from studentfloat.quantize.scheme import ROW, ScaleDtype, Scheme, replace_scheme

__all__ = ["KVCacheReport", "KVCacheScheme", "quantized_kv_cache"]

_NAME = "studentfloat_kv"


@dataclass(frozen=True)
class KVCacheScheme:
    """How keys and values are kept.

    Attributes
    ----------
    scheme
        Format, scale rule, scale type. Blocks of values run along each head's channels: its
        block size, or the head's width if that is smaller.
    key_group
        Tokens whose keys share a scale, channel by channel. A group is rounded once it is
        whole and no token of it is recent.
    window
        Recent tokens in high precision, the current one among them; at least 1.
    sink
        First tokens in high precision: what attention leans on.
    rotated
        Round keys after rotary position embedding; by default before it, where the
        architecture allows.

    References
    ----------
    Keys per channel, values per token, recent tokens whole: Liu et al., "KIVI", arXiv
    2402.02750. Keys before rotation, first token whole: Hooper et al., "KVQuant", arXiv
    2401.18079.
    """

    scheme: Scheme
    key_group: int = 32
    window: int = 32
    sink: int = 4
    rotated: bool = False

    def __post_init__(self) -> None:
        if self.key_group < 1 or self.window < 1 or self.sink < 0:
            raise ConfigError(
                f"KV cache with key groups of {self.key_group}, a window of {self.window} and a "
                f"sink of {self.sink} tokens: at least 1, 1 and 0"
            )
        if not isinstance(self.scheme.scale_dtype, ScaleDtype):
            raise ConfigError(
                f"KV cache with scales in {self.scheme.scale_dtype_name}: they are quantized "
                "together, but tokens come one by one; use bfloat16 or e8m0"
            )

    def round_keys(self, keys: Tensor) -> Tensor:
        """Keys of shape ``(..., tokens, channels)``, whole groups after the sink rounded."""
        whole = max(0, keys.shape[-2] - self.sink) // self.key_group * self.key_group
        if not whole:
            return keys
        stop = self.sink + whole
        old = keys[..., self.sink : stop, :].transpose(-1, -2).contiguous()
        scheme = replace_scheme(self.scheme, block_size=self.key_group)
        rounded = fake_quantize(old, scheme, name="keys")[0].transpose(-1, -2)
        return torch.cat([keys[..., : self.sink, :], rounded, keys[..., stop:, :]], dim=-2)

    def round_values(self, values: Tensor) -> Tensor:
        """Values of shape ``(..., tokens, channels)`` rounded token by token."""
        return fake_quantize(values, self._value_scheme(values.shape[-1]), name="values")[0]

    def old_keys(self, queries: Tensor, tokens: int) -> Tensor:
        """Which keys are rounded for a query at each position: bool, ``(queries, tokens)``."""
        token = torch.arange(tokens, device=queries.device)
        group_end = self.sink + ((token - self.sink) // self.key_group + 1) * self.key_group
        is_old = group_end[None] <= queries[:, None] + 1 - self.window
        return is_old & (token >= self.sink)[None]

    def old_values(self, queries: Tensor, tokens: int) -> Tensor:
        """Which values are rounded: bool, ``(queries, tokens)``."""
        token = torch.arange(tokens, device=queries.device)
        return (token[None] < queries[:, None] + 1 - self.window) & (token >= self.sink)[None]

    def bits_per_token(self, heads: int, channels: int) -> float:
        """Bits of one old token's key and value in one layer, scales and selectors included."""
        per_scale = self._bits_per_scale()
        block = self._value_scheme(channels).block_size
        width = channels if block == ROW else int(block)
        blocks = -(-channels // width)
        keys = channels * (self.scheme.format.bits + per_scale / self.key_group)
        return heads * (keys + channels * self.scheme.format.bits + blocks * per_scale)

    def _bits_per_scale(self) -> int:
        assert isinstance(self.scheme.scale_dtype, ScaleDtype)
        return self.scheme.scale_dtype.bits + self.scheme.selector_bits

    def _value_scheme(self, channels: int) -> Scheme:
        size = self.scheme.block_size
        small = isinstance(size, int) and size < channels
        return replace_scheme(self.scheme, block_size=size if small else ROW)


@dataclass
class KVCacheReport:
    """What was seen of the cache while it was quantized.

    Attributes
    ----------
    bytes_per_token
        Of an old token in all layers together.
    bytes_per_token_16bit
        The same in 16 bits.
    notes
        What could not be as asked for, by attention module.
    """

    bytes_per_token: float = 0.0
    bytes_per_token_16bit: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)


@contextmanager
def quantized_kv_cache(model: nn.Module, how: KVCacheScheme) -> Iterator[KVCacheReport]:
    """A transformers model whose attention reads old keys and values rounded.

    Generation may do what it likes with its cache: reorder it (beams), cut it (prompt lookup),
    copy it (branches of a prefix), keep up to eight (sequences in turns). Each query sees what
    a cache would hold at its time, so that one pass over a long window and generation token by
    token give the same numbers.

    Raises
    ------
    ModelError
        If the model's attention is not of transformers' kind; from the model, if its cache is
        no ``DynamicCache`` or holds tokens that came before, or too long ago.
    """
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if before is None or not hasattr(model, "set_attn_implementation"):
        raise ModelError(f"{type(model).__name__} has no attention of transformers' kind")
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    attention = _Attention(model, how)
    AttentionInterface.register(_NAME, attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    chosen: Any = model
    chosen.set_attn_implementation(_NAME)
    try:
        with attention.listening(model):
            yield attention.report
    finally:
        chosen.set_attn_implementation(before)


class _Attention:
    """The attention function, and what it knows of each module that calls it."""

    def __init__(self, model: nn.Module, how: KVCacheScheme) -> None:
        self._how = how
        self._names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
        self._rotations: dict[int, tuple[Tensor, Tensor]] = {}
        self._outputs: dict[int, list[Tensor]] = {}
        self._before_rotation: dict[int, bool] = {}
        self._handed: dict[int, Handed | None] = {}
        self._states = CacheStates()
        self._counted: set[int] = set()
        self.report = KVCacheReport()

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[None]:
        """Hooks on whatever is handed rotations: they say how keys were turned."""
        with ExitStack() as stack:
            for module in model.modules():
                handle = module.register_forward_pre_hook(self._note_call, with_kwargs=True)
                stack.callback(handle.remove)
                if module is not model and list(module.children()):
                    for child in module.children():
                        hook = child.register_forward_hook(self._note_output(module))
                        stack.callback(hook.remove)
            yield

    def _note_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._outputs.pop(id(module), None)
        self._handed[id(module)] = handed_cache(module, (*args, *kwargs.values()))
        rotation = kwargs.get("position_embeddings")
        if isinstance(rotation, tuple) and len(rotation) == 2:
            self._rotations[id(module)] = rotation

    def _note_output(self, parent: nn.Module) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and id(parent) not in self._before_rotation:
                self._outputs.setdefault(id(parent), []).append(output)

        return hook

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Attention of transformers' signature, old keys and values rounded."""
        if options.get("s_aux") is not None:
            raise ModelError("attention with learned sinks is not simulated with a quantized cache")
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        self._count(module, key, value)
        state = self._whole(module, query.shape[-2], key, value)
        key, value, tokens = state.keys, state.values, state.tokens
        positions = torch.arange(tokens - query.shape[-2], tokens, device=query.device)
        old_keys = self._how.old_keys(positions, tokens)
        old_values = self._how.old_values(positions, tokens)
        groups = query.shape[1] // key.shape[1]

        def spread(states: Tensor) -> Tensor:
            return states.repeat_interleave(groups, dim=1)

        rounded = spread(self._rounded_keys(state)).transpose(-1, -2)
        scores = torch.where(
            old_keys, query @ rounded * scale, query @ spread(key).transpose(-1, -2) * scale
        )
        if options.get("softcap") is not None:
            scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
        if isinstance(mask, Tensor):
            scores = scores + _widened(mask, tokens)
        shares = torch.softmax(scores.float(), dim=-1).to(query.dtype)
        output = (shares * ~old_values) @ spread(value)
        output = output + (shares * old_values) @ spread(self._how.round_values(value))
        return output.transpose(1, 2).contiguous(), None

    def _count(self, module: nn.Module, key: Tensor, value: Tensor) -> None:
        if id(module) in self._counted:
            return
        self._counted.add(id(module))
        heads, channels = key.shape[1], key.shape[-1]
        self.report.bytes_per_token += self._how.bits_per_token(heads, channels) / 8
        self.report.bytes_per_token_16bit += heads * (channels + value.shape[-1]) * 2

    def _whole(self, module: nn.Module, fresh: int, key: Tensor, value: Tensor) -> State:
        """All keys and values since the sequences began, and what turned the keys.

        Those too that a sliding cache dropped: they are masked, but groups of keys are rounded
        whole.
        """
        held = key.shape[-2] - fresh
        handed = self._handed.get(id(module))
        if handed is None and held:
            raise ModelError(f"{self._name(module)} has a key-value cache that it is not handed")
        past = 0 if handed is None else handed.tokens
        if past < held:
            raise ModelError(f"{self._name(module)} shares the cache of another: not simulated")
        rotation = self._rotation(module, key[..., held:, :])
        state = State(key, value, rotation)
        if past and not (past == held and rotation is None):
            new = State(key[..., held:, :], value[..., held:, :], rotation)
            found = self._states.find(module, key[..., :held, :], past)
            if past == held:
                state = State(key, value, found.turned_on(rotation))
            else:
                state = found.followed_by(new)
        if handed is not None:
            self._states.keep(module, state, handed)
        return state

    def _rounded_keys(self, state: State) -> Tensor:
        if state.rotation is None:
            return self._how.round_keys(state.keys)
        cos, sin = state.rotation
        return _rotate(self._how.round_keys(_unrotate(state.keys, cos, sin)), cos, sin)

    def _rotation(self, module: nn.Module, fresh: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin of the fresh keys, if they were turned by them and nothing else."""
        given = self._rotations.get(id(module))
        if given is None or self._how.rotated or self._before_rotation.get(id(module)) is False:
            return None
        cos, sin = (part[:, None] if part.dim() == 3 else part for part in given)
        if cos.shape[-2] != fresh.shape[-2]:
            raise ModelError(
                f"{self._name(module)} turns {cos.shape[-2]} of {fresh.shape[-2]} fresh keys: not "
                "simulated"
            )
        if id(module) not in self._before_rotation:
            plain = _unrotate(fresh, cos, sin)
            flat = plain.transpose(1, 2).reshape(-1)
            sound = any(
                output.numel() == flat.numel() and _close(output, plain, flat)
                for output in self._outputs.pop(id(module), [])
            )
            self._before_rotation[id(module)] = sound
            if not sound:
                self.report.notes[self._name(module)] = (
                    "keys are rounded after rotation: no module gives them before it"
                )
        return (cos, sin) if self._before_rotation[id(module)] else None

    def _name(self, module: nn.Module) -> str:
        return self._names.get(id(module), type(module).__name__)


def _widened(mask: Tensor, tokens: int) -> Tensor:
    """The mask over all tokens: those that a sliding cache dropped are not looked at."""
    missing = tokens - mask.shape[-1]
    if missing <= 0:
        return mask[..., :tokens]
    return nn.functional.pad(mask, (missing, 0), value=torch.finfo(mask.dtype).min)


def _close(output: Tensor, plain: Tensor, flat: Tensor) -> bool:
    tolerance = 1e-3 * float(flat.abs().max())
    by_token = output.reshape(-1)
    if float((by_token - flat).abs().max()) <= tolerance:
        return True
    return float((by_token - plain.reshape(-1)).abs().max()) <= tolerance


def _turned(states: Tensor) -> Tensor:
    """The other half of each pair, as rotate-half conventions pair channels."""
    half = states.shape[-1] // 2
    return torch.cat([-states[..., half:], states[..., :half]], dim=-1)


def _rotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    part = keys[..., :width]
    return torch.cat([part * cos + _turned(part) * sin, keys[..., width:]], dim=-1)


def _unrotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    part = keys[..., :width]
    # Some rotations stretch too (YaRN): then cos² + sin² is not one.
    stretch = cos.square() + sin.square()
    back = (part * cos - _turned(part) * sin) / stretch
    return torch.cat([back, keys[..., width:]], dim=-1)
