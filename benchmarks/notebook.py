"""Seconds and memory of what a notebook does besides training: the same lines in vizsla and in fastai.

vizsla has the names of fastai, so both run the same code; only the import and the network differ.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import (
    KEPT_JSON,
    WORKERS,
    Command,
    Figures,
    Kept,
    answer,
    by_turns,
    head,
    in_own_process,
    installed,
    row,
    several,
    with_spread,
)
from benchmarks.peer import ARCHITECTURE, MIN_SCALE, lite0

if TYPE_CHECKING:
    import argparse

NAMESPACES = {"vizsla": "vizsla.all", "fastai": "fastai.vision.all"}
NEEDS_FILE = ("load", "predict one", "cold")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What both libraries work on.

    Attributes:
        size: Side of the images that the network sees.
        presize: Side of the images before augmentation.
        batch_size: Images per step.
        workers: Threads of vizsla, processes of fastai; "auto" is each library's own default.
        num_it: Steps of ``lr_find``.
        num_single: Predictions of one image.
    """

    size: int = 128
    presize: int = 160
    batch_size: int = 64
    workers: int | str = "auto"
    num_it: int = 100
    num_single: int = 20


# --- In the process of a measurement ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Session:
    """One library at work.

    Attributes:
        library: One of ``NAMESPACES``.
        work: What to do.
        folder: Has ``train`` and ``valid`` with one folder per class in each.
        many: A folder of images to predict.
        exported: The model file: ``export`` writes it, other tasks open it.
        silence: Keeps learners from printing, until it is closed.
    """

    library: str
    work: Work
    folder: Path
    many: Path
    exported: Path
    silence: ExitStack

    @property
    def names(self) -> Any:
        """The names of ``import *``."""
        module = import_module(NAMESPACES[self.library])
        for name in getattr(module, "__all__", ()):
            getattr(module, name)
        return module

    def loaders(self) -> Any:
        """Return the loaders."""
        names, work = self.names, self.work
        return names.ImageDataLoaders.from_folder(
            self.folder,
            item_tfms=names.Resize(work.presize),
            batch_tfms=names.aug_transforms(size=work.size, min_scale=MIN_SCALE),
            bs=work.batch_size,
            device="cpu",
            **({} if work.workers == "auto" else {"num_workers": work.workers}),
        )

    def learner(self) -> Any:
        """Return a learner whose images were not read yet."""
        architecture: Any = lite0 if self.library == "fastai" else ARCHITECTURE
        metrics = self.names.error_rate
        learn = self.names.vision_learner(self.loaders(), architecture, metrics=metrics)
        self.silence.enter_context(learn.no_bar())
        return learn

    def opened(self) -> Any:
        """Return what the model file holds."""
        learn = self.names.load_learner(self.exported)
        if self.library == "fastai":
            self.silence.enter_context(learn.no_bar())
            self.silence.enter_context(learn.no_logging())
        return learn


Job = Callable[[], Any]


def _import(session: Session) -> list[Job]:
    return [lambda: session.names]


def _loaders(session: Session) -> list[Job]:
    _ = session.names
    return [session.loaders]


def _first_batch(session: Session) -> list[Job]:
    loaders, work = session.loaders(), session.work

    def read() -> None:
        images, _ = loaders.one_batch()
        if tuple(images.shape) != (work.batch_size, 3, work.size, work.size):
            raise SystemExit(f"a batch of {tuple(images.shape)} is not what was asked for")

    return [read]


def _lr_find(session: Session) -> list[Job]:
    num_it = session.work.num_it
    return [partial(session.learner().lr_find, num_it=num_it, show_plot=False)]


def _predict_many(session: Session) -> list[Job]:
    learn = session.learner()

    def predict() -> None:
        files = session.names.get_image_files(session.many)
        probabilities = learn.get_preds(dl=learn.dls.test_dl(files))[0]
        if len(probabilities) != len(list(session.many.iterdir())):
            raise SystemExit(f"{len(probabilities)} images were predicted")

    return [predict]


def _export(session: Session) -> list[Job]:
    learn = session.learner()
    learn.validate()
    return [lambda: learn.export(session.exported)]


def _load(session: Session) -> list[Job]:
    load = session.names.load_learner
    return [lambda: load(session.exported)]


def _predict_one(session: Session) -> list[Job]:
    learn, files = session.opened(), sorted(session.many.iterdir())
    return [partial(learn.predict, file) for file in files[: session.work.num_single + WARM_UP]]


def _cold(session: Session) -> list[Job]:
    file = min(session.many.iterdir())
    return [lambda: session.opened().predict(file)]


WARM_UP = 2
"""The first jobs of several do not count."""

