"""Quantize a checkpoint from shards to shards, one tensor at a time.

Memory holds one tensor of the source and one shard of the result, so a model of any size is
quantized on a small machine, or each share of it on another.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from studentfloat.errors import ConfigError
from studentfloat.models.pack_writer import PackWriter, Shard
from studentfloat.models.packed_files import LAYOUT_VERSION, NO_COMPANIONS, Companions
from studentfloat.models.quantized import weight_record
from studentfloat.models.skeleton import Piece, pieces_of_checkpoint
from studentfloat.models.sources import ModelSource
from studentfloat.models.stream import fingerprint, list_sound_tensors
from studentfloat.progress import Progress, silent
from studentfloat.quantize.rounding.nearest import quantize
from studentfloat.quantize.scheme import TENSOR, ScaleDtype, Scheme
from studentfloat.quantize.scheme_json import formats_to_json, scheme_to_json
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.tensor import QuantizedTensor
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import PackedModel, SkippedTensor

__all__ = ["identity_of", "quantize_checkpoint"]

_DEFAULT_SHARD_BYTES = 1 << 30
# Numbers quantized at a time: their float32 copy and indices must not rival the tensor itself.
_SLICE = 1 << 22


def quantize_checkpoint(
    source: ModelSource,
    scheme: Scheme,
    directory: Path,
    *,
    embeddings: bool = False,
    head: bool = False,
    companions: Companions = NO_COMPANIONS,
    share: tuple[int, int] = (1, 1),
    shard_bytes: int = _DEFAULT_SHARD_BYTES,
    progress: Progress = silent,
) -> PackedModel | None:
    """Quantize a model's weights to nearest and write it packed.

    Parameters
    ----------
    source
        From :func:`~studentfloat.models.find_model`.
    scheme
        What to and how; any scale rule that needs no calibration.
    directory
        Where to: new, empty, or that of the same run interrupted, which goes on.
    embeddings, head
        Whether to quantize these too; where they are tied, either means both.
    share
        ``(i, n)``: do the i-th of n parts of the work only; once all are done,
        :func:`~studentfloat.models.merge_parts` completes the model.
    shard_bytes
        Bytes of the source that become one shard; a larger tensor is one of its own.
    companions
        Formats of activations and of the key-value cache, written along.
    progress
        Told about every tensor.

    Returns
    -------
    PackedModel or None
        What was done, tensor by tensor; None for a share of the work.

    Raises
    ------
    ConfigError
        If the directory holds something else, or the share is none.
    ModelError, DataError
        If the source is damaged or holds NaN; what is done is kept.
    """
    index, count = share
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {index}/{count}: one of 1/{count} to {count}/{count}")
    if scheme.scale_rule.weighted:
        raise ConfigError(
            f"scale rule {scheme.scale_rule.name!r} needs calibration: choose a method that "
            "calibrates, or another rule"
        )
    tensors = list_sound_tensors(source.weight_files)
    pieces, untied = pieces_of_checkpoint(source, tensors, embeddings=embeddings, head=head)
    groups = _groups(pieces, shard_bytes)
    settings = {"method": "rtn", "embeddings": embeddings, "head": head, "bytes": shard_bytes}
    writer = PackWriter(
        directory,
        identity_of(source, scheme, settings),
        len(groups),
        source,
        companions,
        untied=untied,
    )
    if (finished := writer.finished()) is not None:
        return finished
    mine = [n for n in range(1, len(groups) + 1) if (n - 1) % count == index - 1]
    work = _Meter(sum(_bytes(groups[n - 1]) for n in mine), progress)
    for number in mine:
        group = groups[number - 1]
        if writer.is_done(number):
            work.add(_bytes(group), f"shard {number} was there")
        else:
            writer.write(number, _quantize_group(group, scheme, work))
    return None if count > 1 else writer.finish()


def identity_of(source: ModelSource, scheme: Scheme, settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of a packed model, as JSON data."""
    formats: dict[str, Any] = {}
    described = scheme_to_json(scheme, formats)
    return {
        "layout": LAYOUT_VERSION,
        "studentfloat": version("studentfloat"),
        "weights": fingerprint(source.weight_files),
        "files": source.settings_sha256,
        "scheme": described,
        "formats": formats_to_json(formats),
        **settings,
    }


def _quantize(matrix: Tensor, scheme: Scheme, name: str) -> tuple[QuantizedWeight, float]:
    """A matrix quantized, and its squared error over its squares; a slice of rows at a time.

    Where scales are found over the whole matrix it is one slice.
    """
    last = scheme.axis in (-1, matrix.dim() - 1)
    sliced = last and scheme.block_size != TENSOR and isinstance(scheme.scale_dtype, ScaleDtype)
    rows = matrix.reshape(-1, matrix.shape[-1]) if sliced else matrix
    step = max(1, _SLICE // matrix.shape[-1]) if sliced else len(rows)
    parts, error, energy = [], 0.0, 0.0
    for start in range(0, len(rows), step):
        exact = rows[start : start + step]
        parts.append(quantize(exact, scheme, name=name))
        wide = exact if exact.dtype == torch.float64 else exact.float()
        difference = parts[-1].dequantize(wide.dtype).sub_(wide)
        error += float(difference.square_().sum(dtype=torch.float64))
        energy += float(wide.square().sum(dtype=torch.float64))
    whole = parts[0] if len(parts) == 1 else _joined(parts)
    weight = QuantizedWeight(replace(whole, shape=tuple(matrix.shape)))
    return weight, error / energy if energy else 0.0


def _joined(parts: list[QuantizedTensor]) -> QuantizedTensor:
    selectors = [part.selectors for part in parts if part.selectors is not None]
    return replace(
        parts[0],
        packed=torch.cat([part.packed for part in parts]),
        scales=torch.cat([cast(Tensor, part.scales) for part in parts]),
        selectors=torch.cat(selectors) if selectors else None,
    )


class _Meter:
    """Turns bytes done into a share of the whole."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._done, self._progress = max(1, total), 0, progress

    def add(self, done: int, what: str) -> None:
        self._done += done
        self._progress(self._done / self._total, what)


def _quantize_group(group: list[Piece], scheme: Scheme, work: _Meter) -> Shard:
    weights, plain, records, skipped = {}, {}, [], []
    for piece in group:
        values = piece.read()
        if piece.kind is None:
            plain[piece.name] = values
            skipped.append(SkippedTensor(piece.name, tuple(values.shape), piece.reason))
        else:
            started = time.monotonic()
            matrix = piece.orientation.to_matrix(values)
            weight, nmse = _quantize(matrix, scheme, piece.name)
            seconds = round(time.monotonic() - started, 3)
            shape = tuple(values.shape)
            stored = StoredWeight.of(weight, shape, piece.orientation, method="rtn")
            weights[piece.name] = (stored, weight)
            record = weight_record(
                piece.name,
                weight,
                "rtn",
                weight_nmse=nmse,
                weight_nmse_nearest=nmse,
                seconds=seconds,
            )
            records.append(record)
        work.add(piece.bytes, piece.name)
    return Shard(weights, plain, tuple(records), tuple(skipped))


def _groups(pieces: Iterable[Piece], shard_bytes: int) -> list[list[Piece]]:
    groups: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.bytes
    return groups


def _bytes(group: list[Piece]) -> int:
    return sum(piece.bytes for piece in group)
