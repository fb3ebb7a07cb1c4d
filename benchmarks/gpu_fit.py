"""One library and one training task on a CUDA device in, one line of JSON out; run by ``gpu.py``, a process per measurement.

Networks begin with random weights: what an epoch takes does not depend on them, and nothing has to be downloaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.models.classifier import Classifier
    from vizsla.train.learner import Learner

BATCH_SIZE, SIZE, PRESIZE, MIN_SCALE = 64, 224, 460, 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is trained.

    Attributes:
        folder: A folder for each class.
        arch: A function of ``torchvision.models``.
        frozen: Epochs with a frozen body; the first of all reads every file.
        later: Epochs with everything unfrozen.
        seed: Of split, order and augmentation.
    """

    folder: str
    arch: str = "resnet34"
    frozen: int = 2
    later: int = 2
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class Times:
    """Seconds since the process began, and of every epoch with its validation.

    Attributes:
        marks: When imports, loaders and learner were there.
        epochs: Of each epoch.
        train: Of each epoch without the validation.
    """

    marks: dict[str, float] = field(default_factory=dict)
    epochs: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)
    _started: float = 0.0
    _trained: float = 0.0

    def mark(self, name: str) -> None:
        """Note that something is there."""
        self.marks[name] = time.perf_counter() - self._began

    def start(self) -> None:
        """An epoch begins."""
        _wait()
        self._started = time.perf_counter()

    def trained(self) -> None:
        """Its last step is done."""
        _wait()
        self._trained = time.perf_counter()

    def end(self) -> None:
        """It is validated."""
        _wait()
        self.train.append(self._trained - self._started)
        self.epochs.append(time.perf_counter() - self._started)


def train_vizsla(task: Task, *, cuda_graphs: bool | None = None) -> Times:
    """Fine-tune with vizsla's defaults.

    Args:
        task: What.
        cuda_graphs: As in ``Trainer``.
    """
    times = Times()
    from vizsla.train.callbacks.base import Callback, Fit

    class Watch(Callback):
        """Notes times."""

        order = -100

        def before_epoch(self, fit: Fit) -> None:
            del fit
            times.start()

        def before_validate(self, fit: Fit) -> None:
            del fit
            times.trained()

        def after_epoch(self, fit: Fit) -> None:
            del fit
            times.end()

    learn = vizsla_learner(task, times=times)
    learn.cuda_graphs = cuda_graphs
    learn.fine_tune(task.later, freeze_epochs=task.frozen, cbs=Watch())
    times.mark("trained")
    return times


def vizsla_loaders(task: Task) -> DataLoaders:
    """Return loaders of 460 to 224 pixels."""
    from vizsla import ImageDataLoaders, Resize
    from vizsla.augment.presets import aug_transforms

    return ImageDataLoaders.from_folder(
        Path(task.folder),
        valid_pct=0.2,
        seed=task.seed,
        item_tfms=Resize(PRESIZE),
        batch_tfms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
        bs=BATCH_SIZE,
    )


def vizsla_learner(task: Task, *, times: Times) -> Learner:
    """Return a learner with random weights."""
    import torchvision.models

    from vizsla import vision_learner
    from vizsla.train.metrics import error_rate

    times.mark("imports")
    loaders = vizsla_loaders(task)
    times.mark("loaders")
    learn = vision_learner(
        loaders,
        getattr(torchvision.models, task.arch),
        pretrained=False,
        metrics=error_rate,
        quiet=True,
    )
    times.mark("learner")
    return learn


def run_model_alone(task: Task) -> Times:
    """Take as many steps and predictions as the epochs have, from CUDA graphs, on one batch that is ready: the limit."""
    from vizsla.infer.run import compute_logits, evaluation_mode
    from vizsla.train.step import TrainingStep
    from vizsla.types import Batch

    times = Times()
    learn = vizsla_learner(task, times=times)
    first = next(learn.dls.train.batches())
    images, targets = first.images, first.targets
    batch = Batch(images=images, targets=targets, rows=learn.dls.train.rows[: len(images)])
    for freeze, epochs in ((learn.freeze, task.frozen), (learn.unfreeze, task.later)):
        freeze()
        learn.create_opt()
        take_step = TrainingStep(
            learn.model,
            loss_function=learn.loss_func,
            optimiser=cast("torch.optim.Optimizer", learn.opt),
            precision=learn.precision,
            captured=True,
        )
        for _ in range(epochs):
            learn.training_mode()
            take_step.refresh()
            times.start()
            for _ in range(len(learn.dls.train)):
                take_step(batch)
            times.trained()
            with evaluation_mode(learn.model):
                for rows in learn.dls.valid.rows.split(BATCH_SIZE):
                    compute_logits(
                        cast("Classifier", learn.model),
                        images[: len(rows)],
                        precision=learn.precision,
                    )
            times.end()
    return times


def train_fastai(task: Task, *, half: bool = True) -> Times:
    """Fine-tune with fastai, on vizsla's split.

    Args:
        task: What.
        half: ``to_fp16()``.
    """
    times = Times()
    import torchvision.models
    from fastai.vision.all import (
        Callback,
        ImageDataLoaders,
        Resize,
        aug_transforms,
        error_rate,
        vision_learner,
    )

    class Watch(Callback):
        """Notes times."""

        order = 90  # after the recorder

        def before_epoch(self) -> None:
            times.start()

        def after_train(self) -> None:
            times.trained()

        def after_epoch(self) -> None:
            times.end()

    times.mark("imports")
    loaders = ImageDataLoaders.from_folder(
        Path(task.folder),
        valid_pct=0.2,
        seed=task.seed,
        item_tfms=Resize(PRESIZE),
        batch_tfms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
        bs=BATCH_SIZE,
    )
    times.mark("loaders")
    learn = vision_learner(
        loaders, getattr(torchvision.models, task.arch), pretrained=False, metrics=error_rate
    )
    if half:
        learn = learn.to_fp16()
    times.mark("learner")
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(task.later, freeze_epochs=task.frozen, cbs=Watch())
    times.mark("trained")
    return times


KINDS: dict[str, Callable[[Task], Times]] = {
    "vizsla": train_vizsla,
    "vizsla, no graphs": lambda task: train_vizsla(task, cuda_graphs=False),
    "fastai fp16": train_fastai,
    "fastai fp32": lambda task: train_fastai(task, half=False),
    "network alone": run_model_alone,
}
"""What can be measured, and how."""


def as_arguments(kind: str, task: Task) -> list[str]:
    """Return the command that measures one of ``KINDS``."""
    return [sys.executable, "-m", "benchmarks.gpu_fit", kind, json.dumps(asdict(task))]


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Train as the command line asks and print the figures."""
    import torch

    task = Task(**json.loads(sys.argv[2]))
    times = KINDS[sys.argv[1]](task)
    figures = {
        "epochs": times.epochs,
        "train": times.train,
        "marks": times.marks,
        "frozen": task.frozen,
        "device_bytes": torch.cuda.max_memory_reserved(),
        "pid": os.getpid(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
