"""print_predictions: the three forms, line by line, on a small network."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.data.images.sizing import Resize
from vizsla.errors import DataError, ModelFileError
from vizsla.model_file.bundle import save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.formats import Format
from vizsla.predict.predictor import Predictor
from vizsla.predict.stream import PathSource, PredictOptions, print_predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vizsla.types import Task

VOCAB = ("cross\r", "disc", 'say "hi", you\n\u2028', "star")
OPTIONS = PredictOptions(device="cpu", num_workers=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet", pretrained=False)
    head = ConcatPoolHead(backbone.num_features, len(VOCAB), lin_ftrs=[])
    classifier = Classifier(backbone, head, vocab=VOCAB)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return save_bundle(path, classifier=classifier, resize=Resize(32))


def printed(model: Path, paths: Sequence[Path], form: Format) -> tuple[int, str]:
    file = io.StringIO(newline="")
    done = print_predictions(model, PathSource(paths=paths), form=form, options=OPTIONS, file=file)
    assert done.num_pictures == len(paths)
    return done.num_failed, file.getvalue()


def test_a_table_line_has_path_class_probability_and_the_likeliest_three(
    model: Path, make_picture: Callable[..., Path]
):
    path = make_picture("a.png")
    expected = Predictor.load(model, device="cpu").predict(path)
    failed, text = printed(model, [path], Format.table)
    assert failed == 0
    shown = [
        (
            label.replace("\r", r"\r").replace("\n", r"\n").replace("\u2028", r"\u2028"),
            f"{probability:.1%}",
        )
        for label, probability in expected.top
    ]
    likeliest = ", ".join(" ".join(one) for one in shown)
    assert text == f"{path}  {'  '.join(shown[0])}  ({likeliest})\n"
    assert len(shown) == 3


def model_of(task: Task, folder: Path) -> Path:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[], seed=1)
    classifier = Classifier(backbone, head, vocab=("a;b", "size"), task=task)
    return save_bundle(folder / f"{task}.safetensors", classifier=classifier, resize=Resize(32))


def test_several_labels_are_joined_and_have_a_column_each(
    tmp_path: Path, make_picture: Callable[..., Path]
):
    model, path = model_of("multi_category", tmp_path), make_picture("a.png")
    expected = Predictor.load(model, device="cpu").predict(path)
    _, text = printed(model, [path], Format.csv)
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert header == ["path", "prediction", "probability", "prob_a;b", "prob_size", "error"]
    probabilities = [f"{value:.6f}" for value in expected.probabilities.tolist()]
    labels = ";".join(expected.labels)
    assert row == [str(path), labels, f"{expected.probability:.6f}", *probabilities, ""]
    said = json.loads(printed(model, [path], Format.json)[1])
    assert said["prediction"] == list(expected.labels)
    assert said["probabilities"] == dict(
        zip(("a;b", "size"), expected.probabilities.tolist(), strict=True)
    )
    assert f"{path}  {labels or '(none)'}  " in printed(model, [path], Format.table)[1]


def test_numbers_have_a_column_each_and_no_probability(
    tmp_path: Path, make_picture: Callable[..., Path]
):
    model, path = model_of("regression", tmp_path), make_picture("a.png")
    gone = tmp_path / "gone.png"
    gone.touch()
    values = Predictor.load(model, device="cpu").predict(path).values
    failed, text = printed(model, [path, gone], Format.csv)
    header, row, bad = csv.reader(io.StringIO(text, newline=""))
    assert header == ["path", "prediction_a;b", "prediction_size", "error"]
    assert [float(cell) for cell in row[1:3]] == pytest.approx(values, rel=1e-6)
    assert (failed, bad) == (1, [str(gone), "", "", "the file is empty (0 bytes)"])
    said = json.loads(printed(model, [path], Format.json)[1])
    assert said == {"path": str(path), "prediction": {"a;b": values[0], "size": values[1]}}
    line = printed(model, [path], Format.table)[1]
    assert line == f"{path}  a;b {values[0]:.6g}, size {values[1]:.6g}\n"


def test_csv_can_be_read_back_whatever_is_in_the_class_names(
    model: Path, make_picture: Callable[..., Path]
):
    path = make_picture('a,\n"b".png')
    expected = Predictor.load(model, device="cpu").predict(path)
    _, text = printed(model, [path], Format.csv)
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert header == [
        *("path", "prediction", "probability"),
        *(f"prob_{label}" for label in VOCAB),
        "error",
    ]
    numbers = [expected.probability, *expected.probabilities.tolist()]
    assert row == [str(path), expected.label, *(f"{number:.6f}" for number in numbers), ""]


def test_json_has_the_numbers_in_full(model: Path, make_picture: Callable[..., Path]):
    path = make_picture("a.png")
    expected = Predictor.load(model, device="cpu").predict(path)
    _, text = printed(model, [path], Format.json)
    assert text.count("\n") == 1
    said: dict[str, Any] = json.loads(text)
    assert said == {
        "path": str(path),
        "prediction": expected.label,
        "probability": expected.probability,
        "top": [{"label": label, "probability": value} for label, value in expected.top],
        "probabilities": dict(zip(VOCAB, expected.probabilities.tolist(), strict=True)),
    }


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "äł\U0001f600"), ("ascii", r"\u00e4\u0142\ud83d\ude00")]
)
def test_json_is_readable_where_the_file_has_the_letters_and_valid_everywhere(
    model: Path, make_picture: Callable[..., Path], encoding: str, shown: str
):
    path = make_picture("äł\U0001f600.png")
    content = io.BytesIO()
    file = io.TextIOWrapper(content, encoding)
    print_predictions(model, PathSource(paths=[path]), form=Format.json, options=OPTIONS, file=file)
    text = content.getvalue().decode(encoding)
    assert shown in text
    assert json.loads(text)["path"] == str(path)


@pytest.mark.parametrize("form", [Format.table, Format.csv, Format.json])
def test_unreadable_pictures_are_counted_and_keep_their_place(
    model: Path, make_picture: Callable[..., Path], tmp_path: Path, form: Format
):
    good = make_picture("good.png")
    empty, gone = tmp_path / "empty.png", tmp_path / "text\n.png"
    empty.touch()
    gone.write_text("Dear diary")
    failed, text = printed(model, [empty, good, gone], form)
    assert failed == 2
    causes = (
        "the file is empty (0 bytes)",
        "it is no picture but text that begins with 'Dear diary'",
    )
    if form is Format.table:
        lines = text.splitlines()
        assert lines[0] == f"{empty}  cannot be read: {causes[0]}"
        assert lines[1].startswith(f"{good}  ")
        assert lines[2] == f"{tmp_path}/text\\n.png  cannot be read: {causes[1]}"
    elif form is Format.csv:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [row["path"] for row in rows] == [str(path) for path in (empty, good, gone)]
        assert [row["error"] for row in rows] == [causes[0], "", causes[1]]
        assert [row["probability"] == "" for row in rows] == [True, False, True]
    else:
        said = [json.loads(line) for line in text.rstrip("\n").split("\n")]
        assert said[0] == {"path": str(empty), "error": causes[0]}
        assert "error" not in said[1]
        assert said[2] == {"path": str(gone), "error": causes[1]}


def test_each_line_is_written_out_at_once(model: Path, make_picture: Callable[..., Path]):
    class Raw(io.BytesIO):
        writes = 0

        def write(self, data: Any) -> int:
            Raw.writes += 1
            return super().write(data)

    paths = [make_picture(f"{number}.png", number=number) for number in range(5)]
    file = io.TextIOWrapper(io.BufferedWriter(Raw()), "utf-8")  # pyright: ignore[reportArgumentType] (a BytesIO is raw enough)
    print_predictions(model, PathSource(paths=paths), options=OPTIONS, file=file)
    assert Raw.writes == 5


def test_a_missing_path_and_an_empty_folder_are_refused_before_the_first_line(
    model: Path, make_picture: Callable[..., Path], tmp_path: Path
):
    good = make_picture("good.png")
    (tmp_path / "empty").mkdir()
    file = io.StringIO()
    with pytest.raises(DataError, match=r"There is no such file or folder:\n  '.*none\.png'\n"):
        print_predictions(model, PathSource(paths=[good, tmp_path / "none.png"]), file=file)
    with pytest.raises(DataError, match=r"There are no pictures in '.*empty'"):
        print_predictions(model, PathSource(paths=[good, tmp_path / "empty"]), file=file)
    assert file.getvalue() == ""


def test_a_file_that_is_no_model_is_refused(make_picture: Callable[..., Path]):
    picture = make_picture("a.png")
    with pytest.raises(ModelFileError, match="is not a model file"):
        print_predictions(picture, PathSource(paths=[picture]), file=io.StringIO())
