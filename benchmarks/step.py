"""Nothing, or a folder of labelled pictures, in; tables out: what a training step and one prediction cost beyond the network.

1. The loop around ready batches against the same forward, backward and optimiser step in four lines, for a model of one small
   layer and for ``efficientnet_lite0``: the difference is what the loop itself takes.
2. ``learn.predict`` of one file against decoding it and running the network.
3. Where the time of a step goes in a frozen and in an unfrozen epoch (``vizsla.train.profile``).

    python -m benchmarks.step --data FOLDER
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from benchmarks.fastai_peer import fastai_learner
from benchmarks.machine import described, with_spread
from benchmarks.peers import ARCHITECTURE, Setting, vizsla_learner, with_parts
from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.data.cache.cache import PictureCache
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import Resize
from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
from vizsla.infer.run import compute_logits, evaluation_mode
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.profile import StepProfile
from vizsla.train.schedules import one_cycle
from vizsla.train.trainer import Trainer
from vizsla.train.vision_learner import vision_learner
from vizsla.types import Batch, PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vizsla.models.classifier import Classifier

BATCH_SIZE = 64
OVERHEAD_LIMIT_MS = 2.0
PREDICT_LIMIT = 1.3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="with train and valid (default: drawn pictures)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="of the breakdown and prediction")
    parser.add_argument("--quick", action="store_true", help="few steps of small pictures")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else options.rounds
    print(described("vizsla", "fastai", "torch", "timm"))
    overhead_table(rounds=rounds, quick=options.quick)
    with tempfile.TemporaryDirectory() as made_in:
        folder = with_parts(options.data, made_in=Path(made_in), count=64 if options.quick else 320)
        size = 64 if options.quick else options.size
        setting = Setting(
            folder=str(folder),
            size=size,
            presize=size * 5 // 4,
            batch_size=16 if options.quick else BATCH_SIZE,
        )
        predict_table(setting, rounds=10 * rounds)
        breakdown(setting)


class ReadyLoader(DataLoader):
    """Gives one batch again and again, so that nothing has to be read.

    Args:
        batch: The batch.
        like: The loader that it stands in for.
        count: Batches of an epoch.
    """

    def __init__(self, batch: Batch, *, like: DataLoader, count: int) -> None:
        super().__init__(like.loader, augmentation=like.augmentation)
        self.batch = batch
        self.count = count

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.count

    def batches(
        self, *, epoch: int = 0, start: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Generator[Batch]:
        """Yield the batch as often as an epoch is long."""
        del epoch, share
        for _ in range(start, self.count):
            yield self.batch


def ready_loaders(*, size: int, count: int) -> DataLoaders:
    """Return loaders that give random pictures at once, and none for validation."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH_SIZE, 3, size, size, generator=random)
    table = PictureTable(
        root=Path(),
        paths=tuple(Path(f"{number}.jpg") for number in range(BATCH_SIZE)),
        targets=torch.arange(BATCH_SIZE) % 2,
        vocab=("even", "odd"),
        train_rows=torch.arange(BATCH_SIZE),
        valid_rows=torch.arange(0),
    )
    loaders = DataLoaders(table, resize=Resize(size), batch_size=BATCH_SIZE, device="cpu")
    batch = Batch(
        images=images.contiguous(memory_format=torch.channels_last),
        targets=table.targets,
        rows=table.train_rows,
    )
    loaders.train = ReadyLoader(batch, like=loaders.train, count=count)
    return loaders


class StepTimes(Callback):
    """Notes when steps end.

    Attributes:
        ends: Seconds of a clock.
    """

    order = 1000

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_step(self, fit: Fit) -> None:
        """Note it."""
        del fit
        self.ends.append(time.perf_counter())


