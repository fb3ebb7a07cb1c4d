"""How long an epoch, a step, a prediction, lesson one's quick start and the imports take, next to fastai and the network alone.

python -m benchmarks.speed COMMAND --help
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from benchmarks.measure import (
    JSON,
    ROOT,
    WORKERS,
    Command,
    Figures,
    Measure,
    Option,
    answer,
    by_turns,
    comparison,
    head,
    in_own_process,
    installed,
    one_of,
    row,
    several,
    with_spread,
)
from benchmarks.peer import (
    ARCHITECTURE,
    Setting,
    fastai_learner,
    measured,
    vizsla_learner,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator

    from vizsla import DataLoaders, Learner
    from vizsla.models import Classifier
    from vizsla.train import Trainer
    from vizsla.types import Batch

BATCH_SIZE = 64


# --- Ray -------------------------------------------------------------------------------------------------------------


def ray(options: argparse.Namespace) -> None:
    """Show what Ray makes of `vizsla predict --jsonl`: one and two processes of one thread, next to the local command with one thread.

    The rate is that from the first row to the last, so without the start of Ray and of its processes, which is in the seconds. The
    sorted rows of all three are compared byte for byte.
    """
    from vizsla import Resize
    from vizsla.model_file import save_bundle
    from vizsla.models import Classifier, ConcatPoolHead, build_backbone

    backbone = build_backbone(ARCHITECTURE, pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 37, lin_ftrs=[512], seed=1)
    vocab = tuple(map(str, range(37)))
    classifier = Classifier(backbone, head, vocab=vocab).eval()
    model = save_bundle(
        options.made_in / "m.safetensors", classifier=classifier, resize=Resize(224)
    )
    listing = options.made_in / "list"
    images = sorted(map(str, options.folder.rglob("*.jpg")))
    chosen = itertools.islice(itertools.cycle(images), options.images)
    listing.write_text("\n".join(chosen), encoding="utf-8")
    actors = {"local": 0, "Ray, 1 process": 1, "Ray, 2 processes": 2}
    runs = by_turns(
        list(actors),
        rounds=options.rounds,
        measure=lambda kind, _: in_own_process(
            "speed:rows_of_ray", model=str(model), listing=str(listing), actors=actors[kind]
        ),
        told=lambda kind, figures: (
            f"{kind}: {figures['rate']:.1f} images/s, {figures['seconds']:.1f} s"
        ),
    )
    pairs = [("Ray, 2 processes", "Ray, 1 process"), ("Ray, 1 process", "local")]
    measures = [
        Measure("images/s from the first row on", lambda run: run["rate"], 1),
        Measure("ms an image", lambda run: 1000 / run["rate"], 2),
        Measure("seconds in all", lambda run: run["seconds"], 1),
    ]
    print(comparison(runs, measures, ratios=pairs))
    same = len({run["digest"] for each in runs.values() for run in each}) == 1
    print(f"The sorted rows of all runs are {'equal' if same else 'NOT equal'}, byte for byte.")


def rows_of_ray(model: str, listing: str, actors: int) -> Figures:
    """Write rows with so many processes of Ray, or none, each with one thread that reads and computes; return how fast."""
    import hashlib

    import torch

    from vizsla.integrations.ray import ray_engine
    from vizsla.predict import Format, PathSource, PredictOptions, write_predictions

    torch.set_num_threads(1)
    moments: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        started = time.perf_counter()
        if actors:  # A session of as many cores: a single process would take both of two.
            import ray

            ray.init(num_cpus=actors, include_dashboard=False, log_to_driver=False)
        write_predictions(
            Path(model),
            PathSource(lists=[listing]),
            file=file,
            form=Format.json,
            options=PredictOptions(device="cpu", num_workers=0),
            engine=ray_engine(num_actors=actors) if actors else None,
            on_progress=lambda done: moments.append((done, time.perf_counter())),
        )
        seconds = time.perf_counter() - started
        rows = b"".join(sorted(file.read_bytes().splitlines(keepends=True)))
    (first, began), (last, ended) = moments[0], moments[-1]
    rate = (last - first) / (ended - began)
    return {"rate": rate, "seconds": seconds, "digest": hashlib.sha256(rows).hexdigest()}


# --- An epoch --------------------------------------------------------------------------------------------------------

EPOCH_KINDS = ("vizsla", "fastai", "network alone", "vizsla in bf16")
"""The last needs less memory and more time, and is measured only on request."""


def _both(name: str) -> Callable[[Figures], float]:
    """Return the first and a later value of a figure together."""
    return lambda run: run[name][0] + median(run[name][1:])


EPOCH_MEASURES = (
    Measure("frozen epoch (first), s", lambda run: run["seconds"][0], 1),
    Measure("unfrozen epoch (later), s", lambda run: median(run["seconds"][1:]), 1),
    Measure("both, s", _both("seconds"), 1),
    Measure("steps of both alone, s", _both("train_seconds"), 1),
    Measure("whole process, s", lambda run: run["total_seconds"], 1),
    Measure("CPU time of both epochs, s", _both("epoch_cpu_seconds"), 1),
    Measure("CPU time of the process, s", lambda run: run["cpu_seconds"], 1),
    Measure("peak memory, MB", lambda run: run["peak_bytes"] / 1e6, 0),
)


def epoch(options: argparse.Namespace) -> None:
    """Time one frozen epoch, which is the first and reads every file, then one unfrozen epoch (fine_tune(1)).

    The same data, weights, sizes, batch size and augmentation; each measurement is its own process, and they take turns. The
    network alone goes forward and backward as often, on one ready batch, with the same freezing.
    """
    setting = Setting(
        folder=str(options.folder),
        epochs=options.later,
        size=options.size,
        presize=options.presize or options.size * 5 // 4,
        batch_size=min(16, options.batch_size) if options.quick else options.batch_size,
        workers=options.workers,
    )
    runs = by_turns(
        installed(options.only),
        rounds=options.rounds,
        measure=lambda kind, _: measured(kind, setting),
        told=lambda kind, run: (
            f"{kind}: epochs {', '.join(f'{value:.1f}' for value in run['seconds'])} s"
        ),
        json_file=options.json,
    )
    print(
        f"\n{ARCHITECTURE}, {setting.presize} to {setting.size} pixels, batch {setting.batch_size}, "
        f"{options.rounds} rounds, median (smallest-largest):\n"
    )
    ratios = [("vizsla", "fastai"), ("vizsla", "network alone")]
    print(comparison(runs, EPOCH_MEASURES, ratios=ratios))


# --- A step ----------------------------------------------------------------------------------------------------------

OVERHEAD_LIMIT_MS = 2.0


def step(options: argparse.Namespace) -> None:
    """Show what a training step costs beyond the network.

    1. The loop around ready batches against the same forward, backward and optimiser step in four lines, for a model of one
       small layer and for efficientnet_lite0: the difference is the time of the loop itself.
    2. Where the time of a step goes in a frozen and in an unfrozen epoch (StepProfile).
    """
    _print_overhead(rounds=options.rounds, quick=options.quick)
    _print_breakdown(_setting(options))


def _setting(options: argparse.Namespace) -> Setting:
    """Return the task of a learner whose steps or predictions are timed."""
    size = 64 if options.quick else options.size
    return Setting(
        folder=str(options.folder),
        size=size,
        presize=size * 5 // 4,
        batch_size=16 if options.quick else BATCH_SIZE,
    )


def _print_overhead(*, rounds: int, quick: bool) -> None:
    """Print what the loop costs beyond the work itself."""
    print(
        f"\nOne training step, batch {BATCH_SIZE}, ready batches, ms; limit {OVERHEAD_LIMIT_MS}:\n"
    )
    print(head("model", "loop", "forward, backward, optimiser", "overhead"))
    trainers = {
        "one linear layer": _small_trainer(50 if quick else 500),
        f"{ARCHITECTURE}, 32 x 32": _network_trainer(3 if quick else 30),
    }
    for name, trainer in trainers.items():
        bare: list[float] = []
        loop: list[float] = []
        for _ in range(rounds):
            bare.append(median(_bare_milliseconds(trainer)))
            loop.append(median(_loop_milliseconds(trainer)))
        differences = [whole - work for whole, work in zip(loop, bare, strict=True)]
        print(row(name, *(with_spread(each, digits=2) for each in (loop, bare, differences))))


def _ready_loaders(*, size: int, count: int) -> DataLoaders:
    """Return loaders that give one random batch again and again, so that nothing is read, and none for validation."""
    import torch

    from vizsla import DataLoaders, Resize
    from vizsla.data.loading import DataLoader
    from vizsla.types import Batch, ImageTable

    class ReadyLoader(DataLoader):
        """Gives one batch as often as an epoch is long."""

        def __len__(self) -> int:
            """Return the number of batches of an epoch."""
            return count

        def batches(self, *, start: int = 0, **_: Any) -> Generator[Batch]:
            """Yield the batch."""
            for _ in range(start, count):
                yield batch

    random = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH_SIZE, 3, size, size, generator=random)
    table = ImageTable(
        root=Path(),
        paths=tuple(Path(f"{number}.jpg") for number in range(BATCH_SIZE)),
        targets=torch.arange(BATCH_SIZE) % 2,
        vocab=("even", "odd"),
        train_rows=torch.arange(BATCH_SIZE),
        valid_rows=torch.arange(0),
    )
    batch = Batch(
        images=images.contiguous(memory_format=torch.channels_last),
        targets=table.targets,
        rows=table.train_rows,
    )
    loaders = DataLoaders(table, resize=Resize(size), batch_size=BATCH_SIZE, device="cpu")
    loaders.train = ReadyLoader(loaders.train.loader, augmentation=loaders.train.augmentation)
    return loaders


def _small_trainer(count: int) -> Trainer:
    """Return a trainer of one small layer."""
    from torch import nn

    from vizsla.train import Trainer

    return Trainer(
        _ready_loaders(size=8, count=count),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
        splitter=lambda module: [tuple(module.parameters())],
        show_table=False,
        quiet=True,
    )


def _network_trainer(count: int) -> Trainer:
    """Return a trainer of ``efficientnet_lite0`` on small images, everything unfrozen."""
    from vizsla import vision_learner

    loaders = _ready_loaders(size=32, count=count)
    trainer = vision_learner(loaders, ARCHITECTURE, pretrained=False, quiet=True)
    trainer.show_table = False
    return trainer


def _loop_milliseconds(trainer: Trainer) -> list[float]:
    """Return the time of each step of an epoch of the loop but the first."""
    from vizsla import Callback
    from vizsla.train.rates import one_cycle

    ends: list[float] = []

    class StepTimes(Callback):
        """Notes when steps end."""

        order = 1000

        def after_step(self, fit: Any) -> None:
            del fit
            ends.append(time.perf_counter())

    count = len(trainer.dls.train)
    schedule = one_cycle(count, peak_rates=(1e-5,) * len(trainer.groups), momenta=trainer.moms)
    trainer.run(schedule, n_epoch=1, stage="timing", cbs=StepTimes())
    return [1000 * (end - start) for start, end in itertools.pairwise(ends)]


def _bare_milliseconds(trainer: Trainer) -> list[float]:
    """Return the time of each step of the same work in four lines but the first."""
    import torch
    from torch import nn

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


def _print_breakdown(setting: Setting) -> None:
    """Print where the time of a step goes, frozen and unfrozen."""
    from vizsla.train import StepProfile

    learn = vizsla_learner(setting)
    profiles: list[StepProfile] = []
    for first_group in (-1, 0):
        learn.freeze_to(first_group)
        profiles.append(StepProfile(show=False))
        learn.fit_one_cycle(1, 1e-3, cbs=profiles[-1])
    print(
        f"\nWhere a step goes, {ARCHITECTURE}, batch {setting.batch_size}, {setting.size} x {setting.size}, ms (share):\n"
    )
    print(head("", "frozen, first epoch", "unfrozen, second epoch"))
    for frozen, unfrozen in zip(*(profile.rows() for profile in profiles), strict=True):
        print(row(frozen[0], f"{frozen[1]} ({frozen[2]})", f"{unfrozen[1]} ({unfrozen[2]})"))


# --- A prediction ----------------------------------------------------------------------------------------------------

PREDICT_LIMIT = 1.3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def predict(options: argparse.Namespace) -> None:
    """Show what one prediction costs beyond decoding and the network, and predictions per second.

    1. One image: decoding and presizing it and running the network on it, written out by hand, next to learn.predict of vizsla and
       of fastai, and to Predictor.predict of a calibrated model with a label set. They take turns, and the ratio is the median of
       the rounds' ratios, so that other work on the machine slows all alike.
    2. Many images: the rows of `vizsla predict --csv`, in images per second.
    """
    setting = _setting(options)
    learn = vizsla_learner(setting)
    model = _calibrated_model(learn, options.made_in)
    _print_one(learn, model, setting, options=options)
    _print_many(learn, model, options=options)


def _calibrated_model(learn: Learner, folder: Path) -> Path:
    """Write the model file of a learner with everything that a prediction may contain, and return its path."""
    import torch

    from vizsla import Predictions
    from vizsla.evaluate import calibrate
    from vizsla.model_file import save_bundle

    vocab = tuple(learn.dls.vocab)
    torch.manual_seed(0)
    predictions = Predictions(
        rows=torch.arange(500),
        paths=tuple(map(str, range(500))),
        logits=torch.randn(500, len(vocab)),
        targets=torch.randint(len(vocab), (500,)),
        vocab=vocab,
    )
    return save_bundle(
        folder / "model.safetensors",
        classifier=cast("Classifier", learn.model).eval(),
        resize=learn.dls.resize,
        size=learn.dls.final_size,
        calibration=calibrate(predictions),
    )


def _print_one(
    learn: Learner, model: Path, setting: Setting, *, options: argparse.Namespace
) -> None:
    import torch

    from vizsla import Predictor
    from vizsla.augment import BatchAugmentation
    from vizsla.data.cache import ImageCache
    from vizsla.data.images import ImageReader
    from vizsla.infer import compute_logits
    from vizsla.models import evaluation_mode

    path = learn.dls.table.paths[0]
    predictor = Predictor.load(model, device="cpu")
    reader = ImageReader(resize=learn.dls.resize, cache=ImageCache(mode="off"))
    plain = BatchAugmentation(size=(setting.size, setting.size))
    row_0 = torch.zeros(1, dtype=torch.int64)

    def by_hand() -> None:
        pixels = torch.from_numpy(reader.read(path)).permute(2, 0, 1)[None]
        images = plain(pixels, rows=row_0, epoch=0, training=False)
        compute_logits(cast("Classifier", learn.model), images)

    functions: dict[str, Callable[[], object]] = {
        "decode and forward": by_hand,
        "vizsla, learn.predict": lambda: learn.predict(path),
        "vizsla, Predictor.predict": lambda: predictor.predict(path, coverage=0.95),
    }
    with ExitStack() as silence:
        if find_spec("fastai") is not None:
            peer = fastai_learner(setting, learn.dls.table)
            silence.enter_context(peer.no_bar())
            silence.enter_context(peer.no_logging())
            functions["fastai, learn.predict"] = lambda: peer.predict(path)
        silence.enter_context(evaluation_mode(learn.model))
        clock = CLOCKS[options.clock]
        taken: dict[str, list[float]] = {name: [] for name in functions}
        for number in range(options.rounds + 2):
            for name, function in functions.items():
                started = clock()
                function()
                if number >= 2:  # after two to warm up
                    taken[name].append(1000 * (clock() - started))
    print(f"\nOne image, {setting.size} x {setting.size}, ms; limit {PREDICT_LIMIT}x:\n")
    print(head("", "ms", "x decode and forward"))
    base = taken["decode and forward"]
    for name, values in taken.items():
        ratio = median(one / other for one, other in zip(values, base, strict=True))
        print(row(name, with_spread(values, digits=1), f"{ratio:.2f}"))


def _print_many(learn: Learner, model: Path, *, options: argparse.Namespace) -> None:
    from vizsla.predict import Format, PathSource, PredictOptions, write_predictions

    count = 16 if options.quick else options.images
    source = PathSource(paths=list(itertools.islice(itertools.cycle(learn.dls.table.paths), count)))
    print("\n" + head("`vizsla predict --csv`", "images/s"))
    for num_workers in options.workers:
        done = write_predictions(
            model,
            source,
            file=model.with_name(f"{num_workers}.csv"),
            form=Format.csv,
            options=PredictOptions(device="cpu", num_workers=num_workers),
        )
        if done is not None:
            print(row(f"{num_workers} decode threads", f"{done.num_images / done.seconds:.1f}"))


# --- Lesson one's quick start ----------------------------------------------------------------------------------------

QUICK_EPOCHS = 2


def precompute(options: argparse.Namespace) -> None:
    """Time lesson one's quick start against one frozen epoch of fastai.

    The quick start computes the features of every image once and fits a head on them for two epochs; fastai trains the head for
    one epoch through the frozen network. Same images, weights, size and batch size, no augmentation; a process per measurement,
    by turns.
    """
    setting = Setting(
        folder=str(options.folder),
        epochs=QUICK_EPOCHS,
        size=options.size,
        batch_size=options.batch_size,
        workers=options.workers,
        augment=False,
    )
    runs = by_turns(
        installed(["quick start", "fastai"]),
        rounds=options.rounds,
        measure=lambda kind, _: _with_fresh_links(kind, setting),
        told=lambda kind, run: f"{kind}: {sum(run['seconds']):.2f} s",
    )
    print(
        f"\n{ARCHITECTURE}, {options.size} pixels, batch {options.batch_size}, {options.rounds} rounds, "
        "median (smallest-largest):\n"
    )
    print(head("", "seconds", "validation error, %"))
    quick = runs["quick start"]
    names = ("features of all images", "first epoch on them", "second epoch on them")
    for position, name in enumerate(names):
        taken = [run["seconds"][position] for run in quick]
        print(row(name, with_spread(taken, digits=2), ""))
    whole = [sum(run["seconds"]) for run in quick]
    print(row("quick start in all", with_spread(whole, digits=2), _errors(quick)))
    if "fastai" in runs:
        frozen = [run["seconds"][0] for run in runs["fastai"]]
        cells = with_spread(frozen, digits=2), _errors(runs["fastai"])
        print(row("fastai, one frozen epoch", *cells))
        print(f"\nquick start / fastai's epoch: {median(whole) / median(frozen):.2f}")


def _errors(runs: list[Figures]) -> str:
    return with_spread([100 * run["values"][-1][-1] for run in runs], digits=1)


def _with_fresh_links(kind: str, setting: Setting) -> Figures:
    """Measure in a fresh folder with links to ``train`` and ``valid``: features go next to them, and must not exist yet."""
    with tempfile.TemporaryDirectory() as fresh:
        for part in ("train", "valid"):
            target = (Path(setting.folder) / part).resolve()
            (Path(fresh) / part).symlink_to(target, target_is_directory=True)
        epochs = 0 if kind == "fastai" else setting.epochs
        return measured(kind, replace(setting, folder=fresh, epochs=epochs))


# --- Imports ---------------------------------------------------------------------------------------------------------

STATEMENTS = {
    "import torch": "torch",
    "import vizsla": "vizsla",
    "from vizsla.all import *": "vizsla",
    "from vizsla.classic import *": "vizsla",
    "from fastai.vision.all import *": "fastai",
}


def imports(options: argparse.Namespace) -> None:
    """Show what importing vizsla, its notebook surfaces and fastai takes in a fresh process."""
    statements = [each for each, package in STATEMENTS.items() if find_spec(package) is not None]
    runs = by_turns(
        statements,
        rounds=options.rounds + 1,
        measure=lambda statement, _: _import_alone(statement),
    )
    # The first round reads the files from the disk and does not count.
    runs = {statement: each[1:] for statement, each in runs.items()}
    print(f"\nMedian of {options.rounds} fresh processes (fastest-slowest), cached files:\n")
    print(head("", "seconds", "CPU seconds", "peak memory, MB", "seconds beyond torch"))
    base = median(run["seconds"] for run in runs["import torch"])
    for statement, each in runs.items():
        seconds = [run["seconds"] for run in each]
        cells = [
            with_spread(seconds, digits=2),
            f"{median(run['cpu'] for run in each):.2f}",
            f"{median(run['resident_bytes'] for run in each) / 1e6:,.0f}",
            f"{median(seconds) - base:+.2f}",
        ]
        print(row(f"`{statement}`", *cells))


_IMPORT = """
import json, resource, time
started, cpu = time.perf_counter(), time.process_time()
exec({statement!r})
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(dict(seconds=seconds, cpu=cpu, resident_bytes=resident)))
"""


def _import_alone(statement: str) -> Figures:
    """Return the figures of a statement in a process that has imported nothing else."""
    command = [sys.executable, "-W", "ignore", "-c", _IMPORT.format(statement=statement)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.strip().splitlines()[-1])


_OPTIONS: dict[str, Option] = {
    "rounds": 3,
    "workers": WORKERS,
    "batch_size": 64,
}

COMMANDS = {
    "imports": Command(
        asks="What does importing vizsla take, next to torch and fastai?",
        run=imports,
        options={"rounds": 5},
        short="--rounds 1",
    ),
    "step": Command(
        asks="What does a training step cost beyond the network?",
        run=step,
        images="parts",
        options={
            "rounds": 5,
            "size": {"default": 128, "help": "of the breakdown"},
        },
        short="--rounds 2",
    ),
    "predict": Command(
        asks="What does a prediction cost beyond decoding and the network, and how many per second?",
        run=predict,
        images="parts",
        options={
            "size": 224,
            "rounds": 30,
            "images": {"default": 256, "help": "of the second table"},
            "workers": {"default": [0, 2], "type": int, "nargs": "+"},
            "clock": one_of(*CLOCKS),
        },
        short="--rounds 10",
    ),
    "ray": Command(
        asks="What do processes of Ray bring to vizsla predict, and what do they cost?",
        run=ray,
        images="any",
        options={"rounds": 3, "images": 1_920},
        packages=("vizsla", "ray", "torch"),
        short="--rounds 1",
    ),
    "epoch": Command(
        asks="How long is an epoch, and in how much memory, next to fastai and the network alone?",
        run=epoch,
        images="parts",
        options=_OPTIONS
        | {
            "later": {"default": 1, "help": "unfrozen epochs after the frozen one"},
            "size": 128,
            "presize": {"type": int, "help": "default: 1.25 times the size"},
            "only": several(EPOCH_KINDS, EPOCH_KINDS[:3]),
            "json": JSON,
        },
        short="--rounds 1",
    ),
    "precompute": Command(
        asks="How long is lesson one's quick start, next to one frozen epoch of fastai?",
        run=precompute,
        images="parts",
        options=_OPTIONS | {"size": 224},
        short="--rounds 1 --size 128",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
