from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from studentfloat.errors import (
    ConfigError,
    DataError,
    FailureError,
    FormatError,
    ModelError,
    PickledWeightsError,
)
from studentfloat.models.sources import Trust
from studentfloat.profile import ProfileSettings, profile_model
from studentfloat.profile import model as profile_module
from studentfloat.profile.derive import DeriveOptions, derive_formats, pooled_histogram
from studentfloat.profile.files import profile_from_json, profile_to_json, read_profile
from studentfloat.profile.merge import merge_profiles
from studentfloat.records import Profile
from studentfloat.statistics import Sketch, fit_laws, fit_student_t, sketch_blocks, sketch_rows


def heavy(*shape: int, nu: float = 5.0, seed: int = 0) -> torch.Tensor:
    draws = np.random.default_rng(seed).standard_t(nu, shape) * 0.02
    return torch.from_numpy(draws.astype(np.float32))


GOOD = {
    f"model.layers.{layer}.{name}.weight": (nu, 10 * layer + i)
    for layer in range(3)
    for i, (name, nu) in enumerate([("q_proj", 4.0), ("down_proj", 12.0)])
}


def write_model(directory, extra: dict[str, torch.Tensor] | None = None):
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: heavy(96, 160, nu=nu, seed=seed) for name, (nu, seed) in GOOD.items()}
    tensors["model.embed_tokens.weight"] = heavy(50, 160, nu=3.0)
    tensors["model.norm.weight"] = torch.ones(160)
    save_file({**tensors, **(extra or {})}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory, tensors


def test_every_matrix_is_fitted_as_it_would_be_alone(tmp_path) -> None:
    directory, tensors = write_model(tmp_path / "m")
    profile = profile_model(str(directory), ProfileSettings(block_size=32, channels=True))
    assert [tensor.name for tensor in profile.tensors if tensor.part == "linear"] == sorted(GOOD)
    for tensor in profile.tensors:
        values = tensors[tensor.name].numpy()
        alone = fit_laws(values)
        assert (
            tensor.laws.student_t.degrees_of_freedom
            == alone.by_law["student_t"].law.degrees_of_freedom
        )
        assert tensor.laws.best == alone.best
        assert tensor.count == values.size
        assert tensor.root_mean_square == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-5)
        assert tensor.blocks.normal.ks == fit_laws(sketch_blocks(values, 32)).by_law["normal"].ks
        assert tensor.channels.normal.scale == pytest.approx(1.0, rel=1e-3)
    (summary,) = profile.summary
    assert (summary.kind, summary.tensors) == ("weight", 6)
    expected = np.mean(
        [fit_student_t(tensors[name].numpy()).law.degrees_of_freedom for name in GOOD]
    )
    assert summary.mean_degrees_of_freedom == pytest.approx(expected)
    assert {row.name: row.reason for row in profile.skipped}["model.norm.weight"].startswith(
        "vector"
    )


def test_scaled_sketches_against_a_loop(rng) -> None:
    matrix = rng.standard_t(4, (7, 75)).astype(np.float32)
    matrix[2, :32] = 0
    scaled = []
    for row in matrix:
        for block in (row[:32], row[32:64], row[64:]):
            at = int(np.argmax(np.abs(block)))
            if block[at] != 0:
                scaled.append(np.delete(block, at) / np.abs(block[at]))
    assert sketch_blocks(matrix, 32) == Sketch.of(np.concatenate(scaled))
    rows = sketch_rows(matrix)
    assert rows.count == matrix.size
    assert rows.cells().count @ rows.cells().square == pytest.approx(matrix.size, rel=1e-5)


def test_json_keeps_the_contract_and_comes_back_the_same(tmp_path) -> None:
    directory, _ = write_model(
        tmp_path / "m",
        {"model.flat.weight": torch.rand(40, 200), "model.dead.weight": torch.zeros(4, 4)},
    )
    profile = profile_model(str(directory), ProfileSettings(block_size=16))
    data = json.loads(json.dumps(profile_to_json(profile), allow_nan=False))
    assert {"model", "tensors", "summary"} <= set(data)
    for tensor in data["tensors"]:
        assert {"name", "kind", "count", "student_t", "normal", "best"} <= set(tensor)
        if tensor["best"] is not None:
            assert {"degrees_of_freedom", "degrees_of_freedom_interval", "scale", "ks"} <= set(
                tensor["student_t"]
            )
            assert {"scale", "ks"} <= set(tensor["normal"])
    by_name = {tensor["name"]: tensor for tensor in data["tensors"]}
    flat = by_name["model.flat.weight"]["student_t"]
    assert flat["degrees_of_freedom"] is None  # uniform: the normal end of the range
    assert flat["degrees_of_freedom_interval"][1] is None
    assert "zero" in by_name["model.dead.weight"]["problem"]
    back = profile_from_json(data)
    assert profile_to_json(back) == data
    assert [t.laws for t in back.tensors] == [t.laws for t in profile.tensors]