def small_trainer(count: int) -> Trainer:
    """Return a trainer of one small layer."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    return Trainer(
        ready_loaders(size=8, count=count),
        model,
        splitter=lambda module: [tuple(module.parameters())],
        show_table=False,
        quiet=True,
    )


def network_trainer(count: int) -> Trainer:
    """Return a trainer of ``efficientnet_lite0`` on small pictures, everything unfrozen."""
    trainer = vision_learner(
        ready_loaders(size=32, count=count), ARCHITECTURE, pretrained=False, quiet=True
    )
    trainer.show_table = False
    return trainer


def loop_milliseconds(trainer: Trainer) -> list[float]:
    """Return the time of each step of an epoch of the loop, its first step left out."""
    times = StepTimes()
    count = len(trainer.dls.train)
    schedule = one_cycle(count, peak_rates=(1e-5,) * len(trainer.groups), momenta=trainer.moms)
    trainer.run(schedule, n_epoch=1, stage="timing", cbs=times)
    pairs = zip(times.ends, times.ends[1:], strict=False)
    return [1000 * (end - start) for start, end in pairs]


def bare_milliseconds(trainer: Trainer) -> list[float]:
    """Return the time of each step of the same work in four lines, its first step left out."""
    if trainer.opt is None:
        trainer.create_opt()
    optimiser = cast("torch.optim.Optimizer", trainer.opt)
    batch = next(iter(trainer.dls.train.batches()))
    model, taken = trainer.model, list[float]()
    model.train()
    for _ in range(len(trainer.dls.train)):
        started = time.perf_counter()
        loss = nn.functional.cross_entropy(model(batch.images), batch.targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        taken.append(1000 * (time.perf_counter() - started))
    return taken[1:]


def overhead_table(*, rounds: int, quick: bool) -> None:
    """Print what the loop takes beyond the work itself."""
    print(
        f"\nOne training step, batch {BATCH_SIZE}, ready batches, ms; limit {OVERHEAD_LIMIT_MS}:\n"
    )
    print("| model | loop | forward, backward, optimiser | overhead |")
    print("|---|---:|---:|---:|")
    makers: dict[str, tuple[Callable[[int], Trainer], int]] = {
        "one linear layer": (small_trainer, 50 if quick else 500),
        f"{ARCHITECTURE}, 32 x 32": (network_trainer, 3 if quick else 30),
    }
    for name, (make, count) in makers.items():
        trainer = make(count)
        loop: list[float] = []
        bare: list[float] = []
        for _ in range(rounds):
            bare.append(median(bare_milliseconds(trainer)))
            loop.append(median(loop_milliseconds(trainer)))
        differences = [whole - work for whole, work in zip(loop, bare, strict=True)]
        cells = [with_spread(values, digits=2) for values in (loop, bare, differences)]
        print(f"| {name} | {' | '.join(cells)} |")


def predict_table(setting: Setting, *, rounds: int) -> None:
    """Print what one prediction takes beyond decoding and the network."""
    learn = vizsla_learner(setting)
    path = learn.dls.table.paths[0]
    reader = PictureReader(resize=learn.dls.resize, cache=PictureCache(mode="off"))
    plain = BatchAugmentation(size=(setting.size, setting.size))

    def decode() -> Tensor:
        pixels = torch.from_numpy(reader.read(path)).permute(2, 0, 1)[None]
        return plain(pixels, rows=torch.zeros(1, dtype=torch.int64), epoch=0, training=False)

    def decode_and_run() -> None:
        compute_logits(cast("Classifier", learn.model), decode())

    functions: dict[str, Callable[[], object]] = {
        "decode and forward": decode_and_run,
        "vizsla, learn.predict": lambda: learn.predict(path),
    }
    if importlib.util.find_spec("fastai") is not None:
        peer = fastai_learner(setting, learn.dls.table)

        def fastai_predict() -> None:
            with peer.no_bar(), peer.no_logging():
                peer.predict(path)

        functions["fastai, learn.predict"] = fastai_predict
    taken: dict[str, list[float]] = {name: [] for name in functions}
    with evaluation_mode(learn.model):
        for number in range(rounds + 2):
            for name, function in functions.items():
                started = time.perf_counter()
                function()
                if number >= 2:
                    taken[name].append(1000 * (time.perf_counter() - started))
    print(f"\nOne picture, {setting.size} x {setting.size}, ms; limit {PREDICT_LIMIT}x:\n")
    print("| | ms | x decode and forward |\n|---|---:|---:|")
    base = median(taken["decode and forward"])
    for name, values in taken.items():
        print(f"| {name} | {with_spread(values, digits=1)} | {median(values) / base:.2f} |")


def breakdown(setting: Setting) -> None:
    """Print where the time of a step goes, frozen and unfrozen."""
    learn = vizsla_learner(setting)
    profiles: dict[str, StepProfile] = {}
    for name, first_group in (("frozen", -1), ("unfrozen", 0)):
        learn.freeze_to(first_group)
        profiles[name] = StepProfile(show=False)
        learn.fit_one_cycle(1, 1e-3, cbs=profiles[name])
    print(
        f"\nWhere a step goes, {ARCHITECTURE}, batch {setting.batch_size}, {setting.size} x {setting.size}, ms (share):\n"
    )
    print("| | frozen, first epoch | unfrozen, second epoch |\n|---|---:|---:|")
    both = zip(*(profile.rows() for profile in profiles.values()), strict=True)
    for frozen, unfrozen in both:
        print(f"| {frozen[0]} | {frozen[1]} ({frozen[2]}) | {unfrozen[1]} ({unfrozen[2]}) |")


if __name__ == "__main__":
    main()
