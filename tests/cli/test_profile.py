from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from studentfloat.cli.main import cli
from studentfloat.errors import ConfigError, FailureError
from studentfloat.formats import load_format
from studentfloat.profile.several import models_in


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    draws = np.random.default_rng(0).standard_t(5, (2, 64, 128)).astype(np.float32)
    tensors = {f"layers.{i}.up_proj.weight": torch.from_numpy(draws[i]) for i in range(2)}
    save_file(tensors, directory / "model.safetensors")
    return directory


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def test_json_page_and_the_formats_derived_from_them(model, tmp_path) -> None:
    out, page = tmp_path / "profile.json", tmp_path / "page.html"
    done = run("profile", model, "--blocks", 32, "-o", out, "--html", page, "--json", "-q")
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert data == json.loads(out.read_text())
    assert [tensor["name"] for tensor in data["tensors"]] == [
        "layers.0.up_proj.weight",
        "layers.1.up_proj.weight",
    ]
    text = page.read_text()
    assert text.count('data-figure="figure-') == 4
    assert not [part for part in ('src="http', 'href="http', "@import") if part in text]
    fmt = tmp_path / "fmt.toml"
    assert run("derive", "--profile", out, "--bits", 3, "-o", fmt).exit_code == 0
    assert len(load_format(fmt).levels) == 8
    per = run("derive", "--profile", out, "--per", "layer", "-o", fmt)
    assert per.exit_code == 0
    assert (tmp_path / "fmt-layer1.toml").is_file()


def test_a_table_with_a_line_per_model_and_the_rest_reported_as_not_run(model, tmp_path) -> None:
    listed = tmp_path / "networks.toml"
    listed.write_text(f'[[network]]\nid = "{tmp_path / "absent"}"\n')
    done = run("profile", model, "--list", listed, "-q")
    assert done.exit_code == 0
    assert "100.0 %" in done.stdout
    assert "was not run" in done.stdout
    as_json = json.loads(run("profile", model, "--list", listed, "-q", "--json").stdout)
    assert len(as_json["models"]) == 1
    assert "absent" in as_json["not_run"][0]["model"]


def test_shards_are_merged_from_their_files(model, tmp_path) -> None:
    for i in (1, 2):
        done = run("profile", model, "--shard", f"{i}/2", "-o", tmp_path / f"{i}.json", "-q")
        assert done.exit_code == 0
    whole = run("profile", "--merge", tmp_path / "1.json", tmp_path / "2.json", "--json", "-q")
    direct = run("profile", model, "--json", "-q")
    assert json.loads(whole.stdout)["tensors"] == json.loads(direct.stdout)["tensors"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--shard", "2"], ConfigError, "--shard 2"),
        (["--shard", "3/2"], ConfigError, "shard 3/2"),
        (["--text", "x.txt"], ConfigError, "--activations"),
        (["--blocks", "1"], ConfigError, "block size of 1"),
        (["--activations", "--capture", "everything"], ConfigError, "'everything'"),
        (["--activations", "--windows", "0"], ConfigError, "0 windows"),
        (["--merge"], ConfigError, "two or more"),
        (["--list", "absent.toml"], FailureError, "absent.toml"),
    ],
)
def test_misuse_is_named(model, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        run("profile", model, "-q", *arguments)


def test_there_is_no_flag_for_pickles(model) -> None:
    assert "--allow-pickle" not in run("profile", "--help").stdout


def test_derive_without_a_profile(tmp_path) -> None:
    with pytest.raises(FailureError, match=r"absent\.json"):
        run("derive", "--profile", tmp_path / "absent.json")


def test_profiling_weights_leaves_torch_unloaded(model) -> None:
    code = (
        "import sys; from studentfloat.profile.model import profile_model; "
        f"profile_model({str(model)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PAPER = Path(__file__).parents[2] / "studies" / "paper-networks.toml"


def test_the_papers_networks_are_a_list_of_hub_ids() -> None:
    names, not_run = models_in(PAPER)
    assert len(names) == len(set(names)) == 25
    assert all(name.count("/") == 1 for name in names)
    assert set(not_run) == {"FLAN-T5", "RegNet", "ConvMixer", "CoAT-Lite"}


def test_networks_without_an_id_are_reported_as_not_run(model, tmp_path) -> None:
    (tmp_path / "list.toml").write_text(
        f'[[network]]\nid = "{model}"\n[[network]]\nname = "RegNet"\nnot_run = "which one?"\n'
    )
    done = run("profile", "--list", tmp_path / "list.toml", "-q")
    assert "RegNet was not run: which one?" in " ".join(done.stdout.split())
    (tmp_path / "bad.toml").write_text('[[network]]\nname = "RegNet"\n')
    with pytest.raises(ConfigError, match="the reason why it is not_run"):
        run("profile", "--list", tmp_path / "bad.toml", "-q")


def test_derive_takes_one_model_of_a_file_of_several(model, tmp_path) -> None:
    out = tmp_path / "several.json"
    run("profile", model, tmp_path / "absent", "-o", out, "-q")
    assert run("derive", "--profile", out).exit_code == 0  # the only one that could be run
    copy = shutil.copytree(model, tmp_path / "copy")
    run("profile", model, copy, "-o", out, "-q")
    done = run("derive", "--profile", out, "--model", copy)
    assert "of " + str(copy) in done.stdout
    with pytest.raises(ConfigError, match=r"name one \(--model NAME\)"):
        run("derive", "--profile", out)
