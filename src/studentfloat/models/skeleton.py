"""Which tensors of a checkpoint are weights, without loading any: from the model's skeleton."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import MissingDependencyError, ModelError
from studentfloat.models.conversions import ParameterSource, find_sources
from studentfloat.models.packed_files import read_raw
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import StoredTensor
from studentfloat.models.walk import WeightKind, walk_weights
from studentfloat.quantize.orientation import Orientation

__all__ = [
    "MappedModel",
    "Piece",
    "check_complete",
    "map_checkpoint",
    "pieces_of_checkpoint",
    "share_as_stored",
    "share_tied_parameters",
    "skeleton",
]

_NOT_BUILT = "not a weight of the model that transformers builds"
# What joins experts' matrices and leaves each of them whole.
_JOINS = ("MergeModulelist", "Concatenate")


@dataclass(frozen=True, eq=False)
class MappedModel:
    """A model without numbers, and where in a checkpoint the numbers of its parameters are.

    Attributes
    ----------
    module
        On the meta device; parameters that are tied, in the checkpoint too, are one.
    sources
        By the name of a parameter or buffer, every name of a shared one.
    untied
        Whether the checkpoint holds as two what the configuration calls one.
    """

    module: nn.Module
    sources: dict[str, ParameterSource]
    untied: bool = False


@dataclass(frozen=True, eq=False)
class Piece:
    """One tensor of a packed checkpoint in the making: a weight to quantize, or as it is.

    Attributes
    ----------
    name
        That it is stored under.
    parts
        The source's tensors that it is made of, in the order of their names.
    kind
        How it is multiplied by; None for what is stored as it is.
    reason
        Why it is.
    source
        Makes it of several tensors, or of a part of one; None where it is one tensor.
    """

    name: str
    parts: tuple[StoredTensor, ...]
    kind: WeightKind | None = None
    reason: str = ""
    source: ParameterSource | None = None

    @property
    def bytes(self) -> int:
        """Of what it is made of."""
        return sum(tensor.bytes for tensor in self.parts)

    @property
    def orientation(self) -> Orientation:
        """How it becomes a matrix whose last axis is summed up."""
        return Orientation.PLAIN if self.kind is None else self.kind.orientation

    def read(self) -> Tensor:
        """Its numbers, in the checkpoint's type."""
        return read_raw(self.parts[0]) if self.source is None else self.source.read()


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


def map_checkpoint(
    source: ModelSource,
    tensors: Sequence[StoredTensor],
    *,
    buffers: bool = False,
    compare: bool = True,
) -> MappedModel:
    """Build a model's skeleton, and find the numbers of its parameters.

    Parameters
    ----------
    source
        The model.
    tensors
        All that its shards hold.
    buffers
        As for :func:`skeleton`.
    compare
        Read two tables that the configuration ties and the checkpoint both has: only if they
        are equal they are one. Otherwise they are two.

    Raises
    ------
    ModelError
        If transformers knows no such model, or a table cannot be read.
    """
    module = skeleton(source, buffers=buffers)
    untied = share_as_stored(module, tensors, compare=compare)
    return MappedModel(module, find_sources(module, tensors), untied)


def share_as_stored(
    module: nn.Module, tensors: Sequence[StoredTensor], *, compare: bool = True
) -> bool:
    """Make one parameter of those that a model ties, unless its checkpoint has them as two.

    Parameters
    ----------
    module
        On the meta device; what is not tied is taken off its ``all_tied_weights_keys``.
    tensors
        All that the checkpoint's shards hold.
    compare
        As for :func:`map_checkpoint`.

    Returns
    -------
    bool
        Whether the checkpoint has as two what the configuration ties.
    """
    stored = find_sources(module, tensors)
    ties = dict(getattr(module, "all_tied_weights_keys", None) or {})
    two = {
        name
        for name, other in ties.items()
        if name in stored and other in stored and not (compare and _equal(stored, name, other))
    }
    if two:
        kept = {name: other for name, other in ties.items() if name not in two}
        module.all_tied_weights_keys = kept  # type: ignore[assignment]
    share_tied_parameters(module)
    for name in two:
        # The model was built with the two as one.
        owner, _, leaf = name.rpartition(".")
        own = nn.Parameter(torch.empty_like(module.get_parameter(name)), requires_grad=False)
        module.get_submodule(owner).register_parameter(leaf, own)
    return bool(two)


