"""``studentfloat import`` and ``export``: what is said, and the exit status."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from studentfloat.cli.main import _run, cli
from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.quantize import Scheme
from tests import tiny


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, as :func:`main` ends."""
    runner = CliRunner()
    status = 0

    def call() -> object:
        return cli.main([str(a) for a in arguments], standalone_mode=False)

    with runner.isolation() as (out, err, _):
        status = _run(call)
        texts = out.getvalue().decode(), err.getvalue().decode()
    return status, *texts


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    make = lambda: tiny.llama(hidden_size=64, intermediate_size=96, vocab_size=270)  # noqa: E731
    tiny.save(make, place / "source", tokenizer=False)
    tiny.bpe_tokenizer().save_pretrained(place / "source")
    scheme = Scheme("e2m1", 32, scale_dtype="e8m0")
    quantize_checkpoint(find_model(str(place / "source")), scheme, place / "packed")
    return place / "packed"


def test_there_and_back(packed: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    status, out, err = run("export", packed, "--to", "gguf", "-o", file, "-q")
    assert (status, err) == (0, "")
    assert str(file) in out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status, out, err = run("import", file, "-o", tmp_path / "again", "-q", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["bits_per_weight"] == pytest.approx(4.25)
    assert all(entry["weight_nmse"] is None for entry in report["tensors"])
    assert {entry["method"] for entry in report["tensors"]} == {"gguf MXFP4"}


def test_misuse_is_one_line(packed: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (("export", packed, "--to", "onx", "-o", tmp_path / "x"), "--to 'onx': one of gguf"),
        (("import", packed, "-o", tmp_path / "x"), "quantized by studentfloat"),
    ):
        status, out, err = run(*arguments, "-q")
        assert status == 2
        assert out == ""
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1


def test_help_names_both() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert "import" in result.output
    assert "export" in result.output
