"""Which code runs: the compiled kernels and their instruction sets, or none of them."""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

from studentfloat.errors import ConfigError

__all__ = [
    "ENVIRONMENT",
    "NONE",
    "instruction_set",
    "instruction_sets",
    "native",
    "use_instruction_set",
    "warn_slow",
]

ENVIRONMENT = "STUDENTFLOAT_KERNELS"
NONE = "none"

_module: ModuleType | None = None
_enabled = True
_warned = False


def _load() -> None:
    global _module  # noqa: PLW0603
    try:
        _module = importlib.import_module("studentfloat.kernels._native")
    except ImportError:
        _module = None
    wanted = os.environ.get(ENVIRONMENT)
    if wanted:
        use_instruction_set(wanted)


def native() -> ModuleType | None:
    """The compiled kernels; None where there are none or they are switched off."""
    return _module if _enabled else None


def instruction_sets() -> tuple[str, ...]:
    """What can be used here, best first: the compiled sets this processor runs, then "none"."""
    compiled = _module.instruction_sets() if _module else []
    return (*compiled, NONE)


def instruction_set() -> str:
    """What is in use: "avx512", "avx2", "neon-dot", "neon" or "plain" (C++), or "none"."""
    return str(_module.instruction_set()) if _module and _enabled else NONE


def use_instruction_set(name: str) -> str:
    """Use another instruction set from now on, in the whole process.

    The environment variable ``STUDENTFLOAT_KERNELS`` does the same from the start.

    Returns
    -------
    str
        The one that was in use.

    Raises
    ------
    ConfigError
        If this installation or processor does not have it; the message lists those it has.
    """
    global _enabled  # noqa: PLW0603
    if name not in instruction_sets():
        raise ConfigError(
            f"instruction set {name!r}: here there are {', '.join(instruction_sets())}"
        )
    before = instruction_set()
    _enabled = name != NONE
    if _module and _enabled:
        _module.use_instruction_set(name)
    return before


def warn_slow() -> None:
    """Say once that the compiled kernels are missing; nothing if they were switched off."""
    global _warned  # noqa: PLW0603
    if _module is None and not _warned:
        _warned = True
        warnings.warn(
            "studentfloat was installed without its compiled kernels (no C++ compiler was found, "
            "or it failed): quantizing and products with packed weights run many times slower in "
            "NumPy and torch. Install a compiler, then: pip install -v --force-reinstall "
            "--no-deps studentfloat",
            RuntimeWarning,
            stacklevel=4,
        )


_load()
