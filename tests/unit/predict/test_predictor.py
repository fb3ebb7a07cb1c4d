"""Single images, streams and validation batches get the same answer, whatever form the image comes in."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import itertools
import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from vizsla import (
    CategoryBlock,
    ConfigError,
    DataBlock,
    DataLoaders,
    ImageBlock,
    ImageDataLoaders,
    ModelFileError,
    MultiCategoryBlock,
    OutOfMemoryError,
    PictureError,
    Prediction,
    Predictions,
    Predictor,
    RandomResizedCropGPU,
    RandomSplitter,
    RegressionBlock,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    load_learner,
    parent_label,
    vision_learner,
)
from vizsla.augment import BatchAugmentation
from vizsla.evaluate import calibrate
from vizsla.infer import predict_batches
from vizsla.model_file import load_bundle, save_bundle, storable
from vizsla.models import Classifier, ConcatPoolHead, FeatureHead, build_backbone
from vizsla.predict import MOST_VIEWS, AnyImage, describe, view_of
from vizsla.types import ImageTable, Task


@pytest.fixture
def predictor(saved: Path) -> Predictor:
    return Predictor.load(saved, device="cpu")


@pytest.fixture
def image() -> Image.Image:
    """A colourful RGB image, wider than high."""
    noise = np.random.default_rng(5).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).ellipse((10, 5, 60, 50), fill=(200, 30, 60))
    return image


@pytest.fixture
def photo(image: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    image.save(path)
    return path


def assert_same(one: Prediction | PictureError, other: Prediction | PictureError) -> None:
    assert isinstance(one, Prediction)
    assert isinstance(other, Prediction)
    assert one.label == other.label
    torch.testing.assert_close(one.probabilities, other.probabilities, atol=2e-6, rtol=0)


def test_a_prediction_is_consistent_in_itself(predictor: Predictor, photo: Path):
    found = predictor.predict(photo)
    assert found.probabilities.shape == (4,)
    assert not found.probabilities.is_inference()
    assert float(found.probabilities.sum()) == pytest.approx(1, abs=1e-6)
    assert found.index == int(found.probabilities.argmax())
    assert found.label == predictor.vocab[found.index]
    assert found.probability == float(found.probabilities.max())
    assert found.top[0] == (found.label, found.probability)
    best = found.probabilities.sort(descending=True).values[:3].tolist()
    assert [value for _, value in found.top] == best
    named = [predictor.vocab.index(name) for name, _ in found.top]
    assert found.probabilities[named].tolist() == best
    label, index, probabilities = found
    assert (label, index) == (found.label, found.index)
    assert probabilities is found.probabilities


@pytest.mark.parametrize("transforms", [
    aug_transforms(size=(32, 36)),
    [RandomResizedCropGPU(24, ratio=(0.9, 1.1), valid_scale=0.8, mode="bicubic")],
    (),
], ids=["resize", "crop", "nothing"])  # fmt: skip
def test_one_image_a_stream_and_the_validation_loader_agree(
    classifier: Classifier, make_image, tmp_path: Path, transforms
):
    sizes = {"a.jpg": (48, 64), "b.jpg": (500, 400), "c.png": (64, 48), "d.png": (20, 30)}
    paths = [make_image(name, number=n, size=sizes[name]) for n, name in enumerate(sizes)]
    rows = torch.arange(len(paths))
    table = ImageTable(
        root=tmp_path,
        paths=tuple(paths),
        targets=torch.zeros_like(rows),
        vocab=classifier.vocab,
        train_rows=rows[:2],
        valid_rows=rows,
    )
    loaders = DataLoaders(
        table, resize=Resize((48, 40)), transforms=transforms, batch_size=3, device="cpu"
    )
    expected = predict_batches(classifier, loaders.valid.batches(), table=table).probabilities
    resize, augmentation = storable(loaders.reader.items, loaders.augmentation)
    path = save_bundle(
        tmp_path / "m.safetensors",
        classifier=classifier,
        resize=resize,
        augmentation=augmentation,
    )
    predictor = Predictor.load(path, device="cpu")
    one_by_one = [predictor.predict(path) for path in paths]
    stream = list(predictor.predict_many(paths, batch_size=2, num_workers=2))
    found = torch.stack([answer.probabilities for answer in one_by_one])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert [given for given, _ in stream] == paths
    for (_, answer), alone in zip(stream, one_by_one, strict=True):
        assert_same(answer, alone)
    assert (expected - expected[0]).abs().max() > 1e-4


def test_all_forms_of_an_image_give_the_same(predictor: Predictor, photo: Path, image: Image.Image):
    expected = predictor.predict(photo)
    data, pixels = photo.read_bytes(), np.asarray(image)
    text, tensor = base64.b64encode(data), torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    read_already = io.BytesIO(data)
    read_already.read()
    forms: list[AnyImage] = [
        *(str(photo), data, bytearray(data), memoryview(data), read_already, image),
        *(text, text.decode(), base64.encodebytes(data).decode()),
        *(f"data:image/png;base64,{text.decode()}", f"data:;base64,{quote(text)}"),
        *(pixels, pixels / 255, tensor, tensor / 255, pixels.astype(np.float32) / 255),
    ]
    for form in forms:
        assert_same(predictor.predict(form), expected)
    with Image.open(photo) as just_opened, photo.open("rb") as opened:
        assert_same(predictor.predict(just_opened), expected)
        assert_same(predictor.predict(opened), expected)
    for single in (photo, data, image, pixels, text.decode()):
        ((_, answer),) = predictor.predict_many(single)  # pyright: ignore[reportArgumentType, reportCallIssue] (one image)
        assert_same(answer, expected)
    batch = [answer for _, answer in predictor.predict_many(torch.stack([tensor, tensor]))]
    assert_same(batch[1], expected)


def test_the_callers_image_is_left_alone(predictor: Predictor, photo: Path, image: Image.Image):
    with Image.open(photo) as opened:
        given = opened.convert("RGBA")
        kind, pixels = type(opened), opened.tobytes()
        given.putalpha(100)
        alpha_pixels = given.tobytes()
        predictor.predict(opened)
        predictor.predict(given)
        assert type(opened) is kind
        assert (opened.mode, opened.tobytes()) == ("RGB", pixels)
    assert (given.mode, given.tobytes()) == ("RGBA", alpha_pixels)
    values = np.asarray(image).copy()
    before = values.copy()
    predictor.predict(values)
    assert values.flags.writeable
    assert np.array_equal(values, before)


def test_any_mode_is_read_upright_as_rgb(predictor: Predictor, image: Image.Image, tmp_path: Path):
    # 16 bit and grey.
    grey = image.convert("L")
    expected = predictor.predict(grey.convert("RGB"))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    values = np.asarray(grey)
    for form in (grey, values, values[..., None], deep, tmp_path / "deep.png"):
        assert_same(predictor.predict(form), expected)
    # Turned by EXIF, in a file and just opened.
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    with Image.open(path) as opened:
        for form in (path, opened):
            assert_same(predictor.predict(form), predictor.predict(image))
    # Transparent, over white.
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rectangle((20, 10, 70, 40), fill=255)
    over_white = Image.new("RGB", image.size, "white")
    over_white.paste(image, mask=mask)
    image.putalpha(mask)
    for form in (image, np.asarray(image)):
        assert_same(predictor.predict(form), predictor.predict(over_white))


def test_what_is_not_an_image_is_an_error_that_says_what_it_is(predictor: Predictor, photo: Path):
    closed = io.BytesIO(b"x")
    closed.close()
    cases: list[tuple[Any, str]] = [
        (np.full((8, 8, 3), 2.0), "Received: values from 2 to 2"),
        (np.full((8, 8, 3), np.nan), "Received: values from nan to nan"),
        (np.zeros((8, 8, 3), np.int32), "Received: int32 of shape (8, 8, 3)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), "Received: uint8 of shape (3, 8, 8)"),
        (np.zeros((0, 8), dtype=np.uint8), "Received: uint8 of shape (0, 8)"),
        (torch.zeros(1, 3, 8, 8), "Received: float32 of shape (1, 3, 8, 8)"),
        (None, "Received: NoneType"),
        ([photo], "predict_many"),
        (b"", "0 bytes"),
        (b"GIF89a", "6 bytes"),
        (io.StringIO("x"), "open(PATH, 'rb')"),
        (closed, "closed file"),
        ("data:image/svg+xml,<svg/>", "base64"),
        ("data:image/png;base64,iVBOR", "27 characters"),
        ("a\0b.png", "null byte"),
        ("a" * 5000, "5,000 characters"),
        (Image.fromarray(np.full((4, 4), 1e9, dtype=np.float32)), "only 0 to 1"),
    ]
    for given, words in cases:
        with pytest.raises(PictureError) as caught:
            predictor.predict(given)
        assert words in str(caught.value)
    with photo.open() as text, pytest.raises(PictureError, match="open"):
        predictor.predict(text)  # pyright: ignore[reportArgumentType] (wrong on purpose)


def test_a_model_opens_from_its_path_its_bytes_or_an_open_file(saved: Path, photo: Path):
    data, expected = saved.read_bytes(), Predictor.load(saved, device="cpu").predict(photo)
    digest = hashlib.sha256(data).hexdigest()
    with saved.open("rb") as opened:
        for model in (data, bytearray(data), opened, io.BytesIO(data)):
            loaded = Predictor.load(model, device="cpu", sha256=digest)  # pyright: ignore[reportArgumentType] (bytes of any kind)
            assert loaded.path is None
            assert_same(loaded.predict(photo), expected)
    with pytest.raises(ModelFileError, match=digest):
        Predictor.load(data[:-1], device="cpu", sha256=digest)
    changed = bytearray(data)
    changed[-1] ^= 1
    wrong = (
        b"",
        data[:-1],
        bytes(changed),
        photo.read_bytes(),
        b"\x80\x04K\x01.",
        io.StringIO(""),
        None,
        3,
    )
    for model in (*wrong, "https://example.org/model.safetensors", "m" * 5000):
        with pytest.raises(ModelFileError):
            load_learner(model)  # pyright: ignore[reportArgumentType] (wrong on purpose)


def test_features_are_what_the_head_reads_or_the_mean_of_the_last_stage(
    saved: Path, classifier: Classifier, make_image: Callable[..., Path], tmp_path: Path
):
    images = [make_image(f"{number}.png", number=number) for number in range(3)]
    broken = tmp_path / "broken.png"
    broken.write_text("Dear diary")
    backbone = classifier.backbone
    fitted = FeatureHead(
        stages=(0, 1),
        statistics=("mean", "std"),
        num_features=2 * sum(backbone.stage_channels[:2]),
        num_classes=4,
    )
    nn.init.normal_(fitted.linear.weight, generator=torch.Generator().manual_seed(1))
    fitted.offset += 0.5
    fitted.scale *= 3
    concat = classifier.head
    assert isinstance(concat, ConcatPoolHead)
    for head, logits_of in ((concat, concat.layers[2:]), (fitted, fitted.linear)):
        predictor = Predictor(Classifier(backbone, head, vocab=VOCAB).eval(), resize=Resize(32))
        found = list(predictor.embed([*images, broken], batch_size=2))
        assert [path for path, _ in found] == [*images, broken]
        assert isinstance(found[-1][1], PictureError)
        for path, features in found[:-1]:
            assert isinstance(features, torch.Tensor)
            assert (features.dtype, features.ndim) == (torch.float32, 1)
            with torch.no_grad():
                probabilities = logits_of(features[None])[0].softmax(0)
            expected = predictor.predict(path).probabilities
            torch.testing.assert_close(probabilities, expected, atol=2e-6, rtol=0)
    predictor = Predictor.load(saved, device="cpu")
    ((_, body),) = predictor.embed(images[0], features="body")
    assert isinstance(body, torch.Tensor)
    seen = predictor.network_input([predictor.prepare(images[0])])
    expected = predictor.classifier.stage_maps(seen)[-1].mean(dim=(2, 3))[0]
    torch.testing.assert_close(body, expected, atol=1e-5, rtol=0)
    own = Predictor(Classifier(backbone, nn.Flatten(), vocab=VOCAB), resize=Resize(32))
    for wrong, words in ((own, "body"), (predictor, "tail")):
        with pytest.raises(ConfigError, match=words):
            wrong.embed(images, features="head" if wrong is own else "tail")  # pyright: ignore[reportArgumentType]


def test_more_or_fewer_of_the_best_classes(predictor: Predictor, photo: Path):
    found = predictor.predict(photo)
    assert found.best(3) == found.top
    assert found.best(1) == found.top[:1]
    every = found.best(10)
    assert sorted(label for label, _ in every) == sorted(predictor.vocab)
    shares = [share for _, share in every]
    assert shares == sorted(found.probabilities.tolist(), reverse=True)
    assert [one["label"] for one in found.to_dict(4)["top"]] == [label for label, _ in every]
    with pytest.raises(ConfigError, match="Received: 0"):
        found.best(0)


class OnlyOurs(pickle.Unpickler):
    """Reads a pickle that refers to nothing but functions of vizsla."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        assert module_name.startswith("vizsla.")
        return super().find_class(module_name, global_name)


