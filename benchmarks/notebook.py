"""Seconds and memory of what a notebook does besides training: the same lines in vizsla and in fastai.

vizsla has the names of fastai, so both run the same code; only the import and the network differ.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import (
    DATA,
    KEPT_JSON,
    NUM_IMAGES,
    WORKERS,
    Command,
    Figures,
    Kept,
    answer,
    by_turns,
    described,
    head,
    in_own_process,
    installed,
    row,
    with_parts,
    with_spread,
)
from benchmarks.peer import ARCHITECTURE, MIN_SCALE, lite0

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

NAMESPACES = {"vizsla": "vizsla.all", "fastai": "fastai.vision.all"}
NEEDS_FILE = ("load", "predict one", "cold")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What both libraries work on.

    Attributes:
        size: Side of the images that the network sees.
        presize: Side that images have before augmentation.
        batch_size: Images in a step.
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


class Session:
    """One library at work.

    Args:
        library: One of ``NAMESPACES``.
        work: What to do.
        folder: Has ``train`` and ``valid`` with one folder per class in each.
        many: A folder of images to predict.
        exported: The model file: ``export`` writes it, other tasks open it.
    """

    def __init__(
        self, library: str, *, work: Work, folder: Path, many: Path, exported: Path
    ) -> None:
        self.library = library
        self.work = work
        self.folder = folder
        self.many = many
        self.exported = exported
        self.seconds = 0.0
        self._names: Any = None

    def timed(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns, and keep how long it took."""
        started = time.perf_counter()
        result = function()
        self.seconds = time.perf_counter() - started
        return result

    @property
    def names(self) -> Any:
        """What ``import *`` brings."""
        if self._names is None:
            self._names = import_module(NAMESPACES[self.library])
            for name in getattr(self._names, "__all__", ()):
                getattr(self._names, name)
        return self._names

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
        """Return the learner."""
        architecture: Any = lite0 if self.library == "fastai" else ARCHITECTURE
        metrics = self.names.error_rate
        return self.names.vision_learner(self.loaders(), architecture, metrics=metrics)

    def run_import(self) -> None:
        """Import everything that a notebook does."""
        self.timed(lambda: self.names)

    def run_loaders(self) -> None:
        """List the files, split them, make the loaders."""
        _ = self.names.ImageDataLoaders
        self.timed(self.loaders)

    def run_first_batch(self) -> None:
        """Read and augment one batch."""
        loaders = self.loaders()
        images, _ = self.timed(loaders.one_batch)
        if tuple(images.shape) != (self.work.batch_size, 3, self.work.size, self.work.size):
            raise SystemExit(f"a batch of {tuple(images.shape)} is not what was asked for")

    def run_lr_find(self) -> None:
        """Find a learning rate, from files that were not read yet."""
        learn = self.learner()
        with learn.no_bar():
            self.timed(lambda: learn.lr_find(num_it=self.work.num_it, show_plot=False))

    def run_validate(self) -> None:
        """Validate, from files that were not read yet."""
        learn = self.learner()
        with learn.no_bar():
            self.timed(learn.validate)

    def run_tta(self) -> None:
        """Average over four augmented views of every validation image and the plain one."""
        learn = self.learner()
        with learn.no_bar():
            self.timed(learn.tta)

    def run_predict_many(self) -> None:
        """Predict a folder of images without labels."""
        learn = self.learner()

        def predicted() -> Any:
            files = self.names.get_image_files(self.many)
            return learn.get_preds(dl=learn.dls.test_dl(files))[0]

        with learn.no_bar():
            probabilities = self.timed(predicted)
        if len(probabilities) != len(list(self.many.iterdir())):
            raise SystemExit(f"{len(probabilities)} images were predicted")

    def run_export(self) -> None:
        """Write the model file, after the images were validated."""
        learn = self.learner()
        with learn.no_bar():
            learn.validate()
            self.timed(lambda: learn.export(self.exported))

    def run_load(self) -> None:
        """Open the model file."""
        load = self.names.load_learner
        self.timed(lambda: load(self.exported))

    def run_predict_one(self) -> None:
        """Predict single images with the opened model file, one after another; the first two do not count."""
        learn = self.names.load_learner(self.exported)
        is_fastai = self.library == "fastai"
        seconds: list[float] = []
        with (
            learn.no_bar() if is_fastai else nullcontext(),
            learn.no_logging() if is_fastai else nullcontext(),
        ):
            for file in sorted(self.many.iterdir())[: self.work.num_single + 2]:
                self.timed(lambda file=file: learn.predict(file))
                seconds.append(self.seconds)
        self.seconds = median(seconds[2:])

    def run_cold(self) -> None:
        """Import, open the model file, predict one image."""
        file = min(self.many.iterdir())

        def predicted() -> Any:
            learn = self.names.load_learner(self.exported)
            with learn.no_bar() if self.library == "fastai" else nullcontext():
                return learn.predict(file)

        self.timed(predicted)


