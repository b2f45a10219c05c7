"""What quantizing did to tensors, and what a packed model holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "PackedModel",
    "SkippedTensor",
    "TensorError",
    "TensorQuantization",
    "Verification",
]


@dataclass(frozen=True)
class TensorError:
    """What quantizing one tensor did to it.

    Attributes
    ----------
    name
        As in the checkpoint.
    layer
        Index of the decoder or encoder block, None outside of one.
    kind
        Last part of the module's name: ``q_proj``, ``down_proj`` ...
    nmse
        Sum of squared error over sum of squares.
    snr_db
        ``-10 log10(nmse)``, None for a tensor without error.
    bits_per_weight
        All bits stored for the tensor over its number of weights.
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    nmse: float
    snr_db: float | None
    bits_per_weight: float


@dataclass(frozen=True)
class TensorQuantization:
    """How one weight was quantized by a method, and what that did to it.

    Attributes
    ----------
    name, layer, kind, shape
        As in :class:`TensorError`; the shape is the matrix's, inputs last.
    method
        What was really done; "rtn" where a calibrated method could not be, with a note.
    format
        Names of the formats, ``|`` between alternatives.
    weight_nmse
        Squared error of the effective weight over its squares; None where the weight before
        quantization is not known, as in a checkpoint that another tool quantized.
    weight_nmse_nearest
        The same if it were rounded to nearest under the same scheme.
    output_nmse, output_nmse_nearest
        Squared error of the layer's output on the calibration inputs over the output's
        squares, and the same for rounding to nearest; None without calibration.
    scale_least, scale_median, scale_greatest
        Of the magnitudes of the block scales.
    negative_scales
        Share of block scales below zero.
    tokens
        Calibration inputs that the layer saw.
    notes
        What differed from what was asked for: damping raised, dead channels, no tokens.
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    method: str
    format: str
    bits_per_weight: float
    weight_nmse: float | None
    weight_nmse_nearest: float | None
    scale_least: float
    scale_median: float
    scale_greatest: float
    negative_scales: float
    output_nmse: float | None = None
    output_nmse_nearest: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SkippedTensor:
    """A tensor that was left as it was, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class PackedModel:
    """What a packed checkpoint is and how it was made.

    Attributes
    ----------
    directory
        Where it is.
    bits_per_weight
        All bits stored for quantized weights over their number.
    quantized_weights, plain_weights
        How many numbers are quantized, and how many are stored as they were.
    bytes
        Of all shards.
    tensors, skipped
        Every tensor of the source is in one of these.
    """

    KIND: ClassVar[str] = "studentfloat.packed-model"
    VERSION: ClassVar[int] = 1

    directory: str
    bits_per_weight: float
    quantized_weights: int
    plain_weights: int
    bytes: int
    tensors: tuple[TensorQuantization, ...]
    skipped: tuple[SkippedTensor, ...]


@dataclass(frozen=True)
class Verification:
    """What checking a packed checkpoint found.

    Attributes
    ----------
    weights, tensors
        How many packed weights and stored tensors were read.
    hashed
        How many tensors had a hash on record to compare with.
    compared_with
        The source that names and shapes were held against, if one was given.
    problems
        One line each; none means that all is well.
    """

    KIND: ClassVar[str] = "studentfloat.verification"
    VERSION: ClassVar[int] = 1

    directory: str
    weights: int
    tensors: int
    hashed: int
    compared_with: str | None
    problems: tuple[str, ...]