def sent(predictor: Predictor) -> tuple[Predictor, int]:
    """Return a predictor as a worker process gets it, and how many bytes it took."""
    data = pickle.dumps(predictor)
    return OnlyOurs(io.BytesIO(data)).load(), len(data)


def test_a_predictor_is_pickled_as_the_path_of_its_file_or_the_bytes_of_one(
    saved: Path, photo: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
):
    loaded, live = (
        Predictor.load(saved, device="cpu"),
        Predictor(classifier, resize=Resize((32, 36))),
    )
    for predictor, least in (
        (loaded, 0),
        (Predictor.load(saved.read_bytes(), device="cpu"), 100_000),
        (live, 100_000),
    ):
        again, num_bytes = sent(predictor)
        assert least < num_bytes < least + saved.stat().st_size + 1000
        assert again.device == predictor.device
        assert_same(again.predict(photo), predictor.predict(photo))
    assert sent(loaded)[0] is sent(loaded)[0]  # a worker opens the file once
    assert copy.copy(loaded).classifier is loaded.classifier
    assert copy.deepcopy(loaded).classifier is not copy.deepcopy(loaded).classifier
    by_relative_path = Predictor.load(os.path.relpath(saved), device="cpu")
    monkeypatch.chdir(saved.parent)
    assert_same(sent(by_relative_path)[0].predict(photo), loaded.predict(photo))
    # The file is gone, or is another one.
    for content in (None, saved.read_bytes()):
        model = saved.with_name(f"other{content is None}.safetensors")
        save_bundle(model, classifier=classifier, resize=Resize(32))
        data = pickle.dumps(Predictor.load(model, device="cpu"))
        model.unlink() if content is None else model.write_bytes(content)
        with pytest.raises(ModelFileError, match=model.name):
            OnlyOurs(io.BytesIO(data)).load()
    own = Classifier(build_backbone(nn.Conv2d(3, 4, 3)), ConcatPoolHead(4, 2), vocab=("a", "b"))
    with pytest.raises(ConfigError, match="of your own"):
        pickle.dumps(Predictor(own, resize=Resize(24)))