TASKS: dict[str, tuple[str, Callable[[Session], list[Job]]]] = {
    "import": ("`import *`", _import),
    "loaders": ("making the dataloaders", _loaders),
    "first batch": ("first batch", _first_batch),
    "lr_find": ("`lr_find`", _lr_find),
    "validate": ("`validate`", lambda session: [session.learner().validate]),
    "tta": ("`tta`", lambda session: [session.learner().tta]),
    "predict many": ("predict {many:,} images", _predict_many),
    "export": ("`export`", _export),
    "load": ("`load_learner`", _load),
    "predict one": ("predict one image, warm", _predict_one),
    "cold": ("`import *`, `load_learner`, predict one image", _cold),
}
"""The name of each in the table, and what prepares it and returns the jobs to time; ``export`` before those that need its file."""


def do_task(library: str, task: str, work: dict[str, Any], **places: str) -> Figures:
    """Do one task in this process and return its seconds, the median of several."""
    paths = {name: Path(place) for name, place in places.items()}
    seconds: list[float] = []
    with ExitStack() as silence:
        session = Session(library=library, work=Work(**work), silence=silence, **paths)
        for job in TASKS[task][1](session):
            started = time.perf_counter()
            job()
            seconds.append(time.perf_counter() - started)
    return {"seconds": median(seconds[WARM_UP:] or seconds)}


# --- All tasks, by turns ---------------------------------------------------------------------------------------------


def tasks(options: argparse.Namespace) -> None:
    """Time import, dataloaders, first batch, lr_find, validate, tta, predictions, export and load, next to fastai.

    The same lines in both libraries, on the same images, with the same weights, sizes and batch size. Each measurement is its own
    process that starts from nothing, and the libraries take turns. Memory is that of the whole process, with all that the task
    needs first.
    """
    libraries = installed(NAMESPACES)
    num_many = min(options.many, 100) if options.quick else options.many
    work = Work(
        size=options.size,
        presize=options.size * 5 // 4,
        batch_size=min(16, options.batch_size) if options.quick else options.batch_size,
        workers=options.workers,
        num_it=10 if options.quick else options.num_it,
        num_single=5 if options.quick else 20,
    )
    many = _links(options.folder, num_many, options.made_in)
    places = {"folder": str(options.folder), "many": str(many)}
    data = "made up" if options.data is None else str(options.folder)
    setting = asdict(work) | {"data": data, "many": num_many}
    kept = Kept(options.json)

    def measure(one: tuple[str, str], number: int) -> Figures:
        task, library = one
        exported = str(options.made_in / f"{library}.model")
        key = {"library": library, "task": task, "round": number, "setting": setting}

        def measured(name: str = task) -> Figures:
            if name in NEEDS_FILE and not Path(exported).exists():
                measured("export")
            asked = {"library": library, "task": name, "work": asdict(work)}
            return in_own_process("notebook:do_task", **asked, **places, exported=exported)

        return kept.figures(key, measured)

    runs = by_turns(
        [(task, library) for task in options.only for library in libraries],
        rounds=options.rounds,
        measure=measure,
        told=lambda one, run: f"{one[0]}, {one[1]}: {run['seconds']:.3f} s",
    )
    print(
        f"\n{ARCHITECTURE}, {work.presize} to {work.size} pixels, batch {work.batch_size}, {num_many:,} images to "
        f"predict, lr_find of {work.num_it} steps, {options.rounds} rounds, median (smallest-largest):\n"
    )
    heads = [[f"{library}, {unit}" for library in libraries] for unit in ("s", "MB")]
    if len(libraries) == 2:
        for names, what in zip(heads, ("time", "memory"), strict=True):
            names.append(f"{what}, {' / '.join(libraries)}")
    print(head("", *heads[0], *heads[1]))
    for task in options.only:
        cells: list[str] = []
        for name, unit in (("seconds", 1.0), ("peak_bytes", 1e6)):
            values = [[run[name] / unit for run in runs[task, library]] for library in libraries]
            for each in values:
                digits = 0 if name == "peak_bytes" else 3 if max(each) < 1 else 2
                cells.append(with_spread(each, digits=digits))
            cells += [f"{median(values[0]) / median(values[1]):.2f}"] if len(values) == 2 else []
        print(row(TASKS[task][0].format(many=num_many), *cells))


def _links(folder: Path, count: int, made_in: Path) -> Path:
    """Return a folder of links to the images of another; for both libraries each is its own image."""
    from vizsla import get_image_files

    files = get_image_files(folder)
    many = made_in / "many"
    many.mkdir()
    for number in range(count):
        file = files[number % len(files)].resolve()
        (many / f"{number:05}{file.suffix}").symlink_to(file)
    return many


COMMANDS = {
    "tasks": Command(
        asks="What do import, loaders, lr_find, validate, tta, predict, export and load take, next to fastai?",
        run=tasks,
        images="parts",
        options={
            "rounds": 3,
            "size": 128,
            "batch_size": 64,
            "workers": WORKERS,
            "num_it": {"default": 100, "help": "steps of lr_find"},
            "many": {"default": 1000, "help": "images to predict"},
            "only": several(list(TASKS)),
            "json": KEPT_JSON,
        },
        short="--rounds 1 --num-it 20 --many 500",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
