"""Classes of images: how often a classifier's first guess is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studentfloat.errors import ConfigError, DataError, MissingDependencyError
from studentfloat.evaluate.bootstrap import mean_and_error
from studentfloat.evaluate.tasks.asked import TaskOptions
from studentfloat.evaluate.tasks.pictures import Preparation
from studentfloat.models import LoadedModel
from studentfloat.records import TaskScore

__all__ = ["ImageTask", "load_image_task"]

_ARRAYS = (".npy",)
_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class ImageTask:
    """Image files, each with the name of its class: that of its folder."""

    name: str
    source: str
    limit: int | None
    _files: tuple[tuple[str, Path], ...] = field(repr=False)
    sha256: str = field(init=False)
    shots: int = 0

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for label, file in self._files:
            digest.update(f"{label}\0{file.name}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        object.__setattr__(self, "sha256", digest.hexdigest())

    def __len__(self) -> int:
        return len(self._files)

    def score(
        self, model: LoadedModel, *, batch_size: int, tick: Callable[[], None]
    ) -> tuple[TaskScore, ...]:
        """Share of images whose most likely class is their folder's."""
        module: Any = model.module
        labels = getattr(module.config, "id2label", None)
        if not type(module).__name__.endswith("ForImageClassification") or not labels:
            raise ConfigError(
                f"{model.source.name} is loaded as {type(module).__name__}: classes of images "
                "need an image classifier, loaded with its classifier"
            )
        classes = _class_indices({label for label, _ in self._files}, labels, model.source.name)
        preparation = Preparation.of(model)
        right: list[float] = []
        for start in range(0, len(self._files), batch_size):
            batch = self._files[start : start + batch_size]
            images = [preparation.prepare(_read_image(file), file) for _, file in batch]
            guesses = _guesses(model, _stacked(images, batch))
            for (label, _), guess in zip(batch, guesses, strict=True):
                right.append(float(guess == classes[label]))
                tick()
        value, error = mean_and_error(right)
        return (
            TaskScore(
                task=self.name,
                metric="top1",
                value=value,
                standard_error=error,
                higher_is_better=True,
                primary=True,
                items=tuple(right),
                limit=self.limit,
                shots=0,
                source=self.source,
                data_sha256=self.sha256,
                notes=preparation.notes,
            ),
        )


def load_image_task(name: str, options: TaskOptions) -> ImageTask:
    """Find the images below ``DATA/images/CLASS/``.

    With a limit classes take turns, so that each has its share.

    Raises
    ------
    DataError
        If there are none.
    """
    if options.data is None:
        raise DataError(f"task {name} has no set on the hub: give --data DIR with {name}/CLASS/...")
    root = Path(options.data) / name
    kinds = (*_ARRAYS, *_PICTURES)
    folders = sorted(f for f in root.iterdir() if f.is_dir()) if root.is_dir() else []
    by_class = [
        [(folder.name, file) for file in sorted(folder.iterdir()) if file.suffix.lower() in kinds]
        for folder in folders
    ]
    turns = chain.from_iterable(zip_longest(*by_class))
    files = [file for file in turns if file is not None][: options.limit]
    if not files:
        raise DataError(f"task {name} has no images: put {', '.join(kinds)} into {root}/CLASS/")
    return ImageTask(name, f"file: {name}", options.limit, tuple(files))


def _class_indices(
    folders: set[str], labels: Mapping[int | str, str], model: str
) -> dict[str, int]:
    """The model's index of each folder: a label, one of a label's synonyms, or the index itself."""
    known: dict[str, int] = {}
    for index, label in labels.items():
        known.setdefault(str(index), int(index))
        for spelling in (str(label), *str(label).split(",")):
            known.setdefault(_plain(spelling), int(index))
    for folder in sorted(folders):
        if _plain(folder) not in known:
            some = ", ".join(str(label) for label in list(labels.values())[:3])
            raise DataError(
                f"the folder {folder!r} is no class of {model}: name it as one of its labels "
                f"({some} ...) or by its index"
            )
    return {folder: known[_plain(folder)] for folder in folders}


def _plain(label: str) -> str:
    return label.strip().lower().replace("_", " ")


def _read_image(file: Path) -> np.ndarray:
    """uint8 of shape ``(height, width, 3)``, or floating point as the model takes it."""
    try:
        if file.suffix.lower() in _ARRAYS:
            array: np.ndarray = np.load(file, allow_pickle=False)
            return array
        try:
            from PIL import Image
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"Pillow is not installed, and {file.name} needs it: pip install pillow, or give "
                "images as .npy"
            ) from error
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the image {file}: {error}") from error


def _stacked(images: list[Tensor], batch: tuple[tuple[str, Path], ...]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        odd = next(i for i, image in enumerate(images) if image.shape != images[0].shape)
        raise DataError(
            f"images differ in shape: {batch[0][1].name} {tuple(images[0].shape)}, "
            f"{batch[odd][1].name} {tuple(images[odd].shape)}"
        )
    return torch.stack(images)


def _guesses(model: LoadedModel, images: Tensor) -> list[int]:
    module: Any = model.module
    with torch.inference_mode():
        logits = module(pixel_values=images.to(module.device, module.dtype)).logits
    if not bool(torch.isfinite(logits).all()):
        raise DataError(
            f"{model.source.name} gives NaN or infinity: the weights or the number type overflow"
        )
    guesses: list[int] = logits.argmax(dim=-1).tolist()
    return guesses