@pytest.mark.slow  # two new interpreters import torch
def test_worker_processes_predict(saved: Path, make_image: Callable[..., Path]):
    files = [make_image(f"{number}.png", number=number) for number in range(6)]
    predictor = Predictor.load(saved, device="cpu")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(predictor.predict, files, chunksize=2)
    for file, answer in zip(files, found, strict=True):
        assert_same(answer, predictor.predict(file))


def test_a_loaded_model_answers_as_notebooks_ask_a_learner(image_folder: Path, tmp_path: Path):
    dls = ImageDataLoaders.from_folder(
        image_folder, valid_pct=0.3, seed=1, item_tfms=Resize(32), num_workers=0, device="cpu"
    )
    learn = vision_learner(dls, "test_resnet", pretrained=False, metrics=accuracy)
    learn.fit(1)
    learn_inf = load_learner(learn.export(tmp_path / "m.safetensors"))
    file = get_image_files(image_folder)[0]
    found = learn_inf.predict(file)
    assert (found[0], found[1], len(found)) == (found.label, found.index, 3)
    assert found[2].max() == found.probability
    assert found[:2] == (found.label, found.index)
    assert learn_inf.dls.vocab == learn.dls.vocab
    assert learn_inf.model is learn_inf.classifier
    with learn_inf.no_bar():
        probabilities, _ = learn_inf.get_preds(dl=learn_inf.dls.test_dl([file]))
    assert probabilities is not None
    torch.testing.assert_close(probabilities[0], found[2], atol=2e-6, rtol=0)
    torch.testing.assert_close(
        learn_inf.validate(dl=dls.valid), learn.validate(), atol=1e-5, rtol=1e-5
    )
    unlabelled = learn_inf.dls.test_dl([file])
    for refused in (learn_inf.validate, partial(learn_inf.validate, dl=unlabelled)):
        with pytest.raises(ConfigError):
            refused()
    for name in ("fine_tune", "fit_one_cycle", "show_results", "tta", "save"):
        with pytest.raises(ConfigError, match=name):
            getattr(learn_inf, name)
    assert not hasattr(learn_inf, "export")
    assert not hasattr(learn_inf, "nonsense")


