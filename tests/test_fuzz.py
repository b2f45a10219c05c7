"""Thousands of damaged files for every reader: one printable line of error, or a sound result.

``STUDENTFLOAT_FUZZ_EXAMPLES`` says how many in all; a target has its share of them. Each mutation
is drawn from its own number, which a failure names.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from studentfloat.cli.report import _result
from studentfloat.errors import StudentFloatError
from studentfloat.formats import format_to_toml, get_format, resolve_code
from studentfloat.hardware.generic_library import generic_liberty
from studentfloat.hardware.liberty import read_libraries
from studentfloat.models import find_model, quantize_checkpoint, verify_checkpoint
from studentfloat.models.gguf import quantization_of_gguf
from studentfloat.models.packed_files import MANIFEST
from studentfloat.models.stream import list_tensors
from studentfloat.profile import profile_model
from studentfloat.profile.files import profile_to_json, read_profile
from studentfloat.profile.several import models_in
from studentfloat.quantize import Scheme
from studentfloat.records import record_to_json, write_json
from studentfloat.report import comparison_page, study_page
from studentfloat.study.plan import make_plan
from studentfloat.study.sweep.drive import begin_study
from studentfloat.study.sweep.status import study_status
from studentfloat.study.sweep.store import Store
from studentfloat.study.sweep.study_file import read_study_file
from tests import tiny
from tests.mutations import bytes_changed, json_changed
from tests.report.records import study

EXAMPLES = int(os.environ.get("STUDENTFLOAT_FUZZ_EXAMPLES", "600"))
SLOWEST = 20.0
"""Seconds that no file of some kilobytes may take, however busy the machine is."""

Mutate = Callable[[bytes, random.Random], bytes]


def attack(what: str, share: float, files: dict[Path, Mutate], read: Callable[[], object]) -> None:
    """Damage one of some files again and again, and read."""
    sound = {file: file.read_bytes() for file in files}
    read()  # sound, it is read
    refused = 0
    for number in range(max(1, round(EXAMPLES * share))):
        draw = random.Random(f"{what} {number}")
        file = draw.choice(list(files))
        file.write_bytes(files[file](sound[file], draw))
        began, said = time.process_time(), ""
        try:
            read()
        except StudentFloatError as error:
            said = str(error)
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{what} {number}, {file.name}: {error!r}") from error
        finally:
            file.write_bytes(sound[file])
        assert said.isprintable(), f"{what} {number}: {said!r}"
        seconds = time.process_time() - began
        assert seconds < SLOWEST, f"{what} {number}: {seconds:.1f} s"
    assert refused


def test_formats(tmp_path) -> None:
    file = tmp_path / "it.toml"
    for name, text in FORMATS.items():
        file.write_text(text)
        attack(name, 0.05, {file: bytes_changed}, lambda: resolve_code(str(file)))


FORMATS = {
    "format": format_to_toml(get_format("e2m1")),
    "trellis": 'kind = "trellis"\nbits = 2\nstate_bits = 8\nunit = 0.5\n'
    'generator = {kind = "drawn", seed = 3}\n',
    "vectors": 'kind = "vectors"\nscales = [1.0]\n[[stages]]\nkind = "points"\n'
    "points = [[0.0, 1.0], [1.0, 0.5]]\n",
}

STUDY = """
name = "small"
models = [{ id = "there", name = "it" }]
formats = ["nf4", "e2m1|e3m0@mse"]
methods = ["rtn", "gptq"]
schemes = [{ block_size = 16, scale_dtype = "bfloat16" }]
activations = ["none"]
[quality]
windows = 2
window_length = 16
[tasks]
names = ["piqa"]
data = "."
[hardware]
units = ["mac"]
[[exclude]]
method = "gptq"
format = "nf4"
"""


def test_study_files(tmp_path) -> None:
    file = tmp_path / "it.toml"
    file.write_text(STUDY)
    attack("study", 0.1, {file: bytes_changed}, lambda: read_study_file(file))
    file.write_text('[[network]]\nid = "a"\n[[network]]\nname = "b"\nnot_run = "why"\n')
    attack("models", 0.08, {file: bytes_changed}, lambda: models_in(file))


def test_liberty_files(tmp_path) -> None:
    file = tmp_path / "it.lib"
    file.write_text(generic_liberty())
    attack("liberty", 0.01, {file: bytes_changed}, lambda: read_libraries([file]))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save(
        lambda: tiny.llama(num_hidden_layers=1), tmp_path_factory.mktemp("model") / "m"
    )


def test_results(tmp_path, monkeypatch) -> None:
    # The library of figures is the same for all pages, and takes seconds.
    monkeypatch.setattr("studentfloat.report.page._vega", lambda *a: "")
    file = tmp_path / "results.json"
    small = study(("it",), methods=("rtn",), formats=("sf4", "int4"), scores=False)
    (comparison,) = (replace(model, original_scores=(), laws=()) for model in small.models)
    pages = {"result": (small, study_page), "comparison": (comparison, comparison_page)}
    for what, (record, page) in pages.items():
        write_json(file, record_to_json(record))
        calls = 0

        def read(page=page) -> None:
            nonlocal calls
            found = _result(tmp_path)
            calls += 1
            if calls % 16 == 1:  # a page takes a second
                page(found)

        attack(what, 0.05, {file: json_changed}, read)


def test_profiles(tmp_path, model) -> None:
    file = tmp_path / "profile.json"
    profile = profile_model(str(model))
    write_json(file, profile_to_json(replace(profile, tensors=profile.tensors[:1])))
    attack("profile", 0.05, {file: json_changed}, lambda: read_profile(file))


def test_stores_of_studies(tmp_path, model) -> None:
    toml = tmp_path / "it.toml"
    toml.write_text(
        f'models = ["{model}"]\nformats = ["nf4"]\nlaws = true\n[quality]\nwindows = 2\n'
        "window_length = 16\n"
    )
    plan = begin_study(read_study_file(toml), tmp_path / "s")
    store, cell = Store(tmp_path / "s"), plan.cells[0]
    store.write_failure(cell, "why")
    with store.claims() as claims:
        claims.take(cell.address)
        store.log("w", event="began", machine={"cpu": "x"})
        store.log("w", event="done", evaluation="quality", model="m", method="rtn", seconds=1.0)
        root = store.root
        files = [
            root / "resolved.json",
            root / "failures" / f"{cell.address}.json",
            root / "claims" / cell.address,
            root / "log" / "w.jsonl",
        ]

        def read() -> None:
            options, resolution = store.load_study()
            study_status(make_plan(options, resolution), store)
            store.claims().break_dead(cell.address)

        attack(
            "store", 0.08, dict.fromkeys(files[:3], json_changed) | {files[3]: bytes_changed}, read
        )


def test_directories(model) -> None:
    def read() -> None:
        source = find_model(str(model))
        list_tensors(source.weight_files)

    files = {model / "config.json": json_changed, model / "model.safetensors": bytes_changed}
    attack("directory", 0.2, files, read)


def test_packed_directories(model, tmp_path) -> None:
    packed = tmp_path / "packed"
    quantize_checkpoint(find_model(str(model)), Scheme("nf4", 16), packed)

    def read() -> None:
        assert all(problem.isprintable() for problem in verify_checkpoint(packed).problems)

    files: dict[Path, Mutate] = {packed / "config.json": json_changed}
    files |= {packed / MANIFEST: json_changed}
    files |= dict.fromkeys(packed.glob("*.safetensors"), bytes_changed)
    attack("packed", 0.09, files, read)


def test_gguf_files(tmp_path) -> None:
    file = tmp_path / "it.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_token_list(["a", "b"])
    writer.add_float32("x", 1.0)
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    raw = gguf.quantize(np.ones((4, 32), np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    attack("gguf", 0.2, {file: bytes_changed}, lambda: quantization_of_gguf(file))
