"""Output where not every character can be written."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import studentfloat
from studentfloat.cli.terminal import write_what_can_be_shown
from tests import tiny

SOURCES = Path(studentfloat.__file__).parent


def written(text: str, encoding: str, monkeypatch) -> bytes:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    write_what_can_be_shown()
    sys.stdout.write(text)
    sys.stdout.flush()
    return raw.getvalue()


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("ν 5.2 ± 0.1, 2 × 3", "ascii", b"nu 5.2 +- 0.1, 2 x 3"),
        ("ν 5.2 ± 0.1", "latin-1", b"nu 5.2 \xb1 0.1"),
        ("ν 5.2 ± 0.1", "utf-8", "ν 5.2 ± 0.1".encode()),
        ("a \udcff 两", "ascii", rb"a \udcff \u4e24"),
        ("a \udcff 两", "utf-8", rb"a \udcff " + "两".encode()),
    ],
)
def test_what_an_encoding_lacks_is_spelled(text, encoding, expected, monkeypatch) -> None:
    assert written(text, encoding, monkeypatch) == expected


def printed_characters() -> set[str]:
    """All beyond ASCII in the texts of the sources, docstrings aside."""
    found: set[str] = set()
    for file in SOURCES.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        # Docstrings are statements of their own.
        documentation = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in documentation:
                found |= set(text)
    return {c for c in found if c.isprintable() and not c.isascii()}


def test_all_that_the_commands_print_is_spelled_in_words(monkeypatch) -> None:
    characters = printed_characters()
    assert "ν" in characters
    text = "".join(sorted(characters))
    assert b"\\" not in written(text, "ascii", monkeypatch)


def test_a_profile_on_an_ascii_pipe(tmp_path) -> None:
    model = tiny.save(lambda: tiny.llama(num_hidden_layers=1), tmp_path / "m", tokenizer=False)
    ran = subprocess.run(
        [sys.executable, "-m", "studentfloat", "profile", str(model)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert b"nu" in ran.stdout
    assert ran.stdout.isascii()


def test_an_error_is_one_line_whatever_a_name_holds(tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\x1b[31m\n"
    ran = subprocess.run(
        [sys.executable, "-m", "studentfloat", "report", name],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"error: " + os.fsencode(tmp_path) + rb"/\udcff\x1b[31m\n is not")
    assert ran.stderr.count(b"\n") == 1