def test_unreadable_images_are_errors_in_their_place(
    predictor: Predictor, photo: Path, tmp_path: Path
):
    (tmp_path / "text.jpg").write_text("not an image")
    given = [tmp_path / "gone.jpg", photo, tmp_path / "text.jpg", photo, photo]
    for batch_size, num_workers in ((1, 0), (2, 1), (3, 2), (50, None)):
        found = list(predictor.predict_many(given, batch_size=batch_size, num_workers=num_workers))
        assert [path for path, _ in found] == given
        assert [isinstance(answer, PictureError) for _, answer in found] == [
            True, False, True, False, False,
        ]  # fmt: skip
        assert "gone.jpg" in str(found[0][1])
        assert_same(found[4][1], predictor.predict(photo))


def test_an_endless_stream_is_taken_as_needed(predictor: Predictor, photo: Path):
    num_taken = itertools.count()

    def endless() -> Iterator[Path]:
        while True:
            next(num_taken)
            yield photo

    answers = predictor.predict_many(endless(), batch_size=4, num_workers=2)
    for _ in range(6):
        next(answers)
    answers.close()
    assert next(num_taken) <= 2 * 4 + 2 * 4 + 2
    # Threads that augment are shared by the whole process and stay.
    assert not any(thread.name.startswith("vizsla-reader") for thread in threading.enumerate())


