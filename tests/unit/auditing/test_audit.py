"""An audit of images with planted faults, and its parts on numbers whose answer is known."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from vizsla import Audit, DataError, TrainConfig, audit, read_fixes
from vizsla.auditing import find_grouping, probe, probe_cues, quick_audit, read_traits
from vizsla.bench import made_up_photograph
from vizsla.data.images import Duplicate, find_duplicates, image_facts
from vizsla.data.table import resolve_data
from vizsla.evaluate import measure, summarise
from vizsla.infer import Evidence
from vizsla.recipe import FeatureLayout, HeadSetting
from vizsla.report import metric_row
from vizsla.train import Display
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Done

QUIET = Display(quiet=True)
SMALL = TrainConfig(size=64, device="cpu")
LAYOUT = FeatureLayout(stages=(0,), statistics=("mean",), channels=(8,))
SETTING = HeadSetting(stages=(0,), statistics=("mean",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    """Blue crosses in JPEGs and red discs in PNGs, 24 of each, with a fault of each kind."""
    root = tmp_path_factory.mktemp("audit") / "shapes"
    drawn = draw_folder(root, per_class=26, suffix=".png", size=(120, 160))
    cross, disc = drawn / "cross", drawn / "disc"
    (disc / "disc_24.png").rename(cross / "wrong.png")
    with Image.open(disc / "disc_25.png") as image:
        image.resize((40, 30)).save(disc / "tiny.png")
    for name in ("disc/disc_25.png", "cross/cross_24.png", "cross/cross_25.png"):
        (root / name).unlink()
    for path in sorted(cross.glob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    shutil.copy(cross / "cross_3.jpg", disc / "<b>copy.jpg")
    with Image.open(cross / "cross_0.jpg") as image:
        ImageOps.mirror(image).save(cross / "mirrored.jpg")
        image.filter(ImageFilter.GaussianBlur(6)).save(cross / "blurred.jpg")
    Image.new("RGB", (160, 120), "grey").save(disc / "blank.png")
    (disc / "broken.png").write_bytes(b"no image")
    (cross / "cut.jpg").write_bytes((cross / "cross_1.jpg").read_bytes()[:-900])
    return root


@pytest.fixture(scope="module")
def found(folder: Path) -> Audit:
    return audit(folder, config=SMALL, display=QUIET)


def names(found: Audit, kind: str) -> set[str]:
    """Return the names of the images of findings of a kind, with those that are related."""
    items = [item for each in found.findings if each.kind == kind for item in each.items]
    rows = {row for item in items for row in (item.row, *(item.related if kind != "label" else ()))}
    return {found.table.shown_path(row) for row in rows}


def test_planted_faults_are_found_and_named(found: Audit):
    assert names(found, "unreadable") == {"cross/cut.jpg", "disc/broken.png"}
    assert {"cross/cross_3.jpg", "disc/<b>copy.jpg"} <= names(found, "contradiction")
    assert {"cross/cross_0.jpg", "cross/mirrored.jpg"} <= names(found, "duplicate") | names(
        found, "across sets"
    )
    assert names(found, "blank") == {"disc/blank.png"}
    assert names(found, "blurred") == {"cross/blurred.jpg"}
    assert names(found, "tiny") == {"disc/tiny.png"}
    labels = {found.table.shown_path(item.row): item.suggestion for item in found.suspects}
    assert labels["cross/wrong.jpg"] == "disc"
    assert found.noise is not None
    assert found.noise.low < 2 / 53 < found.noise.high
    assert [each.severity for each in found.findings] == sorted(
        (each.severity for each in found.findings), key=("mend", "look", "know").index
    )


def test_a_cue_that_gives_the_class_away_is_named(found: Audit):
    cues = {cue.name: cue for cue in found.cues}
    assert cues["the file type"].accuracy > 0.9
    assert cues["the file type"].low <= cues["the file type"].accuracy <= cues["the file type"].high
    assert any("the file type" in each.title for each in found.findings if each.kind == "shortcut")


def test_results_are_a_page_a_table_and_json(found: Audit, tmp_path: Path):
    page = found.save(tmp_path / "out").read_text("utf-8")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "audit.html",
        "audit.json",
        "fixes.csv",
        "issues.csv",
    ]
    assert read_fixes(tmp_path / "out" / "fixes.csv") == found.fixes
    fixed = resolve_data(found.table.root, fixes=tmp_path / "out" / "fixes.csv", seed=0)
    row = next(row for row in range(len(fixed.paths)) if fixed.paths[row].name == "wrong.jpg")
    assert fixed.label(row) == "disc"
    assert "<b>copy" not in page
    assert "&lt;b&gt;copy" in page
    assert "default-src 'none'" in page
    written = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert [each["kind"] for each in written["findings"]] == [each.kind for each in found.findings]
    with (tmp_path / "out" / "issues.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(each.items) for each in found.findings)
    (wrong,) = (row for row in rows if row["path"] == "cross/wrong.jpg" and row["kind"] == "label")
    assert (wrong["label"], wrong["suggestion"]) == ("cross", "disc")


def test_training_is_told_the_short_form(found: Audit):
    """Labels by what training knows already, twins across the split, and the worst shortcut."""
    table, left_out = found.table, found.left_out
    assert left_out is not None
    held_out = torch.isin(left_out.rows, table.valid_rows)
    predictions = left_out.take(held_out)
    facts = [image_facts(table, rows) for rows in (predictions.rows, table.train_rows)]
    options: dict[str, Any] = {"predictions": predictions, "num_workers": 0}
    (metric, *_) = summarise(predictions)
    evidence = Evidence(left_out=left_out, duplicates=find_duplicates(*facts))
    kinds = {
        each.kind: each for each in quick_audit(table, evidence=evidence, metric=metric, **options)
    }
    assert kinds.keys() == {"label", "shortcut", *(["across sets"] if evidence.duplicates else [])}
    assert found.noise is not None
    assert kinds["label"].title == next(
        each.title for each in found.findings if each.kind == "label"
    )
    (only,) = quick_audit(table, evidence=Evidence(), **options)
    assert only == kinds["shortcut"]
    twin = Duplicate(position=0, train_row=int(table.train_rows[0]), likeness=1.0, is_exact=False)
    first, *_ = quick_audit(table, evidence=Evidence(duplicates=(twin,)), metric=metric, **options)
    others = measure(predictions.take(torch.arange(1, len(predictions.rows))), metric.name)
    assert (first.kind, metric_row(others).interval in first.title) == ("across sets", True)


def test_on_the_command_line(folder: Path, vizsla: Callable[..., Done], here: Path):
    (here / "shapes-audit").mkdir()
    done = vizsla("audit", folder, "--size", 64, "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    assert "broken.png" in done.out
    assert done.out.rstrip().endswith("shapes-audit-2/audit.html")
    assert (here / "shapes-audit-2" / "issues.csv").is_file()
    for words, fact in (
        ((folder / "disc" / "none",), "none"),
        ((folder, "--out", folder / "disc" / "blank.png" / "x"), "blank.png"),
        ((folder, "--arch", "resnet51"), "resnet51"),
    ):
        done = vizsla("audit", *words)
        assert (done.code, fact in done.err) == (2, True), done.err
    assert sorted(path.name for path in here.iterdir()) == ["shapes-audit", "shapes-audit-2"]


def test_images_without_one_class_each_are_looked_at(folder: Path, tmp_path: Path):
    table = tmp_path / "numbers.csv"
    lines = [f"{path},{number / 7}" for number, path in enumerate(sorted(folder.rglob("*_*.*")))]
    table.write_text("\n".join(["image,score", *lines]))
    words = f"csv:{table},image=image,label=score,kind=number"
    seen = audit(table, labels=words, config=SMALL, display=QUIET)
    assert (seen.left_out, seen.noise, seen.cues, seen.suspects) == (None, None, (), ())
    assert len(seen.rows) == len(lines)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fixes.csv").write_text("path,action\nold.png,drop\n")
    seen.save(tmp_path / "out")
    assert read_fixes(tmp_path / "out" / "fixes.csv") == ()
    only = resolve_data(table, labels=words, seed=0)
    few = torch.tensor([0])
    with pytest.raises(DataError, match="1 image"):
        audit(replace(only, train_rows=few, valid_rows=few[:0]), config=SMALL, display=QUIET)


def test_a_probe_finds_what_determines_the_class_and_nothing_in_noise():
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(300) % 3
    noise = torch.randn(300, 2, generator=random)
    options: dict[str, Any] = {"vocab": ("a", "b", "c"), "seed": 0}
    telling = probe("x", noise + 6 * torch.eye(3)[targets][:, :2], targets, **options)
    assert telling is not None
    assert telling.explained > 0.9
    nothing = probe("x", noise, targets, **options)
    assert nothing is not None
    assert nothing.explained < 0.1
    assert nothing.low < 1 / 3 < nothing.high + 0.05
    assert (nothing.given_away, probe("x", torch.ones(300, 2), targets, **options)) == (None, None)
    # Only one class of many: the accuracy hardly moves, and the class is named.
    many = torch.arange(400) % 20
    one = probe(
        "x", (many == 7).float()[:, None], many, vocab=tuple("abcdefghijklmnopqrst"), seed=0
    )
    assert one is not None
    assert one.explained < 0.2
    assert one.given_away == ("h", 1.0, 0.0)


def test_each_thing_beside_the_object_that_tells_the_class_is_named(tmp_path: Path):
    """On one class: a logo in a corner, a border, a folder, a date in the path, a camera, a coarser JPEG, a size, a file type."""
    images = [made_up_photograph(number, size=(96, 128)) for number in range(64)]
    exif = Image.Exif()
    exif[271], exif[272] = "Maker", "Model 1"

    def with_logo(image: Image.Image) -> Image.Image:
        draw = ImageDraw.Draw(image)
        draw.rectangle((104, 72, 124, 92), fill="white")
        draw.ellipse((108, 76, 120, 88), fill="black")
        return image

    plain: dict[str, Any] = {
        "change": Image.Image.copy,
        "name": "x/{}.jpg",
        "options": {"quality": 90},
    }
    planted: dict[str, dict[str, Any]] = {
        "": {},
        "marks near the edges": {"change": with_logo},
        "the border": {"change": lambda image: ImageOps.expand(image.crop((4, 4, 124, 92)), 4, "white")},
        "the folder": {"name": "y/{}.jpg"},
        "the date": {"name": "x/2024-05-31_{}.jpg"},
        "the camera": {"options": {"quality": 90, "exif": exif}},
        "the JPEG quality": {"options": {"quality": 40}},
        "the size of the image": {"change": lambda image: image.resize((144, 108))},
        "the file type": {"name": "x/{}.png"},
    }  # fmt: skip
    for cue, differs in planted.items():
        root, paths = tmp_path / cue.replace(" ", "_"), []
        for number, image in enumerate(images):
            how = plain | (differs if number % 2 else {})
            paths.append(root / how["name"].format(number))
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            how["change"](image.copy()).save(paths[-1], **how["options"])
        targets, rows = torch.arange(64) % 2, torch.arange(64)
        table = ImageTable(
            root=root, paths=tuple(paths), targets=targets, vocab=("a", "b"), train_rows=rows, valid_rows=rows[:0]
        )  # fmt: skip
        traits = [one for one in read_traits(table, rows) if one is not None]
        found = {
            each.name
            for each in probe_cues(traits, targets, vocab=table.vocab, seed=0)
            if each.explained > 0.5
        }
        assert cue in found if cue else not found, (cue, found)


def test_groups_that_a_random_split_tears_apart_are_named():
    """Each patient has features of their own, which say more of the class than the class does."""
    random = torch.Generator().manual_seed(0)
    patient = torch.arange(400) // 10
    targets = torch.randint(2, (40,), generator=random)[patient]
    own = torch.randn(40, 8, generator=random)[patient]
    features = 3 * own + 0.3 * torch.randn(400, 8, generator=random)
    paths = [f"p{int(number):03}_{place}.png" for place, number in enumerate(patient)]
    options: dict[str, Any] = {"layout": LAYOUT, "num_classes": 2, "seed": 0}
    setting = HeadSetting(stages=(0,), statistics=("mean",), bandwidth=0.5)
    found = find_grouping(paths, features, targets, setting=setting, **options)
    assert found is not None
    assert found.num_groups == 40
    assert found.accuracy > 0.9 > 0.75 > found.grouped_accuracy
    assert 0 < found.low <= found.accuracy - found.grouped_accuracy <= found.high
    # Without such groups, and where the names are those of the classes, there is nothing to say.
    plain = (2.0 * targets - 1)[:, None] + torch.randn(400, 8, generator=random)
    assert find_grouping(paths, plain, targets, setting=SETTING, **options) is None
    by_class = [f"class{int(target)}_{place}.png" for place, target in enumerate(targets)]
    assert find_grouping(by_class, features, targets, setting=setting, **options) is None


def test_traits_are_those_of_the_file(tmp_path: Path):
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    exif = Image.Exif()
    exif[271], exif[272], exif[274] = "Maker", "Model 1", 6
    (tmp_path / "a" / "2024-05-31").mkdir(parents=True)
    image.save(tmp_path / "a" / "2024-05-31" / "x.jpg", quality=60, exif=exif)
    (tmp_path / "b").mkdir()
    ImageOps.expand(image, 20, "white").save(tmp_path / "b" / "y.png")
    (tmp_path / "b" / "z.png").write_bytes(b"no image")
    table = resolve_data(tmp_path, seed=0, min_per_class=1)
    one, other, none = read_traits(table, torch.arange(3))
    assert none is None
    assert one is not None
    assert other is not None
    assert (one.height, one.width, one.kind, one.camera) == (300, 200, "JPEG RGB", "Maker Model 1")
    assert (one.date, one.folder, one.quality > 10) == ("2024-05-31", "a/2024-05-31", True)
    assert (other.kind, other.quality, other.date, other.camera) == ("PNG RGB", 0.0, "", "")
    assert min(other.border[::2]) > 250
    assert max(other.border[1::2]) < 20
    assert one.num_bytes == (tmp_path / "a" / "2024-05-31" / "x.jpg").stat().st_size
