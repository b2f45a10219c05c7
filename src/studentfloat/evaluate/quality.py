"""How far a changed model's outputs are from the original's, window by window.

A quantity is a number for each token of a window, or one for the window: :data:`QUANTITIES`. What
tables make of it is an entry of :data:`~studentfloat.records.metrics.METRICS`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studentfloat.errors import ConfigError, DataError
from studentfloat.models import LoadedModel, ModelKind

__all__ = ["QUANTITIES", "OriginalOutputs", "Quantity", "WindowOutput", "WindowScores",
           "score_windows"]  # fmt: skip

# Original outputs up to this size stay in memory; larger ones go to a temporary file.
_LARGEST_IN_MEMORY = 4 << 30

Tick = Callable[[], None]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WindowScores:
    """What was measured on windows, by quantity; those that are not defined are not there.

    Attributes
    ----------
    windows
        The mean on each window.
    tokens
        The numbers that each mean is of.
    """

    windows: dict[str, tuple[float, ...]] = field(default_factory=dict)
    tokens: dict[str, tuple[Floats, ...]] = field(default_factory=dict)

    def __getitem__(self, quantity: str) -> tuple[float, ...]:
        """Means by window; empty where the quantity is not defined."""
        return self.windows.get(quantity, ())


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
                    nlls.append(float(_nll(output, log_sum, windows[i]).mean()))
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

    def entropy(self, window: int) -> Tensor:
        """Of the next-token distribution at each position, in nats."""
        return self._entropies[window]

    def modes(self, window: int) -> Tensor:
        """Most likely next token at each position."""
        return self._modes[window]


def _stacked(tensors: list[Tensor]) -> Any:
    return torch.stack(tensors).numpy() if tensors else np.empty((0, 0))


def _allocate(shape: tuple[int, ...], scratch: Path | None) -> Any:
    if 4 * math.prod(shape) <= _LARGEST_IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    # The mapping outlives the file object, and the file has no name to be left behind.
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


@dataclass(frozen=True)
class WindowOutput:
    """What a quantity is taken of.

    Attributes
    ----------
    output
        Logits of shape ``(length, vocabulary)``, or last hidden states.
    log_sum
        ``log Σ exp`` of the logits at each position; empty of an encoder.
    tokens
        The window's.
    original, index
        The original's outputs, and which window it is.
    """

    output: Tensor
    log_sum: Tensor
    tokens: Tensor
    original: OriginalOutputs
    index: int


@dataclass(frozen=True)
class Quantity:
    """Something that is measured on a window.

    Attributes
    ----------
    kinds
        Of models that it is defined for.
    of
        From a window's output to numbers for its tokens, or one for the window, in double
        precision.
    """

    kinds: frozenset[ModelKind]
    of: Callable[[WindowOutput], Tensor]


def score_windows(
    model: LoadedModel, windows: Tensor, original: OriginalOutputs, *, tick: Tick = lambda: None
) -> WindowScores:
    """Score a changed model against the original on the same windows."""
    asked = {name: q for name, q in QUANTITIES.items() if model.kind in q.kinds}
    found: dict[str, list[Tensor]] = {name: [] for name in asked}
    for i, output in enumerate(_outputs(model, windows)):
        encodes = model.kind is ModelKind.ENCODER
        log_sum = output.new_empty(0) if encodes else torch.logsumexp(output, dim=-1)
        seen = WindowOutput(output, log_sum, windows[i], original, i)
        for name, quantity in asked.items():
            found[name].append(quantity.of(seen))
        tick()
    return WindowScores(
        {name: tuple(float(one.mean()) for one in its) for name, its in found.items()},
        {name: tuple(one.reshape(-1).numpy() for one in its) for name, its in found.items()},
    )


def _nll_of(seen: WindowOutput) -> Tensor:
    return _nll(seen.output, seen.log_sum, seen.tokens)


def _kl_of(seen: WindowOutput) -> Tensor:
    """KL(original ‖ model) at each position, nats.

    With probabilities p of the original and logits z of the model, KL is the cross-entropy
    ``log Σ exp z - Σ p z`` minus the original's entropy; both are computed by the same
    steps, so that an unchanged model has a divergence of exactly zero.
    """
    cross = _cross_entropy(seen.original[seen.index], seen.output, seen.log_sum)
    return cross - seen.original.entropy(seen.index)


def _agreement_of(seen: WindowOutput) -> Tensor:
    """1 where the most likely token is the original's, else 0."""
    return (seen.output.argmax(dim=-1) == seen.original.modes(seen.index)).double()


def _output_nmse_of(seen: WindowOutput) -> Tensor:
    """Squared error of the last hidden state over the original's squares."""
    reference = seen.original[seen.index]
    error = ((seen.output - reference).double() ** 2).sum()
    return error / (reference.double() ** 2).sum()


_PREDICTING = frozenset((ModelKind.CAUSAL, ModelKind.MASKED))
QUANTITIES: dict[str, Quantity] = {
    "nll": Quantity(frozenset((ModelKind.CAUSAL,)), _nll_of),
    "kl": Quantity(_PREDICTING, _kl_of),
    "agreement": Quantity(_PREDICTING, _agreement_of),
    "output_nmse": Quantity(frozenset((ModelKind.ENCODER,)), _output_nmse_of),
}
"""What is measured on each window, by the name that metrics give it."""


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


def _nll(logits: Tensor, log_sum: Tensor, window: Tensor) -> Tensor:
    """Negative log-likelihood of each next token, nats."""
    of_target = logits[:-1].gather(1, window[1:, None]).squeeze(1)
    return (log_sum[:-1] - of_target).double()


def _cross_entropy(probabilities: Tensor, logits: Tensor, log_sum: Tensor) -> Tensor:
    """Per position, in nats, as float64: ``log Σ exp z - Σ p z``."""
    mean_logit: Tensor = torch.linalg.vecdot(probabilities, logits)
    return (log_sum - mean_logit).double()
