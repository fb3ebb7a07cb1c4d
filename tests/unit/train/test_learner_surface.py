"""What a notebook calls on a learner, besides training it; and learners for several labels and for numbers."""

from __future__ import annotations

import inspect
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.augment.presets import aug_transforms
from vizsla.data.images.sizing import Resize
from vizsla.data.table.block import DataBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.sources import get_image_files
from vizsla.data.table.splits import IndexSplitter
from vizsla.errors import ConfigError, PictureError
from vizsla.predict.predictor import Predictor
from vizsla.train.display import Display
from vizsla.train.learner import Learner
from vizsla.train.losses import BCEWithLogitsLossFlat, MSELossFlat
from vizsla.train.metrics import accuracy, accuracy_multi, error_rate
from vizsla.train.vision_learner import vision_learner

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def learner(make_learner: Any, make_loaders: Any) -> Learner:
    """A learner with ten pictures to validate on, in batches of four, that was trained a little."""
    learner = make_learner(make_loaders(num_valid=10), metrics=[accuracy, error_rate])
    learner.fit(1, 1e-2)
    return learner


def noop(values: Tensor) -> Tensor:
    return values


# --- get_preds -------------------------------------------------------------------------------------------------------


def test_predictions_of_the_validation_pictures_come_in_their_order(learner: Any):
    probabilities, targets = learner.get_preds()
    assert (probabilities.shape, probabilities.dtype) == ((10, 2), torch.float32)
    assert type(probabilities) is type(targets) is Tensor
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(10))
    assert torch.equal(targets, learner.dls.table.targets[learner.dls.table.valid_rows])
    predictions = learner.predictions()
    assert torch.equal(predictions.probabilities, probabilities)


def test_predictions_of_the_training_pictures_are_not_augmented(
    make_learner: Any, make_loaders: Any
):
    learner = make_learner(make_loaders(transforms=aug_transforms(size=32)))
    first, targets = learner.get_preds(ds_idx=0)
    again, _ = learner.get_preds(0)
    assert torch.equal(first, again)
    assert len(first) == 20  # the batch that training leaves out is there
    assert torch.equal(targets, learner.dls.table.targets[learner.dls.table.train_rows])


def test_one_batch_gives_the_first_predictions(learner: Any):
    """Pictures are normalised once wherever a batch comes from."""
    images, targets = learner.dls.valid.one_batch()
    found, known = learner.get_preds(dl=[(images, targets)])
    expected, all_targets = learner.get_preds()
    assert len(found) == learner.dls.valid.bs == 4
    torch.testing.assert_close(found, expected[:4], atol=1e-6, rtol=0)
    assert torch.equal(known, all_targets[:4])
    assert learner.get_preds(dl=[learner.dls.valid.one_batch()])[0].shape == (4, 2)


def test_a_loader_without_labels_gives_no_targets(learner: Any):
    rows = learner.dls.table.valid_rows.flip(0).tolist()
    loader = learner.dls.test_dl([learner.dls.table.paths[row] for row in rows])
    probabilities, targets = learner.get_preds(dl=loader)
    assert targets is None
    expected = learner.get_preds()[0]
    torch.testing.assert_close(probabilities, expected.flip(0), atol=1e-6, rtol=0)


def test_inputs_come_first_then_decoded_and_losses(learner: Any):
    images, probabilities, targets, decoded, losses = learner.get_preds(
        with_input=True, with_decoded=True, with_loss=True
    )
    assert images.shape == (10, 3, 32, 32)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(decoded, probabilities.argmax(dim=1))
    logits = learner.get_preds(act=noop)[0]
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    torch.testing.assert_close(logits.softmax(dim=1), probabilities)
    torch.testing.assert_close(images[:4], learner.dls.valid.one_batch()[0])


def test_losses_without_labels_are_refused(learner: Any):
    loader = learner.dls.test_dl([learner.dls.table.paths[0]])
    with pytest.raises(ConfigError, match="have no labels, so they have no loss"):
        learner.get_preds(dl=loader, with_loss=True)


