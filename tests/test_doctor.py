"""What `studentfloat doctor` finds, and that its table of extras is the package's."""

from __future__ import annotations

import importlib.metadata
import json

from click.testing import CliRunner

from studentfloat import doctor
from studentfloat.cli.doctor import doctor as command
from studentfloat.kernels import instruction_set

_BUNDLES = {"all", "benchmark", "docs", "test"}


def test_every_extra_is_told() -> None:
    extras = set(importlib.metadata.metadata("studentfloat").get_all("Provides-Extra") or ())
    told = [check.name for check in doctor.checks()]
    assert set(told[2:]) == extras - _BUNDLES
    assert told[:2] == ["Python", "compiled kernels"]


def test_what_is_there_has_its_version() -> None:
    by_name = {check.name: check for check in doctor.checks()}
    assert f"torch {importlib.metadata.version('torch')}" in by_name["models"].found
    assert by_name["models"].missing == ""
    assert by_name["compiled kernels"].found.startswith(instruction_set()[:4])


def test_what_is_missing_says_how_to_get_it(monkeypatch) -> None:
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package == "ray":
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    done = CliRunner().invoke(command, ["--json"])
    ray = next(check for check in json.loads(done.output) if check["name"] == "ray")
    assert ray["missing"] == "ray"
    assert ray["remedy"] == "pip install 'studentfloat[ray]'"
    assert "missing: ray" in CliRunner().invoke(command, []).output
