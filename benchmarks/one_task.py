"""One library and one task of a notebook in, one line of JSON out: what it took; run by ``tasks.py``, a process per measurement.

vizsla has the names of fastai, so both run the same lines; only the import and the network differ.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.machine import tree_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

SURFACES = {"vizsla": "vizsla.all", "fastai": "fastai.vision.all"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What both libraries work on.

    Attributes:
        size: Side of the pictures that the network sees.
        presize: Side that pictures have before augmentation.
        batch_size: Pictures in a step.
        workers: Threads of vizsla, processes of fastai; -1 is each library's own default.
        num_it: Steps of ``lr_find``.
        num_single: Predictions of one picture.
    """

    size: int = 128
    presize: int = 160
    batch_size: int = 64
    workers: int = -1
    num_it: int = 100
    num_single: int = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where it lies.

    Attributes:
        folder: Has ``train`` and ``valid`` with one folder per class in each.
        many: A folder of pictures to predict.
        exported: The model file: ``export`` writes it, the other tasks open it.
    """

    folder: str
    many: str
    exported: str


class Bench:
    """One library at work.

    Args:
        library: One of ``SURFACES``.
        work: What to do.
        places: With what.
    """

    def __init__(self, library: str, *, work: Work, places: Places) -> None:
        self.library = library
        self.work = work
        self.places = places
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
            self._names = import_module(SURFACES[self.library])
            for name in getattr(self._names, "__all__", ()):
                getattr(self._names, name)
        return self._names

    def loaders(self) -> Any:
        """Return the loaders."""
        names, work = self.names, self.work
        workers = {} if work.workers < 0 else {"num_workers": work.workers}
        return names.ImageDataLoaders.from_folder(
            Path(self.places.folder),
            item_tfms=names.Resize(work.presize),
            batch_tfms=names.aug_transforms(size=work.size, min_scale=0.75),
            bs=work.batch_size,
            device="cpu",
            **workers,
        )

    def learner(self) -> Any:
        """Return the learner."""
        architecture: Any = "efficientnet_lite0"
        if self.library == "fastai":
            from benchmarks.fastai_peer import lite0

            architecture = lite0
        return self.names.vision_learner(
            self.loaders(), architecture, metrics=self.names.error_rate
        )

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
        """Average over four augmented views of every validation picture and the plain one."""
        learn = self.learner()
        with learn.no_bar():
            self.timed(learn.tta)

    def run_predict_many(self) -> None:
        """Predict a folder of pictures without labels."""
        learn = self.learner()
        names = self.names
        with learn.no_bar():

            def predicted() -> Any:
                files = names.get_image_files(Path(self.places.many))
                return learn.get_preds(dl=learn.dls.test_dl(files))[0]

            shares = self.timed(predicted)
        if len(shares) != len(list(Path(self.places.many).iterdir())):
            raise SystemExit(f"{len(shares)} pictures were predicted")

    def run_export(self) -> None:
        """Write the model file, after the pictures were validated."""
        learn = self.learner()
        with learn.no_bar():
            learn.validate()
            self.timed(lambda: learn.export(Path(self.places.exported)))

    def run_load(self) -> None:
        """Open the model file."""
        load = self.names.load_learner
        self.timed(lambda: load(Path(self.places.exported)))

    def run_predict_one(self) -> None:
        """Predict single pictures with the opened model file, one after another; the first two do not count."""
        learn = self.names.load_learner(Path(self.places.exported))
        files = sorted(Path(self.places.many).iterdir())[: self.work.num_single + 2]
        seconds: list[float] = []

        def predict_all() -> None:
            for file in files:
                self.timed(lambda file=file: learn.predict(file))
                seconds.append(self.seconds)

        if self.library == "fastai":
            with learn.no_bar(), learn.no_logging():
                predict_all()
        else:
            predict_all()
        self.seconds = median(seconds[2:])

    def run_cold(self) -> None:
        """Import, open the model file, predict one picture."""
        file = min(Path(self.places.many).iterdir())

        def predicted() -> Any:
            learn = self.names.load_learner(Path(self.places.exported))
            with learn.no_bar() if self.library == "fastai" else nullcontext():
                return learn.predict(file)

        self.timed(predicted)


TASKS: dict[str, tuple[str, Callable[[Bench], None]]] = {
    "import": ("`import *`", Bench.run_import),
    "loaders": ("making the dataloaders", Bench.run_loaders),
    "first batch": ("first batch", Bench.run_first_batch),
    "lr_find": ("`lr_find`", Bench.run_lr_find),
    "validate": ("`validate`", Bench.run_validate),
    "tta": ("`tta`", Bench.run_tta),
    "predict many": ("predict 1,000 pictures", Bench.run_predict_many),
    "export": ("`export`", Bench.run_export),
    "load": ("`load_learner`", Bench.run_load),
    "predict one": ("predict one picture, warm", Bench.run_predict_one),
    "cold": ("`import *`, `load_learner`, predict one picture", Bench.run_cold),
}
"""What each is called in the table, and how it is done; ``export`` before those that need its file."""


def main() -> None:
    """Do one task as the command line asks and print the figures."""
    library, task, work, places = sys.argv[1:]
    bench = Bench(library, work=Work(**json.loads(work)), places=Places(**json.loads(places)))
    TASKS[task][1](bench)
    # The parent looks now and then; what was taken last it may miss.
    print(json.dumps({"seconds": bench.seconds, "end_bytes": tree_bytes(os.getpid())}))


if __name__ == "__main__":
    main()