@pytest.mark.parametrize("split", [2, -1, None])
@pytest.mark.parametrize("method", ["get_preds", "validate", "tta", "show_results"])
def test_a_split_that_does_not_exist_is_refused_everywhere(learner: Any, method: str, split: Any):
    with pytest.raises(ConfigError, match=f"Received: {split}"):
        getattr(learner, method)(split)


# --- validate --------------------------------------------------------------------------------------------------------


def test_validate_gives_loss_and_metrics_of_the_whole_set(learner: Any):
    found = learner.validate()
    probabilities, targets = learner.get_preds()
    right = float((probabilities.argmax(dim=1) == targets).float().mean())
    expected = [float(F.nll_loss(probabilities.log(), targets)), right, 1 - right]
    assert found == pytest.approx(expected, abs=1e-5)
    assert learner.recorder.values[-1][1:] == found


def test_validate_takes_another_loader(learner: Any):
    loader = learner.dls.loader_for(learner.dls.table.valid_rows)
    assert learner.validate(dl=loader) == pytest.approx(learner.validate(), abs=1e-6)
    unlabelled = learner.dls.test_dl([learner.dls.table.paths[0]])
    with pytest.raises(ConfigError, match="with_labels=True"):
        learner.validate(dl=unlabelled)


# --- predict and tta -------------------------------------------------------------------------------------------------


def test_predict_with_input_begins_with_what_the_network_saw(learner: Any):
    row = int(learner.dls.table.valid_rows[0])
    path = learner.dls.table.paths[row]
    picture, label, index, probabilities = learner.predict(path, with_input=True)
    torch.testing.assert_close(picture, learner.dls.valid.one_batch()[0][0])
    plain = learner.predict(path)
    assert (label, index) == tuple(plain)[:2]
    assert torch.equal(probabilities, tuple(plain)[2])


def test_predict_refuses_what_is_no_picture(learner: Any, tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(PictureError):
        learner.predict(tmp_path / "notes.jpg")


@pytest.fixture
def augmenting(make_learner: Any, make_loaders: Any) -> Learner:
    return make_learner(make_loaders(num_valid=6, transforms=aug_transforms(size=32)))


def test_tta_weighs_views_and_plain_pictures(augmenting: Any):
    ((views, plain), targets) = augmenting.tta(beta=None)
    mixed, again = augmenting.tta()
    expected, known = augmenting.get_preds()
    torch.testing.assert_close(plain, expected)
    assert torch.equal(targets, known)
    assert torch.equal(again, known)
    torch.testing.assert_close(mixed, 0.75 * views + 0.25 * plain)
    assert not torch.allclose(views, plain, atol=1e-4)
    highest, _ = augmenting.tta(use_max=True)
    assert bool((highest >= plain - 1e-6).all())
    assert float(highest.sum(dim=1).max()) > 1


def test_views_differ_and_are_the_same_next_time(augmenting: Any):
    ((one, _), _), ((two, _), _) = augmenting.tta(n=1, beta=None), augmenting.tta(n=2, beta=None)
    ((again, _), _) = augmenting.tta(n=1, beta=None)
    assert torch.equal(one, again)
    assert not torch.allclose(one, two, atol=1e-6)


def test_tta_of_other_pictures_and_of_the_training_pictures(augmenting: Any):
    table = augmenting.dls.table
    rows = table.valid_rows.flip(0)
    loader = augmenting.dls.test_dl([table.paths[row] for row in rows.tolist()])
    found, targets = augmenting.tta(dl=loader)
    assert targets is None
    assert found.shape == (6, 2)
    on_training, known = augmenting.tta(0)
    assert on_training.shape == (18, 2)
    assert torch.equal(known, table.targets[table.train_rows])


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_views_that_cannot_be_made_are_refused(augmenting: Any, n: Any):
    with pytest.raises(ConfigError, match=f"at least 1. Received: {n}"):
        augmenting.tta(n=n)


# --- pictures, bars, signatures --------------------------------------------------------------------------------------


def test_results_are_shown_with_label_and_prediction(learner: Any):
    from matplotlib import pyplot as plt

    learner.show_results(max_n=4, shuffle=False)
    titles = [axes.get_title() for axes in plt.gcf().axes if axes.get_images()]
    vocab = learner.dls.vocab
    _, targets, decoded = learner.get_preds(with_decoded=True)
    pairs = zip(targets[:4].tolist(), decoded[:4].tolist(), strict=True)
    assert titles == [f"{vocab[target]}\n{vocab[guess]}" for target, guess in pairs]
    colours = [axes.title.get_color() for axes in plt.gcf().axes if axes.get_images()]
    agree = (targets[:4] == decoded[:4]).tolist()
    assert colours == ["green" if right else "red" for right in agree]
    plt.close("all")


def test_without_bars_the_table_stays(make_learner: Any):
    text = io.StringIO()
    learner = make_learner(quiet=False)
    learner.display = Display(console=Console(file=text, force_terminal=True, width=100))
    with learner.no_bar() as same:
        assert same is learner
        learner.fit(1)
    assert "\x1b[" not in text.getvalue()
    assert "train_loss" in text.getvalue()
    assert learner.display.bars
    learner.fit(1)
    assert "epoch 1/1" in text.getvalue()


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("fit", ["n_epoch", "lr", "wd", "cbs", "reset_opt", "start_epoch"]),
        ("fit_one_cycle", ["n_epoch", "lr_max", "div", "div_final", "pct_start", "wd", "moms", "cbs", "reset_opt", "start_epoch"]),
        ("fit_flat_cos", ["n_epoch", "lr", "div_final", "pct_start", "wd", "cbs", "reset_opt", "start_epoch"]),
        ("fit_sgdr", ["n_cycles", "cycle_len", "lr_max", "cycle_mult", "cbs", "reset_opt", "wd", "start_epoch"]),
        ("get_preds", ["ds_idx", "dl", "with_input", "with_decoded", "with_loss", "act"]),
        ("validate", ["ds_idx", "dl"]),
        ("tta", ["ds_idx", "dl", "n", "beta", "use_max"]),
        ("lr_find", ["start_lr", "end_lr", "num_it", "stop_div", "show_plot", "suggest_funcs"]),
        ("save", ["file", "with_opt"]),
        ("load", ["file", "device", "with_opt", "strict"]),
    ],
)  # fmt: skip
def test_arguments_are_written_out_in_their_order(method: str, names: list[str]):
    assert list(inspect.signature(getattr(Learner, method)).parameters)[1:] == names


