"""Quantize a model by any method and write it packed, a shard for each block.

What decides a block's bytes is the blocks before it: a run that was killed puts finished
blocks back in place and goes on with the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.models.blocks import find_blocks
from studentfloat.models.calibration import Calibration
from studentfloat.models.conversions import find_sources
from studentfloat.models.driver import ModelQuantizer
from studentfloat.models.load import LoadedModel, load_model
from studentfloat.models.pack import identity_of
from studentfloat.models.pack_writer import PackWriter, Shard
from studentfloat.models.packed_files import (
    NO_COMPANIONS,
    TORCH_TYPES,
    Companions,
    parse_layout,
    read_raw,
)
from studentfloat.models.quantized import QuantizedBlock
from studentfloat.models.residency import BlockResidency, load_block_by_block
from studentfloat.models.skeleton import Piece, pieces_of_checkpoint
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import list_sound_tensors
from studentfloat.models.walk import WeightSite, walk_weights
from studentfloat.progress import Progress, silent
from studentfloat.quantize.method import Method
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import PackedModel, SkippedTensor, TensorQuantization, record_from_json

__all__ = ["calibrate_checkpoint"]

# Types that weights may have been before they were calibrated in float32.
_CALIBRATED_FROM = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def calibrate_checkpoint(
    source: ModelSource,
    scheme: Scheme,
    method: Method,
    directory: Path,
    *,
    calibration: Calibration | None = None,
    embeddings: bool = False,
    head: bool = False,
    companions: Companions = NO_COMPANIONS,
    progress: Progress = silent,
) -> PackedModel:
    """Quantize a model by a method, block by block, and write it packed.

    Parameters
    ----------
    source
        From :func:`~studentfloat.models.find_model`.
    scheme, method
        What to, and how.
    directory
        Where to: new, empty, or that of the same run interrupted, which goes on.
    calibration
        What text methods see; see :class:`~studentfloat.models.Calibration`.
    embeddings, head
        Whether to quantize these too, to nearest.
    companions
        Formats of activations and of the key-value cache, written along.
    progress
        Told about every block.

    Returns
    -------
    PackedModel
        What was done, weight by weight.

    Raises
    ------
    ConfigError
        If the directory holds something else.
    StudentFloatError
        On a method, scheme, model or text that cannot be used; finished blocks are kept.
    """
    progress(0.0, f"loading {source.name}")
    model, residency = _load(source, progress)
    work = ModelQuantizer(
        model,
        scheme,
        method,
        calibration,
        embeddings=embeddings,
        head=head,
        residency=residency,
        progress=progress,
    )
    packing = _Packing(model, source, {site.name: site for site in work.sites}, residency)
    blocks = [name for name, _ in find_blocks(model.module, packing.parameters())]
    shards = len(blocks) + 1
    settings = {"embeddings": embeddings, "head": head, **work.settings}
    writer = PackWriter(
        directory,
        identity_of(source, scheme, settings),
        shards,
        source,
        companions,
        untied=packing.untied,
    )
    if (done := writer.finished()) is not None:
        return done
    finished: list[QuantizedBlock] = []
    for number, name in enumerate(blocks, 1):
        if not writer.is_done(number):
            break
        finished.append(packing.read(writer, number, name))
    changed: set[str] = set()
    outside: QuantizedBlock | None = None
    for number, block in enumerate(work.run(finished), 1):
        if not block.name:
            outside = block
            continue
        changed |= set(block.changed)
        if number > len(finished):
            writer.write(number, packing.shard(block))
    if not writer.is_done(shards):
        writer.write(shards, packing.rest(outside, changed, tuple(work.skipped)))
    return writer.finish()


def _load(source: ModelSource, progress: Progress) -> tuple[LoadedModel, BlockResidency | None]:
    """One block at a time where the checkpoint allows it, else as a whole, which is said."""
    try:
        return load_block_by_block(source, _block_names)
    except ModelError as error:
        progress(0.0, f"loading as a whole: {error}")
        return load_model(source), None


def _block_names(module: nn.Module) -> list[str]:
    sites, _ = walk_weights(module)
    return [name for name, _ in find_blocks(module, {id(site.parameter) for site in sites})]


def _common_end(one: str, other: str) -> int:
    """How many parts of two dotted names are the same, from the last on."""
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Packing:
    """Names and types that a model's weights have in its checkpoint."""

    def __init__(
        self,
        model: LoadedModel,
        source: ModelSource,
        sites: Mapping[str, WeightSite],
        residency: BlockResidency | None,
    ) -> None:
        self._module, self._sites, self._residency = model.module, sites, residency
        tensors = list_sound_tensors(source.weight_files)
        self._pieces, self.untied = pieces_of_checkpoint(source, tensors)
        self._sources = find_sources(model.module, tensors)
        self._by_parts: dict[tuple[str, ...], list[Piece]] = {}
        for piece in self._pieces:
            key = tuple(part.name for part in piece.parts)
            self._by_parts.setdefault(key, []).append(piece)
        usual = [kind for t in tensors if (kind := TORCH_TYPES.get(t.dtype)) in _CALIBRATED_FROM]
        self._usual = max(set(usual), key=usual.count) if usual else torch.float32

    def parameters(self) -> set[int]:
        """``id`` of every parameter that is quantized."""
        return {id(site.parameter) for site in self._sites.values()}

    def stored_name(self, name: str) -> str:
        """The name in the checkpoint for a parameter; its own where the checkpoint has none."""
        piece = self._piece(name)
        return name if piece is None else piece.name

    def _piece(self, name: str) -> Piece | None:
        source = self._sources.get(name)
        if source is None:
            return None
        its = self._by_parts.get(tuple(tensor.name for tensor, _ in source.tensors), [])
        if len(its) < 2:
            return its[0] if its else None
        # Several parameters are made of these tensors: the one that is called like this.
        return max(its, key=lambda piece: _common_end(piece.name, name))

    def _dtype(self, name: str) -> torch.dtype:
        source = self._sources.get(name)
        if source is None:
            return self._usual
        kind = TORCH_TYPES.get(source.stored.dtype, torch.float32)
        return kind if kind in _CALIBRATED_FROM else torch.float32

    def _stored(
        self, name: str, weight: QuantizedWeight, method: str
    ) -> tuple[StoredWeight, QuantizedWeight]:
        site = self._sites[name]
        # Calibrating is done in float32; what was quantized is of the checkpoint's type.
        typed = replace(weight, base=replace(weight.base, dtype=self._dtype(name)))
        shape = tuple(site.parameter.shape)
        return StoredWeight.of(typed, shape, site.kind.orientation, method=method), typed

    def shard(self, block: QuantizedBlock) -> Shard:
        """What a block's shard holds: its weights, and parameters that the method changed."""
        methods = {record.name: record.method for record in block.records}
        weights = {
            self.stored_name(n): self._stored(n, w, methods.get(n, ""))
            for n, w in block.weights.items()
        }
        plain = {self.stored_name(n): value.detach().float() for n, value in block.changed.items()}
        records = tuple(replace(r, name=self.stored_name(r.name)) for r in block.records)
        return Shard(weights, plain, records, (), tuple(plain))

    def rest(
        self,
        block: QuantizedBlock | None,
        changed: set[str],
        skipped: tuple[SkippedTensor, ...],
    ) -> Shard:
        """The last shard: what lies outside of blocks, and all that was left alone."""
        shard = Shard({}, {}, (), ()) if block is None else self.shard(block)
        plain = dict(shard.plain)
        # By the source's tensors: a model may be loaded without a part that its checkpoint has.
        written = {part for name in (*self._sites, *changed) for part in self._parts(name)}
        written.update(shard.weights, plain)
        left: list[SkippedTensor] = []
        reasons = {self.stored_name(skip.name): skip.reason for skip in skipped}
        for piece in self._pieces:
            if piece.name in written or any(part.name in written for part in piece.parts):
                continue
            plain[piece.name] = piece.read()
            why = reasons.get(piece.name) or piece.reason or "not in the model that was calibrated"
            left.append(SkippedTensor(piece.name, tuple(plain[piece.name].shape), why))
        return Shard(shard.weights, plain, shard.records, tuple(left), shard.changed)

    def _parts(self, name: str) -> list[str]:
        """The source's tensors that a parameter was made of."""
        source = self._sources.get(name)
        return [] if source is None else [tensor.name for tensor, _ in source.tensors]

    def read(self, writer: PackWriter, number: int, name: str) -> QuantizedBlock:
        """A finished block as its shard has it."""
        file, facts = writer.shard(number)
        layout = parse_layout(facts["layout"])
        files = {tensor.name: tensor for tensor in list_sound_tensors([file])}
        by_name = {self.stored_name(parameter): parameter for parameter in self._names()}
        weights = {}
        for stored_name, stored in layout.items():
            tensors = {s: read_raw(files.pop(stored_name + s)) for s in stored.tensors}
            stored.check(tensors, stored_name)
            weight = stored.assemble(tensors)
            # As in the run that made it: values are put back in float32.
            plain = replace(weight, base=replace(weight.base, dtype=torch.float32))
            weights[by_name[stored_name]] = plain
        changed: dict[str, Tensor] = {by_name[n]: read_raw(t) for n, t in files.items()}
        records = tuple(record_from_json(TensorQuantization, r) for r in facts["records"])
        order = [site for site in self._sites if site in weights]
        return QuantizedBlock(name, {n: weights[n] for n in order}, changed, records)

    def _names(self) -> list[str]:
        return [name for name, _ in self._module.named_parameters()]
