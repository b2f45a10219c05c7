from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from studentfloat.cli.main import cli
from studentfloat.errors import StudentFloatError
from studentfloat.records import record_to_json, write_json
from tests import tiny
from tests.report.records import study


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments])


def message(result: Result) -> str:
    """The one line that a user sees instead of a traceback."""
    assert isinstance(result.exception, StudentFloatError), result.exception
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    small = study(("small",), methods=("rtn",), formats=("sf4", "int4", "e2m1"), scores=False)
    write_json(tmp_path / "results.json", record_to_json(small))
    return tmp_path


def test_page_and_figures_of_a_study(directory: Path) -> None:
    figures = directory / "figures"
    result = run(str(directory), "-o", str(directory / "page.html"), "--figures", str(figures))
    assert result.exit_code == 0, result.output
    page = (directory / "page.html").read_text(encoding="utf-8")
    assert "<h1>Study made up</h1>" in page
    names = {path.stem for path in figures.glob("*.svg")}
    assert names == {path.stem for path in figures.glob("*.png")}
    assert {"frontier-kl-by-area-of-mac", "number-lines", "breakdown", "degrees-small"} <= names
    for path in figures.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert len(root.attrib["aria-label"]) > 30
        assert "var(--" not in path.read_text(encoding="utf-8")
    for path in figures.glob("*.png"):
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_page_lies_beside_the_results_by_default(directory: Path) -> None:
    assert run(str(directory)).exit_code == 0
    assert (directory / "report.html").stat().st_size > 800_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "is of schema None"),
        ('{"schema": "profile/1"}', "is of schema 'profile/1'"),
        ('{"schema": "comparison/1"}', "is of schema 'comparison/1', this version reads"),
        ('{"schema": "study/99"}', "is of schema 'study/99', this version reads 'study/2'"),
        ('{"schema": "study/2", "name": "x"}', "results.json: models is missing"),
    ],
)
def test_damaged_results_are_one_clear_line(directory: Path, content: str, says: str) -> None:
    (directory / "results.json").write_text(content, encoding="utf-8")
    said = message(run(str(directory)))
    assert says in said
    assert str(directory / "results.json") in said
    assert not (directory / "report.html").exists()


def test_a_directory_without_results_is_misuse(tmp_path: Path) -> None:
    assert "has no results" in message(run(str(tmp_path)))
    assert "is not a directory" in message(run(str(tmp_path / "none")))
    assert run(str(tmp_path)).exception.exit_code == 2


def test_a_directory_of_a_study_is_read_cell_by_cell(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    model = tiny.save(tiny.llama, tmp_path / "m")
    file.write_text(
        f'models = ["{model}"]\nformats = ["sf4", "int4"]\nlaws = true\n'
        "[quality]\nwindows = 3\nwindow_length = 16\n",
        encoding="utf-8",
    )
    directory = tmp_path / "out"
    done = CliRunner().invoke(cli, ["study", "run", str(file), "-o", str(directory), "-q"])
    assert done.exit_code == 0, done.output
    assert run(str(directory)).exit_code == 0
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert '<button type="button" data-open="1">' in page
    assert "Degrees of freedom by layer" in page


def test_a_page_that_cannot_be_written_leaves_the_old_one(directory: Path) -> None:
    blocked = directory / "blocked"
    blocked.write_text("old", encoding="utf-8")
    assert "cannot write" in message(run(str(directory), "-o", str(blocked / "page.html")))
    assert "cannot write" in message(run(str(directory), "--figures", str(blocked / "f")))
    assert blocked.read_text(encoding="utf-8") == "old"


def test_it_loads_neither_torch_nor_synthesis(directory: Path) -> None:
    code = (
        "import sys; from studentfloat.cli.main import cli\n"
        f"cli.main(['report', {json.dumps(str(directory))}], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'pyosys'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
