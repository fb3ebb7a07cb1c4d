"""Where lesson one's dialect differs from the original on purpose, V1 to V24: one promise each (docs/classic.md lists them)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from vizsla.classic import (
    Callback,
    ConvLearner,
    CropType,
    ImageClassifierData,
    accuracy,
    accuracy_thresh,
    early,
    get_cv_idxs,
    resnet34,
    tfms_from_model,
    transforms_side_on,
)
from vizsla.classic.training import FitPlan

SIZE = 24


def tiny_net(pretrained: bool) -> nn.Module:
    """One convolution: trains in no time."""
    del pretrained
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())


@pytest.fixture(autouse=True)
def _no_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    plt.close("all")


@pytest.fixture
def lesson(tmp_path: Path, draw: Callable[..., Image.Image]) -> str:
    """Two classes, 9 + 4 images each; the path ends in a slash."""
    torch.manual_seed(0)
    for name, numbers in (("train", range(9)), ("valid", range(9, 13))):
        for label, shape in (("cats", "cross"), ("dogs", "disc")):
            folder = tmp_path / "lesson" / name / label
            folder.mkdir(parents=True)
            for number in numbers:
                draw(shape, number=number, size=(28, 40)).save(folder / f"{label}.{number}.png")
    return f"{tmp_path}/lesson/"


def make_data(path: str, *, bs: int = 4, **options: Any) -> ImageClassifierData:
    tfms = tfms_from_model(resnet34, SIZE, aug_tfms=transforms_side_on, max_zoom=1.1)
    return ImageClassifierData.from_paths(path, bs=bs, tfms=tfms, num_workers=0, **options)


def make_learner(path: str, *, precompute: bool = False, **options: Any) -> ConvLearner:
    return ConvLearner.pretrained(
        tiny_net, make_data(path), precompute=precompute, pretrained=False, **options
    )


def weights(learner: ConvLearner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.models.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_v1_validation_labels_follow_the_training_classes(lesson: str):
    shutil.rmtree(f"{lesson}valid/cats")
    assert make_data(lesson).val_y.tolist() == [1] * 4
    Path(lesson, "valid", "birds").mkdir()
    with pytest.raises(ValueError, match="birds"):
        make_data(lesson)


def test_v2_files_are_sorted_and_what_is_no_image_is_left_out_with_a_warning(lesson: str):
    Path(lesson, "train", "cats", "Thumbs.db").write_bytes(b"x")
    with pytest.warns(UserWarning, match="1 files .* are not images"):
        data: Any = make_data(lesson)
    names = data.trn_ds.fnames
    assert names == sorted(names)
    assert len(names) == 18


def test_v3_an_empty_class_still_counts(lesson: str):
    Path(lesson, "train", "zebras").mkdir()
    data = make_data(lesson)
    assert (data.c, data.classes) == (3, ["cats", "dogs", "zebras"])


def test_v4_choosing_a_validation_set_leaves_the_global_random_state_alone():
    before: Any = np.random.get_state()  # noqa: NPY002 (the state that is meant)
    assert get_cv_idxs(10).tolist() == [8, 1]
    after: Any = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(after[1], before[1])


def test_v5_every_loader_has_its_dataset_and_a_missing_test_set_is_none(lesson: str):
    data = make_data(lesson)
    assert (data.test_ds, data.test_dl, data.test_aug_dl) == (None, None, None)
    assert (len(data.fix_ds), len(data.aug_ds)) == (18, 8)


def test_v6_the_callers_lists_are_left_as_they_are():
    augmentations = list(transforms_side_on)
    scales: list[Any] = []
    for _ in range(2):
        tfms_from_model(resnet34, 8, augmentations, crop_type=CropType.GOOGLENET, scale=scales)
    assert augmentations == transforms_side_on
    assert scales == []


class TestV7TheCacheOfFeaturesIsNeverStale:
    def features(self, lesson: str) -> Any:
        learner = make_learner(lesson, precompute=True)
        assert learner.fc_data is not None
        dataset: Any = learner.fc_data.val_ds
        return dataset.x

    def test_it_is_used_again_where_nothing_changed(self, lesson: str):
        first = self.features(lesson)
        file = Path(lesson, "tmp", f"x_act_val_tiny_net_0_{SIZE}.npy")
        written = file.stat().st_mtime_ns
        assert np.array_equal(self.features(lesson), first)
        assert file.stat().st_mtime_ns == written

    @pytest.mark.parametrize("dates", ["new", "kept"])
    def test_images_with_swapped_contents_are_noticed(self, lesson: str, dates: str):
        first = self.features(lesson)
        one, other = (Path(lesson, "valid", "cats", f"cats.{number}.png") for number in (10, 11))
        facts = [(file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in (one, other)]
        one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
        one.write_bytes(other_bytes)
        other.write_bytes(one_bytes)
        if dates == "kept":
            os.utime(one, ns=facts[0])
            os.utime(other, ns=facts[1])
        second = self.features(lesson)
        assert np.array_equal(second[[1, 0]], first[:2])
        assert not np.array_equal(second, first)

    def test_a_touched_folder_is_not_computed_again(self, lesson: str):
        self.features(lesson)
        file = Path(lesson, "tmp", f"x_act_val_tiny_net_0_{SIZE}.npy")
        written = file.stat().st_mtime_ns
        for image in Path(lesson, "valid").rglob("*.png"):
            os.utime(image)
        self.features(lesson)
        assert file.stat().st_mtime_ns == written

    def test_other_weights_and_other_transforms_are_noticed(self, lesson: str):
        learner = make_learner(lesson, precompute=True)
        assert learner.fc_data is not None
        first: Any = learner.fc_data.val_ds
        with torch.no_grad():
            learner.models.body[0][0].weight.mul_(2)  # pyright: ignore[reportIndexIssue, reportCallIssue, reportAttributeAccessIssue]
        learner.set_data(make_data(lesson), precompute=True)
        assert learner.fc_data is not None
        second: Any = learner.fc_data.val_ds
        assert not np.array_equal(first.x, second.x)

    def test_a_deleted_folder_and_a_damaged_file_are_made_again(self, lesson: str):
        first = self.features(lesson)
        Path(lesson, "tmp", f"x_act_tiny_net_0_{SIZE}.npy").write_bytes(b"x")
        assert np.array_equal(self.features(lesson), first)
        shutil.rmtree(f"{lesson}tmp")
        assert np.array_equal(self.features(lesson), first)

    def test_the_folder_may_be_a_link(self, lesson: str, tmp_path: Path):
        (tmp_path / "elsewhere").mkdir()
        Path(lesson, "tmp").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        self.features(lesson)
        assert len(list((tmp_path / "elsewhere").glob("x_act*.npy"))) == 2


def test_v8_unfreezing_ends_precompute_and_trains_the_body(lesson: str):
    learner = make_learner(lesson, precompute=True)
    learner.unfreeze()
    assert learner.precompute is False
    assert all(parameter.requires_grad for parameter in learner.model.parameters())


def test_v9_rates_are_spread_over_the_groups_or_refused(lesson: str):
    learner = make_learner(lesson)
    assert learner.fit(np.array([0.01]), 1) is not None
    with pytest.raises(ValueError, match="2 learning rates were given and there are 3"):
        learner.fit([0.1, 0.2], 1)
    learner.precompute = True
    with pytest.warns(UserWarning, match="the last was taken"):
        learner.fit([1e-4, 1e-3, 1e-2], 1)
    assert learner.sched.lrs[-1] == 1e-2


def test_v10_a_last_batch_of_one_image_is_left_out_in_training(lesson: str):
    Path(lesson, "train", "cats", "cats.0.png").unlink()
    data = make_data(lesson)  # 17 images in batches of 4
    assert [len(y) for _, y in data.trn_dl] == [4, 4, 4, 4]
    assert sum(len(y) for _, y in data.fix_dl) == 17
    learner = ConvLearner.pretrained(tiny_net, data, pretrained=False)
    assert learner.fit(0.01, 1) is not None


def test_v11_fit_returns_plain_floats(lesson: str):
    found = make_learner(lesson, precompute=True).fit(0.01, 1)
    assert [type(value) for value in found] == [float, float]
    assert np.float32(found[0]) == pytest.approx(found[0], rel=1e-7)
    assert len(repr(found[0])) <= 13


def test_v12_cycles_are_saved_with_the_weights_of_their_end(lesson: str):
    learner = make_learner(lesson, precompute=True)
    learner.fit(0.01, 2, cycle_len=1, cycle_save_name="c")
    last = weights(learner)
    learner.load_cycle("c", 0)
    assert not same(weights(learner), last)
    learner.load_cycle("c", 1)
    assert same(weights(learner), last)


def test_v13_cycles_of_one_step_begin_at_the_full_rate():
    def factors(cycle_mult: int) -> tuple[float, ...]:
        plan = FitPlan(n_cycle=3, cycle_len=1, cycle_mult=cycle_mult, batches=1)
        return plan.schedule((1.0,)).factors

    assert factors(1) == (1.0, 1.0, 1.0)
    doubled = [1.0, 1.0, 0.5, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]
    assert factors(2) == pytest.approx(doubled, rel=1e-9)


@pytest.mark.parametrize("precompute", [True, False])
def test_v14_the_finder_puts_everything_back_whatever_happens(lesson: str, precompute: bool):
    class Interrupted(Callback):
        def on_batch_end(self, metrics: float) -> None:
            raise KeyboardInterrupt

    learner = make_learner(lesson, precompute=precompute)
    before, flags = weights(learner), [p.requires_grad for p in learner.model.parameters()]
    assert learner.lr_find() is None
    assert same(weights(learner), before)
    with pytest.raises(KeyboardInterrupt):
        learner.lr_find(callbacks=[Interrupted()])
    assert same(weights(learner), before)
    assert [p.requires_grad for p in learner.model.parameters()] == flags


def test_v15_a_short_search_is_drawn_whole(lesson: str):
    import matplotlib.pyplot as plt

    learner = make_learner(lesson, precompute=True)
    learner.lr_find()
    learner.sched.plot()
    assert len(plt.gca().lines[0].get_xdata()) == len(learner.sched.lrs) > 0  # pyright: ignore[reportArgumentType]


def test_v16_nothing_is_written_outside_of_tmp_and_models(lesson: str):
    import matplotlib as mpl

    backend = mpl.get_backend()
    learner = make_learner(lesson, precompute=True)
    learner.lr_find()
    for draw in (learner.sched.plot, learner.sched.plot_lr, learner.sched.plot_loss):
        draw()
    learner.fit(0.01, 1)
    learner.save("kept")
    assert list(Path.cwd().iterdir()) == []
    assert mpl.get_backend() == backend
    top, saved = (
        sorted(each.name for each in Path(lesson, below).iterdir()) for below in ("", "models")
    )
    assert top == ["models", "tmp", "train", "valid"]
    assert saved == ["kept.safetensors", "tmp.safetensors"]


def test_v17_saved_weights_are_whole_and_a_head_alone_can_be_loaded(lesson: str):
    learner = make_learner(lesson, precompute=True)
    learner.fit(0.01, 1)
    learner.save("whole")
    saved = weights(learner)
    learner.precompute = False
    learner.unfreeze()
    learner.fit(0.01, 1)
    learner.load("whole")
    assert same(weights(learner), saved)
    head = {name: value + 1 for name, value in learner.models.fc_model.state_dict().items()}
    save_file(head, f"{lesson}models/head.safetensors")
    with pytest.warns(UserWarning, match="holds a head only"):
        learner.load("head")
    assert torch.equal(learner.models.fc_model.state_dict()["0.bias"], head["0.bias"])
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        learner.load("nothing")


def test_v18_without_a_test_set_the_error_says_what_to_pass(lesson: str):
    learner = make_learner(lesson)
    for ask in (learner.predict, learner.predict_with_targs, learner.TTA):
        with pytest.raises(ValueError, match="no test set: pass test_name="):
            ask(is_test=True)


def test_v19_tta_looks_at_images_while_precompute(lesson: str):
    learner = make_learner(lesson, precompute=True)
    learner.fit(0.05, 2)
    log_preds, y = learner.TTA()
    assert log_preds.shape == (5, 8, 2)
    assert y.tolist() == learner.data.val_y.tolist()
    assert all(not np.array_equal(one, other) for one, other in pairwise(log_preds))
    assert log_preds[0] == pytest.approx(learner.predict(), abs=1e-4)


def test_v20_accuracy_takes_arrays_tensors_and_passes():
    scores, y = np.log([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 1])
    assert accuracy(scores, y) == 0.5
    assert type(accuracy(scores, y)) is float
    found = accuracy(torch.tensor(scores), torch.tensor(y))
    assert (found.item(), found.shape) == (0.5, ())
    passes = np.stack([scores, np.log([[0.9, 0.1], [0.1, 0.9]])])
    assert accuracy(passes, y) == 1.0


def test_v21_a_metric_with_a_threshold_has_a_name():
    assert accuracy_thresh(0.5).__name__ == "accuracy_thresh"  # pyright: ignore[reportFunctionMemberAccess]


def test_v22_a_summary_changes_nothing(lesson: str):
    learner = make_learner(lesson)
    learner.model.train()
    before = weights(learner)
    found = learner.summary()
    assert same(weights(learner), before)
    assert learner.model.training
    assert found["Conv2d-1"]["output_shape"] == [-1, 8, SIZE // 4, SIZE // 4]
    assert type(found["Conv2d-1"]["nb_params"]) is int


def test_v23_tta_returns_a_mean_in_the_early_dialect(lesson: str):
    data = make_data(lesson)
    learner = early.ConvLearner.pretrained(tiny_net, data, pretrained=False)
    log_preds, y = learner.TTA(n_aug=2)
    assert log_preds.shape == (8, 2)
    assert y.shape == (8,)
    stacked, _ = ConvLearner.TTA(learner, n_aug=2)
    assert stacked.shape == (3, 8, 2)
    assert set(early.__all__) == set(__import__("vizsla.classic").classic.__all__)


def test_v24_the_early_dialect_prints_the_table_and_returns_floats_too(
    lesson: str, capsys: pytest.CaptureFixture[str]
):
    learner = early.ConvLearner.pretrained(
        tiny_net, make_data(lesson), precompute=True, pretrained=False
    )
    found = learner.fit(0.01, 2)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "epoch      trn_loss   val_loss   accuracy   "
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert found == pytest.approx([float(cell) for cell in rows[-1].split()[2:]], abs=1e-6)