TASKS: dict[str, tuple[str, Callable[[Session], None]]] = {
    "import": ("`import *`", Session.run_import),
    "loaders": ("making the dataloaders", Session.run_loaders),
    "first batch": ("first batch", Session.run_first_batch),
    "lr_find": ("`lr_find`", Session.run_lr_find),
    "validate": ("`validate`", Session.run_validate),
    "tta": ("`tta`", Session.run_tta),
    "predict many": ("predict {many:,} images", Session.run_predict_many),
    "export": ("`export`", Session.run_export),
    "load": ("`load_learner`", Session.run_load),
    "predict one": ("predict one image, warm", Session.run_predict_one),
    "cold": ("`import *`, `load_learner`, predict one image", Session.run_cold),
}
"""What each is called in the table, and how it is done; ``export`` before those that need its file."""


def do_task(library: str, task: str, work: dict[str, Any], **places: str) -> Figures:
    """Do one task in this process and return its seconds."""
    paths = {name: Path(place) for name, place in places.items()}
    session = Session(library, work=Work(**work), **paths)
    TASKS[task][1](session)
    return {"seconds": session.seconds}


# --- All tasks, by turns ---------------------------------------------------------------------------------------------


def tasks(options: argparse.Namespace) -> None:
    """Time import, dataloaders, first batch, lr_find, validate, tta, predictions, export and load, beside fastai.

    The same lines in both libraries, on the same images, with the same weights, sizes and batch size. Each measurement is a process
    of its own that starts from nothing, and the libraries take turns. Memory is that of the whole process, with all that the
    task needs first.
    """
    libraries = installed(NAMESPACES)
    tiny = options.quick and options.data is None
    rounds = 1 if options.quick else options.rounds
    num_many = min(options.many, 100) if options.quick else options.many
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    with tempfile.TemporaryDirectory() as made_in:
        count = 60 if tiny else NUM_IMAGES
        folder = with_parts(options.data, made_in=Path(made_in) / "made up", count=count)
        work = Work(
            size=options.size,
            presize=options.size * 5 // 4,
            batch_size=min(16, options.batch_size) if tiny else options.batch_size,
            workers=options.workers,
            num_it=10 if options.quick else options.num_it,
            num_single=5 if options.quick else 20,
        )
        places = {"folder": str(folder), "many": str(_links(folder, num_many, Path(made_in)))}
        data = "made up" if options.data is None else str(folder)
        setting = asdict(work) | {"data": data, "many": num_many}
        kept = Kept(options.json)

        def measure(one: tuple[str, str], number: int) -> Figures:
            task, library = one
            exported = str(Path(made_in) / f"{library}.model")
            key = {"library": library, "task": task, "round": number, "setting": setting}

            def measured(name: str = task) -> Figures:
                if name in NEEDS_FILE and not Path(exported).exists():
                    measured("export")
                asked = {"library": library, "task": name, "work": asdict(work)}
                return in_own_process("notebook:do_task", **asked, **places, exported=exported)

            return kept.figures(key, measured)

        runs = by_turns(
            [(task, library) for task in options.only for library in libraries],
            rounds=rounds,
            measure=measure,
            told=lambda one, run: f"{one[0]}, {one[1]}: {run['seconds']:.3f} s",
        )
    print(
        f"\n{ARCHITECTURE}, {work.presize} to {work.size} pixels, batch {work.batch_size}, {num_many:,} images to "
        f"predict, lr_find of {work.num_it} steps, {rounds} rounds, median (smallest-largest):\n"
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
    """Return a folder of links to the images of another, each of which is an image of its own for both libraries."""
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
        asks="What do import, loaders, lr_find, validate, tta, predict, export and load take, beside fastai?",
        run=tasks,
        options={
            "data": DATA,
            "rounds": {"default": 3},
            "size": {"default": 128},
            "batch_size": {"default": 64},
            "workers": WORKERS,
            "num_it": {"default": 100, "help": "steps of lr_find"},
            "many": {"default": 1000, "help": "images to predict"},
            "only": {"nargs": "+", "choices": list(TASKS), "default": list(TASKS), "type": str},
            "json": KEPT_JSON,
        },
        short="--rounds 1 --num-it 20 --many 500",
        data="--data {folder}",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
