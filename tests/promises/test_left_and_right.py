"""A classifier of things that differ by left and right, or by colour alone: what training does by itself must not erase that."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vizsla import ConfigError, ImageDataLoaders, Predictor, Resize, aug_transforms, vision_learner
from vizsla.model_file import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done

LINE = "Classes differ by left and right"


def draw_arrow(way: str, *, number: int) -> Image.Image:
    random = np.random.default_rng([number, len(way)])
    image = Image.fromarray(random.integers(90, 166, (64, 64, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    x, y = random.integers(20, 44, 2).tolist()
    sign = 1 if way == "right" else -1
    draw.line((x - 16, y, x + 16, y), fill=(200, 40, 40), width=4)
    tip = x + 18 * sign
    draw.polygon([(tip, y), (tip - 12 * sign, y - 10), (tip - 12 * sign, y + 10)], fill=(200, 40, 40))  # fmt: skip
    return image


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrows")
    for way in ("left", "right"):
        (folder / way).mkdir()
        for number in range(40):
            draw_arrow(way, number=number).save(folder / way / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def train(
    arrows: Path, tmp_path_factory: pytest.TempPathFactory, vizsla: Callable[..., Done]
) -> Callable[..., tuple[Path, str]]:
    """Return a function that trains on the arrows with some options; it returns the run folder and what was printed."""

    def run(*options: str) -> tuple[Path, str]:
        out = tmp_path_factory.mktemp("run") / "run"
        done = vizsla("train", arrows, "--size", 64, "--epochs", 0, "--out", out, *options)
        assert done.code == 0, done.err
        return out, done.out

    return run


def test_arrows_reach_by_themselves_what_they_reach_without_mirror_images(
    train: Callable[..., tuple[Path, str]], arrows: Path, vizsla: Callable[..., Done]
):
    (noticed, said), (told, said_nothing) = train(), train("--no-flip", "--augment", "light")
    assert (LINE in said, LINE in said_nothing) == (True, False)
    predictions = (noticed / "predictions.csv").read_bytes()
    assert predictions == (told / "predictions.csv").read_bytes()
    metrics = json.loads((noticed / "metrics.json").read_text())
    assert metrics["metrics"]["accuracy"]["value"] > 0.8
    assert metrics["facts"]["Augmentation"] == "not mirrored"
    assert LINE in metrics["facts"]["Recipe"]
    choices = tomllib.loads((told / "config.toml").read_text())
    assert (choices["flip"], choices["augment"], choices["colour"]) == (False, "light", True)
    # The model knows it, and takes no mirror image at test time.
    image = arrows / "left" / "0.png"
    predictor = Predictor.load(noticed / "model.safetensors", device="cpu")
    assert not predictor.flip
    assert predictor.predict(image, views=6).label == "left"
    with pytest.raises(ConfigError, match="1 to 6"):
        predictor.predict(image, views=7)
    assert vizsla("predict", noticed, image, "--tta", 7).code == 2


def test_classes_that_differ_by_colour_alone_survive_the_default_augmentation(
    tmp_path: Path, vizsla: Callable[..., Done]
):
    for name, colour in (("red", (170, 60, 60)), ("grey", (100, 100, 100))):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng([number, *colour]).integers(-30, 31, (32, 32, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "colours" / name / f"{number}.png")
    words = ["--size", 32, "--epochs", 1, "--bs", 8, "--out", tmp_path / "run"]
    done = vizsla("train", tmp_path / "colours", *words)
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["metrics"]["accuracy"]["value"] == 1
    assert metrics["facts"]["Augmentation"] == "mirrored, strength: default"


def test_a_learner_without_flips_exports_a_model_without_mirror_images(
    arrows: Path, tmp_path: Path
):
    for transforms, flip in (
        (aug_transforms(size=32, do_flip=False), False),
        (aug_transforms(size=32), True),
        (None, True),
    ):
        options: Any = {"item_tfms": Resize(32), "batch_tfms": transforms, "device": "cpu"}
        dls = ImageDataLoaders.from_folder(arrows, valid_pct=0.5, seed=1, **options)
        learn = vision_learner(dls, "test_resnet", pretrained=False)
        assert read_manifest(learn.export(tmp_path / "model.safetensors")).flip == flip


def test_words_of_the_switches_are_read_and_wrong_ones_refused(
    arrows: Path, vizsla: Callable[..., Done]
):
    for words in (["--augment", "wild"], ["--flip=maybe"], ["--no-augment"], ["--colour=blue"]):
        done = vizsla("train", arrows, *words)
        assert (done.code, done.out) == (2, ""), words
        assert words[0].split("=")[0] in done.err
    said = vizsla("train", "--help").out
    for option in ("--augment", "--flip", "--no-flip", "--vertical-flip", "--colour", "--no-colour"):  # fmt: skip
        assert option in said
    assert "--no-force" not in said
