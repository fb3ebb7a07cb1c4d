"""Runs that are killed and resumed, against one that was not; weights that are saved and loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import (
    Callback,
    Checkpoint,
    ConfigError,
    CSVLogger,
    EMACallback,
    JSONLLogger,
    KeepBest,
    Learner,
    MixUp,
    ModelFileError,
    OutputError,
    ReduceLROnPlateau,
    SaveModelCallback,
    WeightSoup,
    accuracy,
)
from vizsla.models import Classifier, ConcatPoolHead, build_backbone
from vizsla.train import load_state, save_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from vizsla.train.callbacks import Fit

NUM_STEPS = 2 * 5 + 2 * 5  # fine_tune(2, freeze_epochs=2) on five batches
_RANDOM = torch.Generator().manual_seed(11)
STEPS_TO_DIE_AT = sorted((torch.randperm(NUM_STEPS - 1, generator=_RANDOM)[:6] + 1).tolist())


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(learner: Learner, state: dict[str, Tensor]) -> bool:
    found = learner.model.state_dict()
    return all(torch.equal(value, found[name]) for name, value in state.items())


# --- checkpoints -----------------------------------------------------------------------------------------------------


class DieAt(Callback):
    """Kills the process, as the system does when memory runs out, after this many steps of all fits."""

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
    options = {"every_steps": 1, **options}
    checkpoint = Checkpoint(folder, **options)
    cbs = [EMACallback(0.9), MixUp(), KeepBest(), SaveModelCallback(), WeightSoup(2)]
    cbs += [CSVLogger(), checkpoint, DieAt(die_at, number)]
    learner.fine_tune(2, freeze_epochs=2, cbs=cbs)
    return learner


def exit_code_of(work: Callable[[], Any]) -> int | None:
    """Return the exit code of a process that does the work."""
    process = multiprocessing.get_context("fork").Process(target=work)
    with warnings.catch_warnings():
        # Python warns about threads, which this child does not use.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join()
    return process.exitcode


def outcome(learner: Learner, folder: Path) -> dict[str, Any]:
    rows = (folder / "history.csv").read_text().splitlines()
    return {
        "weights": {name: value.tolist() for name, value in learner.model.state_dict().items()},
        "losses": learner.recorder.losses,
        "values": learner.recorder.values,
        "rows": [row.rpartition(",")[0] for row in rows],  # without their seconds
    }


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def whole(
    make_learner: Any, kept: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What an uninterrupted run leaves; trained once."""
    if not kept:
        folder = tmp_path_factory.mktemp("whole")
        before = signal.getsignal(signal.SIGTERM)
        kept.update(outcome(run(make_learner, folder), folder))
        assert signal.getsignal(signal.SIGTERM) is before
    return kept


@pytest.mark.parametrize(
    "step",
    [
        *STEPS_TO_DIE_AT[::5],
        *(pytest.param(at, marks=pytest.mark.slow) for at in STEPS_TO_DIE_AT[1:-1]),
    ],
)
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    make_learner: Any, tmp_path: Path, whole: dict[str, Any], step: int
):
    code = exit_code_of(lambda: run(make_learner, tmp_path, die_at=step))
    assert code == -signal.SIGKILL
    assert outcome(run(make_learner, tmp_path, resume=True), tmp_path) == whole
    again = run(make_learner, tmp_path, resume=True, die_at=1)  # A finished run takes no step.
    assert outcome(again, tmp_path) == whole


def test_a_run_that_is_told_to_end_writes_its_state_and_ends(
    make_learner: Any, tmp_path: Path, whole: dict[str, Any]
):
    options: dict[str, Any] = {"every_steps": None, "every_seconds": None}
    code = exit_code_of(
        lambda: run(make_learner, tmp_path, die_at=13, number=signal.SIGTERM, **options)
    )
    assert code == 128 + signal.SIGTERM
    assert outcome(run(make_learner, tmp_path, resume=True), tmp_path) == whole


