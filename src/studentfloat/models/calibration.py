"""Calibration: which text, how many windows of it, and what a model is fed with on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ConfigError
from studentfloat.models.load import LoadedModel, ModelKind
from studentfloat.models.text import load_calibration_text, window_start

__all__ = ["Calibration", "CalibrationWindows"]

# Tokens that go through a block at a time: enough for full matrix products.
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Calibration:
    """What a method sees of the model's world.

    Attributes
    ----------
    text
        A file in UTF-8, a data set or a standard text, as for
        :func:`~studentfloat.models.text.load_text`; None for the default mixture, none of
        which is in the default evaluation texts.
    windows, window_length
        How many, and tokens in each.
    seed
        Of the windows' places.
    """

    text: str | None = None
    windows: int = 32
    window_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows < 1 or self.window_length < 2 or self.seed < 0:
            raise ConfigError(
                f"calibration with {self.windows} windows of {self.window_length} tokens and seed "
                f"{self.seed}: at least one window of two tokens, and a seed from 0 up"
            )

    def cut(self, model: LoadedModel) -> CalibrationWindows:
        """Read the text and cut its windows.

        Raises
        ------
        ConfigError
            If the model takes no plain text.
        DataError
            If the text cannot be read or is too short; the message says what would fit.
        """
        if model.kind is ModelKind.OTHER:
            raise ConfigError(
                f"{model.source.name} is a {model.kind.value}: it cannot be calibrated on text; "
                "use a method without calibration (rtn, mse, x2-mse)"
            )
        text = load_calibration_text(self.text)
        tokens = text.cut(model, count=self.windows, length=self.window_length, seed=self.seed)
        start = window_start(model)
        begins = "" if start is None else f"; windows begin with {start}"
        return CalibrationWindows(tokens, text.source + begins)


@dataclass(frozen=True, eq=False)
class CalibrationWindows:
    """Token ids, int64, of shape ``(windows, length)``, and where they come from."""

    tokens: Tensor
    source: str = "given tokens"

    @property
    def sha256(self) -> str:
        """Hash of the tokens."""
        return hashlib.sha256(self.tokens.cpu().numpy().tobytes()).hexdigest()

    def batches(self, device: Any) -> list[Tensor]:
        """Windows in batches of a size that keeps memory small and products large."""
        count = max(1, _BATCH_TOKENS // self.tokens.shape[1])
        return [part.to(device) for part in torch.split(self.tokens, count)]


@contextmanager
def experts_one_by_one(model: nn.Module) -> Iterator[None]:
    """Have transformers multiply expert by expert, so that each one's inputs can be heard."""
    changed: list[tuple[Any, Any]] = []
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        before = getattr(config, "_experts_implementation", None)
        if before not in (None, "eager") and all(config is not other for other, _ in changed):
            changed.append((config, before))
            config._experts_implementation = "eager"
    try:
        yield
    finally:
        for config, before in changed:
            config._experts_implementation = before
