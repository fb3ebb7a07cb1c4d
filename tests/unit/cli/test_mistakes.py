"""Mistakes that new users make, each with the cure that the command line names, and words of other tools that just work."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vizsla import Resize
from vizsla.cli.app import COMMANDS
from vizsla.model_file import save_bundle

if TYPE_CHECKING:
    from conftest import Done

# What is typed, and what the message has to name. ``pets`` is a folder of images, ``run`` and ``run/model.safetensors`` a model.
MISTAKES = {
    # commands
    "trainn pets": "vizsla train",
    "pets": "vizsla train pets",
    "predictt run pets": "vizsla predict",
    # arguments that are missing, or too many
    "train": "DATA",
    "find-lr": "Usage: vizsla find-lr DATA",
    "predict": "Usage: vizsla predict MODEL IMAGES...",
    "predict run": "images",
    "evaluate run": "DATA",
    "embed run pets": "--out",
    "train pets dogs": "dogs",
    "train pets --epochs": "--epochs VALUE",
    # the wrong thing in the wrong place
    "train run": "--from run",
    "train run/model.safetensors": "--from run",
    "check run": "vizsla evaluate run DATA",
    "train pets/cat/0.png": "folder",
    "train petz": "'pets'",
    "train pets/*/0.png": "2 of the 8 images",
    "train petz/*/*.png": "folder",
    "predict pets": "MODEL comes first",
    "serve pets": "MODEL comes first",
    "predict model.pth pets": "--weights model.pth",
    "predict model.onnx pets": "ONNX",
    "predict run petz": "'petz'",
    "report pets": "vizsla train wrote",
    "compare run pets": "--csv FILE",
    # options that do not exist, or do in other tools
    "train pets --augmentt none": "--augment?",
    "train pets --batch-size 0": "--bs",
    "train pets --batch_size=0": "--bs",
    "train pets --imgsz 0": "--size",
    "train pets --epoch ten": "--epochs",
    "train pets epochs=ten": "--epochs",
    "fit --data pets --learning-rate 0": "--lr",
    "val --model run --data petz": "'petz'",
    "predict --weights run --source petz": "'petz'",
    # values that cannot work
    "train pets --size 1.5": "a whole number",
    "train pets --lr fast": "a number",
    "train pets --flip maybe": "yes or no",
    "train pets --valid 20": "20%",
    "train pets --valid 20% --label-level 7": "level",
    "train pets --augment heavy": "light",
    "train pets --device cuda:1": "CUDA_VISIBLE_DEVICES",
    "train pets --arch dinov3": "vit_base_patch16_dinov3",
    "train pets --model siglip": "vit_base_patch16_siglip",
    "train pets --arch hf-hub:timm/resnet18.nosuch": "resnet18.a1_in1k",
    "train pets --arch hf_hub:someone/net": "--weights FILE",
    "train pets --config nosuch.toml": "nosuch.toml",
    "list-archs nosuchnet": "nearest",
}
OF_PYTHON = (
    "None",
    "True",
    "False",
    "Literal",
    "Error",
    "Path(",
    "nn.Module",
    "Errno",
    "Traceback",
)


@pytest.fixture
def place(here: Path, make_image: Callable[..., Path], make_classifier: Any) -> Path:
    """The current folder, with images of two classes and a model."""
    for label in ("cat", "dog"):
        (here / "pets" / label).mkdir(parents=True)
        for number in range(4):
            make_image(f"pets/{label}/{number}.png")
    (here / "run").mkdir()
    save_bundle(here / "run" / "model.safetensors", classifier=make_classifier(("cat", "dog")), resize=Resize(40))  # fmt: skip
    (here / "model.pth").touch()
    (here / "model.onnx").touch()
    return here


@pytest.mark.usefixtures("place")
def test_a_mistake_gets_its_cure_in_words_of_the_command_line(vizsla: Callable[..., Done]):
    wrong: dict[str, str] = {}
    for typed, cure in MISTAKES.items():
        done = vizsla(*shlex.split(typed))
        is_plain = not any(word in done.err for word in OF_PYTHON)
        if done.code != 2 or cure not in done.err or not is_plain:
            wrong[typed] = done.err
    assert not wrong


@pytest.mark.usefixtures("place")
def test_words_of_other_tools_and_swapped_arguments_just_work(vizsla: Callable[..., Done]):
    wanted = vizsla("predict", "run", "pets", "--json")
    assert wanted.code == 0
    for typed in (
        "predict pets run --json",
        "predict run/model.safetensors 'pets/*/*.png' --json",
        "classify --model run --source pets --json --batch-size 32",
        "infer --data=pets --weights=run --json --num_workers=1",
    ):
        done = vizsla(*shlex.split(typed))
        assert (done.code, done.out) == (0, wanted.out), typed
    assert "run" in vizsla("predict", "pets", "run").err
    judged = vizsla("evaluate", "run", "pets", "--json")
    assert vizsla("val", "pets", "run", "--json").out == judged.out
    assert vizsla("test", "model=run", "data=pets", "--json").out == judged.out
    counted = vizsla("check", "pets", "--valid", "0.25")
    for typed in ("check pets/*/*.png --valid 25%", "check pets/*/* --val-split 0.25", "check pets/** --valid 25%"):  # fmt: skip
        assert vizsla(*shlex.split(typed)).out == counted.out, typed


def test_networks_are_listed_with_what_is_known_of_them(vizsla: Callable[..., Done]):
    here = vizsla("list-archs")
    assert (here.code, "efficientnet_lite0" in here.out) == (0, True)
    rows = [line.split() for line in vizsla("list-archs", "resnext50_32x4d").out.splitlines()]
    assert ["resnext50_32x4d", "25.0", "M", "224", "px", "to", "download"] in rows
    done = vizsla("list-archs", "shufflenet_v2_x1_0")  # torchvision's
    assert "2.3 M" in done.out
    assert "69.4%" in done.out


def test_help_shows_how_each_command_is_used(vizsla: Callable[..., Done]):
    for name in COMMANDS:
        done = vizsla(name, "--help")
        assert (done.code, done.err) == (0, "")
        first = next(filter(None, done.out.splitlines()), "")
        assert first.startswith(f"Usage: vizsla {name} "), name
        assert not set(first) & {*"{}"}, name
