"""Packed checkpoints out to other tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from studentfloat.errors import ConfigError
from studentfloat.models.packed_files import PackedCheckpoint
from studentfloat.progress import Progress, silent

__all__ = ["EXPORTS", "Export", "export_model"]


@dataclass(frozen=True)
class Export:
    """One way out: what it writes, and the function that does, as ``module:function``."""

    writes: str
    function: str


EXPORTS: Mapping[str, Export] = MappingProxyType(
    {
        "gguf": Export("one .gguf file for llama.cpp", "gguf_out:export_gguf"),
        "compressed-tensors": Export(
            "a directory for vLLM and transformers",
            "compressed_tensors_out:export_compressed_tensors",
        ),
        "onnx": Export("a directory for ONNX Runtime", "onnx_out:export_onnx"),
    }
)
"""Name of a target to what is written for it."""


def export_model(
    directory: Path,
    target: str,
    out: Path,
    progress: Progress = silent,
) -> Path:
    """Write a packed checkpoint as another tool reads it, code by code.

    Parameters
    ----------
    directory
        The packed model.
    target
        One of :data:`EXPORTS`.
    out
        File or directory, whichever the target has; must not exist.
    progress
        Told about every tensor.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ConfigError
        If the target is unknown, or `out` exists.
    SchemeError
        If the target cannot carry a weight exactly: the message says why and what can.
    ModelError
        If the checkpoint is damaged.
    """
    if target not in EXPORTS:
        raise ConfigError(f"--to {target!r}: one of {', '.join(EXPORTS)}")
    if out.exists():
        raise ConfigError(f"{out} exists: choose another place")
    module, _, function = EXPORTS[target].function.partition(":")
    write = getattr(import_module(f"studentfloat.models.exchange.{module}"), function)
    done: Path = write(PackedCheckpoint.open(directory), out, progress)
    return done
