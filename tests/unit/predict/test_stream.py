"""Streams of images: paths come in their order, rows in every format, and stopped runs go on."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vizsla import (
    ConfigError,
    DataError,
    ModelFileError,
    OutputError,
    Prediction,
    Predictor,
    Resize,
    get_image_files,
)
from vizsla.model_file import save_bundle
from vizsla.predict import (
    Format,
    PathSource,
    Predicted,
    PredictOptions,
    part_of,
    print_predictions,
    read_list,
    settings_of,
    walk_images,
    write_predictions,
)
from vizsla.text import printable
from vizsla.types import Task


class OneByteAtATime(io.RawIOBase):
    """A pipe whose writer is slow."""

    def __init__(self, content: bytes) -> None:
        self._bytes: Iterator[int] = iter(content)

    def read1(self, _size: int) -> bytes:
        return bytes([value for value in [next(self._bytes, None)] if value is not None])


def test_a_walk_has_the_order_of_the_sorted_list(tmp_path: Path):
    names = "b/x.png, b-c/y.png, b.png, b/0.png, B.jpg, b c/z.png, a/.hid.png, a/t.txt"
    for name in names.split(", "):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    walked = list(walk_images(tmp_path))
    assert walked == [str(path) for path in get_image_files(tmp_path)]
    assert len(walked) == 7


def test_a_list_is_read_by_its_separator_however_it_arrives():
    for content, null, expected in (
        (b"a b.png\n\nc.png", False, ["a b.png", "c.png"]),
        (b"a.png\r\nc.png\r\n", False, ["a.png", "c.png"]),
        (b"a\nb.png\0c.png\0", True, ["a\nb.png", "c.png"]),
        (b"\xff.png\n", False, [os.fsdecode(b"\xff.png")]),
        (b"\xef\xbb\xbfa.png\n\xef\xbb\xbfb.png", False, ["a.png", "\ufeffb.png"]),
        (b"", False, []),
    ):
        for file in (io.BytesIO(content), OneByteAtATime(content)):
            assert list(read_list(file, null=null, name="list")) == expected  # pyright: ignore[reportArgumentType] (raw is enough)


def test_a_list_that_is_separated_otherwise_is_refused():
    with pytest.raises(DataError, match=r"list .*--null"):
        list(read_list(io.BytesIO(b"a.png\0b.png\0\n"), null=False, name="list"))
    endless = io.BytesIO(b"x" * 3_000_000)
    with pytest.raises(DataError, match="longer than a million bytes"):
        list(read_list(endless, null=False, name="list"))
    assert endless.tell() < 2_000_000


def test_paths_come_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in.png").touch()
    (tmp_path / "single.png").touch()
    (tmp_path / "list.txt").write_text("listed.png\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped.png\n")))
    source = PathSource(
        paths=[tmp_path / "single.png", Path("-"), tmp_path / "folder"],
        lists=[tmp_path / "list.txt"],
    )
    source.check()
    expected = [tmp_path / "single.png", "piped.png", tmp_path / "folder" / "in.png", "listed.png"]
    assert list(source.images()) == [str(path) for path in expected]
    assert source.num_known is None


def test_what_cannot_work_is_refused_before_anything_is_computed():
    for source, words in (
        (PathSource(), "No images"),
        (PathSource(paths=["-"], lists=["-"]), "more than once"),
        (PathSource(lists=["none.txt"]), "no such file or folder:\n  'none.txt'"),
    ):
        with pytest.raises(DataError, match=words):
            source.check()


VOCAB = ("cross\r", "disc", 'say "hi", you\n\u2028', "star")
OPTIONS = PredictOptions(device="cpu", num_workers=1)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory, make_classifier: Any) -> Callable[..., Path]:
    """Return a function that writes the model file of a task."""

    def write(task: Task, vocab: tuple[str, ...] = ("a;b", "size")) -> Path:
        path = tmp_path_factory.mktemp(task) / "model.safetensors"
        return save_bundle(path, classifier=make_classifier(vocab, task=task), resize=Resize(32))

    return write


@pytest.fixture(scope="module")
def model(model_of: Callable[..., Path]) -> Path:
    return model_of("category", VOCAB)


def printed(
    model: Path, paths: Sequence[Path], form: Format, *, num_failed: int = 0
) -> tuple[str, Prediction]:
    """Return what is printed about some images, and what the model says about the first of them."""
    file = io.StringIO(newline="")
    done = print_predictions(model, PathSource(paths=paths), form=form, options=OPTIONS, file=file)
    assert (done.num_images, done.num_failed) == (len(paths), num_failed)
    ((_, expected),) = Predictor.load(model, device="cpu").predict_many(paths[:1])
    assert isinstance(expected, Prediction)
    return file.getvalue(), expected


def csv_rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_a_table_line_has_three_classes(
    model: Path, make_image: Callable[..., Path], tmp_path: Path
):
    path, empty, diary = make_image("a.png"), tmp_path / "empty.png", tmp_path / "text\n.png"
    empty.touch()
    diary.write_text("Dear diary")
    text, expected = printed(model, [path, empty, diary], Format.table, num_failed=2)
    escapes = str.maketrans({"\r": r"\r", "\n": r"\n", "\u2028": r"\u2028"})
    shown = [(label.translate(escapes), f"{share:.1%}") for label, share in expected.top]
    likeliest = ", ".join(" ".join(one) for one in shown)
    assert text.split("\n") == [
        f"{path}  {'  '.join(shown[0])}  ({likeliest})",
        f"{empty}  cannot be read: not an image: the file is empty (0 bytes)",
        f"{tmp_path}/text\\n.png  cannot be read: not an image: text that begins with 'Dear diary'",
        "",
    ]
    assert len(shown) == 3


def test_csv_is_the_names_as_they_are_or_safe_for_a_spreadsheet_if_asked_for(
    model_of: Any, make_image: Any, tmp_path: Path
):
    model = model_of("category", ("=1+1", "@x\r", "-\t"))
    paths = [make_image(name) for name in ("a.png", "=cmd.png", "b.png")]
    text, _ = printed(model, paths, Format.csv)
    plain = csv_rows(text)
    assert plain[0][3:6] == ["prob_=1+1", "prob_@x\r", "prob_-\t"]
    for resume in (False, True):  # the part beside the file holds names as they are
        file = tmp_path / "out.csv"
        options = replace(OPTIONS, csv_safe=True)
        source = PathSource(paths=[os.path.relpath(path, tmp_path) for path in paths])
        with contextlib.chdir(tmp_path):
            write_predictions(
                model, source, file=file, form=Format.csv, options=options, resume=resume
            )
        safe = csv_rows(file.read_bytes().decode())
        assert safe[0] == plain[0]
        assert [row[0] for row in safe[1:]] == ["a.png", "'=cmd.png", "b.png"]
        for row, expected in zip(safe[1:], plain[1:], strict=True):
            assert row[1] == f"'{expected[1]}"
            assert row[2:] == expected[2:]
        file.unlink()


def test_a_terminal_gets_nothing_that_it_would_obey(model_of: Any, make_image: Any):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    model, path = model_of("category", ("\x1b[2J", "\x9b31m\u202e")), make_image("a.png")
    for form in (Format.csv, Format.json, Format.table):
        file = Terminal(newline="")
        print_predictions(model, PathSource(paths=[path]), form=form, options=OPTIONS, file=file)
        assert printable(file.getvalue()) == file.getvalue()
        assert "[2J" in file.getvalue()


def test_several_labels_are_joined_and_have_a_column_each(model_of: Any, make_image: Any):
    model, path = model_of("multi_category"), make_image("a.png")
    text, expected = printed(model, [path], Format.csv)
    header, row = csv_rows(text)
    assert header == ["path", "prediction", "probability", "prob_a;b", "prob_size", "error"]
    probabilities, labels = expected.probabilities.tolist(), ";".join(expected.labels)
    numbers = [f"{value:.6f}" for value in (expected.probability, *probabilities)]
    assert row == [str(path), labels, *numbers, ""]
    said = json.loads(printed(model, [path], Format.json)[0])
    assert said["prediction"] == list(expected.labels)
    assert said["probabilities"] == dict(zip(("a;b", "size"), probabilities, strict=True))
    assert f"{path}  {labels or '(none)'}  " in printed(model, [path], Format.table)[0]


def test_numbers_have_a_column_each_and_no_probability(model_of: Any, make_image: Any):
    model, path = model_of("regression"), make_image("a.png")
    gone = path.with_name("gone.png")
    gone.touch()
    text, expected = printed(model, [path, gone], Format.csv, num_failed=1)
    header, row, bad = csv_rows(text)
    assert header == ["path", "prediction_a;b", "prediction_size", "error"]
    assert [float(cell) for cell in row[1:3]] == pytest.approx(expected.values, rel=1e-6)
    assert bad == [str(gone), "", "", "not an image: the file is empty (0 bytes)"]
    first, second = expected.values
    said = json.loads(printed(model, [path], Format.json)[0])
    assert said == {"path": str(path), "prediction": {"a;b": first, "size": second}}
    line, _ = printed(model, [path], Format.table)
    assert line == f"{path}  a;b {first:.6g}, size {second:.6g}\n"


def test_csv_can_be_read_back_whatever_the_names_are(model: Path, make_image: Callable[..., Path]):
    path = make_image('a,\n"b".png')
    text, expected = printed(model, [path], Format.csv)
    header, row = csv_rows(text)
    names = [f"prob_{label}" for label in VOCAB]
    assert header == ["path", "prediction", "probability", *names, "error"]
    numbers = [expected.probability, *expected.probabilities.tolist()]
    assert row == [str(path), expected.label, *(f"{number:.6f}" for number in numbers), ""]


def test_json_has_the_numbers_in_full(model: Path, make_image: Callable[..., Path]):
    path = make_image("a.png")
    text, expected = printed(model, [path], Format.json)
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "path": str(path),
        "prediction": expected.label,
        "probability": expected.probability,
        "top": [{"label": label, "probability": value} for label, value in expected.top],
        "probabilities": dict(zip(VOCAB, expected.probabilities.tolist(), strict=True)),
    }


def test_json_is_valid_in_any_encoding(model: Path, make_image: Callable[..., Path]):
    path = make_image("äł\U0001f600.png")
    source = PathSource(paths=[path])
    for encoding, shown in (("utf-8", "äł\U0001f600"), ("ascii", r"\u00e4\u0142\ud83d\ude00")):
        content = io.BytesIO()
        file = io.TextIOWrapper(content, encoding)
        print_predictions(model, source, form=Format.json, options=OPTIONS, file=file)
        text = content.getvalue().decode(encoding)
        assert shown in text
        assert json.loads(text)["path"] == str(path)


def test_each_line_is_written_out_at_once(model: Path, make_image: Callable[..., Path]):
    class Raw(io.BytesIO):
        writes = 0

        def write(self, data: Any) -> int:
            Raw.writes += 1
            return super().write(data)

    paths = [make_image(f"{number}.png", number=number) for number in range(5)]
    file = io.TextIOWrapper(io.BufferedWriter(Raw()), "utf-8")  # pyright: ignore[reportArgumentType] (a BytesIO is raw enough)
    print_predictions(model, PathSource(paths=paths), options=OPTIONS, file=file)
    assert Raw.writes == 5


def test_wrong_paths_are_refused_first(
    model: Path, make_image: Callable[..., Path], tmp_path: Path
):
    good = make_image("good.png")
    (tmp_path / "empty").mkdir()
    file = io.StringIO()
    for bad in ("none.png", "empty"):
        with pytest.raises(DataError, match=bad):
            print_predictions(model, PathSource(paths=[good, tmp_path / bad]), file=file)
    with pytest.raises(ModelFileError, match="is not a model file"):
        print_predictions(good, PathSource(paths=[good]), file=file)
    assert file.getvalue() == ""


OPTIONS_RESUMING = PredictOptions(device="cpu", num_workers=1, batch_size=4, coverage=0.9)
FORMS = [Format.csv, Format.json, Format.parquet]
Write = Callable[..., Predicted | None]


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def stop_after(number: int) -> Callable[[int], None]:
    def move(done: int) -> None:
        if done == number:
            raise StoppedError

    return move


@pytest.fixture
def write(calibrated: Path, few_images: list[Path]) -> Write:
    """Return a function that writes to a file what is predicted of ``few_images`` or of others."""

    def run(
        file: Path,
        form: Format,
        *,
        images: Sequence[Path] = few_images,
        options: PredictOptions = OPTIONS_RESUMING,
        **how: Any,
    ) -> Predicted | None:
        if form is Format.parquet:
            pytest.importorskip("pyarrow")
        source = PathSource(paths=images)
        return write_predictions(calibrated, source, file=file, form=form, options=options, **how)

    return run


@pytest.mark.parametrize("form", FORMS)
def test_a_file_has_a_row_for_each_image_in_order(
    write: Write, few_images: list[Path], tmp_path: Path, form: Format
):
    file = tmp_path / "out" / "predictions"
    file.parent.mkdir()
    done = write(file, form)
    assert done is not None
    assert (done.num_images, done.num_failed, done.num_before) == (7, 1, 0)
    assert [path.name for path in file.parent.iterdir()] == ["predictions"]
    if form is Format.parquet:
        import pyarrow.parquet as parquet

        rows = parquet.read_table(file).to_pylist()
        assert rows[3]["prediction"] is None
        assert rows[3]["prob_a"] is None
        assert 0 < rows[0]["prob_a"] < 1
    elif form is Format.csv:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["prediction"] == "" for row in rows] == [number == 3 for number in range(7)]
    else:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert [set(row) == {"path", "error"} for row in rows] == [n == 3 for n in range(7)]
    assert [row["path"] for row in rows] == [str(path) for path in few_images]
    assert rows[3]["error"] == "not an image: text that begins with 'Dear diary'"
    assert ("label_set" in rows[0], "familiarity" in rows[0]) == (True, True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [1, 4, 13])
def test_a_stopped_run_ends_with_the_same_bytes(
    write: Write, few_images: list[Path], tmp_path: Path, form: Format, stop: int
):
    whole, file, paths = tmp_path / "whole", tmp_path / "file", [*few_images, *few_images]
    write(whole, form, images=paths)
    with pytest.raises(StoppedError):
        write(file, form, images=paths, on_progress=stop_after(stop))
    assert not file.exists()
    done = write(file, form, images=paths, resume=True)
    assert done is not None
    assert done.num_before + done.num_images == 14
    assert file.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
        [*(path.name for path in few_images), "file", "whole"]
    )
    assert write(file, form, images=paths, resume=True) is None


@pytest.mark.parametrize("form", [Format.npz, Format.parquet])
def test_features_are_written_for_each_image_and_a_stopped_run_goes_on(
    write: Write, calibrated: Path, few_images: list[Path], tmp_path: Path, form: Format
):
    options = replace(OPTIONS_RESUMING, features="head", coverage=None)
    whole, file, paths = tmp_path / "whole", tmp_path / "file", [*few_images, *few_images]
    done = write(whole, form, images=paths, options=options)
    assert done is not None
    assert (done.num_images, done.num_failed) == (14, 2)
    with pytest.raises(StoppedError):
        write(file, form, images=paths, options=options, on_progress=stop_after(13))
    other = replace(options, features="body")
    with pytest.raises(ConfigError, match=r"--features was 'head' and is 'body'"):
        write(file, form, images=paths, options=other, resume=True)
    write(file, form, images=paths, options=options, resume=True)
    assert file.read_bytes() == whole.read_bytes()
    if form is Format.npz:
        with np.load(file) as arrays:
            names, features, errors = (arrays[name] for name in ("path", "features", "error"))
        assert (features.dtype, features.shape[0]) == (np.float32, 14)
        assert np.isnan(features).all(axis=1).tolist() == [
            path.name == "broken.png" for path in paths
        ]
    else:
        import pyarrow.parquet as parquet

        columns = parquet.read_table(file).to_pydict()
        names, features, errors = (columns[name] for name in ("path", "features", "error"))
        assert features[3] is None
    assert list(names) == list(map(str, paths))
    assert [bool(error) for error in errors] == [path.name == "broken.png" for path in paths]
    found = Predictor.load(calibrated, device="cpu").embed(paths)
    for row, (_, expected) in zip(features, found, strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(torch.tensor(row), expected, atol=1e-5, rtol=0)


def test_features_and_predictions_have_forms_of_their_own(write: Write, tmp_path: Path):
    features = replace(OPTIONS_RESUMING, features="body", coverage=None)
    for form, options in ((Format.npz, OPTIONS_RESUMING), (Format.csv, features)):
        with pytest.raises(ConfigError, match=form):
            write(tmp_path / "file", form, options=options)
    assert not (tmp_path / "file").exists()


def test_damaged_rows_are_named_and_whole_batches_of_good_ones_are_kept(
    write: Write, few_images: list[Path], tmp_path: Path
):
    whole, file, images = tmp_path / "whole", tmp_path / "file", [*few_images, *few_images]
    write(whole, Format.json, images=images)
    with pytest.raises(StoppedError):
        write(file, Format.json, images=images, on_progress=stop_after(13))
    content, settings = part_of(file).read_bytes(), settings_of(file).read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 13
    flipped = [line[:60] + bytes([line[60] ^ 1]) + line[61:] for line in lines]
    for left, named, num_before in (
        (content, None, 12),
        (content[:-1], None, 12),  # the last row was cut off
        (b"".join([*lines[:7], lines[7][:40]]), None, 4),
        (b"".join([flipped[0], *lines[1:]]), "1", 8),
        (b"".join([*lines[:5], flipped[5], *lines[6:]]), "6", 8),
        (b"".join([*lines[:2], flipped[2], *lines[3:9], flipped[9], *lines[10:]]), "3, 10", 4),
        (b"".join([*lines[:5], lines[5][:-1] + b"x", *lines[6:]]), "6", 8),  # two rows became one
        (b"".join([*lines[:5], lines[5][:9] + b"\n" + lines[5][9:], *lines[6:]]), "6, 7", 8),
        (b"".join([*lines[:4], *lines[8:]]), None, 8),  # a batch is missing
        (bytes(len(content)) + b"\n", "1", 0),
        (b"", None, 0),
    ):
        part_of(file).write_bytes(left)
        settings_of(file).write_bytes(settings)
        with ExitStack() as stack:
            if named is not None:
                words = f"Rows in '{part_of(file)}' are damaged.*: {named}\\."
                stack.enter_context(pytest.warns(UserWarning, match=words))
            done = write(file, Format.json, images=images, resume=True, force=False)
        assert done is not None
        assert done.num_before == num_before
        assert file.read_bytes() == whole.read_bytes()
        file.unlink()
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]


def test_a_run_that_repairs_its_part_may_be_stopped_too(
    write: Write, few_images: list[Path], tmp_path: Path
):
    whole, file, images = tmp_path / "whole", tmp_path / "file", [*few_images, *few_images]
    write(whole, Format.csv, images=images)
    with pytest.raises(StoppedError):
        write(file, Format.csv, images=images, on_progress=stop_after(13))
    part = part_of(file)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([lines[0], b"x\n", *lines[2:]]))
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(StoppedError):
        write(file, Format.csv, images=images, on_progress=stop_after(9), resume=True)
    assert part.read_bytes().count(b"\n") == 1
    with pytest.raises(StoppedError):  # after the four rows
        write(file, Format.csv, images=images, on_progress=stop_after(13), resume=True)
    done = write(file, Format.csv, images=images, resume=True)
    assert done is not None
    assert done.num_before == 12
    assert file.read_bytes() == whole.read_bytes()


def test_parquet_rows_come_in_groups(
    write: Write, few_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("vizsla.predict.formats.ROWS_OF_GROUP", 6)
    file = tmp_path / "file"
    write(file, Format.parquet, images=[*few_images, *few_images])
    metadata = parquet.ParquetFile(file).metadata
    assert [metadata.row_group(group).num_rows for group in range(3)] == [6, 6, 2]


def test_other_images_or_options_are_not_mixed_in(
    write: Write, few_images: list[Path], tmp_path: Path
):
    file, form = tmp_path / "file", Format.csv
    with pytest.raises(StoppedError):
        write(file, form, on_progress=stop_after(5))
    with pytest.raises(ConfigError, match=r"--resume.*--force"):
        write(file, form)
    other = replace(OPTIONS_RESUMING, views=2)
    with pytest.raises(ConfigError, match=r"--tta was 1 and is 2"):
        write(file, form, options=other, resume=True)
    swapped = [few_images[1], few_images[0], *few_images[2:]]
    with pytest.raises(ConfigError, match=r"Row 1 .* is for '.*a\.png', but now it is '.*comma"):
        write(file, form, images=swapped, resume=True)
    with pytest.raises(ConfigError, match=r"Row 3 .* now there is no such image"):
        write(file, form, images=few_images[:2], resume=True)
    done = write(file, form, images=swapped, force=True)
    assert done is not None
    assert (done.num_images, done.num_before) == (7, 0)


def test_an_old_file_stays_until_the_new_one_is_whole(write: Write, tmp_path: Path):
    file = tmp_path / "file.csv"
    file.write_text("old")
    with pytest.raises(StoppedError):
        write(file, Format.csv, on_progress=stop_after(5), force=True)
    assert file.read_text() == "old"
    write(file, Format.csv, resume=True)
    assert file.read_text("utf-8").startswith("path,")


def test_a_file_that_exists_is_refused_before_the_model_is_read(tmp_path: Path):
    file, none = tmp_path / "file.csv", tmp_path / "none.safetensors"
    file.write_text("mine")
    with pytest.raises(OutputError, match=rf"{file}' exists.*--force"):
        write_predictions(none, PathSource(paths=[tmp_path]), file=file, form=Format.csv)
    assert [(each, each.read_text()) for each in tmp_path.iterdir()] == [(file, "mine")]


def test_a_file_has_one_writer_at_a_time(write: Write, tmp_path: Path):
    file, refused = tmp_path / "file.csv", list[str]()

    def try_too(done: int) -> None:
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(OutputError) as caught:
                write(file, Format.csv, **how)
            refused.append(str(caught.value))

    write(file, Format.csv, on_progress=try_too)
    assert len(refused) == 14
    assert all(f"process {os.getpid()} on " in text and str(file) in text for text in refused)
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_read(tmp_path: Path):
    none, source = tmp_path / "none.safetensors", PathSource(paths=[tmp_path])
    for file in (tmp_path, tmp_path / "nowhere" / "file.csv"):
        with pytest.raises(OutputError, match="Choose another file"):
            write_predictions(none, source, file=file, form=Format.csv)


def listing_of(images: Sequence[Path], *, repeats: int) -> Path:
    """Write a list of the images whose names are one line, so many times over."""
    path = images[0].with_name("list")
    lines = [bytes(image) + b"\n" for image in images if "\n" not in str(image)]
    path.write_bytes(b"".join(lines * repeats))
    return path


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from vizsla.predict.predictor import Predictor
from vizsla.predict.formats import Format
from vizsla.predict.stream import PathSource, PredictOptions, write_predictions

torch.set_num_threads(1)
model, listing, folder = map(Path, sys.argv[1:4])
form, chance = Format(sys.argv[4]), random.Random(int(sys.argv[5]))
options = PredictOptions(device="cpu", num_workers=2, batch_size=8)
Predictor.load(model, device="cpu")  # what that imports need not be imported by each child
if form is Format.parquet:
    import pyarrow.parquet
    import vizsla.predict.formats
    vizsla.predict.formats.ROWS_OF_GROUP = 16

def start(file):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        source = PathSource(lists=[listing])
        write_predictions(model, source, file=file, form=form, options=options, resume=True)
        code = 0
    finally:
        os._exit(code)

started = time.perf_counter()
assert os.waitpid(start(folder / "whole"), 0)[1] == 0
seconds, kills = time.perf_counter() - started, 0
while True:
    child = start(folder / "killed")
    # Twice at the most is four fifths of what the first run took, which had to warm up.
    time.sleep(chance.uniform(0.1, 0.4) * seconds)
    if kills < 6:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
    kills += 1
print(kills)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes")
@pytest.mark.parametrize(
    "form",
    [Format.csv, *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])],
)
def test_a_run_killed_at_random_moments_loses_and_doubles_nothing(
    calibrated: Path,
    few_images: list[Path],
    tmp_path: Path,
    form: Format,
    python: Callable[..., str],
):
    if form is Format.parquet:
        pytest.importorskip("pyarrow")
    listing = listing_of(few_images, repeats=15)
    words = ("-W", "ignore", "-c", KILLED_AGAIN_AND_AGAIN, calibrated, listing, tmp_path, form, 7)
    assert int(python(*words)) >= 2
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not part_of(tmp_path / "killed").exists()


@pytest.mark.slow
def test_memory_is_flat_over_20_000_images(
    calibrated: Path, few_images: list[Path], tmp_path: Path
):
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("reads /proc")
    listing = listing_of(few_images, repeats=20_000 // 6 + 1)
    seen: dict[int, int] = {}

    def note(done: int) -> None:
        if done % 4_000 == 0:
            seen[done] = resident_bytes()

    done = write_predictions(
        calibrated,
        PathSource(lists=[listing]),
        file=tmp_path / "out.csv",
        form=Format.csv,
        options=PredictOptions(device="cpu", num_workers=2),
        on_progress=note,
    )
    assert done is not None
    assert done.num_images >= 20_000
    assert seen[20_000] - seen[4_000] < 8_000_000
