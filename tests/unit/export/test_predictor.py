"""Single pictures, streams and validation batches get the same answer, whatever form the picture comes in."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from vizsla.augment.geometry import RandomResizedCropGPU
from vizsla.augment.presets import aug_transforms
from vizsla.data.images.sizing import Resize
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.errors import ConfigError, PictureError
from vizsla.infer.run import predict_batches
from vizsla.model_file.bundle import save_bundle
from vizsla.model_file.final_resize import storable
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.predictor import AnyPicture, Prediction, Predictor
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def predictor(saved: Path) -> Predictor:
    return Predictor.load(saved, device="cpu")


@pytest.fixture
def picture() -> Image.Image:
    """A colourful RGB picture, wider than high."""
    noise = np.random.default_rng(5).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ImageDraw.Draw(picture).ellipse((10, 5, 60, 50), fill=(200, 30, 60))
    return picture


@pytest.fixture
def photo(picture: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    picture.save(path)
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
    assert [
        float(found.probabilities[predictor.vocab.index(name)]) for name, _ in found.top
    ] == best


@pytest.mark.parametrize("transforms", [
    aug_transforms(size=(32, 36)),
    [RandomResizedCropGPU(24, ratio=(0.9, 1.1), valid_scale=0.8, mode="bicubic")],
    (),
], ids=["resize", "crop", "nothing"])  # fmt: skip
def test_one_picture_a_stream_and_the_validation_loader_agree(
    classifier: Classifier, make_picture, tmp_path: Path, transforms
):
    sizes = {
        "wide.jpg": (48, 64),
        "large.jpg": (500, 400),
        "high.png": (64, 48),
        "tiny.png": (20, 30),
    }
    paths = [
        make_picture(name, number=number, size=size)
        for number, (name, size) in enumerate(sizes.items())
    ]
    rows = torch.arange(len(paths))
    table = PictureTable(
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
    resize, augmentation = storable(loaders.items, loaders.augmentation)
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


def test_a_prediction_unpacks_as_label_index_and_probabilities(predictor: Predictor, photo: Path):
    found = predictor.predict(photo)
    label, index, probabilities = found
    assert (label, index) == (found.label, found.index)
    assert probabilities is found.probabilities


def test_path_text_bytes_array_and_pillow_picture_give_the_same(
    predictor: Predictor, photo: Path, picture: Image.Image
):
    expected = predictor.predict(photo)
    forms: list[AnyPicture] = [str(photo), photo.read_bytes(), np.asarray(picture), picture]
    for form in forms:
        assert_same(predictor.predict(form), expected)
    with Image.open(photo) as just_opened:
        assert_same(predictor.predict(just_opened), expected)


def test_a_pillow_picture_of_the_caller_is_left_as_it_is(predictor: Predictor, photo: Path):
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


def test_an_array_of_the_caller_is_left_as_it_is(predictor: Predictor, picture: Image.Image):
    values = np.asarray(picture).copy()
    before = values.copy()
    predictor.predict(values)
    assert values.flags.writeable
    assert np.array_equal(values, before)


def test_transparency_lies_over_white(predictor: Predictor, picture: Image.Image):
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rectangle((20, 10, 70, 40), fill=255)
    over_white = Image.new("RGB", picture.size, "white")
    over_white.paste(picture, mask=mask)
    picture.putalpha(mask)
    assert_same(predictor.predict(picture), predictor.predict(over_white))
    assert_same(predictor.predict(np.asarray(picture)), predictor.predict(over_white))


def test_grey_and_16_bit_pictures_are_read_as_their_rgb_form(
    predictor: Predictor, picture: Image.Image, tmp_path: Path
):
    grey = picture.convert("L")
    expected = predictor.predict(grey.convert("RGB"))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    forms: list[AnyPicture] = [
        grey,
        np.asarray(grey),
        np.asarray(grey)[..., None],
        deep,
        tmp_path / "deep.png",
    ]
    for form in forms:
        assert_same(predictor.predict(form), expected)


def test_exif_orientation_is_applied_to_files_and_to_opened_pictures(
    predictor: Predictor, picture: Image.Image, tmp_path: Path
):
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif)
    assert_same(predictor.predict(path), predictor.predict(picture))
    with Image.open(path) as opened:
        assert_same(predictor.predict(opened), predictor.predict(picture))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((8, 8, 3)), "Received: float64 of shape (8, 8, 3)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), "Received: uint8 of shape (3, 8, 8)"),
        (np.zeros((0, 8), dtype=np.uint8), "Received: uint8 of shape (0, 8)"),
        (np.zeros((1, 8, 8, 3), dtype=np.uint8), "Received: uint8 of shape (1, 8, 8, 3)"),
        (None, "Received: NoneType"),
        (torch.zeros(3, 8, 8), "Received: Tensor"),
        (b"", "given as 0 bytes"),
        (b"GIF89a", "given as 6 bytes"),
        (Image.fromarray(np.full((4, 4), 1e9, dtype=np.float32)), "only 0 to 1 have a known meaning"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_picture_is_a_picture_error_that_says_what_it_is(
    predictor: Predictor, given: AnyPicture, words: str
):
    with pytest.raises(PictureError) as caught:
        predictor.predict(given)
    assert words in str(caught.value)


def test_unreadable_pictures_of_a_stream_become_errors_in_their_place(
    predictor: Predictor, photo: Path, tmp_path: Path
):
    (tmp_path / "text.jpg").write_text("no picture")
    given = [tmp_path / "gone.jpg", photo, tmp_path / "text.jpg", photo, photo]
    for batch_size, num_workers in ((1, 0), (2, 1), (3, 2), (50, None)):
        found = list(predictor.predict_many(given, batch_size=batch_size, num_workers=num_workers))
        assert [path for path, _ in found] == given
        assert [isinstance(answer, PictureError) for _, answer in found] == [
            True, False, True, False, False,
        ]  # fmt: skip
        assert "gone.jpg" in str(found[0][1])
        assert_same(found[4][1], predictor.predict(photo))


def test_an_empty_stream_gives_nothing(predictor: Predictor):
    assert list(predictor.predict_many([])) == []


def test_an_endless_stream_is_taken_as_needed_and_its_threads_end(
    predictor: Predictor, photo: Path
):
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
    own = [t.name for t in threading.enumerate() if t.name.startswith("vizsla-reader")]
    assert own == []


def test_an_error_of_the_stream_itself_arrives_unchanged(predictor: Predictor, photo: Path):
    def failing() -> Iterator[Path]:
        yield photo
        raise FileNotFoundError("the list of pictures")

    with pytest.raises(FileNotFoundError, match="the list of pictures"):
        list(predictor.predict_many(failing(), batch_size=1))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(0, 1), (1, -1)])
def test_wrong_counts_are_refused_when_called(
    predictor: Predictor, batch_size: int, num_workers: int
):
    with pytest.raises(ConfigError, match="batch_size is at least 1 and num_workers at least 0"):
        predictor.predict_many([], batch_size=batch_size, num_workers=num_workers)


def test_without_a_resize_pictures_of_several_sizes_are_predicted_together(
    classifier: Classifier, make_picture
):
    predictor = Predictor(classifier, resize=None)
    paths = [
        make_picture(f"{number}.png", number=number, size=(40 + 8 * (number % 2), 48))
        for number in range(5)
    ]
    found = list(predictor.predict_many(paths, batch_size=5))
    for (_, answer), path in zip(found, paths, strict=True):
        assert_same(answer, predictor.predict(path))


def test_a_classifier_in_training_is_used_in_evaluation_mode_and_stays_in_training(
    picture: Image.Image,
):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    classifier = Classifier(build_backbone(body), ConcatPoolHead(4, 2), vocab=("a", "b")).train()
    predictor = Predictor(classifier, resize=Resize(24))
    first = predictor.predict(picture)
    assert classifier.training
    assert_same(first, predictor.predict(picture))
    assert_same(first, Predictor(classifier.eval(), resize=Resize(24)).predict(picture))


def test_of_two_classes_two_are_listed_and_the_first_of_equals_is_taken(picture: Image.Image):
    head = ConcatPoolHead(4, 2)
    classifier = Classifier(build_backbone(nn.Conv2d(3, 4, 3)), head, vocab=("a", "b"))
    nn.init.zeros_(head.layers[-1].weight)  # pyright: ignore[reportArgumentType] (a Linear)
    found = Predictor(classifier, resize=Resize(24)).predict(picture)
    assert found.top == (("a", 0.5), ("b", 0.5))
    assert (found.label, found.index) == ("a", 0)


def test_weights_that_are_not_finite_are_an_error(picture: Image.Image):
    head = ConcatPoolHead(4, 2)
    classifier = Classifier(build_backbone(nn.Conv2d(3, 4, 3)), head, vocab=("a", "b"))
    nn.init.constant_(head.layers[-1].weight, float("nan"))  # pyright: ignore[reportArgumentType] (a Linear)
    with pytest.raises(ConfigError, match="output is not finite"):
        Predictor(classifier, resize=Resize(24)).predict(picture)
