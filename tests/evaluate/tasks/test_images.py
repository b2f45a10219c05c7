"""Classes of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate.tasks import TaskOptions, evaluate_model, load_tasks, score_tasks
from studentfloat.models import find_model, load_model
from tests import tiny

SETTINGS = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
}


def classifier():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=32,
            patch_size=8,
            id2label={0: "tabby cat, tabby", 1: "dog", 2: "bird"},
            label2id={"tabby cat, tabby": 0, "dog": 1, "bird": 2},
        )
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tiny.save(classifier, tmp_path_factory.mktemp("vit") / "m", tokenizer=False)
    (place / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return load_model(find_model(str(place)), tokenizer=False, classifier=True)


def picture(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def data(tmp_path):
    for label, seeds in (("tabby_cat", range(4)), ("dog", range(4, 7)), ("2", range(7, 9))):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for seed in seeds:
            np.save(folder / f"{seed}.npy", picture(seed))
    (tmp_path / "images" / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def tasks_of(data, **options):
    return load_tasks(TaskOptions(("images",), data=str(data), **options))


def guess(model, image: np.ndarray) -> int:
    """The oracle, for pictures of the model's own size: normalized by hand."""
    values = (image / 255 - np.array(SETTINGS["image_mean"])) / np.array(SETTINGS["image_std"])
    pixels = torch.tensor(values.transpose(2, 0, 1)[None], dtype=torch.float32)
    with torch.no_grad():
        return int(model.module(pixel_values=pixels).logits.argmax())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_share_of_right_guesses(model, data, batch_size) -> None:
    tasks = tasks_of(data, batch_size=batch_size)
    ticks = []
    (score,) = score_tasks(model, tasks, tick=lambda: ticks.append(1))
    # Folders in order of name take turns: "2", "dog", "tabby_cat".
    seeds = [7, 4, 0, 8, 5, 1, 6, 2, 3]
    classes = [2, 1, 0, 2, 1, 0, 1, 0, 0]
    expected = [float(guess(model, picture(s)) == c) for s, c in zip(seeds, classes, strict=True)]
    assert list(score.items) == expected
    assert 0 < score.value < 1
    assert (score.metric, len(ticks), score.source) == ("top1", 9, "file: images")
    assert score.notes == ()
    assert score.standard_error == pytest.approx(np.std(expected, ddof=1) / 3)
    (part,) = score_tasks(model, tasks_of(data, limit=4))
    assert list(part.items) == expected[:4]
    assert part.data_sha256 != score.data_sha256


def test_with_its_head_only_where_that_is_asked_for(model, data) -> None:
    bare = load_model(model.source, tokenizer=False)
    assert type(bare.module).__name__ == "ViTModel"
    with pytest.raises(ConfigError, match="ViTModel: classes of images need an image classifier"):
        score_tasks(bare, tasks_of(data))
    (score,) = evaluate_model(model.source, tasks_of(data))
    assert score == score_tasks(model, tasks_of(data))[0]


def test_pictures_are_prepared_as_the_model_was_trained(model) -> None:
    from studentfloat.evaluate.tasks.pictures import Preparation

    flat = np.full((50, 70, 3), 100, dtype=np.uint8)
    made = Preparation.of(model).prepare(flat, model.source.directory)
    assert made.shape == (3, 32, 32)
    wanted = (100 / 255 - np.array(SETTINGS["image_mean"])) / np.array(SETTINGS["image_std"])
    np.testing.assert_allclose(made.mean(dim=(1, 2)), wanted, rtol=1e-5)

    def prepared(image, **settings) -> torch.Tensor:
        base = {"do_resize": False, "do_rescale": False, "do_normalize": False}
        return Preparation({**base, **settings}, ()).prepare(image, model.source.directory)

    # The middle is cut out; what is missing is black around it.
    ramp = np.repeat(np.arange(10, dtype=np.uint8)[None, :, None], 10, axis=0).repeat(3, axis=2)
    cut = prepared(ramp, do_center_crop=True, crop_size={"height": 4, "width": 4})
    assert cut[0, 0].tolist() == [3, 4, 5, 6]
    wide = prepared(ramp, do_center_crop=True, crop_size=12)
    assert wide.shape == (3, 12, 12)
    assert wide[0, 0].sum() == 0
    assert wide[0, 5].tolist() == [0, *range(10), 0]
    shortest = prepared(flat, do_resize=True, size={"shortest_edge": 20})
    assert shortest.shape == (3, 20, 28)
    ready = np.random.default_rng(0).normal(size=(3, 8, 8))
    np.testing.assert_allclose(prepared(ready, do_normalize=True), ready, rtol=1e-6)
    lanczos = Preparation({"resample": 1, "size": 8}, ())
    assert lanczos.prepare(flat, model.source.directory).shape == (3, 8, 8)


def test_resizing_is_pillows(model) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    from studentfloat.evaluate.tasks.pictures import Preparation

    array = picture(3, 61, 47)
    for code in (2, 3):
        settings = {"size": 20, "resample": code, "do_rescale": False, "do_normalize": False}
        ours = Preparation(settings, ()).prepare(array, model.source.directory)
        theirs = np.asarray(image_module.fromarray(array).resize((20, 20), code))
        assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() <= 1


def test_pictures_in_files(model, data) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    before = score_tasks(model, tasks_of(data))[0]
    for file in (data / "images").rglob("*.npy"):
        image_module.fromarray(np.load(file)).save(file.with_suffix(".png"))
        file.unlink()
    assert score_tasks(model, tasks_of(data))[0].items == before.items


def test_a_model_without_a_recipe_says_so(tmp_path, data) -> None:
    place = tiny.save(classifier, tmp_path / "m", tokenizer=False)
    model = load_model(find_model(str(place)), tokenizer=False, classifier=True)
    (score,) = score_tasks(model, tasks_of(data))
    assert score.notes == ("no preprocessor_config.json: resized to 32, from -1 to 1",)


def test_images_that_cannot_be_used(model, data, tmp_path_factory) -> None:
    with pytest.raises(DataError, match="no set on the hub"):
        load_tasks(TaskOptions(("images",)))
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="has no images"):
        tasks_of(empty)
    folder = data / "images" / "dog"
    np.save(folder / "a.npy", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match=r"a\.npy is uint8 of shape \(4, 4\)"):
        score_tasks(model, tasks_of(data))
    (folder / "a.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cannot read the image .*a\.npy"):
        score_tasks(model, tasks_of(data))
    (folder / "a.npy").unlink()
    np.save(folder / "a.npy", np.zeros((3, 4, 4), dtype=np.float32))
    with pytest.raises(DataError, match="images differ in shape"):
        score_tasks(model, tasks_of(data))
    (folder / "a.npy").unlink()
    folder.rename(folder.with_name("horse"))
    with pytest.raises(DataError, match=r"the folder 'horse' is no class of .*\(tabby cat, tabby,"):
        score_tasks(model, tasks_of(data))
