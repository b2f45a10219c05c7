"""What Llama-like models call their tensors in GGUF, and how their rows are ordered there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import MissingDependencyError, ModelError, SchemeError

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of", "tensor_names"]


@dataclass(frozen=True)
class Architecture:
    """One of GGUF's architectures.

    Attributes
    ----------
    name
        As GGUF calls it.
    rotates_pairs
        Whether llama.cpp turns neighboring rows of a head by the same angle, where
        transformers turns row i and row i + half: query and key rows are then reordered.
    """

    name: str
    rotates_pairs: bool = False

    def row_order(self, name: str, rows: int, config: Mapping[str, Any]) -> Tensor | None:
        """Row ``order[i]`` of transformers' tensor is row i of GGUF's; None for the same order.

        Parameters
        ----------
        name
            Of the tensor in the checkpoint.
        rows
            Of it.
        config
            The model's configuration.
        """
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        part = next((key for key in heads if f".{key}." in name), None)
        if not self.rotates_pairs or part is None:
            return None
        count = config.get(heads[part]) or config["num_attention_heads"]
        return torch.arange(rows).reshape(count, 2, -1).transpose(1, 2).flatten()


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("llama", rotates_pairs=True),
        "qwen2": Architecture("qwen2"),
        "qwen3": Architecture("qwen3"),
    }
)
"""transformers' model_type to GGUF's architecture."""


def architecture_of(model_type: object, where: str) -> Architecture:
    """The architecture of a model type.

    Raises
    ------
    SchemeError
        If its tensors are rearranged in ways not known here.
    """
    found = ARCHITECTURES.get(str(model_type))
    if found is None:
        raise SchemeError(
            f"{where} is of architecture {model_type}, and codes are carried for "
            f"{', '.join(ARCHITECTURES)} only, whose tensors both sides lay out alike. Dense "
            "models of others: `studentfloat dequantize`, or a .gguf file given as a model, "
            "which transformers then reads"
        )
    return found


def tensor_names(names: Iterable[str], architecture: Architecture, layers: int) -> dict[str, str]:
    """GGUF's name of each tensor of a checkpoint.

    Raises
    ------
    ModelError
        If GGUF knows no such tensor; the message names it.
    """
    try:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("gguf", "models") from error
    number = next(key for key, value in MODEL_ARCH_NAMES.items() if value == architecture.name)
    known = get_tensor_name_map(number, layers)
    found = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        its = known.get_name(stem)
        if its is None or suffix not in ("weight", "bias"):
            raise ModelError(f"{name} has no place in a GGUF file of a {architecture.name} model")
        found[name] = f"{its}.{suffix}"
    return found
