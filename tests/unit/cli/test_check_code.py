"""``vizsla check`` of a notebook or script: what it uses that is not there, found without running it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Done

STAR = "from fastai.vision.all import *"


@pytest.fixture
def check(here: Path, vizsla: Callable[..., Done]) -> Callable[..., dict[str, Any]]:
    """Return a function that checks a notebook of these cells and returns its JSON, the findings as {(cell, line, code): instead}."""

    def run(*cells: str) -> dict[str, Any]:
        code = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
        notebook = {"cells": [{"cell_type": "markdown", "source": "# Pets"}, *code]}
        (here / "pets.ipynb").write_text(json.dumps(notebook))
        done = vizsla("check", "pets.ipynb", "--json")
        found = json.loads(done.out)
        assert done.code == (2 if found["missing"] else 0), done.err
        for part in ("imports", "missing"):
            found[part] = {
                (each["cell"], each["line"], each["code"]): each["instead"] for each in found[part]
            }
        return found

    return run


def test_a_notebook_that_needs_only_its_imports_changed(check: Callable[..., dict[str, Any]]):
    found = check(
        "!pip install -Uqq fastbook\nimport fastbook\nfastbook.setup_book()",
        f"%matplotlib inline\n{STAR}\nfrom fastai.metrics import error_rate as wrong",
        "%%time\npath = untar_data(URLs.PETS)/'images'\nfiles = !ls\npath.ls??",
        "def is_cat(x): return x[0].isupper()\n"
        "dls = ImageDataLoaders.from_name_func(path, get_image_files(path), is_cat, item_tfms=Resize(224), bs=8)\n"
        "learn = vision_learner(dls, resnet34, metrics=wrong, wd=0.1).to_fp16()",
        "learn.fine_tune(1, freeze_epochs=2)\nlearn.recorder.plot_loss()\nlearn.note = 'mine'\nlearn.note",
        "with torch.no_grad(): rows = [(a, b) for a, *b in dls.vocab]\nlearn.model.anything(at_all=1)",
        "class Hook:\n    def __init__(self, m): self.m = m\nHook(learn).m\ndef accuracy(a, b, c): return a\naccuracy(1, 2, 3)",
        "%%bash\nls -l | head",
        "from fastai.vision.widgets import *\nbutton = widgets.Button()\nVBox([button])",
    )
    assert found["missing"] == {}
    assert found["unread"] == []
    assert (found["written_for"], found["num_cells"]) == ("fastai 2", 9)
    assert list(found["imports"]) == [
        (1, 2, "import fastbook"),
        (1, 3, "fastbook.setup_book"),
        (2, 2, STAR),
        (2, 3, "from fastai.metrics import error_rate as wrong"),
        (9, 1, "from fastai.vision.widgets import *"),
    ]
    assert "ipywidgets" in found["imports"][9, 1, "from fastai.vision.widgets import *"]


def test_what_is_missing_is_named_with_cell_and_line(check: Callable[..., dict[str, Any]]):
    found = check(
        f"{STAR}\nfrom fastai.vision.all import unet_learner, Resize\nfrom fastai.text.all import *",
        "dls = ImageDataLoaders.from_folder('pets', size=224, item_tfms=Resize(64))\nlearn = vision_learner(dls, resnet18, metric=accuracy)",
        "learn.fit_one_cycle(1, max_lr=1e-3)\nlearn.recorder.plot()\nlearn.TTA()",
        "for n in range(3):\n    unet_learner(dls)\n    DataBlock(blocks=ImageBlock).dataloadrs('pets')",
        "interp = ClassificationInterpretation.from_learner(learn)\ninterp.top_losses(1, True, False, 4)\nURLs.NO_SUCH\nnowhere",
    )
    assert list(found["missing"]) == [
        (1, 2, "unet_learner"),
        (1, 3, "fastai.text.all"),
        (2, 1, "from_folder(size=)"),
        (2, 2, "vision_learner(metric=)"),
        (3, 1, "fit_one_cycle(max_lr=)"),
        (3, 2, "plot"),
        (3, 3, "TTA"),
        (4, 2, "unet_learner"),
        (4, 3, "dataloadrs"),
        (5, 2, "top_losses()"),
        (5, 3, "NO_SUCH"),
        (5, 4, "nowhere"),
    ]
    assert found["missing"][3, 1, "fit_one_cycle(max_lr=)"] == "lr_max"
    assert found["missing"][2, 2, "vision_learner(metric=)"] == "metrics"
    assert "dataloaders" in found["missing"][4, 3, "dataloadrs"]
    assert "tta" in found["missing"][3, 3, "TTA"]


def test_what_cannot_be_known_is_left_alone(check: Callable[..., dict[str, Any]]):
    found = check(
        STAR,
        "from somewhere import *\nof_somewhere(1)",
        "def f(learn, **options):\n    learn.no_such()\n    return vision_learner(learn, resnet18, **options)",
        "learn = f(1)\nlearn.fit_one_cycle(1, max_lr=1)",
        "print 'an old notebook', half\n(",
        "half.no_such()\n[learn.x for learn in half]",
    )
    assert found["missing"] == {}
    assert found["unread"] == [5]


def test_code_for_fastai_1_is_told_the_names_of_now(check: Callable[..., dict[str, Any]]):
    found = check(
        "from fastai.vision import *",
        "data = (ImageList.from_folder('pets').split_by_rand_pct(0.2).label_from_folder()\n"
        "        .transform(get_transforms(), size=224).databunch().normalize(imagenet_stats))",
        "learn = cnn_learner(data, models.resnet34)",
    )
    assert found["written_for"] == "fastai 1"
    assert {code for _, _, code in found["missing"]} == {
        *("ImageList", "split_by_rand_pct", "label_from_folder"),
        *("get_transforms", "databunch", "models"),
    }
    assert all(found["missing"].values())


def test_code_for_fastai_0_7_is_held_against_the_dialect_of_lesson_one(
    check: Callable[..., dict[str, Any]],
):
    found = check(
        "from fastai.imports import *\nfrom fastai.conv_learner import *",
        "tfms = tfms_from_model(resnet34, 224, aug_tfms=transforms_side_on, max_zoom=1.1)\n"
        "data = ImageClassifierData.from_paths('dogscats', tfms=tfms)\n"
        "learn = ConvLearner.pretrained(resnet34, data, precompute=True)\n"
        "learn.fit(0.01, 3, cycle_len=1, cycle_mult=2)\nlearn.fine_tune(1)",
    )
    assert found["written_for"] == "fastai 0.7"
    assert list(found["missing"]) == [(2, 5, "fine_tune")]


def test_a_script_is_one_cell_and_people_read_lines(here: Path, vizsla: Callable[..., Done]):
    (here / "train.py").write_text(f"{STAR}\n\nunet_learner(1)\nunet_learner(2)\n")
    done = vizsla("check", "train.py")
    assert done.code == 2
    assert "Cell 1 line 1: " in done.out
    assert "Cell 1 line 3, 1 line 4: " in done.out
    assert "train.py" in done.err
    (here / "train.py").write_text("from vizsla.all import *\nprint(URLs.PETS)\n")
    assert vizsla("check", "train.py").code == 0


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"[]", b"{}", b'{"cells": [{}]}', b'{"cells": []}', None]
)
def test_a_file_that_is_no_notebook_is_refused_by_name(
    here: Path, vizsla: Callable[..., Done], content: bytes | None
):
    if content is not None:
        (here / "odd.ipynb").write_bytes(content)
    done = vizsla("check", "odd.ipynb")
    assert (done.code, done.out) == (2, "")
    assert "odd.ipynb" in done.err