BAD = {
    "constant": (torch.full((8, 8), 0.5), "all 64 values are 0.5"),
    "zero": (torch.zeros(8, 8), "all 64 values are zero"),
    "one": (torch.ones(1, 1), "one value only"),
    "nan": (torch.full((8, 8), float("nan")), "no finite values (64"),
    "two": (torch.tensor([[1.0, -1.0]] * 32), "only 2 values"),
}


def test_each_bad_tensor_gets_a_word_and_the_rest_is_profiled(tmp_path) -> None:
    extra = {f"model.{name}.weight": tensor for name, (tensor, _) in BAD.items()}
    some_nan = heavy(50, 50)
    some_nan[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    extra["model.somenan.weight"] = some_nan
    extra["model.wild.weight"] = heavy(60, 60, nu=0.5)
    empty = {"model.nothing.weight": (0, 8), "model.flat.weight": (4, 0)}
    extra |= {name: torch.zeros(shape) for name, shape in empty.items()}
    extra["model.ids.weight"] = torch.arange(16).reshape(4, 4)
    directory, _ = write_model(tmp_path / "m", extra)
    profile = profile_model(str(directory), ProfileSettings(block_size=4, channels=True))
    by_name = {tensor.name: tensor for tensor in profile.tensors}
    for name, (_, message) in BAD.items():
        assert message in by_name[f"model.{name}.weight"].problem
    assert by_name["model.somenan.weight"].laws.notes == ("1 NaN and 2 infinite values left out",)
    assert by_name["model.wild.weight"].laws.student_t.degrees_of_freedom == pytest.approx(
        0.5, abs=0.1
    )
    assert all(by_name[name].laws is not None for name in GOOD)
    skipped = {row.name: row.reason for row in profile.skipped}
    assert skipped["model.ids.weight"].startswith("type I64")
    assert {skipped[name] for name in empty} == {"no elements"}


def test_a_truncated_shard_and_a_missing_one(tmp_path) -> None:
    directory, _ = write_model(tmp_path / "m")
    shard = (directory / "model.safetensors").rename(directory / "model-1.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100_000])
    files = ["model-1.safetensors", "gone.safetensors", "broken.safetensors"]
    index = {"weight_map": {file[0]: file for file in files}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "broken.safetensors").write_bytes(b"xy")
    profile = profile_model(str(directory))
    problems = [tensor.problem for tensor in profile.tensors if tensor.problem]
    assert problems
    assert all("truncated" in problem for problem in problems)
    assert sum(tensor.laws is not None for tensor in profile.tensors) == 7 - len(problems)
    assert any("gone.safetensors is missing" in note for note in profile.notes)
    assert any("broken.safetensors" in note for note in profile.notes)


def test_shards_profiled_apart_add_up_to_the_whole(tmp_path) -> None:
    directory, _ = write_model(tmp_path / "m")
    whole = profile_model(str(directory))
    parts = [profile_model(str(directory), ProfileSettings(shard=(i, 3))) for i in (3, 1, 2)]
    merged = merge_profiles(parts)
    key = lambda tensor: tensor.name  # noqa: E731
    assert sorted(merged.tensors, key=key) == sorted(whole.tensors, key=key)
    # The order of the tensors moves the last bit of a mean, nothing else.
    assert merged.summary[0].median_degrees_of_freedom == whole.summary[0].median_degrees_of_freedom
    assert merged.summary[0].mean_degrees_of_freedom == pytest.approx(
        whole.summary[0].mean_degrees_of_freedom, rel=1e-14
    )
    assert "shards these are missing: 2" in merge_profiles([parts[0], parts[1]]).notes[0]
    with pytest.raises(ConfigError, match="more than one part"):
        merge_profiles([parts[0], parts[0]])
    with pytest.raises(ConfigError, match="settings"):
        merge_profiles(
            [parts[0], profile_model(str(directory), ProfileSettings(shard=(1, 3), channels=True))]
        )


def test_parts_of_other_weights_or_another_division_do_not_add_up(tmp_path) -> None:
    one, tensors = write_model(tmp_path / "one")
    other = tmp_path / "other"
    other.mkdir()
    save_file({name: value * 2 for name, value in tensors.items()}, other / "model.safetensors")
    copy = shutil.copytree(one, tmp_path / "copy")
    part = profile_model(str(one), ProfileSettings(shard=(1, 2)))
    assert merge_profiles([part, profile_model(str(copy), ProfileSettings(shard=(2, 2)))]).summary
    with pytest.raises(ConfigError, match=r"other and .*one have other weight files"):
        merge_profiles([part, profile_model(str(other), ProfileSettings(shard=(2, 2)))])
    with pytest.raises(ConfigError, match="shards 2/3 and 1/2"):
        merge_profiles([part, profile_model(str(one), ProfileSettings(shard=(2, 3)))])


def test_a_run_that_was_killed_goes_on(tmp_path, monkeypatch) -> None:
    directory, _ = write_model(tmp_path / "m")
    journal = tmp_path / "journal"
    seen: list[str] = []
    real = profile_module._weight

    def dies_at_the_fourth(tensor, settings, transposed):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(tensor.name)
        return real(tensor, settings, transposed)

    monkeypatch.setattr(profile_module, "_weight", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        profile_model(str(directory), journal=journal)
    with journal.open("a") as stream:
        stream.write('{"name": "cut in the mid')
    again: list[str] = []
    monkeypatch.setattr(
        profile_module, "_weight", lambda t, s, r: again.append(t.name) or real(t, s, r)
    )
    resumed = profile_model(str(directory), journal=journal)
    assert set(seen) & set(again) == set()
    assert len(seen) + len(again) == 7
    assert resumed.tensors == profile_model(str(directory)).tensors
    assert not journal.exists()


def test_a_journal_of_other_settings_is_not_trusted(tmp_path) -> None:
    directory, _ = write_model(tmp_path / "m")
    journal = tmp_path / "journal"
    journal.write_text('{"files": [], "settings": {}}\n{"name": "nonsense"}\n')
    assert len(profile_model(str(directory), journal=journal).tensors) == 7


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d.mkdir(), ModelError, "neither model\\.safetensors nor"),
        (lambda d: None, ModelError, "no model"),
    ],
)
def test_no_model(tmp_path, make, error, message) -> None:
    make(tmp_path / "m")
    with pytest.raises(error, match=message):
        profile_model(str(tmp_path / "m"))


