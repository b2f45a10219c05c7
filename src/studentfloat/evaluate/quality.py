"""How far a changed model's outputs are from the original's, window by window."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import ConfigError, DataError
from studentfloat.models import LoadedModel, ModelKind

__all__ = ["OriginalOutputs", "WindowScores", "score_windows"]

# Original outputs up to this size stay in memory; larger ones go to a temporary file.
_LARGEST_IN_MEMORY = 4 << 30
_POSITIONS_AT_ONCE = 128

Tick = Callable[[], None]


@dataclass(frozen=True)
class WindowScores:
    """One number per window of each measure; empty where a measure is not defined.

    Attributes
    ----------
    nll
        Mean negative log-likelihood of the next token, nats.
    kl
        Mean over positions of KL(original ‖ this), nats.
    agreement
        Share of positions whose most likely token is the original's.
    output_nmse
        Squared error of the last hidden state over the original's squares.
    """

    nll: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    agreement: tuple[float, ...] = ()
    output_nmse: tuple[float, ...] = ()


class OriginalOutputs:
    """Outputs of the original model on all windows, computed once.

    For language models the log-probabilities, float32, of shape ``(windows, length,
    vocabulary)``; for encoders the last hidden state, ``(windows, length, width)``.

    Parameters
    ----------
    model, windows
        The original model, and its windows as of :func:`~studentfloat.evaluate.cut_windows`.
    scratch
        Where a temporary file may go if the outputs are larger than 4 GiB.
    tick
        Called after each window.
    """

    def __init__(
        self,
        model: LoadedModel,
        windows: Tensor,
        *,
        scratch: Path | None = None,
        tick: Tick = lambda: None,
    ) -> None:
        self.kind = model.kind
        nlls: list[float] = []
        self._outputs: Any = None
        for i, output in enumerate(_outputs(model, windows)):
            if self._outputs is None:
                self._outputs = self._allocate((len(windows), *output.shape), scratch)
            if model.kind is not ModelKind.ENCODER:
                torch.log_softmax(output, dim=-1, out=output)
                if model.kind is ModelKind.CAUSAL:
                    nlls.append(_nll(output, windows[i]))
            self._outputs[i] = output.numpy()
            tick()
        self.nll = tuple(nlls)

    def _allocate(self, shape: tuple[int, ...], scratch: Path | None) -> Any:
        if 4 * math.prod(shape) <= _LARGEST_IN_MEMORY:
            return np.empty(shape, dtype=np.float32)
        # The mapping outlives the file object, and the file has no name to be left behind.
        with tempfile.TemporaryFile(dir=scratch) as file:
            return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)

    def __getitem__(self, window: int) -> Tensor:
        return torch.from_numpy(np.asarray(self._outputs[window]))


def score_windows(
    model: LoadedModel, windows: Tensor, original: OriginalOutputs, *, tick: Tick = lambda: None
) -> WindowScores:
    """Score a changed model against the original on the same windows."""
    nll: list[float] = []
    kl: list[float] = []
    agreement: list[float] = []
    output_nmse: list[float] = []
    for i, output in enumerate(_outputs(model, windows)):
        reference = original[i]
        if model.kind is ModelKind.ENCODER:
            error = ((output - reference).double() ** 2).sum()
            output_nmse.append(float(error / (reference.double() ** 2).sum()))
        else:
            log_p = torch.log_softmax(output, dim=-1)
            its_kl, its_agreement = _divergence(reference, log_p)
            kl.append(its_kl)
            agreement.append(its_agreement)
            if model.kind is ModelKind.CAUSAL:
                nll.append(_nll(log_p, windows[i]))
        tick()
    return WindowScores(tuple(nll), tuple(kl), tuple(agreement), tuple(output_nmse))


def _outputs(model: LoadedModel, windows: Tensor) -> Iterator[Tensor]:
    """Logits or last hidden states, float32 on the CPU, one window at a time."""
    if model.kind is ModelKind.OTHER:
        raise ConfigError(
            f"{model.source.name} takes no plain text (an encoder-decoder or vision model): "
            "use --weights-only"
        )
    device = next(model.module.parameters()).device
    options = {"use_cache": False} if model.kind is ModelKind.CAUSAL else {}
    with torch.inference_mode():
        for i, window in enumerate(windows):
            result = model.module(input_ids=window[None].to(device), **options)
            chosen = result.last_hidden_state if model.kind is ModelKind.ENCODER else result.logits
            output: Tensor = chosen[0].float().cpu()
            if not torch.isfinite(output).all():
                raise DataError(
                    f"{model.source.name} gives NaN or infinity on window {i + 1}: "
                    "the weights or the number type overflow"
                )
            yield output


def _nll(log_p: Tensor, window: Tensor) -> float:
    return float(-log_p[:-1].gather(1, window[1:, None]).double().mean())


def _divergence(reference: Tensor, log_p: Tensor) -> tuple[float, float]:
    """Mean KL(reference ‖ model) in nats over positions, and the share of equal modes."""
    total, agree = 0.0, 0
    for start in range(0, len(reference), _POSITIONS_AT_ONCE):
        original = reference[start : start + _POSITIONS_AT_ONCE]
        changed = log_p[start : start + _POSITIONS_AT_ONCE]
        each = (original.exp() * (original - changed)).sum(dim=-1, dtype=torch.float64)
        total += float(each.sum())
        agree += int((original.argmax(dim=-1) == changed.argmax(dim=-1)).sum())
    return total / len(reference), agree / len(reference)
