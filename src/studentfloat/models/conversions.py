"""Parameters that transformers makes of a checkpoint's tensors: renamed, or several joined.

Checkpoints of mixture-of-experts models hold one matrix per expert, where transformers 5 has
one parameter for all experts of a layer. How they become one is on record there, by type of
model; here those records are followed for one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.packed_files import read_raw
from studentfloat.models.stream import StoredTensor, natural_order, spellings

__all__ = ["ParameterSource", "find_sources"]


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
        Joins them; None where the one tensor is the parameter.
    """

    name: str
    tensors: tuple[tuple[StoredTensor, str], ...]
    module: nn.Module
    converter: Any = None

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
                    full_layer_name=self.name,
                    model=self.module,
                    config=getattr(self.module, "config", None),
                    missing_keys=None,
                )
            (value,) = parts.values()
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{self.name} cannot be made of {self.stored.name} and the like: {reason}"
            ) from error
        result: Tensor = value[0] if isinstance(value, list) else value
        return result


def find_sources(module: nn.Module, tensors: Iterable[StoredTensor]) -> dict[str, ParameterSource]:
    """What each parameter of a model is made of; parameters that nothing is found for are left out.

    Parameters
    ----------
    module
        From :func:`~studentfloat.models.skeleton.skeleton`.
    tensors
        All that the checkpoint's shards hold.
    """
    files = {tensor.name: tensor for tensor in tensors}
    prefix = getattr(module, "base_model_prefix", "")
    found: dict[str, ParameterSource] = {}
    wanting = set()
    for name, _ in module.named_parameters():
        its = next((n for n in spellings(name, prefix) if n in files), None)
        if its is None:
            wanting.add(name)
        else:
            found[name] = ParameterSource(name, ((files[its], ""),), module)
    if wanting:
        found |= _converted(module, files, wanting, prefix)
    return found


def _converted(
    module: nn.Module, files: Mapping[str, StoredTensor], wanting: set[str], prefix: str
) -> dict[str, ParameterSource]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    transforms = get_model_conversion_mapping(module)
    renamings = [t for t in transforms if not isinstance(t, WeightConverter)]
    # One with several results would have to be run to know what it gives.
    converters = [
        t for t in transforms if isinstance(t, WeightConverter) and len(t.target_patterns) == 1
    ]
    parts: dict[str, list[tuple[StoredTensor, str]]] = {}
    makers: dict[str, Any] = {}
    for name in sorted(files, key=natural_order):
        renamed = name
        for renaming in renamings:
            renamed, _ = renaming.rename_source_key(renamed)
        for converter in converters:
            target, pattern = converter.rename_source_key(renamed)
            if pattern is not None:
                break
        else:
            target, pattern, converter = renamed, None, None
        if renamed == name and pattern is None:
            continue
        its = next((n for n in spellings(target, prefix) if n in wanting), None)
        if its is not None:
            parts.setdefault(its, []).append((files[name], pattern or ""))
            makers[its] = converter
    return {
        name: ParameterSource(name, tuple(its), module, makers[name])
        for name, its in parts.items()
        if makers[name] is not None or len(its) == 1
    }