def test_fine_tune_refuses_lr_max_with_a_hint(make_learner: Any):
    with pytest.raises(ConfigError, match=r"Give base_lr"):
        make_learner().fine_tune(1, lr_max=1e-3)


def test_pictures_of_other_channels_are_refused(make_loaders: Any):
    with pytest.raises(ConfigError, match="n_in is 3"):
        vision_learner(make_loaders(), "test_resnet", pretrained=False, n_in=1, quiet=True)


# --- several labels, numbers -----------------------------------------------------------------------------------------

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 60, 220)}
NAMES = ("blue", "green", "red")


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """32 pictures with stripes of any of three colours, which their names tell, and how bright they are."""
    random = np.random.default_rng(0)
    for number in range(32):
        present = [name for place, name in enumerate(NAMES) if (number >> place) & 1]
        pixels = random.integers(90, 110, (24, 24, 3), dtype=np.uint8)
        for name in present:
            top = 8 * NAMES.index(name)
            pixels[top : top + 8] = COLOURS[name]
        brightness = int(random.integers(0, 60))
        pixels = (pixels.astype(int) + brightness).clip(0, 255).astype(np.uint8)
        name = f"{number}_{'+'.join(present) or 'none'}_{brightness}.png"
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def colours_of(path: Path) -> list[str]:
    return [name for name in path.stem.split("_")[1].split("+") if name != "none"]


def brightness_of(path: Path) -> float:
    return int(path.stem.split("_")[2]) / 60


def trained(
    stripes: Path, block: Any, get_y: Any, metrics: Any, *, epochs: int = 6, **options: Any
) -> Any:
    data = DataBlock(
        blocks=(ImageBlock, block),
        get_items=get_image_files,
        get_y=get_y,
        splitter=IndexSplitter(list(range(24, 32))),
        item_tfms=Resize(24),
    )
    loaders = data.dataloaders(stripes, bs=8, seed=0, num_workers=0, device="cpu")
    learner = vision_learner(
        loaders, "test_resnet", pretrained=False, metrics=metrics, quiet=True, ps=0.0, **options
    )
    learner.fit_one_cycle(epochs, 1e-2)
    return learner