def test_rates_that_were_lowered_are_lowered_again(make_learner: Any, tmp_path: Path):
    def train(folder: Path, *, die_at: int = 0, resume: bool = False) -> Learner:
        learner = make_learner()
        lower = ReduceLROnPlateau(min_delta=1e9, factor=2.0)  # nothing is good enough for it
        checkpoint = Checkpoint(folder, every_steps=1, resume=resume)
        learner.fit(4, 1e-2, cbs=[lower, checkpoint, DieAt(die_at)])
        return learner

    expected = train(tmp_path / "whole")
    exit_code_of(lambda: train(tmp_path / "killed", die_at=13))
    learner = train(tmp_path / "killed", resume=True)
    assert learner.recorder.lrs == expected.recorder.lrs
    assert len(set(learner.recorder.lrs)) == 3
    assert learner.recorder.losses == expected.recorder.losses


def fit_one(
    learner: Learner, folder: Path, *, rate: float = 1e-3, pct_start: float = 0.25, **options: Any
) -> None:
    checkpoint = Checkpoint(folder, every_steps=1, **options)
    learner.fit_one_cycle(1, rate, pct_start=pct_start, cbs=checkpoint)


def test_other_settings_are_refused_by_name_unless_forced(
    make_learner: Any, make_loaders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fit_one(make_learner(), tmp_path)
    other = make_loaders(batch_size=2)
    for loaders, options, fact in [
        (other, {}, "batch size: 4 then, 2 now.*--force"),
        (None, {"rate": 2e-3}, "learning rates: "),
        (None, {"pct_start": 0.5}, "schedule: "),
    ]:
        with pytest.raises(ConfigError, match=fact):
            fit_one(make_learner(loaders), tmp_path, resume=True, **options)
    fit_one(make_learner(quiet=False), tmp_path, rate=2e-3, resume=True, force=True)
    assert "despite differences: learning rates" in capsys.readouterr().out


def test_a_damaged_file_is_refused_and_a_missing_one_begins(make_learner: Any, tmp_path: Path):
    learner = make_learner()
    fit_one(learner, tmp_path, resume=True)
    assert len(learner.recorder.losses) == len(learner.dls.train)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="damaged"):
        fit_one(make_learner(), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"every_steps .*Received: 0"):
        Checkpoint(tmp_path, every_steps=0)


class FullFrom(Callback):
    """Makes the disk full after a step, until the fit ends."""

    order = 90  # before the checkpoint

    def __init__(self, step: int, full_disk: Any) -> None:
        self.left = step
        self.full_disk = full_disk
        self.stack = ExitStack()

    def after_step(self, fit: Fit) -> None:
        self.left -= 1
        if not self.left:
            self.stack.enter_context(self.full_disk())

    def after_fit(self, fit: Fit) -> None:
        self.stack.close()


def test_a_full_disk_costs_no_fit_and_no_file(make_learner: Any, tmp_path: Path, full_disk: Any):
    def train(folder: Path, *, full_from: int = 0, **options: Any) -> dict[str, Any]:
        learner = make_learner(path=folder)
        cbs = [
            CSVLogger(),
            JSONLLogger(),
            SaveModelCallback(comp=lambda *_: True),
            FullFrom(full_from, full_disk),
        ]
        learner.fit_one_cycle(3, 1e-2, cbs=[*cbs, Checkpoint(folder, every_steps=2, **options)])
        weights = learner.model.state_dict()
        return {
            "losses": learner.recorder.losses,
            "weights": {n: v.tolist() for n, v in weights.items()},
        }

    whole = train(tmp_path / "whole")
    folder = tmp_path / "full"
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert train(folder, full_from=8) == whole
    said = [str(each.message) for each in shown]
    assert sum("checkpoint after step" in text for text in said) == 5  # 9, 10, 12, 14, 15
    for fact in ("after epoch 1 were not saved", "history.csv", "history.jsonl"):
        assert any(fact in text and "File too large" in text for text in said)
    assert f"An earlier one is in {folder / 'checkpoint.safetensors'}" in said[-1]
    assert len((folder / "history.csv").read_text().splitlines()) == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoint.safetensors", "history.csv", "history.jsonl", "models"),
    ]
    assert [path.name for path in (folder / "models").iterdir()] == ["model.safetensors"]
    assert train(folder, resume=True) == whole


def test_weights_that_cannot_be_saved_are_our_error_and_the_old_ones_stay(
    make_learner: Any, tmp_path: Path, full_disk: Any
):
    learner = make_learner(path=tmp_path)
    path = learner.save("one", with_opt=False)
    before = path.read_bytes()
    with full_disk(1000), pytest.raises(OutputError, match=f"Cannot write {path}: File too large"):
        learner.save("one")
    assert [(path, path.read_bytes())] == [
        (each, each.read_bytes()) for each in path.parent.iterdir()
    ]
    assert before == path.read_bytes()