def test_an_error_of_the_stream_itself_arrives_unchanged(predictor: Predictor, photo: Path):
    def failing() -> Iterator[Path]:
        yield photo
        raise FileNotFoundError("the list of images")

    with pytest.raises(FileNotFoundError, match="the list of images"):
        list(predictor.predict_many(failing(), batch_size=1))


def test_a_column_of_images_is_many(predictor: Predictor, photo: Path):
    paths = [str(photo)] * 2
    for column in (pd.Series(paths), np.array(paths), np.array(paths, dtype=object)):
        found = list(predictor.predict_many(column))
        assert [path for path, _ in found] == paths
        assert all(isinstance(answer, Prediction) for _, answer in found)


def test_what_cannot_work_is_refused_when_called(predictor: Predictor):
    assert list(predictor.predict_many([])) == []
    for batch_size, num_workers in ((0, 1), (1, -1)):
        with pytest.raises(
            ConfigError, match=f"batch_size={batch_size}, num_workers={num_workers}"
        ):
            predictor.predict_many([], batch_size=batch_size, num_workers=num_workers)
    for views in (0, MOST_VIEWS + 1, 1.5):
        with pytest.raises(ConfigError, match=f"from 1 to 12. Received: {views}"):
            predictor.predict_many([], views=views)  # pyright: ignore[reportArgumentType, reportCallIssue] (wrong on purpose)
    with pytest.raises(ConfigError, match="no label sets"):  # the model file has none
        predictor.predict_many([], coverage=0.9)


def test_without_a_resize_sizes_may_differ_in_a_batch(classifier: Classifier, make_image):
    predictor = Predictor(classifier, resize=None)
    paths = [
        make_image(f"{number}.png", number=number, size=(40 + 8 * (number % 2), 48))
        for number in range(5)
    ]
    found = list(predictor.predict_many(paths, batch_size=5))
    for (_, answer), path in zip(found, paths, strict=True):
        assert_same(answer, predictor.predict(path))


def test_a_classifier_in_training_stays_in_training(image: Image.Image):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    classifier = Classifier(build_backbone(body), ConcatPoolHead(4, 2), vocab=("a", "b")).train()
    predictor = Predictor(classifier, resize=Resize(24))
    first = predictor.predict(image)
    assert classifier.training
    assert_same(first, predictor.predict(image))
    assert_same(first, Predictor(classifier.eval(), resize=Resize(24)).predict(image))


def test_of_equal_classes_the_first_is_taken_and_nan_is_an_error(image: Image.Image):
    head = ConcatPoolHead(4, 2)
    classifier = Classifier(build_backbone(nn.Conv2d(3, 4, 3)), head, vocab=("a", "b"))
    nn.init.zeros_(head.layers[-1].weight)  # pyright: ignore[reportArgumentType] (a Linear)
    found = Predictor(classifier, resize=Resize(24)).predict(image)
    assert found.top == (("a", 0.5), ("b", 0.5))
    assert (found.label, found.index) == ("a", 0)
    nn.init.constant_(head.layers[-1].weight, float("nan"))  # pyright: ignore[reportArgumentType] (a Linear)
    with pytest.raises(ConfigError, match="not finite"):
        Predictor(classifier, resize=Resize(24)).predict(image)


