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

    For language models the next-token probabilities, float32, of shape ``(windows, length,
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
        nlls: list[float] = []
        self._outputs: Any = None
        self._entropies: list[Tensor] = []
        self._modes: list[Tensor] = []
        for i, output in enumerate(_outputs(model, windows)):
            if self._outputs is None:
                self._outputs = _allocate((len(windows), *output.shape), scratch)
            if model.kind is ModelKind.ENCODER:
                self._outputs[i] = output.numpy()
            else:
                log_sum = torch.logsumexp(output, dim=-1)
                probabilities = (output - log_sum[:, None]).exp_()
                self._outputs[i] = probabilities.numpy()
                self._entropies.append(_cross_entropy(probabilities, output, log_sum))
                self._modes.append(output.argmax(dim=-1))
                if model.kind is ModelKind.CAUSAL:
                    nlls.append(_nll(output, log_sum, windows[i]))
            tick()
        self.nll = tuple(nlls)

    def save(self, directory: Path) -> None:
        """Write everything to an existing directory, for :meth:`load` in another process."""
        np.save(directory / "outputs.npy", self._outputs)
        np.savez(
            directory / "rest.npz",
            nll=np.array(self.nll),
            entropies=_stacked(self._entropies),
            modes=_stacked(self._modes),
        )

    @classmethod
    def load(cls, directory: Path) -> OriginalOutputs:
        """Read what :meth:`save` wrote, to the last bit; large parts stay on disk, mapped."""
        self = cls.__new__(cls)
        # Copy on write: torch takes no array that cannot be written.
        self._outputs = np.load(directory / "outputs.npy", mmap_mode="c")
        with np.load(directory / "rest.npz") as rest:
            self.nll = tuple(float(value) for value in rest["nll"])
            self._entropies = list(torch.from_numpy(rest["entropies"]))
            self._modes = list(torch.from_numpy(rest["modes"]))
        return self

    @property
    def nbytes(self) -> int:
        """Of the outputs."""
        return int(self._outputs.nbytes)

    def __getitem__(self, window: int) -> Tensor:
        return torch.from_numpy(np.asarray(self._outputs[window]))

    def divergence(self, window: int, logits: Tensor, log_sum: Tensor) -> tuple[float, float]:
        """Mean KL(original ‖ model) in nats over positions, and the share of equal modes.

        With probabilities p of the original and logits z of the model, KL is the cross-entropy
        ``log Σ exp z - Σ p z`` minus the original's entropy; both are computed by the same
        steps, so that an unchanged model has a divergence of exactly zero.
        """
        cross = _cross_entropy(self[window], logits, log_sum)
        agree = logits.argmax(dim=-1) == self._modes[window]
        return float((cross - self._entropies[window]).mean()), float(agree.double().mean())


def _stacked(tensors: list[Tensor]) -> Any:
    return torch.stack(tensors).numpy() if tensors else np.empty((0, 0))


def _allocate(shape: tuple[int, ...], scratch: Path | None) -> Any:
    if 4 * math.prod(shape) <= _LARGEST_IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    # The mapping outlives the file object, and the file has no name to be left behind.
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def score_windows(
    model: LoadedModel, windows: Tensor, original: OriginalOutputs, *, tick: Tick = lambda: None
) -> WindowScores:
    """Score a changed model against the original on the same windows."""
    nll: list[float] = []
    kl: list[float] = []
    agreement: list[float] = []
    output_nmse: list[float] = []
    for i, output in enumerate(_outputs(model, windows)):
        if model.kind is ModelKind.ENCODER:
            reference = original[i]
            error = ((output - reference).double() ** 2).sum()
            output_nmse.append(float(error / (reference.double() ** 2).sum()))
        else:
            log_sum = torch.logsumexp(output, dim=-1)
            its_kl, its_agreement = original.divergence(i, output, log_sum)
            kl.append(its_kl)
            agreement.append(its_agreement)
            if model.kind is ModelKind.CAUSAL:
                nll.append(_nll(output, log_sum, windows[i]))
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
            # A sum is finite only if all its terms are, and costs no second tensor.
            if not math.isfinite(float(output.sum())):
                raise DataError(
                    f"{model.source.name} gives NaN or infinity on window {i + 1}: "
                    "the weights or the number type overflow"
                )
            yield output


def _nll(logits: Tensor, log_sum: Tensor, window: Tensor) -> float:
    """Mean negative log-likelihood of each next token, nats."""
    of_target = logits[:-1].gather(1, window[1:, None]).squeeze(1)
    return float((log_sum[:-1] - of_target).double().mean())


def _cross_entropy(probabilities: Tensor, logits: Tensor, log_sum: Tensor) -> Tensor:
    """Per position, in nats, as float64: ``log Σ exp z - Σ p z``."""
    mean_logit: Tensor = torch.linalg.vecdot(probabilities, logits)
    return (log_sum - mean_logit).double()
