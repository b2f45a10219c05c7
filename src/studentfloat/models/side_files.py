"""The files that belong to a model beside its weights, found by rule."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from studentfloat.errors import FailureError
from studentfloat.records import read_json
from studentfloat.records.temporary import temporary_beside

__all__ = ["copy_file", "copy_side_files", "decides_outputs", "side_files"]

# Weights in any framework's format, and what can run code when it is read.
_WEIGHTS = {
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack"),
    *(".h5", ".hdf5", ".gguf", ".ggml", ".onnx", ".onnx_data", ".tflite", ".pb", ".ot", ".npz"),
    *(".npy", ".nemo", ".mlmodel", ".pdparams", ".engine", ".pte", ".parquet", ".arrow"),
}
_OWN = {"studentfloat.json", "quantization-report.json", "dequantized.json"}
_DOCUMENTS = {".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}
_NOTICES = ("license", "notice", "use_policy", "copying")
_LARGEST = 256 << 20


def side_files(directory: Path, *, code: bool = False) -> list[Path]:
    """List what belongs to a model beside its weights, relative to its directory.

    Everything does that is neither a weight file, nor an index of those, nor hidden, nor
    larger than 256 MiB: tokenizers of any kind, templates, processors, ``1_Pooling/``,
    licenses. Folders are searched too, and there small safetensors files belong to the model
    (``2_Dense/model.safetensors`` of a sentence transformer); a folder that holds a model of
    its own (a ``config.json`` with a ``model_type``) does not.

    Parameters
    ----------
    directory
        The model's.
    code
        Whether Python files belong to it: only where they are trusted.
    """
    return sorted(_walk(directory, directory, code))


def _walk(root: Path, directory: Path, code: bool) -> Iterator[Path]:
    for entry in os.scandir(directory):
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir(follow_symlinks=False):
            if not _is_model(path):
                yield from _walk(root, path, code)
        elif entry.is_file() and _belongs(path, entry.stat().st_size, directory == root, code):
            yield path.relative_to(root)


def _belongs(path: Path, size: int, top: bool, code: bool) -> bool:
    suffix = path.suffix.lower()
    if path.name in _OWN or path.name.endswith(".index.json") or size > _LARGEST:
        return False
    if suffix == ".py":
        return code
    return suffix not in _WEIGHTS or (suffix == ".safetensors" and not top)


def _is_model(directory: Path) -> bool:
    """Whether a folder is a model of its own, packed ones and unfinished ones included."""
    if (directory / ".studentfloat").exists() or any((directory / n).exists() for n in _OWN):
        return True
    config = directory / "config.json"
    try:
        found = read_json(config) if config.is_file() else None
    except FailureError:
        return False
    return isinstance(found, dict) and "model_type" in found


def decides_outputs(file: Path) -> bool:
    """Whether a model's output can depend on a file: not on documents, pictures and licenses."""
    return file.suffix.lower() not in _DOCUMENTS and not file.name.lower().startswith(_NOTICES)


def copy_side_files(directory: Path, target: Path, *, code: bool = False) -> None:
    """Copy what belongs to a model beside its weights; Python files only where asked for.

    Raises
    ------
    FailureError
        If the target cannot be written.
    """
    for file in side_files(directory, code=code):
        copy_file(directory / file, target / file)


def copy_file(file: Path, target: Path) -> None:
    """Copy a file whole or not at all; folders on the way are made.

    Raises
    ------
    FailureError
        If it cannot be written.
    """
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, temporary)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FailureError(f"cannot write {target}: {error.strerror or error}") from error
