"""Lesson one as a notebook writes it, start to end, on small images: what is printed, returned, drawn and written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dogs_v_cats.py"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> str:
    """Two classes, 20 + 8 images each, JPEG and PNG; the path ends in a slash."""
    root = tmp_path_factory.mktemp("lesson")
    for name, numbers in (("train", range(20)), ("valid", range(20, 28))):
        for label, shape, suffix in (("cats", "cross", "jpg"), ("dogs", "disc", "png")):
            folder = root / name / label
            folder.mkdir(parents=True)
            for number in numbers:
                draw(shape, number=number, size=(72, 96)).save(folder / f"{number}.{suffix}")
    return f"{root}/"


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    torch.manual_seed(0)
    yield
    plt.close("all")


def names() -> dict[str, Any]:
    """Return what a notebook has after its import lines, with ``fastai`` replaced by ``vizsla.classic``."""
    found: dict[str, Any] = {}
    for module in ("imports", "transforms", "conv_learner", "model", "dataset", "sgdr", "plots"):
        exec(f"from vizsla.classic.{module} import *", found)  # noqa: S102
    exec("import vizsla.classic.set_spawn", found)  # noqa: S102
    return found


def make_learner(lesson: str, *, bs: int, **options: Any) -> Any:
    """Return a learner of the lesson's images, 64 x 64."""
    ns = names()
    arch = ns["efficientnet_lite0"]
    tfms = ns["tfms_from_model"](arch, 64)
    data = ns["ImageClassifierData"].from_paths(lesson, bs=bs, tfms=tfms)
    return ns["ConvLearner"].pretrained(arch, data, **options)


def table(text: str) -> list[list[str]]:
    header, *rows = [line.split() for line in text.splitlines()]
    assert header == ["epoch", "trn_loss", "val_loss", "accuracy"]
    assert [row[0] for row in rows] == [str(number) for number in range(len(rows))]
    return rows


def test_the_lesson_runs_as_written(lesson: str, capsys: pytest.CaptureFixture[str]):
    ns = names()
    arch, sz = ns["efficientnet_lite0"], 64
    data = ns["ImageClassifierData"].from_paths(
        lesson,
        bs=8,
        tfms=ns["tfms_from_model"](arch, sz, aug_tfms=ns["transforms_side_on"], max_zoom=1.1),
    )
    learn = ns["ConvLearner"].pretrained(arch, data, precompute=True)
    quick = learn.fit(0.01, 2)
    assert len(table(capsys.readouterr().out)) == 2
    assert quick[1] >= 0.9

    log_preds = learn.predict()
    assert (log_preds.shape, log_preds.dtype) == ((16, 2), np.float32)
    assert np.exp(log_preds).sum(axis=1) == pytest.approx(np.ones(16), abs=1e-4)
    assert ns["accuracy_np"](log_preds, data.val_y) == quick[1]

    assert learn.lr_find() is None
    learn.sched.plot_lr()
    learn.sched.plot()
    capsys.readouterr()

    learn.precompute = False
    learn.fit(1e-2, 2, cycle_len=1)
    assert len(table(capsys.readouterr().out)) == 2
    assert len(learn.sched.lrs) == 2 * len(data.trn_dl)
    assert not any(
        parameter.requires_grad for layer in learn.models.body for parameter in layer.parameters()
    )
    learn.save("lastlayer")
    learn.load("lastlayer")
    assert capsys.readouterr().out == ""

    learn.unfreeze()
    learn.fit(np.array([1e-4, 1e-3, 1e-2]), 2, cycle_len=1, cycle_mult=2)
    assert len(table(capsys.readouterr().out)) == 3
    restarts = [step for step in range(1, len(learn.sched.lrs)) if learn.sched.lrs[step] == 1e-2]
    assert restarts == [len(data.trn_dl)]

    log_preds, y = learn.TTA()
    assert log_preds.shape == (5, 16, 2)
    assert y.tolist() == data.val_y.tolist()
    probs = np.mean(np.exp(log_preds), 0)
    ns["plot_confusion_matrix"](ns["confusion_matrix"](y, np.argmax(probs, axis=1)), data.classes)
    assert capsys.readouterr().out.startswith("[[")


