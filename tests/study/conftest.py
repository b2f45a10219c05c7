"""A study of twelve cells, and what undisturbed workers make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from studentfloat.study.sweep.drive import begin_study
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.study_file import read_study_file
from studentfloat.study.sweep.worker import work
from tests import tiny
from tests.study.studies import CELLS, cells_of, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """A file that asks for twelve cells of a small model."""
    directory = tmp_path_factory.mktemp("study")
    return write_study(directory, tiny.save(tiny.llama, directory / "llama"))


@pytest.fixture(scope="session")
def undisturbed(study, tmp_path_factory) -> dict[str, bytes]:
    """What a worker writes that nothing happens to."""
    directory = tmp_path_factory.mktemp("undisturbed")
    begin_study(read_study_file(study), directory)
    worked = work(directory)
    assert (worked.computed, worked.failed) == (CELLS, 0)
    assert Store(directory).claims().names() == set()
    return cells_of(directory)