def _equal(stored: dict[str, ParameterSource], name: str, other: str) -> bool:
    one, two = stored[name], stored[other]
    if [t.name for t, _ in one.tensors] == [t.name for t, _ in two.tensors]:
        return True
    return torch.equal(one.read(), two.read())


def check_complete(mapped: MappedModel, source: ModelSource) -> None:
    """Refuse a checkpoint that lacks parameters, which transformers would draw at random.

    Raises
    ------
    ModelError
        That counts them and names the first.
    """
    patterns = getattr(mapped.module, "_keys_to_ignore_on_load_missing", None) or []
    missing = [
        name
        for name, _ in mapped.module.named_parameters()
        if name not in mapped.sources
        # A pooling head that the checkpoint does not bring is not part of what is measured.
        and not re.search(r"(^|\.)pooler\.", name)
        and not any(re.search(pattern, name) for pattern in patterns)
    ]
    if missing:
        raise ModelError(
            f"the checkpoint of {source.name} does not fit its configuration: {len(missing)} "
            f"weights are missing, the first is {missing[0]}"
        )


def pieces_of_checkpoint(
    source: ModelSource,
    tensors: Sequence[StoredTensor],
    *,
    embeddings: bool = False,
    head: bool = False,
    whole: bool = True,
) -> tuple[list[Piece], bool]:
    """Sort a checkpoint into weights to quantize and the rest.

    Parameters
    ----------
    source
        The model.
    tensors
        What its shards hold.
    embeddings, head
        As for :func:`~studentfloat.models.walk_weights`.
    whole
        Whether `tensors` are all of the model's, so that none may be missing.

    Returns
    -------
    pieces
        In the order of the tensors. A weight that transformers makes of several tensors is one,
        under the model's name; matrices of single experts stay single. What several names
        share is one piece, under the name that the others are tied to: an embedding's.
    untied
        As :attr:`MappedModel.untied`.

    Raises
    ------
    ModelError
        If nothing is to be quantized, a weight is not of floating point, or weights are missing.
    """
    mapped = map_checkpoint(source, tensors, compare=whole)
    if whole:
        check_complete(mapped, source)
    pieces = _Sorter(mapped, tensors, embeddings=embeddings, head=head).sort()
    if all(piece.kind is None for piece in pieces):
        raise ModelError(
            f"none of the checkpoint's tensors is a weight of {type(mapped.module).__name__}"
        )
    return pieces, mapped.untied


