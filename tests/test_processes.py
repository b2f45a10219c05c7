"""The package never forks: OpenMP's threads do not survive it."""

from __future__ import annotations

import ast
from pathlib import Path

import studentfloat

FORKING = {"fork", "forkpty", "Pool", "Process", "ProcessPoolExecutor", "DataLoader", "preexec_fn"}


def test_nothing_starts_processes_by_fork() -> None:
    """New processes are started by ``subprocess``, which executes a program at once."""
    found = []
    for file in Path(studentfloat.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = {
                getattr(node, "attr", None) if isinstance(node, ast.Attribute) else None,
                node.id if isinstance(node, ast.Name) else None,
                node.arg if isinstance(node, ast.keyword) else None,
            }
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if names & FORKING or any(m.startswith("multiprocessing") for m in modules):
                found.append(f"{file.name}:{getattr(node, 'lineno', '?')}")
    assert not found
