"""``learn.save`` and ``learn.load``: what comes back, and what is refused by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.errors import ModelFileError, OutputError
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.train.learner import Learner

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(learner: Learner, state: dict[str, Tensor]) -> bool:
    found = learner.model.state_dict()
    return all(torch.equal(value, found[name]) for name, value in state.items())


def test_the_file_has_its_place_and_its_ending(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    path = learner.save("stage-1.5")
    assert path == tmp_path / "models" / "stage-1.5.safetensors"
    assert path.is_file()
    assert learner.save(tmp_path / "else" / "x.safetensors") == tmp_path / "else" / "x.safetensors"


def test_training_goes_on_bit_for_bit_from_what_was_saved(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    learner.fit_one_cycle(1, 1e-2)
    learner.save("half")
    learner.fit_one_cycle(1, 1e-2)
    expected = state_of(learner)
    other = make_learner(path=tmp_path)
    other.epochs_done = 1
    assert other.load("half") is other
    other.fit_one_cycle(1, 1e-2)
    assert same(other, expected)


def test_without_the_optimiser_it_starts_afresh_and_says_so(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    learner.fit(1, 1e-2)
    learner.save("bare", with_opt=False)
    expected = state_of(learner)
    learner.fit(1, 1e-2)
    with pytest.warns(UserWarning, match="has no state of an optimiser; it starts afresh"):
        learner.load("bare")
    assert same(learner, expected)
    assert learner.opt is None
    learner.load("bare", with_opt=False)  # nothing to warn of


def test_the_optimiser_is_left_alone_where_it_is_not_asked_for(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    learner.fit(1, 1e-2)
    learner.save("one")
    learner.fit(1, 1e-2)
    learner.load("one", with_opt=False)
    assert {int(state["step"]) for state in learner.opt.state.values()} == {10}
    learner.load("one")
    assert {int(state["step"]) for state in learner.opt.state.values()} == {5}


def test_an_optimiser_of_other_frozen_groups_starts_afresh_and_says_so(
    make_learner: Any, tmp_path: Path
):
    learner = make_learner(path=tmp_path, train_bn=False)
    learner.fit(1, 1e-2)
    learner.save("all")
    expected = state_of(learner)
    learner.freeze()
    with pytest.warns(UserWarning, match=r"of other parameters.*The weights are loaded"):
        learner.load("all")
    assert same(learner, expected)
    learner.fit(1, 1e-2)  # the head, with a new optimiser


def test_a_file_that_is_not_there_is_named(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    with pytest.raises(ModelFileError, match=r"There is no file .*models/nothing\.safetensors"):
        learner.load("nothing")


def with_network(
    make_loaders: Any, path: Path, *, arch: str = "test_resnet", vocab: Any = None, width: int = 8
) -> Learner:
    loaders = make_loaders()
    if vocab is not None:
        object.__setattr__(loaders.table, "vocab", vocab)
    backbone = build_backbone(arch, pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(loaders.vocab), lin_ftrs=[width])
    return Learner(loaders, Classifier(backbone, head, vocab=loaders.vocab), path=path, quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arch": "test_efficientnet"},
            r"has the weights of test_resnet.*trains test_efficientnet",
        ),
        (
            {"vocab": ("cat", "dog", "fox")},
            r"knows 2 classes \['cross', 'disc'\].*has 3 \['cat', 'dog', 'fox'\]",
        ),
        ({"vocab": ("disc", "cross")}, r"\['cross', 'disc'\].*\['disc', 'cross'\]"),
        ({"width": 16}, r"do not fit this model: head.*Build it with the same head"),
    ],
    ids=["network", "classes", "order of classes", "head"],
)
def test_weights_of_another_model_are_refused_and_nothing_is_changed(
    make_loaders: Any, tmp_path: Path, options: dict[str, Any], message: str
):
    with_network(make_loaders, tmp_path).save("first")
    other = with_network(make_loaders, tmp_path, **options)
    before = state_of(other)
    with pytest.raises(ModelFileError, match=message):
        other.load("first")
    assert same(other, before)


def test_what_is_missing_is_named_unless_it_is_not_needed(make_learner: Any, tmp_path: Path):
    from vizsla.train.checkpoint import load_state, save_state

    learner = make_learner(path=tmp_path)
    path = learner.save("whole", with_opt=False)
    tensors, values = load_state(path)
    name = next(name for name in tensors if name.endswith("running_mean"))
    del tensors[name]
    save_state(path, tensors, values=values)
    with pytest.raises(ModelFileError, match=f"{name.removeprefix('model/')} is missing there"):
        learner.load("whole", with_opt=False)
    learner.load("whole", with_opt=False, strict=False)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x02}q\x00."])
def test_a_damaged_or_foreign_file_is_refused(make_learner: Any, tmp_path: Path, content: bytes):
    path = tmp_path / "models" / "odd.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged or another kind of file"):
        make_learner(path=tmp_path).load("odd")


def test_an_exported_model_is_no_state_of_a_training(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    learner.export(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="opened by load_learner"):
        learner.load(tmp_path / "model.safetensors")


def test_an_old_file_stays_if_a_new_one_cannot_be_written(make_learner: Any, tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    learner = make_learner(path=tmp_path)
    path = learner.save("one")
    before = path.read_bytes()
    path.parent.chmod(0o500)
    try:
        with pytest.raises(OutputError):
            learner.save("one")
    finally:
        path.parent.chmod(0o700)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(make_learner: Any, tmp_path: Path):
    (tmp_path / "models").write_text("a file is in the way")
    with pytest.raises(OutputError, match=r"Cannot make the folder .*models"):
        make_learner(path=tmp_path).save("one")


def test_loading_may_choose_the_device(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    learner.save("one", with_opt=False)
    learner.load("one", device="cpu", with_opt=False)
    assert learner.dls.device == learner.dls.valid.device == torch.device("cpu")