@pytest.mark.parametrize("trust", [Trust(), Trust(pickle=True)])
def test_pickled_weights_are_to_be_converted_first(tmp_path, trust) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*safetensors only: convert it") as it:
        profile_model(str(tmp_path / "m"), trust=trust)
    assert it.value.exit_code == 1


def test_pickled_weights_from_the_hub_too(monkeypatch) -> None:
    def has_pickles(name, trust):
        assert not trust.pickle
        raise PickledWeightsError(f"model {name} has pickled weights only")

    monkeypatch.setattr(profile_module, "find_model", has_pickles)
    with pytest.raises(ModelError, match=r"owner/name has .* convert it first"):
        profile_model("owner/name", trust=Trust(pickle=True))


@pytest.mark.parametrize("settings", [{"block_size": 1}, {"shard": (3, 2)}, {"shard": (0, 2)}])
def test_settings_that_make_no_sense(settings) -> None:
    with pytest.raises(ConfigError):
        ProfileSettings(**settings)


def test_what_is_no_profile(tmp_path) -> None:
    (tmp_path / "x.json").write_text('{"schema": "comparison/1"}')
    with pytest.raises(FailureError, match="comparison/1"):
        read_profile(tmp_path / "x.json")


def test_a_file_of_several_models_needs_a_name(small, tmp_path) -> None:
    path = tmp_path / "x.json"
    other = {**profile_to_json(small), "model": "other"}
    several = {"schema": "profiles/1", "models": [profile_to_json(small), other], "not_run": []}
    path.write_text(json.dumps(several))
    assert read_profile(path, "other").model == "other"
    assert read_profile(path, small.model) == small
    with pytest.raises(ConfigError, match=r"several models: name one \(--model NAME\): .*, other"):
        read_profile(path)
    with pytest.raises(ConfigError, match="third is not among them"):
        read_profile(path, "third")
    path.write_text(json.dumps({**several, "models": [other]}))  # beside models that failed
    assert read_profile(path).model == "other"
    path.write_text(json.dumps({**several, "models": []}))
    with pytest.raises(FailureError, match="no profile: none of its models could be run"):
        read_profile(path)
    path.write_text(json.dumps(profile_to_json(small)))
    with pytest.raises(ConfigError, match="not of other"):
        read_profile(path, "other")


@pytest.mark.parametrize(
    ("key", "value"), [("student_t", "abc"), ("student_t", 5), ("shape", 7), ("quantiles", "abc")]
)
def test_a_field_that_is_malformed_is_told_in_a_line(small, key, value) -> None:
    data = profile_to_json(small)
    data["tensors"][0][key] = value
    with pytest.raises(FailureError, match=rf"x\.json: tensors\[0\]\.(laws\.)?{key} must be a "):
        profile_from_json(data, "x.json")


