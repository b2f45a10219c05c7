"""Which tensors of a checkpoint are weights, without loading any: from the model's skeleton."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from studentfloat.errors import MissingDependencyError, ModelError
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import StoredTensor, spellings
from studentfloat.models.walk import WeightKind, walk_weights
from studentfloat.quantize.orientation import Orientation
from studentfloat.records import SkippedTensor

__all__ = [
    "StoredSite",
    "share_tied_parameters",
    "sites_of_checkpoint",
    "skeleton",
]

# Checkpoints hold one matrix per expert where transformers 5 builds one fused parameter.
_EXPERT = re.compile(r"\.experts\.\d+\.[\w.]*\bweight$")


@dataclass(frozen=True)
class StoredSite:
    """A weight in a checkpoint: its name there, how it is multiplied by, its name when packed.

    The latter differs where a checkpoint has a tied weight under its second name only.
    """

    name: str
    kind: WeightKind
    orientation: Orientation
    stored_name: str


def skeleton(source: ModelSource, *, buffers: bool = False) -> nn.Module:
    """The model of a source without its weights, on the meta device.

    Parameters
    ----------
    source
        The model.
    buffers
        Whether to compute its buffers (rotary frequencies, masks), so that it can run.

    Raises
    ------
    ModelError
        If transformers knows no such model.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("transformers", "models") from error
    try:
        empty = _on_meta() if buffers else torch.device("meta")
        with quiet_transformers(), empty:
            config = transformers.AutoConfig.from_pretrained(
                source.directory,
                trust_remote_code=source.trust.remote_code,
                local_files_only=True,
            )
            built: nn.Module = _class(transformers, config, source)
            return built if buffers else built.to("meta")
    except ModelError:
        raise
    except Exception as error:
        # transformers raises whatever it meets; the user needs the model and the reason.
        raise ModelError(
            f"cannot build model {source.name}: {' '.join(str(error).split())[:240]}"
        ) from error


def sites_of_checkpoint(
    source: ModelSource,
    tensors: Iterable[StoredTensor],
    *,
    embeddings: bool = False,
    head: bool = False,
) -> tuple[dict[str, StoredSite], list[SkippedTensor]]:
    """Sort a checkpoint's tensors into weights to quantize and the rest.

    Parameters
    ----------
    source
        The model.
    tensors
        What its shards hold.
    embeddings, head
        As for :func:`~studentfloat.models.walk_weights`.

    Returns
    -------
    sites
        By the name in the checkpoint.
    skipped
        Every other tensor, with the reason.
    """
    model = skeleton(source)
    share_tied_parameters(model)
    found, left = walk_weights(model, embeddings=embeddings, head=head)
    kinds = {name: site.kind for site in found for name in (site.name, *site.tied)}
    first = {tied: site.name for site in found for tied in site.tied}
    reasons = {skip.name: skip.reason for skip in left}
    prefix = getattr(model, "base_model_prefix", "")
    sites, skipped = {}, []
    for tensor in tensors:
        tried = spellings(tensor.name, prefix)
        name = next((n for n in tried if n in kinds or n in reasons), tensor.name)
        kind = kinds.get(name)
        if kind is None and name not in reasons and _EXPERT.search(name) and len(tensor.shape) == 2:
            kind = WeightKind.EXPERTS
        reason = tensor.why_not_real()
        if kind is not None and reason is None:
            stored = first.get(name, tensor.name)
            sites[tensor.name] = StoredSite(tensor.name, kind, kind.orientation, stored)
            continue
        why = reason or reasons.get(name, "not a weight of the model that transformers builds")
        skipped.append(SkippedTensor(tensor.name, tensor.shape, why))
    if not sites:
        raise ModelError(f"none of the checkpoint's tensors is a weight of {type(model).__name__}")
    return sites, skipped


def _on_meta() -> Any:
    """Parameters on the meta device, buffers where they are computed."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)


def share_tied_parameters(model: nn.Module) -> None:
    """Make one parameter of those that a model ties; on the meta device they are several."""
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        module_name, _, name = target.rpartition(".")
        parameter = model.get_parameter(source)
        model.get_submodule(module_name).register_parameter(name, parameter)


def _class(transformers: Any, config: Any, source: ModelSource) -> Any:
    names = getattr(config, "architectures", None) or []
    for name in names:
        if (exact := getattr(transformers, str(name), None)) is not None:
            return exact(config)
    causal = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    automatic = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    return automatic.from_config(config, trust_remote_code=source.trust.remote_code)
