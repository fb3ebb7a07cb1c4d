"""Runs that are killed and taken up again, against one that was not; weights that are saved and loaded."""

from __future__ import annotations

import os
import signal
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.errors import ConfigError, ModelFileError, OutputError
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.train.callbacks.averaging import EMACallback
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.callbacks.loggers import CSVLogger
from vizsla.train.callbacks.step import MixUp
from vizsla.train.callbacks.tracking import KeepBest, ReduceLROnPlateau
from vizsla.train.checkpoint import Checkpoint
from vizsla.train.learner import Learner
from vizsla.train.metrics import accuracy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


NUM_STEPS = 2 * 5 + 2 * 5  # fine_tune(2, freeze_epochs=2) on five batches
_RANDOM = torch.Generator().manual_seed(11)
STEPS_TO_DIE_AT = sorted((torch.randperm(NUM_STEPS - 1, generator=_RANDOM)[:6] + 1).tolist())


class DieAt(Callback):
    """Kills the process, as the system does when memory runs out, after so many steps of all fits."""

    order = 200

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.left = step
        self.number = number

    def after_step(self, fit: Fit) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


def run(
    make_learner: Callable[..., Learner],
    folder: Path,
    *,
    die_at: int = 0,
    number: int = signal.SIGKILL,
    **options: Any,
) -> Learner:
    """Train with everything that has a state of its own."""
    learner = make_learner(metrics=accuracy, path=folder)
    cbs = [
        EMACallback(0.9),
        MixUp(),
        KeepBest(),
        CSVLogger(),
        Checkpoint(folder, every_steps=1, **options),
        DieAt(die_at, number),
    ]
    learner.fine_tune(2, freeze_epochs=2, cbs=cbs)
    return learner


def in_a_process_that_dies(work: Callable[[], Any]) -> int:
    """Return the status of a process that does the work."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python warns about threads, which this child does not use.
        child = os.fork()
    if not child:
        try:
            work()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def rows_of(folder: Path) -> list[str]:
    """Return the rows of the history file without their seconds."""
    return [line.rpartition(",")[0] for line in (folder / "history.csv").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"folder": tmp_path_factory.mktemp("whole")}


def whole(make_learner: Callable[..., Learner], kept: dict[str, Any]) -> dict[str, Any]:
    """Return what a run without an interruption leaves."""
    if "weights" not in kept:
        learner = run(make_learner, kept["folder"])
        kept["weights"] = {name: v.clone() for name, v in learner.model.state_dict().items()}
        kept["losses"], kept["values"] = learner.recorder.losses, learner.recorder.values
        kept["rows"] = rows_of(kept["folder"])
    return kept


@pytest.mark.parametrize("step", STEPS_TO_DIE_AT)
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    make_learner: Any, tmp_path: Path, whole_run: dict[str, Any], step: int
):
    expected = whole(make_learner, whole_run)
    status = in_a_process_that_dies(lambda: run(make_learner, tmp_path, die_at=step))
    assert os.WTERMSIG(status) == signal.SIGKILL
    learner = run(make_learner, tmp_path, resume=True)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, expected["weights"][name]), name
    assert learner.recorder.losses == expected["losses"]
    assert learner.recorder.values == expected["values"]
    assert rows_of(tmp_path) == expected["rows"]


def test_a_run_that_is_told_to_end_writes_its_state_and_ends(
    make_learner: Any, tmp_path: Path, whole_run: dict[str, Any]
):
    expected = whole(make_learner, whole_run)

    def work() -> None:
        learner = make_learner(metrics=accuracy, path=tmp_path)
        cbs = [
            EMACallback(0.9),
            MixUp(),
            KeepBest(),
            CSVLogger(),
            Checkpoint(tmp_path, every_seconds=None),
            DieAt(13, signal.SIGTERM),
        ]
        learner.fine_tune(2, freeze_epochs=2, cbs=cbs)

    status = in_a_process_that_dies(work)
    assert os.WEXITSTATUS(status) == 128 + signal.SIGTERM
    learner = run(make_learner, tmp_path, resume=True)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, expected["weights"][name]), name
    assert learner.recorder.losses == expected["losses"]


def test_a_run_that_was_finished_is_not_done_again(make_learner: Any, tmp_path: Path):
    first = run(make_learner, tmp_path)
    again = run(make_learner, tmp_path, resume=True, die_at=1)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name]), name


def test_the_signal_to_end_is_again_what_it_was(make_learner: Any, tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    run(make_learner, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def fit_one(learner: Learner, folder: Path, *, rate: float = 1e-3, **options: Any) -> None:
    learner.fit_one_cycle(1, rate, cbs=Checkpoint(folder, every_steps=1, **options))


def test_rates_that_were_lowered_are_lowered_again(make_learner: Any, tmp_path: Path):
    def train(folder: Path, *, die_at: int = 0, resume: bool = False) -> Learner:
        learner = make_learner()
        lower = ReduceLROnPlateau(min_delta=1e9, factor=2.0)  # nothing is good enough for it
        checkpoint = Checkpoint(folder, every_steps=1, resume=resume)
        learner.fit(4, 1e-2, cbs=[lower, checkpoint, DieAt(die_at)])
        return learner

    expected = train(tmp_path / "whole")
    in_a_process_that_dies(lambda: train(tmp_path / "killed", die_at=13))
    learner = train(tmp_path / "killed", resume=True)
    assert learner.recorder.lrs == expected.recorder.lrs
    assert len(set(learner.recorder.lrs)) == 3
    assert learner.recorder.losses == expected.recorder.losses


def test_other_settings_are_refused_by_name(make_learner: Any, make_loaders: Any, tmp_path: Path):
    fit_one(make_learner(), tmp_path)
    other = make_learner(make_loaders(batch_size=2))
    with pytest.raises(ConfigError, match=r"What differs: .*batch size: 4 then, 2 now.*--force"):
        fit_one(other, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="learning rates: "):
        fit_one(make_learner(), tmp_path, rate=2e-3, resume=True)
    learner, cbs = make_learner(), Checkpoint(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="schedule: "):
        learner.fit_one_cycle(1, 1e-3, pct_start=0.5, cbs=cbs)


def test_force_goes_on_and_says_what_differs(
    make_learner: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fit_one(make_learner(), tmp_path)
    fit_one(make_learner(quiet=False), tmp_path, rate=2e-3, resume=True, force=True)
    assert "Going on although something differs: learning rates" in capsys.readouterr().out


def test_a_damaged_file_is_refused(make_learner: Any, tmp_path: Path):
    fit_one(make_learner(), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="damaged"):
        fit_one(make_learner(), tmp_path, resume=True)


def test_without_a_file_a_run_begins(make_learner: Any, tmp_path: Path):
    learner = make_learner()
    fit_one(learner, tmp_path / "new", resume=True)
    assert len(learner.recorder.losses) == len(learner.dls.train)
    assert (tmp_path / "new" / "checkpoint.safetensors").is_file()


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
    with pytest.warns(UserWarning, match="has no optimiser state"):
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


def test_a_damaged_or_foreign_file_is_refused(make_learner: Any, tmp_path: Path):
    for content in [b"", b"not a model", b"\x80\x02}q\x00."]:
        path = tmp_path / "models" / "odd.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="damaged or another kind of file"):
            make_learner(path=tmp_path).load("odd")


def test_an_exported_model_is_no_state_of_a_training(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    learner.export(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="load_learner"):
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
