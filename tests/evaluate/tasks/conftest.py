"""Items, and a tiny model with opinions about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from studentfloat.models import LoadedModel, find_model, load_model
from tests import tiny
from tests.evaluate.tasks import items

pytest.importorskip("lm_eval", reason="needs the extra 'tasks'")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    return str(items.write(tmp_path_factory.mktemp("items")))


def load_tiny(place: Path, make=tiny.llama) -> LoadedModel:
    return load_model(find_model(str(tiny.save(make, place))))


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> LoadedModel:
    """Of 512 tokens, which all items of these tests fit into."""
    place = tmp_path_factory.mktemp("models") / "llama"
    return load_tiny(place, lambda: tiny.llama(max_position_embeddings=512))
