"""``vizsla train --from``: more images, new classes, the classes and images of before, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from vizsla import ConfigError, DataError, Resize, TrainConfig, load_learner, train_classifier
from vizsla.data.table import resolve_data
from vizsla.model_file import load_bundle, save_bundle
from vizsla.models import build_backbone
from vizsla.run import RunFolder
from vizsla.train import Display

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Done

QUIET = Display(quiet=True)
OPTIONS = ("--epochs", 0, "--bs", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, draw_folder: Any) -> Path:
    """A folder with ``old``, 12 images of each of two classes."""
    place = tmp_path_factory.mktemp("going on")
    draw_folder(place / "old")
    return place


@pytest.fixture(scope="module")
def before(place: Path, vizsla: Callable[..., Done]) -> Path:
    """The folder of a run on ``old`` whose images are squished to 48 pixels."""
    weights = place / "weights.safetensors"
    save_file(build_backbone("test_resnet", pretrained=False, seed=0).network.state_dict(), weights)
    words = (
        "--arch",
        "test_resnet",
        "--weights",
        weights,
        "--size",
        48,
        "--resize-method",
        "squish",
    )
    done = vizsla("train", place / "old", *words, *OPTIONS, "--out", place / "before")
    assert (done.code, done.err) == (0, "")
    return place / "before"


@pytest.fixture(scope="module")
def after(place: Path, before: Path, vizsla: Callable[..., Done], draw: Any) -> tuple[Path, str]:
    """The folder of a run that went on with a third class and more images of the first, and what it printed."""
    data = shutil.copytree(place / "old", place / "more", copy_function=_link)
    (data / "star").mkdir()
    for number in range(10):
        draw("tars", number=100 + number).save(data / "star" / f"star_{number}.png")
        draw("cross", number=50 + number).save(data / "cross" / f"new_{number}.png")
    done = vizsla("train", data, "--from", before, *OPTIONS, "--seed", 3, "--out", place / "after")
    assert (done.code, done.err) == (0, "")
    return place / "after", done.out


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(source)


def test_network_and_preparation_come_from_the_model(before: Path, after: tuple[Path, str]):
    folder, said = after
    old, new = (load_bundle(run / "model.safetensors") for run in (before, folder))
    assert new.manifest.resize == old.manifest.resize == Resize(48, "squish")
    assert new.manifest.preprocessing == old.manifest.preprocessing
    config = RunFolder(folder).train_config()
    assert (config.size, config.resize_method, config.start_from) == (48, "squish", str(before))
    bodies = [each.classifier.backbone.state_dict() for each in (old, new)]
    assert all(torch.equal(value, bodies[1][name]) for name, value in bodies[0].items())
    assert new.manifest.vocab == ("cross", "disc", "star")
    for fact in ("kept: 2 classes: cross, disc", "new: 1 class: star", "48 x 48 pixels (squish)"):
        assert fact in said
    assert load_learner(folder / "model.safetensors").vocab == new.manifest.vocab


def test_images_that_the_model_was_trained_on_stay_in_training(
    before: Path, after: tuple[Path, str]
):
    sides = [RunFolder(run).sides() for run in (before, after[0])]
    assert {path: sides[1][path] for path in sides[0]} == sides[0]
    assert "valid" in {side for path, side in sides[1].items() if path not in sides[0]}


def test_the_earlier_model_is_judged_on_the_same_images(before: Path, after: tuple[Path, str]):
    folder, said = after
    found = json.loads((folder / "metrics.json").read_text("utf-8"))["earlier"]
    table = RunFolder(folder).table()
    known = [row for row in table.valid_rows.tolist() if table.label(row) != "star"]
    assert found["num_pictures"] == len(known) < len(table.valid_rows)
    assert found["model"] == str(before)
    learn = load_learner(before / "model.safetensors")
    right = sum(learn.predict(table.file(row)).label == table.label(row) for row in known)
    assert found["values"][0] == pytest.approx(right / len(known))
    assert f"of the same {len(known)} images" in said


def test_the_model_as_it_was_is_kept_where_the_new_images_are_few(
    before: Path, tmp_path: Path, draw: Any
):
    for label in ("cross", "disc"):
        (tmp_path / label).mkdir()
        for number in range(4):
            draw("disc" if number < 2 else label, number=number).save(
                tmp_path / label / f"{number}.png"
            )
    config = TrainConfig(start_from=str(before), epochs=0, batch_size=4, device="cpu")
    run = train_classifier(resolve_data(tmp_path, seed=0), config=config, display=QUIET)
    assert run.before is not None
    losses = [float(each.losses.mean()) for each in (run.before, run.predictions)]
    assert losses[1] <= losses[0] + 1e-6
    assert run.is_as_it_was == (losses[1] == pytest.approx(losses[0], abs=1e-6))


def test_what_cannot_be_gone_on_from_is_refused_with_the_way_out(
    place: Path,
    before: Path,
    tmp_path: Path,
    make_classifier: Any,
    draw: Any,
    vizsla: Callable[..., Done],
):
    file = before / "model.safetensors"
    wide = save_bundle(
        tmp_path / "wide.safetensors",
        classifier=make_classifier(("a", "b")),
        resize=Resize((32, 48)),
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "cross").mkdir()
    for number in range(4):
        draw("cross", number=number).save(tmp_path / "cross" / f"{number}.png")
        (tmp_path / "star").mkdir(exist_ok=True)
        draw("star", number=number).save(tmp_path / "star" / f"{number}.png")
    small = place / "old"
    for data, words, facts in (
        (tmp_path, ("--from", before), ("disc", "--weights", "CategoryBlock")),
        (small, ("--from", before, "--size", 96), ("size 96 instead of 48", "--weights")),
        (small, ("--from", file, "--arch", "resnet18"), ("resnet18", "test_resnet")),
        (small, ("--from", file, "--weights", file), ("--from", "weights")),
        (small, ("--weights", before), ("--from",)),
        (small, ("--from", wide), ("32 x 48", "vision_learner")),
        (small, ("--from", tmp_path / "empty"), ("--resume",)),
        (small, ("--from", tmp_path / "none.safetensors"), ("none.safetensors",)),
        (small, ("--resume",), ("--from",)),
    ):
        out = before if words == ("--resume",) else tmp_path / "out"
        done = vizsla("train", data, *words, *OPTIONS, "--out", out)
        assert done.code == 2, words
        assert all(fact in done.err for fact in facts), done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_alone_does_not_say_what_it_was_trained_on(
    before: Path, place: Path, tmp_path: Path, vizsla: Callable[..., Done], draw_folder: Any
):
    file = shutil.copy(before / "model.safetensors", tmp_path / "model.safetensors")
    done = vizsla("train", place / "old", "--from", file, *OPTIONS, "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert "unknown which images" in done.out
    split = draw_folder(tmp_path / "data" / "train", per_class=4).parent
    shutil.copytree(place / "old", split / "valid", copy_function=_link)
    done = vizsla("train", split, "--from", before, *OPTIONS, "--out", tmp_path / "split")
    assert (done.code, done.err) == (0, "")
    number = sum(side == "train" for side in RunFolder(before).sides().values())
    assert f"trained on {number} of the 24 validation images" in done.out


@pytest.mark.parametrize("task", ["multi_category", "regression"])
def test_labels_and_numbers_go_on_too(place: Path, before: Path, tmp_path: Path, task: Any):
    table = resolve_data(place / "old", seed=0)
    is_disc = table.targets.float()[:, None]
    names, other = (
        (("disc", "even"), "late") if task == "multi_category" else (("width", "area"), "depth")
    )
    numbers = torch.arange(len(is_disc)).float()[:, None]
    targets = torch.cat([is_disc, numbers % 2, numbers % 3 // 2], dim=1)
    config = TrainConfig(
        arch="test_resnet",
        weights=str(place / "weights.safetensors"),
        size=32,
        epochs=0,
        device="cpu",
    )
    old = replace(table, task=task, vocab=names, targets=targets[:, :2].contiguous())
    run = train_classifier(old, config=config, display=QUIET)
    file = save_bundle(tmp_path / "model.safetensors", classifier=run.classifier, resize=run.resize)
    config = TrainConfig(start_from=str(file), epochs=0, device="cpu")
    again = train_classifier(old, config=config, display=QUIET)
    assert again.before is not None
    assert torch.allclose(again.before.logits, run.predictions.logits, atol=1e-5)
    new = replace(old, vocab=(*names, other), targets=targets)
    if task == "regression":
        with pytest.raises(ConfigError, match="depth"):
            train_classifier(new, config=config, display=QUIET)
        return
    more = train_classifier(new, config=config, display=QUIET)
    known = [row for row in new.valid_rows.tolist() if not targets[row, 2]]
    assert more.before is not None
    assert more.before.rows.tolist() == known
    assert more.classifier.vocab == (*names, other)
    with pytest.raises(ConfigError, match="multi_category"):
        train_classifier(table, config=config, display=QUIET)
    with pytest.raises(DataError, match="even"):
        train_classifier(
            replace(old, targets=old.targets * torch.tensor([1.0, 0.0])),
            config=config,
            display=QUIET,
        )
