"""What is installed here, which kernels run, and what is missing for which command."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import dataclass

__all__ = ["Check", "checks"]

# What each extra is for: commands, in the words of the command line.
_PURPOSES = {
    "models": "compare, quantize, evaluate, profile and all that reads a model",
    "report": "figures as SVG and PNG (report --figures)",
    "hardware": "hardware, and areas and energies in compare",
    "exchange": "export --to onnx",
    "datasets": "texts and calibration from data sets (hub:owner/name)",
    "tasks": "evaluate --tasks",
    "ray": "study run --executor ray",
    "slurm": "study run --executor slurm",
    "parquet": "study export --format parquet",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*?extra == ['\"]([a-z]+)['\"]")


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes
    ----------
    name
        Of the part.
    found
        What is there, in words.
    missing
        What is not; "" where nothing is.
    needed_for
        What does not work without it.
    remedy
        What to do where something is missing.
    """

    name: str
    found: str
    missing: str = ""
    needed_for: str = ""
    remedy: str = ""


def checks() -> list[Check]:
    """The interpreter, the kernels, then every extra."""
    python = f"{platform.python_version()} on {platform.machine()}"
    return [Check("Python", python), _kernels(), *map(_extra, _PURPOSES)]


def _kernels() -> Check:
    from studentfloat.kernels import instruction_set, instruction_sets
    from studentfloat.kernels.dispatch import NONE

    if instruction_set() != NONE:
        others = ", ".join(name for name in instruction_sets() if name != instruction_set())
        return Check("compiled kernels", f"{instruction_set()} (also {others})")
    return Check(
        "compiled kernels",
        "NumPy and torch only",
        missing="the compiled extension",
        needed_for="products at memory speed, fast quantizing",
        remedy="install a C++ compiler, then: pip install --force-reinstall studentfloat",
    )


def _extra(extra: str) -> Check:
    versions = {package: _version(package) for package in _packages(extra)}
    missing = ", ".join(package for package, version in versions.items() if version is None)
    found = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    remedy = f"pip install 'studentfloat[{extra}]'" if missing else ""
    return Check(extra, found or "nothing", missing, _PURPOSES[extra], remedy)


def _packages(extra: str) -> list[str]:
    """Packages of an extra, in the order of ``pyproject.toml``; other extras left out."""
    found = []
    for line in importlib.metadata.requires("studentfloat") or ():
        match = _REQUIREMENT.match(line)
        if match and match[2] == extra and match[1] != "studentfloat":
            found.append(match[1])
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
