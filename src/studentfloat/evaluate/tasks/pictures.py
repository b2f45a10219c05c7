"""From a picture's bytes to what a model takes, by its own ``preprocessor_config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from studentfloat.errors import DataError
from studentfloat.models import LoadedModel
from studentfloat.records import read_json

__all__ = ["Preparation"]

# Pillow's numbers for its filters. Lanczos has no counterpart in torch.
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_CHANNELS = 3


@dataclass(frozen=True)
class Preparation:
    """Resizing, cropping and normalizing, as a model was trained with.

    transformers' own processors need Pillow or torchvision even for arrays; the steps are
    these few, in the same order.

    Attributes
    ----------
    settings
        The file's; empty where there is none.
    notes
        What is done otherwise than the file says.
    """

    settings: dict[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, model: LoadedModel) -> Preparation:
        """That of a model; without a file, pictures are scaled to -1 to 1 and resized."""
        file = model.source.directory / "preprocessor_config.json"
        config: Any = model.module.config
        if not file.is_file():
            side = getattr(config, "image_size", None) or 224
            made = {"size": side, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
            return cls(made, (f"no preprocessor_config.json: resized to {side}, from -1 to 1",))
        settings = read_json(file)
        if settings.get("do_resize", True) and settings.get("resample", 2) not in _FILTERS:
            return cls(settings, ("pictures are resized bicubically instead of by Lanczos",))
        return cls(settings, ())

    def prepare(self, image: np.ndarray, file: Path) -> Tensor:
        """Float32 of shape ``(channels, height, width)``.

        Parameters
        ----------
        image
            uint8 of shape ``(height, width, 3)``; floating point of shape ``(3, height,
            width)`` is taken as prepared already.
        file
            For messages.
        """
        if image.dtype.kind == "f" and image.ndim == 3:
            return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != _CHANNELS:
            raise DataError(
                f"the image {file} is {image.dtype} of shape {image.shape}: uint8 (height, width, "
                "3), or floating point (channels, height, width) as the model takes it"
            )
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if self.settings.get("do_resize", True):
            pixels = self._resized(pixels)
        if self.settings.get("do_center_crop", False):
            pixels = _cropped(pixels, _sides(self.settings.get("crop_size", 224)))
        values = pixels.float()
        if self.settings.get("do_rescale", True):
            values = values * self.settings.get("rescale_factor", 1 / 255)
        if self.settings.get("do_normalize", True):
            mean, deviation = (
                torch.tensor(self.settings.get(key, [0.5] * 3))[:, None, None]
                for key in ("image_mean", "image_std")
            )
            values = (values - mean) / deviation
        return values

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = self._target(*pixels.shape[1:])
        method = _FILTERS.get(self.settings.get("resample", 2), "bicubic")
        options = {} if method == "nearest" else {"antialias": True}
        resized = functional.interpolate(
            pixels[None].float(), size=(height, width), mode=method, **options
        )[0]
        # Pillow resizes bytes: what comes out is rounded and bounded.
        return resized.round().clamp(0, 255)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        size = self.settings.get("size", 224)
        if isinstance(size, dict) and "shortest_edge" in size:
            side = int(size["shortest_edge"])
            # ConvNext and its kin: smaller pictures are cut out of larger ones.
            if self.settings.get("crop_pct") and side < 384:
                side = int(side / self.settings["crop_pct"])
            short = min(height, width)
            return height * side // short, width * side // short
        return _sides(size)


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
        return int(size["height"]), int(size["width"])
    return int(size), int(size)


def _cropped(pixels: Tensor, sides: tuple[int, int]) -> Tensor:
    """The middle; where the picture is smaller, black around it."""
    height, width = pixels.shape[1:]
    missing = [max(0, sides[0] - height), max(0, sides[1] - width)]
    if any(missing):
        above, before = (m // 2 + m % 2 for m in missing)
        pixels = functional.pad(pixels, (before, missing[1] - before, above, missing[0] - above))
        height, width = pixels.shape[1:]
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    return pixels[:, top : top + sides[0], left : left + sides[1]]
