"""Lines of progress where stderr is no terminal."""

from __future__ import annotations

import time

import pytest

from studentfloat.cli.progress import progress_on_stderr


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_thousands_of_steps_do_not_flood(clock, capsys) -> None:
    with progress_on_stderr() as report:
        for i in range(5000):
            clock[0] = i * 0.01
            report(i / 5000, f"tensor {i}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("tensor 0 (0 s)")
    # Twenty at once, and then one a second for fifty seconds.
    assert 60 <= len(lines) <= 72


def test_slow_steps_are_all_told_and_long_ones_again(clock, capsys) -> None:
    with progress_on_stderr() as report:
        for i in range(40):
            for part in range(3):
                clock[0] = i * 12.0 + part * 5.5
                report(i / 40, f"format {i}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 80
    assert "format 39" in lines[-1]


def test_quiet_says_nothing(capsys) -> None:
    with progress_on_stderr(quiet=True) as report:
        report(0.5, "anything")
    assert capsys.readouterr().err == ""
