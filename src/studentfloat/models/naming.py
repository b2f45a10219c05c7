"""How the weights of a packed checkpoint, or those to be packed on load, are found in a model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from studentfloat.errors import ConfigError, ModelError
from studentfloat.models.conversions import places_in
from studentfloat.models.skeleton import share_tied_parameters
from studentfloat.models.walk import WeightKind, WeightSite, walk_weights
from studentfloat.quantize.scheme import TENSOR
from studentfloat.quantize.stored import StoredWeight

__all__ = ["converted_parts", "match_packed", "without_spared"]


def match_packed(
    model: nn.Module, wanted: Mapping[str, StoredWeight]
) -> tuple[dict[str, StoredWeight], dict[str, WeightSite]]:
    """Find the weights of a packed checkpoint in a model.

    Parameters
    ----------
    model
        That it is loaded into.
    wanted
        What is packed, by its name in the checkpoint.

    Returns
    -------
    stored, sites
        By the model's name of the weight. Matrices of single experts are one weight here.

    Raises
    ------
    ModelError
        If the model has no such weight, or experts that are one weight here are packed
        in ways that cannot be joined.
    """
    share_tied_parameters(model)
    found, _ = walk_weights(model, embeddings=True, head=True)
    sites = {name: site for site in found for name in (site.name, *site.tied)}
    matched: dict[str, StoredWeight] = {}
    experts: dict[str, dict[str, StoredWeight]] = {}
    for name, place in places_in(model, wanted).items():
        site = next((sites[n] for n in place.names if n in sites), None)
        if site is None:
            raise ModelError(f"the packed weight {name} is none of {type(model).__name__}")
        if place.converter is None:
            matched[site.name] = wanted[name]
        else:
            experts.setdefault(site.name, {})[name] = wanted[name]
    for name, parts in experts.items():
        matched[name] = _joined(parts, sites[name])
    return matched, {name: sites[name] for name in matched}


def _joined(parts: Mapping[str, StoredWeight], site: WeightSite) -> StoredWeight:
    """Describe a weight of all experts whose matrices are packed one by one."""
    first = next(iter(parts.values()))
    for name, stored in parts.items():
        simple = StoredWeight(stored.scheme, stored.shape, stored.dtype)
        if first.scheme != stored.scheme or stored != simple or stored.scheme.has_choice:
            raise ModelError(
                f"{name}: transformers fuses a layer's experts, which must share one plain scheme"
            )
        if not isinstance(stored.scheme.block_size, int) and stored.scheme.block_size == TENSOR:
            raise ModelError(f"{name}: experts with one scale per tensor cannot be fused")
    if site.kind is not WeightKind.EXPERTS:
        raise ModelError(f"{next(iter(parts))}: {site.name} is not what its parts are joined to")
    shape = tuple(site.parameter.shape)
    return StoredWeight(first.scheme, shape, first.dtype, site.kind.orientation)


def without_spared(
    model: nn.Module, sites: Sequence[WeightSite], spared: Sequence[str]
) -> list[WeightSite]:
    """Leave out what ``modules_to_not_convert`` names, by transformers' own rule.

    A name spares a module of that name and all that lies inside; a regular expression, from
    the start of a name to the end of one of its parts, whatever it matches; the end of a
    module's name, that module.

    Raises
    ------
    ConfigError
        If a name spares nothing; the message suggests one that would.
    """
    from transformers.quantizers.quantizers_utils import should_convert_module

    modules = {site.name: site.name.rpartition(".")[0] for site in sites}
    for name in spared:
        if all(should_convert_module(module, [name]) for module in modules.values()):
            raise ConfigError(
                f"modules_to_not_convert: {name!r} is no module of {type(model).__name__} with a "
                f"weight to quantize{_suggestion(name, modules.values())}"
            )
    return [site for site in sites if should_convert_module(modules[site.name], list(spared))]


def _suggestion(name: str, modules: Iterable[str]) -> str:
    """What may have been meant: a module, one that holds some, or the last part of its name."""
    known: dict[str, str] = {}
    for module in modules:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            whole = ".".join(parts[:end])
            known.setdefault(whole, whole)
            # Parts in the middle of a name spare nothing on their own.
            known.setdefault(parts[end - 1], whole)
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {known[near[0]]!r}?" if near else ""


def converted_parts(
    conversions: Iterable[Any], packed: Mapping[str, StoredWeight], names: Iterable[str]
) -> list[Any]:
    """What renames and joins the parts of packed weights as transformers does with dense ones.

    Parameters
    ----------
    conversions
        transformers' own for the model.
    packed
        Whatever is packed.
    names
        In the checkpoint, of what is packed.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    suffixes = sorted({s for stored in packed.values() for s in stored.tensors if s})
    names = list(names)
    added: list[Any] = []
    for one in conversions:
        sources, targets = list(one.source_patterns), list(one.target_patterns)
        if isinstance(one, WeightConverter):
            fits = all(source.endswith(".weight") for source in sources)
        else:
            # A renaming that names a weight to its last letter does not match a part's name.
            fits = type(one) is WeightRenaming and len(sources) == 1
            fits = fits and any(re.search(f"(?:{sources[0]})$", name) for name in names)
        for suffix in suffixes if fits else ():
            ours = [f"{source}{suffix}$" for source in sources]
            theirs = [f"{target}{suffix}" for target in targets]
            if isinstance(one, WeightConverter):
                new = WeightConverter(ours, theirs, operations=list(one.operations))
            else:
                new = WeightRenaming(ours, theirs)
            added.append(_rescoped(one, new))
    return added


def _rescoped(one: Any, new: Any) -> Any:
    """Let a renaming hold within the same part of the model as another."""
    for attribute in ("scope_prefix", "base_model_prefix"):
        if hasattr(one, attribute):
            setattr(new, attribute, getattr(one, attribute))
    return new
