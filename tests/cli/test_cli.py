from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studentfloat.formats import CATALOG, get_format, load_format
from tests import tiny


def run(*arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studentfloat", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return str(tiny.save(tiny.llama, tmp_path_factory.mktemp("llama") / "m"))


SMALL = ("--windows", "2", "--window-length", "16", "--formats", "nf4,int8", "--no-hardware")


def test_import_is_light() -> None:
    code = "import studentfloat, sys; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from studentfloat.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'scipy', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_compare_writes_results_and_page(llama, tmp_path) -> None:
    done = run("compare", llama, *SMALL, "-o", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in data["formats"]] == ["int8", "nf4"]
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")
    assert "report.html" in done.stderr
    assert "%" in done.stderr  # progress
    table = run("compare", llama, *SMALL, "-o", str(tmp_path / "out"), "--quiet")
    assert "KL (nats)" in table.stdout
    assert table.stderr == ""


def test_killed_it_goes_on(llama, tmp_path) -> None:
    command = [
        *(sys.executable, "-m", "studentfloat", "compare", llama, "-o", str(tmp_path)),
        *("--windows", "40", "--window-length", "64", "--formats", "nf4,int8,sf4,int3,int2"),
        "--no-hardware",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    cells = tmp_path / "cells"
    deadline = time.monotonic() + 120
    while len(list(cells.rglob("*.json")) if cells.is_dir() else []) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {file: file.read_bytes() for file in cells.rglob("*.json")}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert len(json.loads((tmp_path / "results.json").read_text())["formats"]) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("compare", "--format", "sf44"), 2, "did you mean sf4"),
        (("compare", "--block-size", "many"), 2, "'many'"),
        (("compare", "--windows", "x"), 2, "'x' is not a valid integer"),
        (("compare", "--wndows", "3"), 2, "--wndows"),
        (("compare", "/nowhere/at-all"), 1, "/nowhere/at-all"),
        (("compare", "--formats", "missing.toml"), 2, "missing.toml"),
        (("formats", "sf44"), 2, "sf44"),
        (("formats", "--toml"), 2, "--toml needs"),
        (("frmats",), 2, "frmats"),
    ],
)
def test_misuse_is_one_line_without_traceback(arguments, code, message, tmp_path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_same_option_has_the_same_default_in_compare_quantize_and_studies() -> None:
    from studentfloat.cli.compare import compare
    from studentfloat.cli.quantize import quantize
    from studentfloat.study.options import CompareOptions, SchemeSettings

    defaults = [{p.name: p.default for p in command.params} for command in (compare, quantize)]
    for name in ("scale_dtype", "scale_rule", "block_size"):
        wanted = getattr(SchemeSettings(), name)
        assert getattr(CompareOptions(), name) == wanted
        assert [found[name] for found in defaults] == [str(wanted)] * 2
    assert SchemeSettings().scale_dtype == "bfloat16"


def test_empty_text(llama, tmp_path) -> None:
    (tmp_path / "empty.txt").touch()
    text = str(tmp_path / "empty.txt")
    done = run("compare", llama, *SMALL, "--text", text, "-o", str(tmp_path / "o"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: the text {text} is empty"
    assert not (tmp_path / "o").exists()


def test_formats_lists_shows_and_exports(tmp_path) -> None:
    listed = run("formats")
    assert all(f"\n{name} " in "\n" + listed.stdout for name in CATALOG)
    shown = run("formats", "e2m1+sp").stdout
    assert "1000" in shown
    assert "-6" in shown
    assert "also means 0" in run("formats", "e2m1").stdout
    assert "is nan" in run("formats", "e4m3").stdout
    data = json.loads(run("formats", "sf4", "--json").stdout)
    assert data["values"] == list(get_format("sf4").values)
    assert len(json.loads(run("formats", "--json").stdout)["formats"]) == len(CATALOG)
    (tmp_path / "x.toml").write_text(run("formats", "sf4", "--toml").stdout)
    assert load_format(tmp_path / "x.toml") == get_format("sf4")


def test_a_full_stdout_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "studentfloat", "formats"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "studentfloat", "formats", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()
