"""Where in a model a weight is, and what it does there: from its name alone, without torch.

Whoever has the model asks :class:`~studentfloat.models.WeightKind` for the orientation; who has
a checkpoint and no transformers asks here. A test holds both to each other.
"""

from __future__ import annotations

import re

from studentfloat.quantize.orientation import Orientation

__all__ = ["layer_of", "orientation_of", "role_of"]

# Types of models with transformers' Conv1D, and what their layers of that class are called.
_WITH_CONV1D = {"clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt"}
_CONV1D = {"c_attn", "c_fc", "c_proj", "q_attn"}
# Types of models whose fused experts lie as (experts, in_features, out_features).
_WITH_TRANSPOSED_EXPERTS = {"aria", "aria_text", "gpt_oss", "openai_privacy_filter"}
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


def orientation_of(name: str, axes: int, model_type: str | None) -> Orientation:
    """How a stored tensor becomes a matrix, as far as its name, axes and model tell.

    Parameters
    ----------
    name
        Of the parameter.
    axes
        How many it has.
    model_type
        As the model's configuration has it.
    """
    role = role_of(name)
    if axes == 2:
        transposed = model_type in _WITH_CONV1D and role in _CONV1D
    elif ".experts." in f".{name}":
        transposed = model_type in _WITH_TRANSPOSED_EXPERTS
    else:
        return Orientation.FLATTENED if axes > 2 else Orientation.PLAIN
    return Orientation.TRANSPOSED if transposed else Orientation.PLAIN
