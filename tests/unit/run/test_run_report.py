"""A report is made again from the files of a run; what does not fit is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla import DataError, TrainConfig, train_classifier
from vizsla.data.table import resolve_data
from vizsla.infer import pooled_features
from vizsla.recipe import DataConfig, loaders_for
from vizsla.run import RunPlan, rebuild_report, run_training
from vizsla.train import Display

if TYPE_CHECKING:
    from conftest import Done

QUIET = Display(quiet=True)


@pytest.fixture
def run(image_folder: Path, tmp_path: Path) -> Path:
    """A finished run on 24 images, one of which could not be read."""
    (image_folder / "cross" / "cross_3.jpg").write_bytes(b"")
    # A mislabelled copy, saved again so that no split keeps the two together, gives the report a mistake and a duplicate.
    with Image.open(image_folder / "cross" / "cross_5.jpg") as image:
        image.save(image_folder / "disc" / "copy_1.jpg", quality=90)
    plan = RunPlan(
        title="Shapes <b>",
        data=str(image_folder),
        config=TrainConfig(size=64, epochs=0, device="cpu", num_workers=0),
        on_bad="skip",
        source=image_folder,
        where=DataConfig(valid="0.4"),
        references=(("by hand", 0.5),),
        notes=("Drawn by a test.",),
    )
    table = resolve_data(image_folder, valid=0.4, seed=0)
    return run_training(table, plan=plan, out=tmp_path / "run", display=QUIET).folder


def sections_of(page: str) -> list[str]:
    return re.findall(r'<section[^>]* id="(\w+)"', page)


def test_the_page_is_made_again_with_the_same_numbers(run: Path, vizsla: Callable[..., Done]):
    page = run / "report.html"
    before = page.read_text("utf-8")
    page.unlink()
    done = vizsla("report", run, "--device", "cpu")
    assert (done.code, done.out) == (0, f"Report: {page}\n")
    after = page.read_text("utf-8")
    # Labels of training images are judged by what only training knew.
    assert set(sections_of(before)) - {"labels"} == set(sections_of(after)) - {"labels"}
    assert {"slices", "calibration", "duplicates", "skipped", "notes"} <= set(sections_of(after))
    assert "with another label" in section(before, "data")
    assert section(before, "data") == section(after, "data")
    for words in ("Shapes &lt;b&gt;", "Drawn by a test.", "by hand", "cross_<wbr>3.jpg"):
        assert words in before
        assert words in after
    assert f"vizsla train --config {run / 'config.toml'}" in section(before, "next")
    for name in ("facts", "next", "metrics", "classes", "learning"):
        assert section(before, name) == section(after, name)


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_images_that_are_gone_are_named(run: Path, image_folder: Path):
    for path in (image_folder / "disc").iterdir():
        path.rename(path.with_stem(f"{path.stem}_b"))
    with pytest.raises(DataError, match=r"predictions\.csv no longer matches"):
        rebuild_report(run, device="cpu", display=QUIET)


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path, vizsla: Callable[..., Done]):
    done = vizsla("report", tmp_path)
    assert done.code == 2
    assert "is not the folder of a finished run" in done.err
    assert "config.toml" in done.err


def test_mistakes_that_cannot_be_explained_keep_the_report(run: Path, image_folder: Path):
    table = resolve_data(image_folder, valid=0.4, seed=0)
    names = {table.shown_path(row) for row in table.train_rows.tolist()} - {"cross/cross_3.jpg"}
    (image_folder / min(names)).write_bytes(b"broken")
    page = rebuild_report(run, device="cpu", display=QUIET).read_text("utf-8")
    assert 'id="mistakes"' in page
    assert "The mistakes could not be examined: Cannot read the image" in page


def test_training_keeps_the_features_of_the_final_classifier(image_folder: Path):
    table = resolve_data(image_folder, valid=0.4, seed=0)
    config = TrainConfig(size=64, epochs=0, device="cpu", num_workers=0)
    run = train_classifier(table, config=config, display=QUIET)
    known = run.known
    assert known is not None
    assert known.features is not None
    assert known.left_out is not None
    batches = loaders_for(table, config=config).loader_for(known.rows).batches()
    seen = torch.cat([pooled_features(run.classifier, batch.images) for batch in batches])
    torch.testing.assert_close(known.features, seen, atol=1e-4, rtol=0)
    # The leave-one-out accuracy in the recipe is that of these predictions.
    assert (
        f"{float(known.left_out.correct.float().mean()):.1%} on the training images" in run.recipe
    )
    assert known.left_out.rows.tolist() == table.train_rows.tolist()
