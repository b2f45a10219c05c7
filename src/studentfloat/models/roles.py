"""Where in a model a weight is, and what it does there: from its name alone."""

from __future__ import annotations

import re

__all__ = ["layer_of", "role_of"]

_COMMON_NOUNS = {"dense", "linear", "proj", "projection", "conv", "convolution", "fc", "out"}


def layer_of(name: str) -> int | None:
    """The first number in the dotted name of a module or parameter; None without one.

    Examples
    --------
    >>> layer_of("model.layers.3.self_attn.q_proj.weight")
    3
    """
    match = re.search(r"\.(\d+)\.", f".{name}.")
    return int(match.group(1)) if match else None


def role_of(name: str) -> str:
    """A module's own name; where that is a common noun, its place in the block with it.

    Parameters
    ----------
    name
        Of the module, or of its parameter ``weight``; of any other parameter.

    Examples
    --------
    >>> role_of("model.layers.3.self_attn.q_proj.weight")
    'q_proj'
    >>> role_of("encoder.layer.0.intermediate.dense.weight")
    'intermediate.dense'
    """
    module = name.removesuffix(".weight")
    block = re.split(r"(?:^|\.)\d+\.", f"{module}.", maxsplit=1)[-1]
    parts = [part for part in block.split(".") if part and not part.isdigit()] or [module]
    return ".".join(parts) if parts[-1] in _COMMON_NOUNS else parts[-1]
