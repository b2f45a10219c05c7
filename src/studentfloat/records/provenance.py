"""Where a result comes from."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Provenance", "TextSource", "machine_facts", "make_provenance", "package_versions"]

_PACKAGES = ("studentfloat", "torch", "transformers", "numpy", "scipy")


@dataclass(frozen=True)
class TextSource:
    """A text that something was measured on: where it comes from, and the hash of its bytes."""

    source: str
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: enough to make it again.

    Attributes
    ----------
    versions
        Package name to version, Python among them.
    seed
        For the bootstrap and everything else that draws.
    model_sha256
        Of the weights files.
    model_source
        In words: for the embedded model, that its weights were 4-bit before.
    texts
        That quality was measured on.
    machine
        Processor, cores, platform.
    created
        ISO 8601, UTC.
    settings
        All that was asked for.
    """

    versions: dict[str, str]
    seed: int
    model_sha256: str
    model_source: str
    machine: dict[str, Any]
    created: str
    texts: tuple[TextSource, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def make_provenance(
    *,
    seed: int,
    model_sha256: str,
    model_source: str,
    texts: tuple[TextSource, ...] = (),
    settings: dict[str, Any],
) -> Provenance:
    """Collect versions, hashes and the machine."""
    return Provenance(
        versions=package_versions(),
        seed=seed,
        model_sha256=model_sha256,
        model_source=model_source,
        texts=texts,
        machine=machine_facts(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=settings,
    )


def machine_facts() -> dict[str, Any]:
    """Processor, cores and platform."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