def test_degrees_of_freedom_that_are_no_number_are_told_in_a_line(small) -> None:
    data = profile_to_json(small)
    data["tensors"][0]["student_t"]["degrees_of_freedom"] = "abc"
    with pytest.raises(FailureError, match=r"student_t\.degrees_of_freedom must .*'abc'"):
        profile_from_json(data)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Profile:
    directory, _ = write_model(tmp_path_factory.mktemp("small") / "m")
    return profile_model(str(directory))


def test_derive_per_model_kind_and_layer(small) -> None:
    from studentfloat.formats import student_float

    by_kind = derive_formats(small, DeriveOptions(per="kind"))
    assert set(by_kind) == {"q_proj", "down_proj"}
    nu = sorted(
        tensor.laws.student_t.degrees_of_freedom
        for tensor in small.tensors
        if tensor.role == "q_proj"
    )
    assert by_kind["q_proj"].levels == student_float(4, nu[1]).levels
    assert set(derive_formats(small, DeriveOptions(per="layer"))) == {"layer0", "layer1", "layer2"}
    (one,) = derive_formats(small, DeriveOptions(bits=3)).values()
    assert len(one.levels) == 8


@pytest.mark.parametrize("criterion", ["lloyd", "block-optimal"])
def test_codebooks_of_law_and_histogram_agree_for_numbers_of_that_law(tmp_path, criterion) -> None:
    (tmp_path / "m").mkdir()
    save_file({"a.weight": heavy(1000, 1000, nu=6.0)}, tmp_path / "m" / "model.safetensors")
    profile = profile_model(str(tmp_path / "m"))
    law, histogram = (
        derive_formats(profile, DeriveOptions(criterion=criterion, source=source, bits=3))[
            ""
        ].levels
        for source in ("law", "histogram")
    )
    np.testing.assert_allclose(law, histogram, atol=0.03)
    assert max(np.abs(law)) == 1.0
    assert 0.0 in law


def test_the_pooled_histogram_counts_everything_once(small) -> None:
    tensors = [tensor for tensor in small.tensors if tensor.part == "linear"]
    counts, edges = pooled_histogram(tensors)
    assert sum(counts) == 6 * 96 * 160
    middles = (np.array(edges[1:]) + edges[:-1]) / 2
    assert np.sum(np.array(counts) * middles**2) / sum(counts) == pytest.approx(1.0, rel=1e-3)


def test_formats_of_other_settings_have_other_names(small) -> None:
    options = [
        DeriveOptions(),
        *(
            DeriveOptions(criterion="block-optimal", source=source, scale_rule=rule, block_size=b)
            for source in ("law", "histogram")
            for rule in ("absmax", "signed-absmax")
            for b in (64, 128)
        ),
    ]
    names = [derive_formats(small, one)[""].name for one in options]
    assert len(set(names)) == len(names)


def test_derive_refuses_what_cannot_be(small) -> None:
    with pytest.raises(ConfigError, match="'best'"):
        DeriveOptions(criterion="best")
    with pytest.raises(ConfigError, match="quantile"):
        DeriveOptions(source="histogram")
    with pytest.raises(DataError, match="--activations"):
        derive_formats(small, DeriveOptions(numbers="activation"))


@pytest.mark.parametrize("criterion", ["lloyd", "block-optimal"])
def test_a_law_without_variance_has_no_codebook_of_squared_error(tmp_path, criterion) -> None:
    (tmp_path / "m").mkdir()
    save_file({"a.weight": heavy(300, 300, nu=1.5)}, tmp_path / "m" / "model.safetensors")
    profile = profile_model(str(tmp_path / "m"))
    with pytest.raises(FormatError, match="no finite variance"):
        derive_formats(profile, DeriveOptions(criterion=criterion))
    assert derive_formats(profile, DeriveOptions(criterion="quantile"))


def test_derived_format_beats_sf5_on_its_own_numbers(small) -> None:
    """What the derive step is for: less squared error in blocks than the published format."""
    from studentfloat.formats import get_format

    tensors = [heavy(96, 160, nu=nu, seed=seed).numpy() for nu, seed in GOOD.values()]
    derived = derive_formats(
        small, DeriveOptions(criterion="block-optimal", source="histogram", block_size=32)
    )[""]

    def error(levels) -> float:
        total = 0.0
        for values in tensors:
            blocks = values.reshape(-1, 32)
            scale = np.abs(blocks).max(axis=1, keepdims=True)
            nearest = np.abs((blocks / scale)[..., None] - np.array(levels)).min(axis=-1)
            total += float(np.sum((nearest * scale / values.std()) ** 2))
        return total

    assert error(derived.levels) < 0.97 * error(get_format("sf4").levels)
    assert math.isfinite(error(derived.levels))
