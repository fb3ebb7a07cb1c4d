"""Predict on Ray: a pool of processes, on this machine or on a cluster, each of which opens the model once.

``predict_dataset`` adds what a model says to a dataset of Ray. ``ray_engine`` is what ``vizsla predict --engine ray`` uses: the rows
that this process would compute, in the same order, from the same batches.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import vizsla.errors as errors
from vizsla.cores import num_cores
from vizsla.errors import ConfigError, MissingExtraError, OutputError, VizslaError
from vizsla.infer.run import usable_device
from vizsla.machine import use_threads
from vizsla.predict.formats import columns_of, table_of
from vizsla.predict.predictor import Predictor
from vizsla.predict.stream import Engine, PredictOptions, rows_of
from vizsla.text import counted, first_line, joined, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from ray.data import Dataset

    from vizsla.infer.run import FeatureKind

_MOST_BATCHES = 16
"""Of a block: what is predicted again if a process dies, and done before its rows are seen."""

_LEAST_BLOCKS = 16
"""Of each process, if there are enough batches: they end at about the same time, and a stop loses few rows."""

_MOST_THREADS = 16
_USUAL_THREADS = 2
"""Of a process on the CPU: one reads images while the other computes. More of them gain less than more processes do."""

_MOST_DEATHS = 10
"""Of processes. Ray starts another one each time, and an image that kills whoever reads it would do so for ever."""

_SECONDS_TO_CONNECT = 5
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


def predict_dataset(
    dataset: Dataset,
    model: Predictor | Path | str,
    *,
    column: str = "path",
    batch_size: int = 32,
    coverage: float | None = None,
    views: int = 1,
    features: FeatureKind | None = None,
    num_actors: int | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
) -> Dataset:
    """Return a dataset of Ray with what a model says about each image, in new columns; nothing is computed yet.

    Args:
        dataset: Has a column of images; the other columns stay.
        model: A predictor, or the path of a model file that all machines of the cluster can read. A predictor that was loaded from
            bytes goes to them as bytes.
        column: Holds the path of each image as text, or the bytes of its file.
        batch_size: Images that run through the network together.
        coverage: See ``Predictor.predict``.
        views: See ``Predictor.predict``.
        features: Add these features in a column ``features`` instead of predictions, see ``Predictor.embed``.
        num_actors: Processes, each with the model open; None lets Ray start as many as there are free cores.
        num_cpus: Cores, and so threads, of each process.
        num_gpus: GPUs of each process; with any the network runs on CUDA.

    Returns:
        The columns of a CSV file of predictions (``docs/predicting.md``), with ``error`` for an image that cannot be read.

    Raises:
        MissingExtraError: Ray is not installed.
        ModelFileError: The model file cannot be opened.
        ConfigError: An option cannot work, or there is a column of that name already.
    """
    _check_installed()
    predictor = model if isinstance(model, Predictor) else Predictor.load(model, device="cpu")
    predictor.check_options(coverage=coverage, views=views)
    options = PredictOptions(
        batch_size=batch_size, views=views, coverage=coverage, features=features
    )
    columns = dict(columns_of(predictor, coverage=coverage, has_features=features is not None))
    del columns["path"]
    return _mapped(
        dataset,
        _AddsColumns,
        predictor,
        options,
        {"column": column, "columns": columns},
        device="cuda" if num_gpus else "cpu",
        num_actors=num_actors,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


@contextmanager
def ray_engine(
    *, address: str | None = None, num_actors: int | None = None, device: str = "auto"
) -> Generator[Engine]:
    """Give what computes rows on Ray, in a session that ends with this context.

    Args:
        address: Of a cluster: ``"auto"`` for the one that this machine belongs to, or ``HOST:PORT``. None starts Ray on this
            machine, quietly: all of it listens on 127.0.0.1 with a password made up for it, without dashboard and usage statistics,
            and its temporary files go with it.
        num_actors: Processes, each with the model open; None is one for each GPU, or else one for two cores. They share the cores.
        device: ``"auto"`` is CUDA if Ray knows of a GPU, else the CPU.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: There is no cluster at that address, or it has too few cores or GPUs.
    """
    _check_installed()
    with _session(address):
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        device = ("cuda" if gpus else "cpu") if device == "auto" else device
        has_gpus = device.startswith("cuda")
        num_actors, num_cpus = _shares(num_actors, num_gpus=gpus if has_gpus else None)

        def rows(
            predictor: Predictor, images: Iterable[str], options: PredictOptions
        ) -> Generator[dict[str, Any]]:
            return _ordered_rows(
                predictor,
                images,
                options,
                device=device,
                num_actors=num_actors,
                num_cpus=num_cpus,
                num_gpus=int(has_gpus),
            )

        yield Engine(rows=rows, device=device)


class _Actor:
    """A process of the pool; it opens the model once.

    An error waits for the first block: what a constructor raises, Ray reports as text alone.
    """

    def __init__(
        self,
        opening: tuple[Callable[..., Predictor], tuple[Any, ...]],
        options: PredictOptions,
        device: str,
        num_threads: int,
    ) -> None:
        use_threads(num_threads)
        num_workers = num_threads if options.num_workers is None else options.num_workers
        self.options = replace(options, num_workers=num_workers)
        self.error: VizslaError | None = None
        try:
            open_model, how = opening
            self.predictor = open_model(*how)
            self.predictor.classifier.place(usable_device(device))
        except VizslaError as error:
            self.error = error

    def rows(self, images: Iterable[Any]) -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return list(rows_of(self.predictor, images, self.options))


class _AddsColumns(_Actor):
    """Adds the columns of a table of predictions to a block, an Arrow table."""

    def __init__(self, *common: Any, column: str, columns: dict[str, str]) -> None:
        super().__init__(*common)
        self.column = column
        self.columns = columns

    def __call__(self, block: Any) -> Any:
        if self.column not in block.column_names:
            raise ConfigError(
                f"The dataset has no column {self.column!r}. It has {joined(block.column_names, limit=10)}."
            )
        if twice := [name for name in self.columns if name in block.column_names]:
            raise ConfigError(
                f"The dataset has columns with the same names as predictions: {joined(twice, limit=10)}. Rename "
                "them first."
            )
        images = block[self.column].to_pylist()
        found = table_of(self.rows(images), self.columns)
        for name in found.column_names:
            block = block.append_column(name, found[name])
        return block


class _Starts:
    """Counts how often a process of the pool started."""

    def __init__(self) -> None:
        self.number = 0

    def add(self, number: int) -> int:
        self.number += number
        return self.number


class _GivesRows(_Actor):
    """Gives the rows of a block of paths as JSON; of an error of ours its name and message."""

    def __init__(self, *common: Any, folder: str, starts: Any, most_starts: int) -> None:
        import ray

        super().__init__(*common)
        number: Any = ray.get(starts.add.remote(1))
        if number > most_starts:
            self.error = OutputError(
                f"{_MOST_DEATHS} Ray processes died, probably out of memory or because an image crashes them. Try "
                "fewer --actors or a smaller --bs. Rows already written to a file are kept; continue with "
                "--resume."
            )
        # Where it is missing, so are the images of relative paths, and their rows say so.
        with suppress(OSError):
            os.chdir(folder)

    def __call__(self, block: Any) -> Any:
        import pyarrow as pa

        try:
            rows = self.rows(map(os.fsdecode, block["path"].to_pylist()))
        except (
            VizslaError
        ) as error:  # If it were raised, Ray would pass on its text with much around it.
            rows = [{"raised": (type(error).__name__, str(error))}]
        return pa.table({"row": list(map(json.dumps, rows))})


def _ordered_rows(
    predictor: Predictor,
    images: Iterable[str],
    options: PredictOptions,
    *,
    num_actors: int,
    **pool: Any,
) -> Generator[dict[str, Any]]:
    """Yield the rows of all images in their order; a block is some whole batches, so each batch is as without Ray."""
    import pyarrow as pa
    import ray
    from ray.exceptions import RayError

    if options.batch_size < 1:
        raise ConfigError(f"--bs must be at least 1. Received: {options.batch_size}")
    paths = [os.fsencode(image) for image in images]
    if not paths:
        return
    num_batches = -(-len(paths) // options.batch_size)
    size = options.batch_size * min(_MOST_BATCHES, -(-num_batches // (_LEAST_BLOCKS * num_actors)))
    blocks = [
        pa.table({"path": pa.array(paths[start : start + size], pa.binary())})
        for start in range(0, len(paths), size)
    ]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = dataset.context.print_on_execution_start = False
    starts: Any = ray.remote(num_cpus=0)(_Starts).remote()
    most_starts = num_actors + _MOST_DEATHS
    how = {"folder": str(Path.cwd()), "starts": starts, "most_starts": most_starts}
    said = _mapped(dataset, _GivesRows, predictor, options, how, num_actors=num_actors, **pool)
    try:
        table: Any
        for table in said.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in map(json.loads, table["row"].to_pylist()):
                if "raised" in row:
                    name, message = row["raised"]
                    raise getattr(errors, name, VizslaError)(message)
                yield row
    except RayError as error:
        raise OutputError(
            f"Ray failed ({first_line(error)}). Rows already written to a file are kept; continue with --resume."
        ) from error
    deaths: int = cast("Any", ray.get(starts.add.remote(0))) - num_actors
    if deaths > 0:
        warnings.warn(
            f"{counted(deaths, 'process', 'processes')} of Ray died, and others took over. The images that they had in hand were "
            "predicted again; no row is missing.",
            stacklevel=2,
        )


def _mapped(
    dataset: Dataset,
    actor: type[_Actor],
    predictor: Predictor,
    options: PredictOptions,
    arguments: dict[str, Any],
    *,
    device: str,
    num_actors: int | None,
    num_cpus: int,
    num_gpus: float,
) -> Dataset:
    """Return a dataset that a pool of actors makes of another, block by block."""
    from ray.data import ActorPoolStrategy

    return dataset.map_batches(
        cast("Any", actor),
        # What pickle would call at the other end: the path or the bytes of the model file go along, never code.
        fn_constructor_args=(predictor.__reduce__(), options, device, num_cpus),
        fn_constructor_kwargs=arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def _shares(num_actors: int | None, *, num_gpus: int | None) -> tuple[int, int]:
    """Return how many actors there are, and the cores of each; ``num_gpus`` of the cluster, if each actor has one."""
    import ray

    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if num_actors is None:
        each = min(_USUAL_THREADS, max(cores))
        num_actors = sum(n // each for n in cores) if num_gpus is None else num_gpus
    if num_actors < 1 or (num_gpus is not None and num_actors > num_gpus):
        has = "" if num_gpus is None else f", and at most {num_gpus}, one for each GPU"
        raise ConfigError(f"--actors must be at least 1{has}. Received: {num_actors}")
    for each in range(_MOST_THREADS, 0, -1):
        if sum(n // each for n in cores) >= num_actors:
            return num_actors, each
    raise ConfigError(
        f"Each Ray process needs a core, and the number of cores is {sum(cores)}. Choose fewer --actors. "
        f"Received: {num_actors}"
    )


def _check_installed() -> None:
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise MissingExtraError("ray", extra="ray", purpose="predict on Ray")


@contextmanager
def _session(address: str | None) -> Generator[None]:
    """Connect to a cluster, or start Ray on this machine and end it; a session that the program has already is used, and stays."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _check_reachable(address)
    with ExitStack() as held:
        held.enter_context(_environment(_of_this_machine() if address is None else _QUIET))
        import ray
        import ray.data

        if ray.is_initialized():
            yield
            return
        how: dict[str, Any] = {"address": address}
        if address is None:
            # Ray's own choice of a folder: the paths of sockets in it may have 107 characters.
            place = "/tmp" if os.name == "posix" else None
            folder = held.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True)
            )
            how = {"address": "local", "_temp_dir": folder, "num_cpus": num_cores()}
            how["include_dashboard"] = False
        held.callback(ray.shutdown)
        on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own there.
        try:
            with _silent():
                ray.init(**how, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if address is None else f"at {quoted(address)}"
            raise ConfigError(
                f"Ray cannot start {where} ({first_line(error)}). Leave --address out to start it on this "
                "machine, or give HOST:PORT of a cluster with the same versions of Ray and Python."
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
        logger = logging.getLogger(ray.data.__name__)
        held.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)  # What it says of errors, ours say better.
        yield


@cache
def _of_this_machine() -> dict[str, str]:
    """Return what environment variables tell Ray on this machine, always the same: it reads them once, when it is imported.

    With the third its address is 127.0.0.1 on Linux, too, and its servers listen there alone. Where the program has imported Ray
    itself, it is too late for that.
    """
    if "ray" in sys.modules:
        return {}
    return _QUIET | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


@contextmanager
def _silent() -> Generator[None]:
    """Throw away what is written on standard error meanwhile: Ray's C++ part says there that it will be quiet."""
    with Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _environment(settings: dict[str, str]) -> Generator[None]:
    """Set variables for a while; Ray and the processes that it starts read them."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_reachable(address: str) -> None:
    """Raise ConfigError if nobody listens at an address: Ray itself would try for minutes, and end the process."""
    if address == "auto":
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"There is no Ray cluster at {quoted(address)} ({first_line(error)}). Give --address auto on a "
            "machine of the cluster, or HOST:PORT as 'ray start --head' prints it (port 6379)."
        ) from error