def test_a_frozen_body_stays_bit_for_bit_the_same(lesson: str):
    learn = make_learner(lesson, bs=8)
    body = learn.models.top_model
    before = {name: value.clone() for name, value in body.state_dict().items()}
    head = learn.models.fc_model[2].weight.clone()
    learn.fit(1e-2, 1)
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    assert not torch.equal(learn.models.fc_model[2].weight, head)


def test_frozen_norms_keep_their_statistics_while_their_weights_train(lesson: str):
    learn = make_learner(lesson, bs=20)
    norm = learn.models.body[1]
    learn.unfreeze()
    learn.bn_freeze(do_freeze=True)
    mean, weight = norm.running_mean.clone(), norm.weight.clone()
    learn.fit(1e-2, 1)
    assert torch.equal(norm.running_mean, mean)
    assert not torch.equal(norm.weight, weight)
    learn.bn_freeze(do_freeze=False)
    learn.fit(1e-2, 1)
    assert not torch.equal(norm.running_mean, mean)


def test_callbacks_are_told_and_may_end_the_fit(lesson: str, capsys: pytest.CaptureFixture[str]):
    told: list[str] = []
    base: Any = names()["Callback"]

    class Watch(base):
        ends_at = ""

        def on_train_begin(self) -> None:
            told.append("begin")

        def on_batch_end(self, metrics: float) -> bool:
            told.append("batch")
            return self.ends_at == "batch"

        def on_epoch_end(self, metrics: list[float]) -> bool:
            told.append("epoch")
            return self.ends_at == "epoch"

        def on_train_end(self) -> None:
            told.append("end")

    learn = make_learner(lesson, bs=20, precompute=True)
    watch = Watch()
    assert len(learn.fit(1e-2, 2, callbacks=[watch])) == 2
    assert told == ["begin", "batch", "batch", "epoch", "batch", "batch", "epoch", "end"]
    told.clear()
    watch.ends_at = "epoch"
    values, by_epoch = learn.fit(1e-2, 2, callbacks=[watch], get_ep_vals=True)
    assert told == ["begin", "batch", "batch", "epoch", "end"]
    assert by_epoch[0][1:] == pytest.approx(values, abs=1e-6)
    told.clear()
    capsys.readouterr()
    watch.ends_at = "batch"
    assert learn.fit(1e-2, 2, callbacks=[watch]) is None
    assert told == ["begin", "batch"]
    assert capsys.readouterr().out == ""
    assert learn.fit(1e-2, 0) is None


def test_several_labels_per_image_train_with_probabilities(lesson: str):
    ns = names()
    arch = ns["efficientnet_lite0"]
    files = [f"train/cats/{number}.jpg" for number in range(20)]
    hot = np.eye(3, dtype=np.float32)[np.arange(20) % 3]
    data = ns["ImageClassifierData"].from_names_and_array(
        lesson, files, hot, ["a", "b", "c"], bs=8, tfms=ns["tfms_from_model"](arch, 64)
    )
    learn = ns["ConvLearner"].pretrained(arch, data, precompute=True, opt_fn=ns["optim"].Adam)
    loss, share = learn.fit(1e-3, 1)
    assert 0 < loss < 5
    assert 0 <= share <= 1
    preds = learn.predict()
    assert ((preds >= 0) & (preds <= 1)).all()


@pytest.mark.slow
def test_the_example_reports_an_interval(lesson: str, tmp_path: Path, python: Callable[..., str]):
    words = (EXAMPLE, lesson, "--size", 48, "--bs", 20, "--figures", tmp_path)
    printed = python(*words, env={"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"})
    assert len(re.findall(r"% of 16 images right \(95% interval", printed)) == 3
    assert len(list(tmp_path.glob("*.png"))) == 4
