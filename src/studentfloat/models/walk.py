"""Walk the weights that a model multiplies by, and say what is left alone and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.roles import layer_of, role_of
from studentfloat.quantize.orientation import Orientation
from studentfloat.records import SkippedTensor

__all__ = ["WeightKind", "WeightSite", "walk_weights"]

# Experts whose matrices are stacked in one of two dimensions: by class and parameter, whether
# each is transposed, so that numbers are summed up along the rows.
_STACKED_EXPERTS = {"DbrxExpertGLU": {"w1": False, "v1": False, "w2": True}}


class WeightKind(Enum):
    """How a weight is multiplied by, which decides along which axis numbers are summed up."""

    LINEAR = "linear"
    TRANSPOSED_LINEAR = "transposed linear"
    EXPERTS = "experts"
    TRANSPOSED_EXPERTS = "transposed experts"
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"
    HEAD = "head"

    @property
    def orientation(self) -> Orientation:
        """How such a weight becomes a matrix."""
        if self in (WeightKind.TRANSPOSED_LINEAR, WeightKind.TRANSPOSED_EXPERTS):
            return Orientation.TRANSPOSED
        return Orientation.FLATTENED if self is WeightKind.CONVOLUTION else Orientation.PLAIN

    @property
    def multiplies_inputs(self) -> bool:
        """Whether the matrix meets the layer's inputs as they are, so that they can be changed."""
        return self not in (WeightKind.EMBEDDING, WeightKind.CONVOLUTION)


@dataclass(frozen=True)
class WeightSite:
    """One weight in a model.

    Attributes
    ----------
    name
        Of the parameter, as in the model's state dict.
    parameter
        The tensor itself; tied names share it.
    kind
        How it is multiplied by.
    tied
        Other names of the same parameter.
    """

    name: str
    parameter: nn.Parameter
    kind: WeightKind
    tied: tuple[str, ...] = ()

    @property
    def layer(self) -> int | None:
        """Index of the block that it is in: the first number in its name."""
        return layer_of(self.name)

    @property
    def role(self) -> str:
        """What it is within its block (``q_proj``), as the profile of a checkpoint calls it."""
        return role_of(self.name)

    def matrix(self, values: Tensor) -> Tensor:
        """See values of the parameter's shape with the summed-up axis last.

        Of shape ``(..., in_features)``: a convolution's kernel is one row per output channel.
        """
        matrix: Tensor = self.kind.orientation.to_matrix(values)
        return matrix

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the weight by `change` of its :meth:`matrix`, in place, so ties hold."""
        with torch.no_grad():
            values = self.parameter.data
            changed = change(self.matrix(values))
            # Not into the matrix: of a tensor with strides of its own that is a copy.
            values.copy_(self.kind.orientation.from_matrix(changed, tuple(values.shape)))


def walk_weights(
    model: nn.Module, *, embeddings: bool = False, head: bool = False
) -> tuple[list[WeightSite], list[SkippedTensor]]:
    """List the weights to quantize, in the model's order, and everything else.

    Parameters
    ----------
    model
        A transformers model, or any module.
    embeddings, head
        Whether token embeddings and the output head are wanted too; where they are tied,
        either means both.

    Returns
    -------
    sites
        Linear, GPT-2's ``Conv1D``, convolutions, and fused 3-D expert parameters.
    skipped
        Every other parameter, with the reason why it is left alone.

    Raises
    ------
    ModelError
        If nothing in the model can be quantized.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    output = _output_head(model)
    sites: list[WeightSite] = []
    skipped: list[SkippedTensor] = []
    seen: set[int] = set()
    wanted = {WeightKind.EMBEDDING: embeddings, WeightKind.HEAD: head}
    for name, module, parameter in _parameters(model):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        tied = tuple(other for other in names[id(parameter)] if other != name)
        kind = _kind(module, name, parameter, is_head=module is output)
        if isinstance(kind, str):
            skipped.append(SkippedTensor(name, tuple(parameter.shape), kind))
            continue
        asked = wanted.get(kind, True) or (bool(tied) and (embeddings or head))
        if asked:
            sites.append(WeightSite(name, parameter, kind, tied))
        else:
            reason = f"{kind.value}: not asked for" + (f" (tied to {tied[0]})" if tied else "")
            skipped.append(SkippedTensor(name, tuple(parameter.shape), reason))
    if not sites:
        raise ModelError(
            f"{type(model).__name__} has no weight to quantize: no linear layer, convolution or "
            f"expert among its {len(seen)} parameters"
        )
    return sites, skipped


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, module, parameter


def _output_head(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    return head if isinstance(head, nn.Module) else None


def _kind(
    module: nn.Module, name: str, parameter: nn.Parameter, *, is_head: bool
) -> WeightKind | str:
    """The kind of a weight, or the reason why a parameter is none."""
    is_weight = name.rsplit(".", 1)[-1] == "weight"
    if not parameter.is_floating_point():
        return f"type {str(parameter.dtype).removeprefix('torch.')}"
    if parameter.dim() < 2:
        return "vector (norm, bias or scale)"
    if is_weight and is_head:
        return WeightKind.HEAD
    if is_weight and isinstance(module, nn.Linear):
        return WeightKind.LINEAR
    if is_weight and isinstance(module, nn.Embedding):
        return WeightKind.EMBEDDING
    if is_weight and isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return WeightKind.CONVOLUTION
    if is_weight and _is_gpt2_conv1d(module):
        return WeightKind.TRANSPOSED_LINEAR
    stacked = _STACKED_EXPERTS.get(type(module).__name__, {}).get(name.rpartition(".")[2])
    if stacked is not None or (parameter.dim() == 3 and _is_fused_experts(module)):
        transposed = stacked or bool(getattr(module, "is_transposed", False))
        return WeightKind.TRANSPOSED_EXPERTS if transposed else WeightKind.EXPERTS
    return f"{parameter.dim()}-D parameter of {type(module).__name__}, which is no linear layer"


def _is_fused_experts(module: nn.Module) -> bool:
    """Whether a module's 3-D parameters are one matrix per expert.

    transformers marks such modules (``is_transposed``) or names them so; a class token or
    position table of three dimensions is no expert.
    """
    return hasattr(module, "is_transposed") or "Expert" in type(module).__name__


def _is_gpt2_conv1d(module: nn.Module) -> bool:
    try:
        from transformers.pytorch_utils import Conv1D
    except ModuleNotFoundError:
        return False
    return isinstance(module, Conv1D)