def test_several_labels_are_learned_from_end_to_end(stripes: Path, tmp_path: Path):
    # After 6 epochs 0.67 to 0.92 of the labels are right, after 20 all of them: six seeds.
    learner = trained(stripes, MultiCategoryBlock, colours_of, accuracy_multi, epochs=20)
    assert isinstance(learner.loss_func, BCEWithLogitsLossFlat)
    assert learner.dls.vocab == NAMES
    table = learner.dls.table
    probabilities, targets, decoded, losses = learner.get_preds(with_decoded=True, with_loss=True)
    assert torch.equal(targets, table.targets[table.valid_rows])
    assert torch.equal(decoded, probabilities > 0.5)
    expected = F.binary_cross_entropy(probabilities, targets, reduction="none").mean(dim=1)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-4)
    loss, right = learner.validate()
    assert loss == pytest.approx(float(losses.mean()), abs=1e-5)
    assert learner.recorder.values[-1][0] < learner.recorder.losses[0]
    assert right > 0.8
    path = table.paths[int(table.valid_rows[0])]
    prediction = learner.predict(path)
    torch.testing.assert_close(tuple(prediction)[2], probabilities[0], atol=1e-5, rtol=1e-5)
    views, _ = learner.tta(n=1)
    assert views.shape == probabilities.shape
    opened = Predictor.load(learner.export(stripes / "model.safetensors"), device="cpu")
    torch.testing.assert_close(
        opened.predict(path).probabilities, probabilities[0], atol=1e-5, rtol=1e-5
    )
    assert learner.recorder.history[-1].accuracy is None  # not of one class each


def test_numbers_are_learned_from_end_to_end(stripes: Path):
    # Without bounds and with a hidden layer, the losses of 24 images jump by factors of ten for so long that the rounding of the
    # processor decides where they end, in a plain loop of torch too.
    learner = trained(
        stripes, RegressionBlock, brightness_of, None, epochs=20, y_range=(-0.1, 1.1), lin_ftrs=[]
    )
    assert isinstance(learner.loss_func, MSELossFlat)
    table = learner.dls.table
    values, targets, decoded, losses = learner.get_preds(with_decoded=True, with_loss=True)
    # One number for all would be wrong by the variance. Five seeds and three instruction sets left 0.04 to 0.10 of it.
    assert learner.recorder.values[-1][1] < 0.4 * float(targets.var(unbiased=False))
    assert values.shape == targets.shape == (8, 1)
    assert torch.equal(decoded, values)  # the outputs themselves
    torch.testing.assert_close(losses, (values - targets).square().mean(dim=1))
    assert learner.validate() == [pytest.approx(float(losses.mean()), abs=1e-6)]
    path = table.paths[int(table.valid_rows[0])]
    assert learner.predict(path).values == pytest.approx(values[0].tolist(), abs=1e-5)
    learner.save("numbers")
    learner.load("numbers")
    opened = Predictor.load(learner.export(stripes / "model.safetensors"), device="cpu")
    assert opened.predict(path).values == pytest.approx(values[0].tolist(), abs=1e-5)


def test_results_of_several_labels_and_of_numbers_can_be_shown(stripes: Path):
    from matplotlib import pyplot as plt

    for block, get_y in ((MultiCategoryBlock, colours_of), (RegressionBlock, brightness_of)):
        trained(stripes, block, get_y, None).show_results(max_n=2)
        assert len([axes for axes in plt.gcf().axes if axes.get_images()]) == 2
        plt.close("all")


def test_a_loss_of_ones_own_decides_what_outputs_mean(make_learner: Any):
    learner = make_learner(loss_func=nn.MSELoss())
    raw = learner.get_preds(act=noop)[0]
    assert torch.equal(learner.get_preds()[0], raw)
    assert not math.isclose(float(raw.sum()), len(raw))
