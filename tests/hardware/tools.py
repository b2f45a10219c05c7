"""Marks for tools that only some machines have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

OSU018 = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")

needs_osu018 = pytest.mark.skipif(
    not OSU018.exists(), reason="no OSU 0.18 library: apt-get install qflow-tech-osu018"
)


def needs(tool: str, package: str) -> pytest.MarkDecorator:
    """Skip where a tool of Debian's is not installed."""
    return pytest.mark.skipif(
        shutil.which(tool) is None, reason=f"{tool} is not installed: apt-get install {package}"
    )
