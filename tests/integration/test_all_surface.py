"""``from vizsla.all import *``: the names that cells take for granted, nothing set for the whole program, a notebook run whole."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsla import Learner

# What the cells of the two lessons take from their star imports, and what their readers reach for next.
CELLS = """
CategoryBlock ClassificationInterpretation DataBlock F ImageBlock Inf PILImage Path Pipeline RandomSplitter RegexLabeller
Resize Rotate TensorImage URLs Warp Zoom accuracy aug_transforms cnn_learner error_rate get_image_files minimum nn np os
parent_label partial pd plot_function plt random re resnet18 resnet34 resnet50 setup_aug_tfms slide steep subplots tensor
torch untar_data using_attr valley vision_learner math Image efficientnet_lite0
"""
NEXT = """
ImageDataLoaders DataLoaders Datasets TfmdDL Learner load_learner L first noop set_seed default_device imagenet_stats
Normalize TensorCategory RandomResizedCrop RandomResizedCropGPU Flip Dihedral Brightness Contrast Saturation Hue
RandomErasing ResizeMethod PadMode IndexSplitter FuncSplitter GrandparentSplitter ColSplitter EndSplitter
TrainTestSplitter RandomSubsetSplitter ColReader ItemGetter AttrGetter MultiCategoryBlock RegressionBlock CategoryMap
CrossEntropyLossFlat BCEWithLogitsLossFlat LabelSmoothingCrossEntropy FocalLossFlat MixUp CutMix EarlyStoppingCallback
SaveModelCallback ReduceLROnPlateau CSVLogger ShowGraphCallback GradientAccumulation GradientClip TerminateOnNaNCallback
Callback Adam SGD F1Score Precision Recall RocAuc top_k_accuracy accuracy_multi verify_images show_image show_images
ImageClassifierCleaner convnext_tiny vgg16_bn densenet121
"""
LOOK = """
import json, random, sys, warnings
import matplotlib, numpy as np, torch
def state():
    return [str(torch.initial_seed()), str(torch.random.get_rng_state().sum()), str(random.getstate())[:200],
            str(np.random.get_state()[1][:5]), str(np.get_printoptions()), str(vars(torch._tensor_str.PRINT_OPTS)),
            dict(matplotlib.rcParams).__repr__(), str(warnings.filters), torch.get_num_threads(),
            torch.is_grad_enabled(), str(torch.get_default_dtype())]
before = state()
known = set(sys.modules)
namespace = {}
exec("from vizsla.all import *", namespace)
import vizsla.all
from pathlib import Path
Path.BASE_PATH = Path("/somewhere")
print(json.dumps({
    "changed": [place for place, (a, b) in enumerate(zip(before, state())) if a != b],
    "names": sorted(set(namespace) - {"__builtins__"}),
    "all": sorted(vizsla.all.__all__),
    "imported": sorted({"torchvision", "timm", "sklearn", "IPython", "rich", "jinja2", "scipy"} & set(sys.modules)),
    "path": repr(Path("/somewhere/images/a.jpg")),
    "outside": repr(Path("/other/x.jpg")),
    "listed": type(Path(".").ls()).__name__,
    "function": [namespace["resnet34"].__name__, str(callable(namespace["resnet34"]))],
}))
"""


def test_the_import_gives_the_names_and_sets_nothing_else(python: Callable[..., str]):
    look = json.loads(python("-c", LOOK))
    assert set(CELLS.split()) - set(look["names"]) == set()
    assert set(NEXT.split()) - set(look["names"]) == set()
    assert look["names"] == look["all"]
    assert len(look["all"]) < 400
    assert look["changed"] == []
    assert look["imported"] == []
    assert look["path"] == "Path('images/a.jpg')"
    assert look["outside"] == "Path('/other/x.jpg')"
    assert look["listed"] == "L"
    assert look["function"] == ["resnet34", "True"]


def run_notebook(cells: list[str], *, folder: Path) -> list[Any]:
    """Run cells in a kernel, and return their outputs."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore")  # of the kernel's client: ports, event loops
def test_a_notebook_runs_and_shows_tables_and_images(image_folder: Path):
    outputs = run_notebook(
        [
            "import torch; torch.set_num_threads(1)\nfrom vizsla.all import *",
            "Path.BASE_PATH = Path.cwd()\nPath.cwd().ls()",
            "dls = ImageDataLoaders.from_folder('pictures', valid_pct=0.25, seed=1, item_tfms=Resize(40), "
            "batch_tfms=aug_transforms(size=32), bs=6)\ndls.show_batch(max_n=4)",
            "dls.train_ds[0][0]",
            "learn = vision_learner(dls, efficientnet_lite0, metrics=[accuracy, error_rate])\nlearn.fine_tune(2)",
            "ClassificationInterpretation.from_learner(learn).plot_confusion_matrix()",
        ],
        folder=image_folder.parent,
    )
    assert outputs[1][0]["data"]["text/plain"] == "(#1) [Path('pictures')]"
    assert "image/png" in outputs[2][0]["data"]
    assert "image/png" in outputs[3][0]["data"]
    tables = [output["data"] for output in outputs[4] if output["output_type"] == "display_data"]
    assert [table["text/html"].count("<tr") for table in tables] == [2, 3]
    assert all("<progress" not in table["text/html"] for table in tables)
    assert tables[0]["text/plain"].split()[:6] == ["epoch", "train_loss", "valid_loss", "accuracy", "error_rate", "time"]  # fmt: skip
    assert "image/png" in outputs[5][0]["data"]


def test_the_signature_of_fine_tune_is_written_out():
    parameters = inspect.signature(Learner.fine_tune).parameters
    assert list(parameters)[:7] == ["self", "epochs", "base_lr", "freeze_epochs", "lr_mult", "pct_start", "div"]  # fmt: skip
    kinds = {parameter.kind for parameter in parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
