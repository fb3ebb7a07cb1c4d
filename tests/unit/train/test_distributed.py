"""Several processes on CPUs (gloo) against one: the same training, and only the main process writes."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import sys
import warnings
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from vizsla import (
    Callback,
    Checkpoint,
    ConfigError,
    CSVLogger,
    DataError,
    DataLoaders,
    EMACallback,
    JSONLLogger,
    Learner,
    Resize,
    SaveModelCallback,
    TrainConfig,
    TrainingError,
    WeightSoup,
    accuracy,
)
from vizsla.data.cache import ImageCache
from vizsla.models import Classifier, FeatureHead, build_backbone, norm_parameters
from vizsla.recipe import EPOCH_COLUMNS
from vizsla.recipe.features_first import features_first
from vizsla.run import RunPlan, read_all
from vizsla.train import Display, distributed, load_state
from vizsla.train import checkpoint as checkpoint_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla import Predictions
    from vizsla.train.callbacks import Fit

SECONDS = 60
LOST_ANOTHER = 77


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def plain(value: Any) -> Any:
    """Return a value that goes through a pipe: tensors as lists."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def child(work: Callable[[], Any], rank: int, world: int, port: int, pipe: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        with distributed.start("cpu"):
            pipe.send(plain(work()))
    except TrainingError:
        sys.exit(LOST_ANOTHER)
    except DataError as error:
        pipe.send(error.__notes__)


def in_processes(
    work: Callable[[], Any], *, world: int = 2, status: int = 0, killed: int | None = None
) -> list[Any]:
    """Return what the work returned in each process; all end with this status, but for one that is killed."""
    context = multiprocessing.get_context("fork")
    port = free_port()
    pipes, processes = list[Any](), list[Any]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which are not used
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(work, rank, world, port, theirs))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
    try:
        results = [pipe.recv() if pipe.poll(SECONDS) else None for pipe in pipes if status == 0]
        for process in processes:
            process.join(SECONDS)
        expected = [-signal.SIGKILL if rank == killed else status for rank in range(world)]
        assert [process.exitcode for process in processes] == expected
    finally:
        for process in processes:
            process.kill()
    return results


def uneven(make_loaders: Any) -> Any:
    """Return loaders of 19 images in batches of 5, and 5 to validate on in batches of 4."""
    loaders = make_loaders(num_valid=5, batch_size=5)
    loaders.valid.loader.batch_size = 4
    return loaders


def make(
    make_loaders: Any,
    *,
    stage: int = -1,
    path: Path | None = None,
    train_bn: bool = False,
    **options: Any,
) -> Any:
    """Return a learner whose norms stay as they are unless asked, with a linear head on the means of a stage's maps."""
    loaders = uneven(make_loaders)
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    channels = backbone.stage_channels[stage]
    head = FeatureHead(stages=(stage,), statistics=("mean",), num_features=channels, num_classes=2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.linspace(-0.1, 0.1, 2 * channels).view(2, -1))
    classifier = Classifier(backbone, head, vocab=loaders.vocab)
    learner = Learner(
        loaders,
        classifier,
        metrics=accuracy,
        path=path,
        train_bn=train_bn,
        precision="fp32",
        quiet=True,
        **options,
    )
    for parameter in () if train_bn else norm_parameters(classifier):
        parameter.requires_grad_(False)  # noqa: FBT003 (the only way to call it)
    return learner