def several(path: Path) -> list[str]:
    number = int(path.stem.split("_")[1])
    return [name for name, present in (("odd", number % 2), ("large", number > 5)) if present]


def measures(path: Path) -> tuple[float, float]:
    number = int(path.stem.split("_")[1])
    return -number / 2, 1000.0 * number


TASKS: dict[Task, tuple[Any, Any, tuple[str, ...]]] = {
    "category": (CategoryBlock, parent_label, ("cross", "disc")),
    "multi_category": (MultiCategoryBlock, several, ("large", "odd")),
    "regression": (RegressionBlock(2), measures, ("value_0", "value_1")),
}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture
def loaders(image_folder: Path, task: Task) -> DataLoaders:
    block, get_y, _ = TASKS[task]
    return DataBlock(
        blocks=(ImageBlock, block),
        get_items=get_image_files,
        splitter=RandomSplitter(0.4, seed=3),
        get_y=get_y,
        item_tfms=Resize((40, 32)),
    ).dataloaders(image_folder, bs=5, num_workers=0, device="cpu")


@pytest.fixture
def trained(loaders: DataLoaders) -> Classifier:
    """Random weights whose head is scaled so that predictions differ from image to image."""
    table = loaders.table
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(table.vocab), lin_ftrs=[], seed=2)
    classifier = Classifier(backbone, head, vocab=table.vocab, task=table.task).train()
    with torch.no_grad():
        classifier(torch.rand(8, 3, 40, 32, generator=torch.Generator().manual_seed(1)))
        for weights in head.parameters():
            weights.mul_(3)
    return classifier.eval()


def test_a_task_goes_all_the_way_from_labels_to_the_saved_file(
    loaders: DataLoaders, trained: Classifier, task: Task, tmp_path: Path
):
    table = loaders.table
    _, get_y, vocab = TASKS[task]
    assert (table.task, table.vocab) == (task, vocab)
    predictions = predict_batches(trained, loaders.valid.batches(), table=table)
    assert predictions.task == task
    assert torch.equal(predictions.targets, table.targets[table.valid_rows])
    assert predictions.losses.isfinite().all()
    labels = [get_y(table.paths[row]) for row in table.valid_rows.tolist()]
    for position, label in enumerate(labels):
        parts = [label] if isinstance(label, str) else label
        shown = parts if task != "regression" else [f"{part:g}" for part in parts]
        assert predictions.label(position) == ";".join(sorted(shown, key=str) if task == "multi_category" else shown)  # fmt: skip

    path = save_bundle(tmp_path / "m.safetensors", classifier=trained, resize=Resize((40, 32)))
    bundle = load_bundle(path)
    assert (bundle.manifest.task, bundle.classifier.task) == (task, task)
    again = predict_batches(bundle.classifier, loaders.valid.batches(), table=table)
    torch.testing.assert_close(again.logits, predictions.logits)
    predictor = Predictor.load(path, device="cpu")
    assert (predictor.task, predictor.vocab) == (task, vocab)
    images = [table.paths[row] for row in table.valid_rows.tolist()]
    found = [answer for _, answer in predictor.predict_many(images)]
    for position, answer in enumerate(found):
        assert isinstance(answer, Prediction)
        torch.testing.assert_close(
            answer.probabilities, predictions.probabilities[position], atol=2e-6, rtol=1e-5
        )
        if task != "regression":
            assert answer.label == predictions.prediction(position)
            confidence = predictions.confidence[position].item()
            assert answer.probability == pytest.approx(confidence, abs=2e-6)
    frame = pd.read_csv(predictions.save_csv(tmp_path / "p.csv"), keep_default_na=False)
    assert len(frame) == len(images)


def test_images_without_labels_have_no_target(
    loaders: DataLoaders, trained: Classifier, task: Task
):
    loader = loaders.test_dl(loaders.table.paths[:3])
    predictions = predict_batches(trained, loader.batches(), table=loader.loader.table)
    assert predictions.task == task
    assert predictions.labelled.tolist() == [False] * 3
    assert predictions.losses.isnan().all()


LOGITS = torch.tensor([0.4, -3.0, 2.0, 0.0])
VOCAB = ("a", "b;c", "犬", "d")


