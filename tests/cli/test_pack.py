"""The commands around packed checkpoints, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studentfloat", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return str(tiny.save(tiny.llama, tmp_path_factory.mktemp("llama") / "m"))


@pytest.fixture(scope="module")
def packed(llama, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    done = run("quantize", llama, "-o", out, "--format", "nf4", "--block-size", "16", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["schema"] == "studentfloat.packed-model/1"
    assert report["bits_per_weight"] == 5.0
    assert {entry["format"] for entry in report["tensors"]} == {"nf4"}
    assert "%" in done.stderr  # progress
    return out


def test_verify_and_dequantize(packed: Path, llama: str, tmp_path: Path) -> None:
    done = run("verify", packed, "--source", llama, "-q")
    assert done.returncode == 0, done.stderr
    assert "0 problems" in done.stdout
    dense = run("dequantize", packed, "-o", tmp_path / "dense", "--dtype", "bfloat16", "-q")
    assert dense.returncode == 0, dense.stderr
    assert (tmp_path / "dense" / "config.json").is_file()


def test_verify_says_what_is_wrong_and_exits_with_1(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "broken"
    target.mkdir()
    for file in packed.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    shard = next(target.glob("*.safetensors"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 255
    shard.write_bytes(bytes(raw))
    done = run("verify", target, "-q", "--json")
    assert done.returncode == 1
    assert "has changed" in json.loads(done.stdout)["problems"][0]
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_parts_and_merge(llama: str, tmp_path: Path) -> None:
    for i in (1, 2):
        done = run("quantize", llama, "-o", tmp_path / f"p{i}", "--shard", f"{i}/2", "-q")
        assert done.returncode == 0, done.stderr
        assert f"part {i}/2 is done" in done.stdout
    done = run("merge", tmp_path / "p1", tmp_path / "p2")
    assert done.returncode == 0, done.stderr
    assert "bits each" in done.stdout
    assert run("verify", tmp_path / "p1", "-q").returncode == 0


MISUSE = [
    (("quantize", "{llama}", "-o", "{out}", "--shard", "two"), 2, "--shard 'two'"),
    (("quantize", "{llama}", "-o", "{out}", "--shard", "3/2"), 2, "--shard 3/2"),
    (("quantize", "{llama}", "-o", "{out}", "--format", "sf5x"), 2, "sf5x"),
    (("quantize", "{llama}", "-o", "{out}", "--block-size", "-4"), 2, "-4"),
    (("quantize", "{llama}", "-o", "{llama}"), 2, "not empty"),
    (("quantize", "{llama}"), 2, "--output"),
    (("quantize", "{packed}", "-o", "{out}"), 1, "quantized already"),
    (("verify", "{llama}"), 1, "not packed"),
    (("verify", "{out}"), 1, "cannot read"),
    (("dequantize", "{llama}", "-o", "{out}"), 1, "not packed"),
    (("dequantize", "{packed}", "-o", "{out}", "--dtype", "int4"), 2, "int4"),
    (("merge", "{out}"), 2, "no unfinished part"),
]


@pytest.fixture(scope="module")
def places(llama, packed) -> dict[str, object]:
    return {"llama": llama, "packed": packed}


@pytest.mark.parametrize("case", MISUSE, ids=lambda case: case[2])
def test_misuse_in_one_line(case, places, tmp_path, monkeypatch, capsys) -> None:
    from studentfloat.cli.main import main

    command, status, words = case
    filled = [part.format(out=tmp_path / "out", **places) for part in command]
    monkeypatch.setattr(sys, "argv", ["studentfloat", *filled])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    lines = [line for line in capsys.readouterr().err.splitlines() if "%" not in line]
    assert words in lines[-1]