class _Sorter:
    """Makes pieces of tensors, each tensor used once."""

    def __init__(
        self, mapped: MappedModel, tensors: Iterable[StoredTensor], *, embeddings: bool, head: bool
    ) -> None:
        self._module, self._tensors = mapped.module, list(tensors)
        found, left = walk_weights(mapped.module, embeddings=embeddings, head=head)
        self._names: dict[int, list[str]] = {}
        for name, parameter in mapped.module.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)
        self._ids = {name: i for i, names in self._names.items() for name in names}
        self._kinds = {id(site.parameter): site.kind for site in found}
        self._reasons = {self._ids[skip.name]: skip.reason for skip in left}
        self._ties = dict(getattr(mapped.module, "all_tied_weights_keys", None) or {})
        self._used_by: dict[str, list[ParameterSource]] = {}
        for source in {id(s): s for s in mapped.sources.values()}.values():
            for tensor, _ in source.tensors:
                self._used_by.setdefault(tensor.name, []).append(source)
        prefix = f"{getattr(mapped.module, 'base_model_prefix', '')}."
        has_prefix = any(tensor.name.startswith(prefix) for tensor in self._tensors)
        self._dropped_prefix = "" if has_prefix else prefix
        self._used: set[str] = set()
        self._done: set[int] = set()

    def sort(self) -> list[Piece]:
        pieces: list[Piece] = []
        for tensor in self._tensors:
            if tensor.name not in self._used:
                pieces += self._pieces(tensor)
        return pieces

    def _pieces(self, tensor: StoredTensor) -> list[Piece]:
        users = self._used_by.get(tensor.name, [])
        if not users:
            return [Piece(tensor.name, (tensor,), None, tensor.why_not_real() or _NOT_BUILT)]
        if not users[0].joined:
            return self._as_it_is(tensor, users[0].name)
        kinds = [self._kind(user.name) for user in users]
        if not any(kinds):
            return [Piece(tensor.name, (tensor,), None, self._reason(users[0].name, tensor))]
        if len(users) == 1 and kinds[0] is WeightKind.EXPERTS and _stays_single(users[0], tensor):
            _check_real(tensor)
            return [Piece(tensor.name, (tensor,), kinds[0])]
        return self._joined(users)

    def _as_it_is(self, tensor: StoredTensor, name: str) -> list[Piece]:
        """One tensor that is one parameter; nothing where another name of it was stored."""
        number = self._ids.get(name)
        if number is not None and number in self._done:
            return []
        if number is not None:
            self._done.add(number)
        stored = self._stored_name(tensor, name)
        kind = self._kind(name)
        if kind is None:
            return [Piece(stored, (tensor,), None, self._reason(name, tensor))]
        _check_real(tensor)
        return [Piece(stored, (tensor,), kind)]

    def _joined(self, users: list[ParameterSource]) -> list[Piece]:
        """All that a converter makes of these tensors, under the model's names."""
        pieces = []
        for user in users:
            parts = tuple(tensor for tensor, _ in user.tensors)
            self._used.update(part.name for part in parts)
            kind = self._kind(user.name)
            if kind is not None:
                for part in parts:
                    _check_real(part)
            reason = "" if kind is not None else self._reason(user.name, parts[0])
            pieces.append(Piece(user.name, parts, kind, reason, user))
        return pieces

    def _stored_name(self, tensor: StoredTensor, name: str) -> str:
        """The checkpoint's own name, or for what is tied the name that it is tied to."""
        names = self._names.get(self._ids.get(name, -1), [name])
        root = next((n for n in names if n not in self._ties), name)
        return tensor.name if root == name else root.removeprefix(self._dropped_prefix)

    def _kind(self, name: str) -> WeightKind | None:
        return self._kinds.get(self._ids.get(name, -1))

    def _reason(self, name: str, tensor: StoredTensor) -> str:
        its = self._reasons.get(self._ids.get(name, -1))
        return its or tensor.why_not_real() or "a buffer"


def _stays_single(source: ParameterSource, tensor: StoredTensor) -> bool:
    """Whether a tensor is one expert's matrix, which is quantized alike alone or joined."""
    operations = [type(operation).__name__ for operation in source.converter.operations]
    return (
        len(tensor.shape) == 2 and "MergeModulelist" in operations and not {*operations} - {*_JOINS}
    )


def _check_real(tensor: StoredTensor) -> None:
    """A weight must be of numbers; what is not was quantized by another tool."""
    reason = tensor.why_not_real()
    if reason is not None:
        raise ModelError(f"{tensor.name} is a weight, but {reason}: dequantize the model first")


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
        exact = getattr(transformers, str(name), None)
        if isinstance(exact, type) and issubclass(exact, transformers.PreTrainedModel):
            return exact(config)
    causal = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    automatic = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    return automatic.from_config(config, trust_remote_code=source.trust.remote_code)
