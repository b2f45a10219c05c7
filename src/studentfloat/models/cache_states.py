"""What a key-value cache held before: found again by its content, whatever was done to it.

Generation reorders a cache (beams), cuts it (prompt lookup, cropping), copies it (branches of a
prefix) and keeps several (sequences in turns). transformers tells attention nothing of that: it
hands over keys. So what was seen is looked up by the keys themselves, and what cannot be found
is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError

__all__ = ["CacheStates", "Handed", "State", "handed_cache"]

Rotation: TypeAlias = tuple[Tensor, Tensor]

_REMEMBERED = 8
"""States of a layer that are kept: sequences in turns, branches of a prefix."""


@dataclass(frozen=True)
class State:
    """All that a layer's cache has held of a batch of sequences since they began.

    Attributes
    ----------
    keys, values
        Of shape ``(batch, heads, tokens, channels)``, those too that a sliding cache dropped.
    rotation
        Cosines and sines that turned the keys, of shape ``(batch or 1, 1, tokens, width)``;
        None where nothing did.
    """

    keys: Tensor
    values: Tensor
    rotation: Rotation | None

    @property
    def tokens(self) -> int:
        """How many it holds."""
        return int(self.keys.shape[-2])

    def part(self, rows: Tensor, tokens: int) -> State:
        """The first tokens of some of its sequences."""
        in_order = torch.equal(rows, torch.arange(self.keys.shape[0], device=rows.device))
        keys, values = (s if in_order else s[rows] for s in (self.keys, self.values))
        rotation = None
        if self.rotation is not None:
            cos, sin = (r if in_order or r.shape[0] == 1 else r[rows] for r in self.rotation)
            rotation = (cos[..., :tokens, :], sin[..., :tokens, :])
        return State(keys[..., :tokens, :], values[..., :tokens, :], rotation)

    def followed_by(self, fresh: State) -> State:
        """It and the tokens that came."""
        return State(
            torch.cat([self.keys, fresh.keys], dim=-2),
            torch.cat([self.values, fresh.values], dim=-2),
            self.turned_on(fresh.rotation),
        )

    def turned_on(self, fresh: Rotation | None) -> Rotation | None:
        """Its rotation and that of the tokens that came."""
        if self.rotation is None or fresh is None:
            return None
        cos, sin = (_joined(a, b) for a, b in zip(self.rotation, fresh, strict=True))
        return cos, sin


def _joined(past: Tensor, fresh: Tensor) -> Tensor:
    """Along tokens, for as many sequences: rotations may be given once for all."""
    count = max(past.shape[0], fresh.shape[0])
    return torch.cat([part.expand(count, -1, -1, -1) for part in (past, fresh)], dim=-2)


@dataclass(frozen=True)
class Handed:
    """The cache that a module is handed, and how many tokens that has seen."""

    cache: weakref.ref[Any]
    tokens: int


class CacheStates:
    """What each attention module's cache held lately."""

    def __init__(self) -> None:
        self._states: dict[int, list[tuple[weakref.ref[Any], State]]] = {}

    def find(self, module: nn.Module, keys: Tensor, tokens: int) -> State:
        """The state that a cache is in.

        Parameters
        ----------
        module
            The attention module.
        keys
            What the cache holds, of shape ``(batch, heads, held, channels)``: the last of its
            tokens if it is a sliding one.
        tokens
            How many it has seen.

        Raises
        ------
        ModelError
            If it holds what was not seen here.
        """
        known = self._states.get(id(module), [])
        for place, (_, state) in enumerate(known):
            rows = _rows(state, keys, tokens)
            if rows is not None:
                known.insert(0, known.pop(place))
                return state.part(rows, tokens)
        raise ModelError(
            f"the key-value cache holds {tokens} tokens that this simulation has not seen (or not "
            f"among its last {_REMEMBERED} sequences): begin with an empty cache"
        )

    def keep(self, module: nn.Module, state: State, handed: Handed) -> None:
        """Remember a state; the one that was found for it just now grew into it."""
        known = self._states.get(id(module), [])
        if handed.tokens and known and known[0][1].tokens == handed.tokens:
            known = known[1:]
        # Of caches that are no more nothing is needed.
        alive = [(cache, its) for cache, its in known if cache() is not None]
        self._states[id(module)] = [(handed.cache, state), *alive][:_REMEMBERED]


def _rows(state: State, keys: Tensor, tokens: int) -> Tensor | None:
    """Which sequences of a state the keys are of; None if one is of none."""
    held = keys.shape[-2]
    if state.tokens < tokens or not held or state.keys.shape[1::2] != keys.shape[1::2]:
        return None
    seen = state.keys[..., tokens - held : tokens, :]
    if seen.shape == keys.shape and torch.equal(seen, keys):
        return torch.arange(keys.shape[0], device=keys.device)
    # The last token tells most sequences apart.
    alike = (keys[:, None, :, -1] == seen[None, :, :, -1]).flatten(2).all(dim=2)
    rows = []
    for sequence, its in zip(keys, alike, strict=True):
        sound = (int(c) for c in its.nonzero()[:, 0] if torch.equal(seen[c], sequence))
        rows.append(next(sound, None))
    if None in rows:
        return None
    return torch.tensor(rows, device=keys.device)


def handed_cache(module: nn.Module, given: Iterable[Any]) -> Handed | None:
    """The cache that a module is handed in a call; None where there is none.

    Parameters
    ----------
    module
        The attention module.
    given
        The call's arguments.

    Raises
    ------
    ModelError
        If the cache is of a kind that is not followed.
    """
    from transformers import cache_utils
    from transformers.cache_utils import Cache, DynamicLayer

    # What all layers that hold codes derive from; in transformers 5.0 they have one base less.
    quantized = getattr(cache_utils, "BaseQuantizedLayer", cache_utils.QuantizedLayer)
    cache = next((value for value in given if isinstance(value, Cache)), None)
    index = getattr(module, "layer_idx", None)
    if cache is None or index is None:
        return None
    layers = getattr(cache, "layers", None)
    if layers is None:
        raise ModelError(f"a {type(cache).__name__} is not simulated: use a DynamicCache")
    if index >= len(layers):
        return Handed(weakref.ref(cache), 0)  # the layer is made when its first tokens come
    layer = layers[index]
    if not isinstance(layer, DynamicLayer) or isinstance(layer, quantized):
        raise ModelError(
            f"a cache of {type(layer).__name__} is not simulated: use a DynamicCache, which is "
            "transformers' default"
        )
    return Handed(weakref.ref(cache), int(layer.get_seq_length()))
