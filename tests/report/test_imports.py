from __future__ import annotations

import subprocess
import sys

_ABOVE = ("kernels", "formats", "quantize", "models", "profile", "evaluate", "hardware", "study")


def test_reports_need_records_alone() -> None:
    """Making a page loads neither a model's code nor a synthesis tool's."""
    code = "import studentfloat.report, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "studentfloat.report.study_page" in loaded
    assert not loaded & {*(f"studentfloat.{name}" for name in _ABOVE), "torch", "pyosys"}
