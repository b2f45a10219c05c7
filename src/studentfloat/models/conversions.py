"""Which parameters of a model a checkpoint's tensors become: renamed, joined, split or as they are.

transformers renames tensors as it loads them, and makes parameters of several tensors (one per
expert) or several parameters of a tensor. How is on record there, by type and class of model; here
those records are followed for names alone, and for the numbers of one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.packed_files import read_raw
from studentfloat.models.stream import StoredTensor, natural_order, spellings

__all__ = ["ParameterSource", "Place", "find_sources", "places_in"]


@dataclass(frozen=True, eq=False)
class Place:
    """Where in a model a tensor of a checkpoint goes.

    Attributes
    ----------
    names
        Of the parameters or buffers that it becomes (part of), as the model has them; empty
        if the model has no place for it.
    pattern
        Of the converter, that the tensor's name matched.
    converter
        What joins or splits tensors; None where the tensor is the parameter.
    """

    names: tuple[str, ...]
    pattern: str = ""
    converter: Any = None


@dataclass(frozen=True, eq=False)
class ParameterSource:
    """Where the numbers of one parameter are.

    Attributes
    ----------
    name
        The parameter's, in the model.
    tensors
        The checkpoint's, with the pattern of transformers that each one matched.
    converter
        Makes it of them; None where the one tensor is the parameter.
    first
        The first parameter that the converter makes, which it is called with.
    """

    name: str
    tensors: tuple[tuple[StoredTensor, str], ...]
    module: nn.Module
    converter: Any = None
    first: str = ""

    @property
    def stored(self) -> StoredTensor:
        """The first of the tensors."""
        return self.tensors[0][0]

    @property
    def joined(self) -> bool:
        """Whether the parameter is not one tensor of the checkpoint as it is."""
        return self.converter is not None

    def read(self) -> Tensor:
        """The numbers, as the model has them, in the checkpoint's type.

        Raises
        ------
        ModelError
            If the tensors do not fit together.
        """
        if self.converter is None:
            return read_raw(self.stored)
        parts: dict[str, Any] = {}
        for tensor, pattern in self.tensors:
            parts.setdefault(pattern, []).append(read_raw(tensor))
        try:
            for operation in self.converter.operations:
                parts = operation.convert(
                    parts,
                    source_patterns=self.converter.source_patterns,
                    target_patterns=self.converter.target_patterns,
                    full_layer_name=self.first or self.name,
                    model=self.module,
                    config=getattr(self.module, "config", None),
                    missing_keys=None,
                )
            value = self._of(parts)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{self.name} cannot be made of {self.stored.name} and the like: {reason}"
            ) from error
        result: Tensor = value[0] if isinstance(value, list) else value
        return result

    def _of(self, results: dict[str, Any]) -> Any:
        """The one of a converter's results that is this parameter."""
        if len(results) == 1:
            (value,) = results.values()
            return value
        fitting = [key for key in results if key in self.name]
        if not fitting:
            raise KeyError(f"none of {', '.join(results)} is part of the name")
        return results[max(fitting, key=len)]


def places_in(module: nn.Module, names: Iterable[str]) -> dict[str, Place]:
    """Where each tensor of a checkpoint goes in a model, as transformers would load it.

    Parameters
    ----------
    module
        The model, on any device.
    names
        Of the checkpoint's tensors.
    """
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    transforms = get_model_conversion_mapping(module) if isinstance(module, PreTrainedModel) else []
    renamings = [t for t in transforms if not isinstance(t, WeightConverter)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    known = set(module.state_dict(keep_vars=True))
    known.update(name for name, _ in module.named_parameters(remove_duplicate=False))
    prefix = getattr(module, "base_model_prefix", "")

    def place(name: str) -> Place:
        renamed = name
        for renaming in renamings:
            renamed, _ = renaming.rename_source_key(renamed)
        for converter in converters:
            target, pattern = converter.rename_source_key(renamed)
            if pattern is not None:
                found = _known(_targets(target, converter), prefix, known)
                if found:
                    return Place(found) if _aligns(converter) else Place(found, pattern, converter)
                break
        else:
            if found := _known((renamed,), prefix, known):
                return Place(found)
        # Not to be renamed: it has the model's name already.
        return Place(_known((name,), prefix, known))

    return {name: place(name) for name in names}


def _aligns(converter: Any) -> bool:
    """Whether a converter only moves a tensor in memory, as transformers 5.0 does for gpt-oss."""
    return {type(operation).__name__ for operation in converter.operations} == {
        "Force16BytesAlignment"
    }


def _targets(first: str, converter: Any) -> tuple[str, ...]:
    """All that a converter makes, by the name of the first."""
    patterns = converter.target_patterns
    return tuple(dict.fromkeys(first.replace(patterns[0], other, 1) for other in patterns))


def _known(names: Iterable[str], prefix: str, known: set[str]) -> tuple[str, ...]:
    spelled = (next((n for n in spellings(name, prefix) if n in known), None) for name in names)
    return tuple(name for name in spelled if name is not None)


def find_sources(module: nn.Module, tensors: Iterable[StoredTensor]) -> dict[str, ParameterSource]:
    """What each parameter and buffer of a model is made of.

    Names of a parameter that the model shares all have its source, whichever the checkpoint
    has. What nothing is found for is left out.

    Parameters
    ----------
    module
        From :func:`~studentfloat.models.skeleton.skeleton`, or loaded.
    tensors
        All that the checkpoint's shards hold.
    """
    files = {tensor.name: tensor for tensor in tensors}
    places = places_in(module, sorted(files, key=natural_order))
    parts: dict[str, list[str]] = {}
    for name, place in places.items():
        for target in place.names:
            parts.setdefault(target, []).append(name)
    found: dict[str, ParameterSource] = {}
    for target, several in parts.items():
        converter = places[several[0]].converter
        names = [name for name in several if places[name].converter is converter]
        if converter is None and len(names) > 1:
            # Old names of one parameter beside the new: the one that is spelled as the model's.
            names = [target if target in names else names[-1]]
        its = tuple((files[name], places[name].pattern) for name in names)
        first = places[names[0]].names[0]
        found[target] = ParameterSource(target, its, module, converter, first)
    shared: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    for names in shared.values():
        source = next((found[name] for name in names if name in found), None)
        if source is not None:
            found |= {name: source for name in names if name not in found}
    return found