def said_of(logits: torch.Tensor, *, task: Task, vocab: tuple[str, ...]) -> Prediction:
    """What one view of one image says."""
    (prediction,) = describe(logits[None, None], task=task, vocab=vocab)
    return prediction


def test_several_labels_unpack_as_list_mask_and_probabilities():
    found = said_of(LOGITS, task="multi_category", vocab=VOCAB)
    labels, mask, probabilities = found
    assert labels == ["a", "犬"]
    assert found.label == "a;犬"
    assert isinstance(mask, torch.Tensor)
    assert mask.tolist() == [True, False, True, False]
    assert isinstance(probabilities, torch.Tensor)
    torch.testing.assert_close(probabilities, LOGITS.sigmoid())
    assert found.top[0] == ("犬", pytest.approx(torch.tensor(2.0).sigmoid().item()))
    assert [name for name, _ in found.top] == ["犬", "a", "d"]
    assert found.probability == 0.5  # the last class might be there as well as not
    assert said_of(torch.tensor([-9.0]), task="multi_category", vocab=("a",)).labels == ()


def test_numbers_unpack_as_value_tensor_and_tensor():
    pair = said_of(torch.tensor([0.5, -2.0]), task="regression", vocab=("x", "y"))
    assert (pair.values, pair.label, pair.labels, pair.top) == ((0.5, -2.0), "0.5;-2", (), ())
    assert math.isnan(pair.probability)
    value, index, outputs = pair
    assert value == (0.5, -2.0)
    assert index is outputs
    single, *_ = said_of(torch.tensor([0.25]), task="regression", vocab=("x",))
    assert single == (0.25,)


def test_a_device_that_is_not_there_is_our_error(saved: Path):
    for device in ("cuda:7", "gpu", "mps:3"):
        for load in (Predictor.load, load_bundle):
            with pytest.raises(ConfigError, match=device):
                load(saved, device=device)


def test_a_temperature_divides_the_logits(calibrated: Path, make_image: Callable[..., Path]):
    predictor = Predictor.load(calibrated, device="cpu")
    assert predictor.calibration is not None
    image = make_image("a.png")
    plain = Predictor(predictor.classifier, resize=Resize(32)).predict(image)
    found = predictor.predict(image, coverage=0.9)
    expected = (plain.probabilities.log() / predictor.calibration.temperature).softmax(0)
    torch.testing.assert_close(found.probabilities, expected, atol=1e-5, rtol=0)
    assert (found.label, found.coverage) == (plain.label, 0.9)
    assert found.label_set is not None


def test_one_image_and_a_batch_agree(
    calibrated: Path, make_image: Callable[..., Path], tmp_path: Path
):
    paths = [make_image(f"many/{number}.png", number=number) for number in range(5)]
    predictor = Predictor.load(calibrated, device="cpu")
    folder = tmp_path / "many"
    many = list(predictor.predict_many(folder, batch_size=3, coverage=0.8, views=3))
    assert [path for path, _ in many] == paths
    for path, answer in many:
        one = predictor.predict(path, coverage=0.8, views=3)
        assert not isinstance(answer, Exception)
        assert one.label_set == answer.label_set
        torch.testing.assert_close(one.probabilities, answer.probabilities, atol=1e-5, rtol=0)
    ((_, single),) = predictor.predict_many(paths[0])
    assert not isinstance(single, Exception)
    assert single.label == predictor.predict(paths[0]).label