def outcome(learner: Any) -> dict[str, Any]:
    return {
        "losses": learner.recorder.losses,
        "values": learner.recorder.values,
        "weights": {name: value.clone() for name, value in learner.model.state_dict().items()},
    }


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2, "clip": 0.5}, pytest.param({"stage": -2}, marks=pytest.mark.slow)],
    ids=["plain", "gathered", "unused"],
)
def test_two_processes_train_as_one_at_the_same_batch(make_loaders: Any, options: dict[str, Any]):
    def work() -> dict[str, Any]:
        learner = make(make_loaders, **options)
        learner.fit_one_cycle(2, 1e-2)
        return outcome(learner)

    expected = plain(work())
    first, second = in_processes(work)
    assert first == second  # weights and figures are the same to the last bit
    assert len(first["losses"]) == 6
    close(first["losses"], expected["losses"])
    close(first["values"], expected["values"])
    for name, value in first["weights"].items():
        close(value, expected["weights"][name])


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_batch_norms_see_the_whole_batch_where_that_is_asked_for(make_loaders: Any, world: int):
    def work(sync_batch_norm: bool) -> dict[str, Any]:
        learner = make(make_loaders, train_bn=True, sync_batch_norm=sync_batch_norm)
        learner.fit_one_cycle(2, 1e-3)
        return outcome(learner)

    expected = plain(work(sync_batch_norm=True))
    first, *others = in_processes(lambda: work(sync_batch_norm=True), world=world)
    assert all(other == first for other in others)
    close(first["losses"], expected["losses"])
    for name, value in first["weights"].items():  # running means and variances are among them
        torch.testing.assert_close(
            torch.tensor(value), torch.tensor(expected["weights"][name]), rtol=1e-3, atol=1e-4
        )
    if world > 2:  # without it, some see one image
        return
    apart = in_processes(lambda: work(sync_batch_norm=False), world=world)
    assert abs(apart[0]["losses"][0] - expected["losses"][0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fp16", "bf16", "powersgd"])
def test_compressed_gradients_train_alike(make_loaders: Any, how: Any):
    def work(how: Any) -> dict[str, Any]:
        learner = make(make_loaders, compress_gradients=how)
        learner.fit_one_cycle(4, 1e-2)
        return outcome(learner)

    first, second = in_processes(lambda: work(how))
    assert first == second
    expected = plain(work("none"))
    assert first["losses"] != expected["losses"]
    torch.testing.assert_close(
        torch.tensor(first["losses"]), torch.tensor(expected["losses"]), rtol=0, atol=0.05
    )


def test_validation_covers_every_image_once_and_in_order(make_loaders: Any):
    def work() -> list[tuple[Any, Any]]:
        learner = make(make_loaders)
        of_splits: list[Predictions] = [learner.predictions(split) for split in (1, 0)]
        return [((each.rows, each.paths, each.targets), each.logits) for each in of_splits]

    expected = plain(work())
    for results in in_processes(work):
        for (found, logits), (known, expected_logits) in zip(results, expected, strict=True):
            assert found == known  # rows, paths and targets, exactly
            close(logits, expected_logits)


def test_each_process_reads_only_its_part(make_loaders: Any):
    def work() -> list[list[int]]:
        loaders = uneven(make_loaders)
        return [batch.rows.tolist() for batch in distributed.own_part(loaders.valid)]

    assert in_processes(work) == [[[19, 20]], [[21, 22], [23]]]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_epoch_has_the_same_order_for_any_number_of_processes(make_loaders: Any, world: int):
    def work() -> list[list[int]]:
        train = uneven(make_loaders).train
        return [batch.rows.tolist() for batch in distributed.own_part(train, epoch=1)]

    parts = in_processes(work, world=world)
    assert [[*chain(*rows)] for rows in zip(*parts, strict=True)] == work()


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def test_only_the_main_process_writes(make_loaders: Any, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()

    def work() -> list[str]:
        written: list[str] = []

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            path = str(arguments[0]) if arguments else ""
            writes = event in ("os.mkdir", "os.rename", "os.truncate") or (
                event == "open" and arguments[2] & WRITING
            )
            if writes and path.startswith(str(folder)):
                written.append(path)

        learner = make(make_loaders, path=folder)
        sys.addaudithook(hook)
        cbs = [CSVLogger(), JSONLLogger(), SaveModelCallback(), EMACallback(0.5), WeightSoup(2)]
        learner.fit(2, 1e-3, cbs=[*cbs, Checkpoint(folder, every_steps=1)])
        learner.save("last")
        learner.load("last")
        return written

    main, other = in_processes(work)
    assert other == []
    assert main != []
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "history.csv",
        "history.jsonl",
        "checkpoint.safetensors",
        "models/model.safetensors",
        "models/last.safetensors",
    }
    assert len((folder / "history.csv").read_text().splitlines()) == 3


class Signal(Callback):
    """Sends a signal to one process alone, after a step."""

    order = 200

    def __init__(self, step: int, number: int, *, to: int = 0) -> None:
        self.step = step
        self.number = number
        self.to = to

    def after_step(self, fit: Fit) -> None:
        if fit.step == self.step and distributed.share()[0] == self.to:
            os.kill(os.getpid(), self.number)


@pytest.mark.slow
def test_a_run_that_is_told_to_end_goes_on_in_processes(
    make_loaders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoint_module, "STEPS_BETWEEN_READS", 2)

    def run(folder: Path, *, end_after: int = 0) -> dict[str, Any]:
        learner = make(make_loaders)
        cbs = [Checkpoint(folder, resume=True), Signal(end_after, signal.SIGTERM)]
        learner.fit_one_cycle(2, 1e-2, cbs=cbs)
        return outcome(learner)

    expected = in_processes(lambda: run(tmp_path / "whole"))
    in_processes(lambda: run(tmp_path, end_after=4), status=128 + signal.SIGTERM)
    kept = load_state(tmp_path / "checkpoint.safetensors")[1]
    assert kept["fit"]["step"] == 5  # asked at every second step of an epoch of three
    assert in_processes(lambda: run(tmp_path)) == expected


@pytest.mark.parametrize(
    ("world", "killed"),
    [
        (2, 0),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(4, 3, marks=pytest.mark.slow),
    ],
)
def test_when_a_process_is_killed_the_others_end_and_all_go_on(
    make_loaders: Any, tmp_path: Path, world: int, killed: int
):
    def run(folder: Path, *, killed_after: int = 0) -> dict[str, Any]:
        learner = make(make_loaders)
        kill = Signal(killed_after, signal.SIGKILL, to=killed)
        learner.fit_one_cycle(2, 1e-2, cbs=[Checkpoint(folder, every_steps=1, resume=True), kill])
        return outcome(learner)

    expected = in_processes(lambda: run(tmp_path / "whole"), world=world)
    in_processes(
        lambda: run(tmp_path, killed_after=4), world=world, status=LOST_ANOTHER, killed=killed
    )
    assert in_processes(lambda: run(tmp_path), world=world) == expected


@pytest.mark.slow
def test_processes_that_share_no_folder_go_on_from_the_state_of_one(
    make_loaders: Any, tmp_path: Path
):
    def run(*, last: int) -> dict[str, Any]:
        folder = tmp_path / str(distributed.share()[0])
        learner = make(make_loaders, path=folder)
        cbs = [Checkpoint(folder, every_steps=1, resume=True), SaveModelCallback()]
        kill = Signal(last, signal.SIGKILL)
        learner.fit_one_cycle(2, 1e-2, cbs=[*cbs, kill])
        return outcome(learner)

    expected = in_processes(lambda: run(last=0))
    (tmp_path / "0").rename(tmp_path / "before")
    in_processes(lambda: run(last=4), status=LOST_ANOTHER, killed=0)
    assert not (tmp_path / "1").exists()
    (tmp_path / "0").rename(tmp_path / "1")  # the main process is on the other machine now
    assert in_processes(lambda: run(last=0)) == expected


def test_data_and_settings_that_differ_between_processes_are_named(make_loaders: Any):
    table = make_loaders().table
    targets = table.targets.clone()
    targets[3] = 1 - targets[3]

    def work() -> list[str]:
        is_second = distributed.share()[0] == 1
        relabelled = replace(table, targets=targets) if is_second else table
        refused: list[str] = []
        for loaders in (
            make_loaders(seed=int(is_second)),
            DataLoaders(relabelled, resize=Resize(32), num_workers=0, device="cpu"),
        ):
            learner = make(lambda loaders=loaders, **_: loaders)
            with pytest.raises((ConfigError, DataError)) as error:
                learner.fit(1)
            refused.append(f"{type(error.value).__name__}: {error.value}")
        return refused

    for settings, data in in_processes(work):
        assert re.match("ConfigError: .*seed.* 1 .*process 1", settings)
        assert re.match(f"DataError: .*{table.shown_path(3)}", data)


def test_an_image_that_one_machine_cannot_read_is_left_out_on_all(
    make_loaders: Any, tmp_path: Path
):
    def work() -> list[str]:
        table = make_loaders().table
        if distributed.share()[0] == 1:
            copy = shutil.copytree(table.root, tmp_path / "copy")
            paths = tuple(copy / path.relative_to(table.root) for path in table.paths)
            paths[3].write_bytes(b"damaged")
            table = replace(table, root=copy, paths=paths)
        plan = RunPlan(title="", data="", config=TrainConfig(device="cpu"), on_bad="skip")
        display, cache = Display(quiet=True), ImageCache(mode="off")
        table, _ = read_all(table, plan=plan, cache=cache, display=display)
        rows = torch.cat([table.train_rows, table.valid_rows])
        return [table.shown_path(row) for row in rows.tolist()]

    first, second = in_processes(work)
    table = make_loaders().table
    assert first == second == [table.shown_path(row) for row in range(24) if row != 3]


def test_an_error_names_its_process():
    def work() -> None:
        raise DataError("There are no images.")

    for rank, (note,) in enumerate(in_processes(work)):
        assert f"process {rank} of 2" in note
        assert platform.node() in note


def test_the_head_on_features_is_that_of_one_process(make_loaders: Any):
    def work() -> dict[str, Any]:
        config = TrainConfig(precision="fp32", device="cpu")
        display = Display(quiet=True)
        display.header(EPOCH_COLUMNS)
        stage = features_first(uneven(make_loaders), config=config, display=display)
        head = stage.classifier.head
        assert isinstance(head, FeatureHead)
        return {"rows": stage.predictions.rows, "logits": stage.predictions.logits}

    expected = plain(work())
    first, second = in_processes(work)
    assert first == second
    assert first["rows"] == expected["rows"]
    close(first["logits"], expected["logits"])


def test_a_batch_that_cannot_be_shared_is_refused(make_loaders: Any):
    def work() -> str:
        learner = make(make_loaders)
        learner.dls.train.loader.batch_size = 1
        with pytest.raises(ConfigError, match=r"\b1 images .* 2 processes") as error:
            learner.fit(1)
        return type(error.value).__name__

    assert in_processes(work) == ["ConfigError"] * 2


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.start() as device:
        assert device is None
        assert distributed.share() == (0, 1)
        assert distributed.is_main()
        assert distributed.any_of(flag=True)
        assert not distributed.any_of(flag=False)
