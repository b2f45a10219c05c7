"""Whatever is killed, or finds the disk full, goes on or begins anew with the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.quantize import Scheme
from tests import tiny

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("source") / "m"
    tiny.save(lambda: tiny.llama(num_hidden_layers=1), place)
    (place / "text.txt").write_text("a b c d e f g h " * 40)
    return place


# Writers are shared: a full disk is tried where every kind of file is written.
TRIALS = [
    *(("quantize", "kill"), ("quantize", "full"), ("dequantize", "kill"), ("dequantize", "full")),
    *(("merge", "kill"), ("calibrate", "kill"), ("compare", "kill")),
]


@pytest.mark.parametrize(("command", "kind"), TRIALS)
def test_ended_anywhere_it_goes_on(command: str, kind: str, source: Path, tmp_path: Path) -> None:
    given = source
    if command == "dequantize":
        given = tmp_path / "packed"
        scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
        quantize_checkpoint(find_model(str(source)), scheme, given, shard_bytes=50_000)
    arguments = [command, kind, str(given), str(tmp_path / "trials")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # So many changes to the disk has the least of them.
    assert int(done.stdout.splitlines()[-1]) >= 5