# --- saved weights ---------------------------------------------------------------------------------------------------


def steps_of(learner: Any) -> set[int]:
    return {int(state["step"]) for state in learner.opt.state.values()}


def test_training_goes_on_bit_for_bit_from_what_was_saved(make_learner: Any, tmp_path: Path):
    learner, other = make_learner(path=tmp_path), make_learner(path=tmp_path)
    learner.fit_one_cycle(1, 1e-2)
    assert learner.save("stage-1.5") == tmp_path / "models" / "stage-1.5.safetensors"
    learner.fit_one_cycle(1, 1e-2)
    other.epochs_done = 1
    assert other.load("stage-1.5", device="cpu") is other
    assert other.dls.device == other.dls.valid.device == torch.device("cpu")
    other.fit_one_cycle(1, 1e-2)
    assert same(other, state_of(learner))
    path = tmp_path / "else" / "x.safetensors"
    assert learner.save(path) == path


def test_the_optimiser_is_loaded_on_request_or_starts_afresh_with_a_warning(
    make_learner: Any, tmp_path: Path
):
    learner = make_learner(path=tmp_path, train_bn=False)
    learner.fit(1, 1e-2)
    expected = state_of(learner)
    learner.save("all")
    learner.save("bare", with_opt=False)
    learner.fit(1, 1e-2)
    learner.load("all", with_opt=False)
    assert steps_of(learner) == {10}
    learner.load("all")
    assert steps_of(learner) == {5}
    with pytest.warns(UserWarning, match="optimiser starts afresh"):
        learner.load("bare")
    assert learner.opt is None
    learner.fit(1, 1e-2)
    learner.freeze()
    with pytest.warns(UserWarning, match="for other parameters.*The weights are loaded"):
        learner.load("all")
    assert same(learner, expected)
    learner.fit(1, 1e-2)  # the head, with a new optimiser


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
    ("options", "facts"),
    [
        ({"arch": "test_efficientnet"}, "test_resnet.*test_efficientnet"),
        ({"vocab": ("cat", "dog", "fox")}, r"\['cross', 'disc'\].*\['cat', 'dog', 'fox'\]"),
        ({"vocab": ("disc", "cross")}, r"\['cross', 'disc'\].*\['disc', 'cross'\]"),
        ({"width": 16}, "do not fit .* head"),
    ],
    ids=["network", "classes", "order of classes", "head"],
)  # fmt: skip
def test_weights_of_another_model_are_refused_and_nothing_is_changed(
    make_loaders: Any, tmp_path: Path, options: dict[str, Any], facts: str
):
    with_network(make_loaders, tmp_path).save("first")
    other = with_network(make_loaders, tmp_path, **options)
    before = state_of(other)
    with pytest.raises(ModelFileError, match=facts):
        other.load("first")
    assert same(other, before)


def test_what_is_missing_is_named_unless_it_is_not_needed(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    path = learner.save("whole", with_opt=False)
    tensors, values = load_state(path)
    name = next(name for name in tensors if name.endswith("running_mean"))
    del tensors[name]
    save_state(path, tensors, values=values)
    with pytest.raises(ModelFileError, match=f"{name.removeprefix('model/')} is missing"):
        learner.load("whole", with_opt=False)
    learner.load("whole", with_opt=False, strict=False)


def test_a_missing_damaged_or_foreign_file_is_named(make_learner: Any, tmp_path: Path):
    learner = make_learner(path=tmp_path)
    path = tmp_path / "models" / "odd.safetensors"
    with pytest.raises(ModelFileError, match=r"models/odd\.safetensors"):
        learner.load("odd")
    path.parent.mkdir()
    for content in [b"", b"not a model", b"\x80\x02}q\x00."]:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="damaged or another kind of file"):
            learner.load("odd")
    learner.export(path)
    with pytest.raises(ModelFileError, match="load_learner"):
        learner.load("odd")


def test_a_folder_that_cannot_be_made_is_named(make_learner: Any, tmp_path: Path):
    (tmp_path / "models").write_text("a file is in the way")
    with pytest.raises(OutputError, match="models"):
        make_learner(path=tmp_path).save("one")