def test_views_of_an_image_and_of_its_mirror_image_agree(calibrated: Path):
    predictor = Predictor.load(calibrated, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pair = pixels, np.ascontiguousarray(pixels[:, ::-1])
    one, other = (predictor.predict(each, views=4).probabilities for each in pair)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    plain = torch.stack([predictor.predict(each).probabilities for each in pair])
    both = predictor.predict(pixels, views=2).probabilities
    torch.testing.assert_close(both, plain.mean(0), atol=1e-5, rtol=0)


def test_every_view_has_the_size_of_the_image_and_shows_a_part_of_it():
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 8, 16)
    views = [view_of(ramp, number=number) for number in range(MOST_VIEWS)]
    assert {view.shape for view in views} == {ramp.shape}
    assert torch.equal(views[0], ramp)
    assert torch.equal(views[1], ramp.flip(-1))
    assert all(float(view.min()) >= 0 and float(view.max()) <= 1 for view in views)
    assert len({tuple(view.flatten().tolist()) for view in views[2:4]}) == 2
    unmirrored = [view_of(ramp, number=number, flip=False) for number in range(MOST_VIEWS // 2)]
    assert all(torch.equal(*pair) for pair in zip(unmirrored, views[::2], strict=True))


def test_several_labels_have_neither_novelty_nor_label_sets(
    from_logits: Callable[..., Predictions],
):
    random = torch.Generator().manual_seed(1)
    logits = torch.randn((30, 2), generator=random)
    targets = torch.randint(2, (30, 2), generator=random)
    calibration = calibrate(from_logits(logits, targets, task="multi_category"))
    assert calibration is not None
    assert calibration.label_sets is None
    options: Any = {"calibration": calibration, "coverage": 0.9}
    found = describe(logits[None], task="multi_category", vocab=("x", "y"), **options)
    # An image may have none of them: the smallest logits are those of images that surely have no label.
    said = {(answer.none_of_these, answer.familiarity, answer.label_set) for answer in found}
    assert said == {(None, None, None)}


@pytest.mark.parametrize(
    ("labels", "vocab"),
    [
        ((True, False), [False, True]),
        ((np.int64(10), np.int64(9)), [9, 10]),
        ((10, 9), [9, 10]),
        (([1, 2], [2]), [1, 2]),
        (("a", 2), ["2", "a"]),
        ((True, 1), ["1", "True"]),
    ],
)
def test_classes_that_are_numbers_or_true_and_false_stay_so(
    image_folder: Path, tmp_path: Path, labels: tuple[Any, Any], vocab: list[Any]
):
    files = get_image_files(image_folder)
    of_folder: dict[str, Any] = {"cross": labels[0], "disc": labels[1]}
    dls = ImageDataLoaders.from_lists(
        image_folder,
        files,
        [of_folder[file.parent.name] for file in files],
        seed=1,
        item_tfms=Resize(32),
        num_workers=0,
    )
    assert list(map(repr, dls.vocab)) == list(map(repr, vocab))  # True == 1
    mixed = len(set(map(type, labels))) > 1
    assert any("all are read as text" in note for note in dls.table.notes) == mixed
    learn = vision_learner(dls, "test_resnet", pretrained=False)
    opened = load_learner(learn.export(tmp_path / "m.safetensors"))
    for model in (learn, opened):
        unpacked: Any = model.predict(files[0])
        label, index, probabilities = unpacked
        assert list(map(repr, model.dls.vocab)) == list(map(repr, vocab))
        if isinstance(labels[0], list):
            assert label == [vocab[place] for place in index.nonzero()[:, 0].tolist()]
        else:
            assert repr(label) == repr(vocab[index]) == repr(vocab[int(probabilities.argmax())])
    answer = opened.predict(files[0])
    assert set(answer.to_dict()["probabilities"]) == {str(name) for name in vocab}
    assert answer.label == ";".join(answer.labels)


class Greedy(nn.Module):
    """A body that asks for a petabyte when it is shown a white image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.detach().min() > 1:
            torch.empty(2**50)
        return self.layer(images)


def test_too_little_memory_is_an_error_of_ours_and_the_predictor_goes_on():
    body = build_backbone(Greedy())
    predictor = Predictor(
        Classifier(body, ConcatPoolHead(4, 2), vocab=("a", "b")), resize=Resize((32, 40))
    )
    white, black = (np.full((32, 40, 3), value, np.uint8) for value in (255, 0))
    with pytest.raises(OutOfMemoryError, match="predicting 2 images of 32 x 40 pixels"):
        predictor.predict_prepared([white, white])
    assert predictor.predict(black).label in ("a", "b")


def test_large_images_run_through_the_network_a_few_at_a_time():
    classifier = Classifier(build_backbone(Greedy()), ConcatPoolHead(4, 2), vocab=("a", "b"))

    def sizes(
        shape: tuple[int, int], count: int, final: tuple[int, int] | None = None
    ) -> list[int]:
        predictor = Predictor(
            classifier, resize=Resize(32), augmentation=BatchAugmentation(size=final)
        )
        batches = predictor.batches_of([np.zeros((*shape, 3), np.uint8)] * count)
        assert list(itertools.chain(*batches)) == list(range(count))
        return [len(batch) for batch in batches]

    assert sizes((512, 512), 100) == [100]
    assert sizes((1024, 1024), 20) == [8, 8, 4]
    assert sizes((4096, 2048), 2) == [1, 1]
    assert sizes((32, 32), 20, (1024, 1024)) == [8, 8, 4]
