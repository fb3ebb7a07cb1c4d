"""Commands that take MODEL, a model file or the folder of the run that wrote it: evaluate, compare, predict, embed, serve, export."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vizsla.cli.mistakes import data_place, expanded, model_file, model_first, run_folder
from vizsla.cli.terminal import check_device, check_writable, end
from vizsla.errors import ConfigError, DataError
from vizsla.files import check_vacant
from vizsla.run.folder import check_not_of_run, run_of
from vizsla.text import say

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from vizsla.predict.formats import Format
    from vizsla.predict.predictor import Predictor
    from vizsla.predict.stream import Engine, PathSource, PredictOptions
    from vizsla.serve.nearest import NearestIndex
    from vizsla.types import ImageTable

_STDOUT = Path("-")
# "-" is standard input or output, not an option.
PathOrDash = Annotated[Path, Parameter(allow_leading_hyphen=True)]


def evaluate(
    model: Path,
    data: Path,
    /,
    *,
    labels: str = "auto",
    label_level: int | Literal["auto"] = "auto",
    group: str = "",
    part: Literal["auto", "train", "valid", "test", "all"] = "auto",
    fixes: Path | None = None,
    csv: Path | None = None,
    json: bool = False,
    force: bool = False,
    device: str = "auto",
    bs: int = 32,
    workers: int = -1,
    threshold: tuple[str, ...] = (),
) -> None:
    """Evaluate a model on labelled images: metrics with intervals, classes, confusions, calibration, worst mistakes.

    The images should be ones that the model was not trained on; given the folder of a run, its training images are skipped.

    For example:

        vizsla evaluate runs/pets pets
        vizsla evaluate model.safetensors new-photos --csv said.csv

    Args:
        model: A model.safetensors, or the folder of a run.
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME.
        labels: Where labels come from, as for train.
        label_level: Which level of folders names the class, as for train.
        group: Groups of images, such as patients, as for train: whole groups that a run was trained on are skipped.
        part: The part of the data to evaluate on; auto: its test part if it has one, else its validation part, else all.
        fixes: A CSV file of labels to change and images to drop, as for train.
        csv: Write the prediction for each image to this CSV file.
        json: Print everything as one JSON object.
        force: Replace a file that exists.
        device: auto, cpu, cuda or mps.
        bs: Images that are computed together.
        workers: Threads that read images; -1: one per core.
        threshold: Of several labels, as for predict.
    """
    from vizsla.cli.terminal import evaluation_json, evaluation_lines
    from vizsla.evaluate.thresholds import read_thresholds
    from vizsla.predict.evaluation import evaluate_model
    from vizsla.predict.predictor import Predictor
    from vizsla.run.folder import RunFolder
    from vizsla.train.display import Bars, Display

    model, data = model_first(model, data)
    check_device(device)
    if csv is not None:
        check_writable(csv, force=force)
    model, data = run_of(model), data_place(data)
    predictor = Predictor.load(model_file(model), device=device)
    if threshold:
        predictor.set_thresholds(read_thresholds(threshold))
    display = Display(quiet=json)
    trained_on: set[str] = set()
    if model.is_dir():
        try:
            sides = RunFolder(model).sides()
            trained_on = {path for path, side in sides.items() if side == "train"}
        except DataError as error:
            display.line(f"The model's training images cannot be skipped: {error}")
    with Bars(display) as bars:
        found = evaluate_model(
            predictor,
            data,
            labels=labels,
            label_level=label_level,
            group=group,
            part=part,
            fixes=fixes,
            trained_on=trained_on,
            batch_size=bs,
            num_workers=None if workers < 0 else workers,
            on_progress=partial(bars.move, "predicting"),
        )
    if csv is not None:
        found.predictions.save_csv(csv)
    if json:
        say(evaluation_json(found))
    else:
        for line in evaluation_lines(found):
            say(line)
    if found.unreadable:
        end(2, f"vizsla: {_images(len(found.unreadable))} could not be read and are in no figure.")


def compare(first: Path, second: Path, /, *, json: bool = False) -> None:
    """Compare two runs, or two files of predictions, on the same images: is the difference significant?

    The interval is that of the paired difference. Runs on different images are compared on those that both have, at least 50.

    For example:

        vizsla compare runs/pets runs/pets-2
        vizsla compare a.csv b.csv --json

    Args:
        first: The folder of a run, or a CSV file that vizsla evaluate --csv wrote.
        second: The other one.
        json: Print everything as one JSON object.
    """
    from vizsla.cli.terminal import comparison_json
    from vizsla.evaluate.compare import compare as compare_runs

    found = compare_runs(run_folder(first), run_folder(second))
    if json:
        say(comparison_json(found))
        return
    for line in found.lines():
        say(line)


def predict(
    model: Path,
    /,
    *paths: PathOrDash,
    csv: PathOrDash | None = None,
    jsonl: PathOrDash | None = None,
    parquet: Path | None = None,
    json: bool = False,
    resume: bool = False,
    force: bool = False,
    lists: Annotated[tuple[PathOrDash, ...], Parameter(name="--list")] = (),
    null: Annotated[bool, Parameter(name=["--null", "-0"])] = False,
    tta: int = 1,
    coverage: float | None = None,
    device: str = "auto",
    bs: int = 32,
    workers: int = -1,
    top: int = 3,
    sort_to: Path | None = None,
    copy: bool = False,
    link: bool = False,
    csv_safe: bool = False,
    sha256: str | None = None,
    threshold: tuple[str, ...] = (),
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    actors: int | None = None,
) -> None:
    """Classify images: label, probability, top 3; or sort them into a folder for each class.

    Any number of images, in the order given, in constant memory. A file appears when it is complete; until then its rows lie beside
    it, and --resume continues with them after a stop of any kind. An image that cannot be read gets a row with the cause, and the
    exit code is then 2. A file that exists is not replaced without --force.

    For example:

        vizsla predict runs/pets holiday/ new.jpg
        vizsla predict model.safetensors archive/ --csv archive.csv --resume
        vizsla predict model.safetensors holiday/ --sort-to sorted
        find . -name '*.jpg' -print0 | vizsla predict model.safetensors - -0 --json

    Args:
        model: A model.safetensors, or the folder of a run.
        paths: Images, or what holds them: folders, tar shards, Parquet files, patterns of these, or a Hugging Face dataset,
            hf:OWNER/NAME; -: a list on standard input.
        csv: Write comma-separated rows with every class's probability to this file; -: print them.
        jsonl: Write one JSON object per line to this file.
        parquet: Write a Parquet file.
        json: Print one JSON object per line.
        resume: Continue a file that was not finished.
        force: Replace an existing file, and discard the rows of an unfinished one.
        lists: A file with one path per line; may be repeated.
        null: The paths of lists end with zero bytes (find -print0).
        tta: Views of each image to average, 1 to 12; 1 to 6 where the classes differ by left and right.
        coverage: Add the set of classes that contains the true one with this probability, such as 0.95.
        device: auto, cpu, cuda or mps.
        bs: Images that are computed together.
        workers: Threads that read images; -1: one per core.
        top: Classes to name for each image in a table and in JSON, the most probable ones.
        sort_to: Copy the images into a folder for each class below this new one; nothing is moved. sorted.csv in it says what
            went where.
        copy: With --sort-to: copy, as without it.
        link: With --sort-to: make symbolic links instead of copies.
        csv_safe: Put ' before text that a spreadsheet would take for a formula, such as =A1.
        sha256: Open the model only if its file has this SHA-256.
        threshold: Of several labels, the probability above which an image has one: a number, or LABEL=NUMBER; may be repeated.
        engine: local: this process; ray: processes of Ray, on this machine or a cluster, which give the same rows.
        address: With --engine ray: the cluster, HOST:PORT or auto; none: start Ray on this machine.
        actors: With --engine ray: how many processes open the model; they share the cores. None: one per GPU, or per two cores.
    """
    from vizsla.evaluate.thresholds import read_thresholds
    from vizsla.predict.formats import Format
    from vizsla.predict.stream import PredictOptions, print_predictions

    model, *images = model_first(model, *paths)
    source = _source(images, lists=lists, null=null)
    form, file = _target(csv=csv, jsonl=jsonl, parquet=parquet, json=json)
    if csv_safe and form is not Format.csv and sort_to is None:
        raise ConfigError("--csv-safe applies only to CSV. Give --csv FILE.")
    if top < 1 or (top != 3 and (form in (Format.csv, Format.parquet) or sort_to is not None)):
        raise ConfigError(
            "--top must be at least 1, and applies only to the table and JSON: CSV and Parquet have the "
            f"probability of every class. Received: --top {top}"
        )
    if file is None and (resume or force):
        raise ConfigError(
            "--resume and --force apply only to a file. Give --csv, --jsonl or --parquet FILE."
        )
    if (copy or link) and (sort_to is None or copy == link):
        raise ConfigError("--copy and --link need --sort-to DIR, and only one of them can be used.")
    if sort_to is not None and (form is not Format.table or coverage is not None):
        raise ConfigError(
            "--sort-to writes DIR/sorted.csv, and no other file. Leave --csv, --jsonl, --parquet, --json and --coverage out, or run "
            "predict twice."
        )
    computing = _engine(engine, address=address, actors=actors, device=device)
    if sort_to is not None and computing is not None:
        raise ConfigError("--sort-to copies files from this machine. Leave --engine ray out.")
    model = model_file(model)
    options = PredictOptions(
        device=device,
        batch_size=bs,
        num_workers=None if workers < 0 else workers,
        views=tta,
        coverage=coverage,
        csv_safe=csv_safe,
        sha256=sha256,
        num_top=top,
        thresholds=read_thresholds(threshold) if threshold else None,
    )
    if sort_to is not None:
        _sort(model, source, sort_to, link=link, options=options)
    elif file is not None:
        _write(
            model,
            source,
            file,
            form=form,
            options=options,
            resume=resume,
            force=force,
            engine=computing,
        )
    else:
        with _bar(source.num_known, prints=True) as move:
            done = print_predictions(
                model, source, form=form, options=options, engine=computing, on_progress=move
            )
        if done.num_failed:
            _end_unreadable(done.num_failed, "the lines above")


def embed(
    model: Path,
    /,
    *paths: PathOrDash,
    out: Path,
    features: Literal["head", "body"] = "head",
    resume: bool = False,
    force: bool = False,
    lists: Annotated[tuple[PathOrDash, ...], Parameter(name="--list")] = (),
    null: Annotated[bool, Parameter(name=["--null", "-0"])] = False,
    device: str = "auto",
    bs: int = 32,
    workers: int = -1,
    sha256: str | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    actors: int | None = None,
) -> None:
    """Write the features of images: what the model sees in them, for search, clusters and other classifiers.

    One row for each image, in the order given, in constant memory; --resume and --force are as for predict. An image that cannot be
    read gets a row with the cause, and the exit code is then 2.

    For example:

        vizsla embed runs/pets pets --out pets.npz
        vizsla embed model.safetensors archive/ --features body --out archive.parquet --resume

    Args:
        model: A model.safetensors, or the folder of a run.
        paths: Images, or what holds them: folders, tar shards, Parquet files, patterns of these, or a Hugging Face dataset,
            hf:OWNER/NAME; -: a list on standard input.
        out: File to write. NPZ: features, float32 (N, D), NaN where an image cannot be read; path and error, text (N,). Parquet:
            a column for each.
        features: head: what the model's head reads; body: the mean of each channel of the network's last stage.
        resume: Continue a file that was not finished.
        force: Replace an existing file, and discard the rows of an unfinished one.
        lists: A file with one path per line; may be repeated.
        null: The paths of lists end with zero bytes (find -print0).
        device: auto, cpu, cuda or mps.
        bs: Images that are computed together.
        workers: Threads that read images; -1: one per core.
        sha256: Open the model only if its file has this SHA-256.
        engine: As for predict.
        address: As for predict.
        actors: As for predict.
    """
    from vizsla.predict.formats import Format
    from vizsla.predict.stream import PredictOptions

    model, *images = model_first(model, *paths)
    source = _source(images, lists=lists, null=null)
    forms = {".npz": Format.npz, ".parquet": Format.parquet}
    if out.suffix.lower() not in forms:
        raise ConfigError(
            f"--out is a file whose name ends with .npz or .parquet. Received: {str(out)!r}"
        )
    computing = _engine(engine, address=address, actors=actors, device=device)
    options = PredictOptions(
        device=device,
        batch_size=bs,
        num_workers=None if workers < 0 else workers,
        sha256=sha256,
        features=features,
    )
    _write(
        model_file(model),
        source,
        out,
        form=forms[out.suffix.lower()],
        options=options,
        resume=resume,
        force=force,
        engine=computing,
    )


def _engine(
    name: str, *, address: str | None, actors: int | None, device: str
) -> AbstractContextManager[Engine] | None:
    """Return what computes instead of this process, if anything does."""
    if name == "local":
        if address is not None or actors is not None:
            raise ConfigError("--address and --actors apply only to Ray. Add --engine ray.")
        check_device(device)
        return None
    from vizsla.integrations.ray import ray_engine

    return ray_engine(address=address, num_actors=actors, device=device)


def _source(paths: Sequence[Path], *, lists: tuple[Path, ...], null: bool) -> PathSource:
    """Return where the paths of images come from; refuse a mistyped option: a path that begins with a hyphen must exist."""
    from vizsla.predict.stream import PathSource

    for path in paths:
        if str(path).startswith("-") and path != _STDOUT and not path.exists():
            raise ConfigError(
                f"There is no option {path}, and no image of that name. --help lists the options."
            )
    if null and not lists and _STDOUT not in paths:
        raise ConfigError(
            "--null says how a list of paths ends each of them. Give --list FILE, or -."
        )
    return PathSource(paths=expanded(paths), lists=lists, null=null)


def _write(
    model: Path,
    source: PathSource,
    file: Path,
    *,
    form: Format,
    options: PredictOptions,
    resume: bool,
    force: bool,
    engine: AbstractContextManager[Engine] | None,
) -> None:
    """Write a row for each image to a file, and say how many and how fast."""
    from vizsla.predict.stream import write_predictions

    check_not_of_run(file)
    with _bar(source.num_known, prints=False) as move:
        try:
            done = write_predictions(
                model,
                source,
                file=file,
                form=form,
                options=options,
                resume=resume,
                force=force,
                engine=engine,
                on_progress=move,
            )
        except KeyboardInterrupt as stop:
            stop.add_note("The rows so far are kept; continue with --resume.")
            raise
    if done is None:
        say(f"{file} is complete already.", err=True)
        return
    rate = done.num_images / max(done.seconds, 1e-9)
    before = f" (after {done.num_before:,} that were there)" if done.num_before else ""
    images = _images(done.num_images)
    say(f"{file}: {images}{before} in {done.seconds:.1f} s, {rate:,.0f} images/s", err=True)
    if done.num_failed:
        _end_unreadable(done.num_failed, "the column 'error'")


def _sort(
    model: Path, source: PathSource, folder: Path, *, link: bool, options: PredictOptions
) -> None:
    """Sort images into folders, and say how many each has."""
    from vizsla.predict.sorting import RECORD, check_sort_folder, sort_images
    from vizsla.predict.stream import opened

    source.check()
    check_sort_folder(folder, map(Path, source.paths))
    predictor = opened(model, options)
    with _bar(source.num_known, prints=False) as move:
        done = sort_images(
            predictor,
            source.images(),
            folder,
            link=link,
            csv_safe=options.csv_safe,
            on_progress=move,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            views=options.views,
        )
    for label, name in done.renamed.items():
        say(f"The folder of the class {label!r} is {name!r}: its own name is not safe in a path.")
    for name, number in done.num_of_folder.items():
        say(f"{folder / name}: {_images(number)}")
    if done.num_unplaced:
        say(f"{_images(done.num_unplaced)} with none of the labels: in no folder")
    say(f"{folder / RECORD} says what went where.")
    if done.num_failed:
        _end_unreadable(done.num_failed, str(folder / RECORD))


def _end_unreadable(number: int, place: str) -> None:
    end(2, f"vizsla: {_images(number)} could not be read; see {place}.")


def _images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


def _target(
    *, csv: Path | None, jsonl: Path | None, parquet: Path | None, json: bool
) -> tuple[Format, Path | None]:
    """Return the format, and the file to write or None for standard output."""
    from vizsla.predict.formats import Format

    chosen = {
        "--csv": (Format.csv, csv),
        "--jsonl": (Format.json, jsonl),
        "--parquet": (Format.parquet, parquet),
        "--json": (Format.json, _STDOUT if json else None),
    }
    given = [name for name, (_, file) in chosen.items() if file is not None]
    if len(given) > 1:
        raise ConfigError(f"{given[0]} and {given[1]} cannot be used together. Choose one of them.")
    if not given:
        return Format.table, None
    form, file = chosen[given[0]]
    return form, None if file == _STDOUT else file


@contextmanager
def _bar(total: int | None, *, prints: bool) -> Generator[Callable[[int], None]]:
    """Show a bar on standard error, unless rows appear on the same screen."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    shown = console.is_terminal and not (prints and sys.stdout.isatty())
    columns = (
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("images {task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("", total=total, rate="")
        first: list[tuple[int, float]] = []

        def move(done: int) -> None:
            now = time.perf_counter()
            if not first:  # Rows of an earlier run took no time.
                first.append((done, now))
            rate = (done - first[0][0]) / max(now - first[0][1], 1e-9)
            progress.update(task, completed=done, rate=f"{rate:,.0f}/s" if rate else "")

        yield move


def serve(
    model: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    run: Path | None = None,
    nearest: Path | None = None,
    data: Path | None = None,
    examples: Path | None = None,
    fixes: Path | None = None,
    allowed_host: tuple[str, ...] = (),
    title: str = "",
    device: str = "auto",
    max_batch: int = 0,
    max_mb: float = 20.0,
    max_megapixels: float = 50.0,
    max_images: Annotated[int, Parameter(name=["--max-images", "--max-pictures"])] = 32,
    formats: tuple[str, ...] = (),
    max_rate: float = 50.0,
    max_seconds: float = 30.0,
    max_requests: int = 128,
    max_connections: int = 128,
    sha256: str | None = None,
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "warning",
    access_log: bool = False,
) -> None:
    """Show a model on a web page, with a JSON interface.

    The page takes images that are dropped, chosen or pasted and shows the answer, where the network looked and, with --run or
    --nearest, the most similar training images. Images are stored only where --fixes allows it. Only this machine can reach it, unless --host says otherwise.

    For example:

        vizsla serve runs/pets/model.safetensors --run runs/pets
        curl -F pictures=@cat.jpg http://127.0.0.1:8000/api/predict

    Args:
        model: A model.safetensors, or the folder of a run.
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: Port to listen at; 0: any free one.
        run: Folder of the run that made the model: shows the most similar of its training images.
        nearest: Folder of images to show the most similar of, labelled by their folders.
        data: Where the images of --run are now, if they have moved.
        examples: Images to try, shown to everyone who opens the page: an image, a folder, or the folder of a run (validation images).
        fixes: A CSV file: the page can say that an answer is wrong, and train --fixes takes the image with its right label. Images
            are then stored beside it; only who has the whole printed address can do that.
        allowed_host: Another name of this machine; may be repeated.
        title: Heading of the page.
        device: auto, cpu, cuda or mps.
        max_batch: Images that run through the network together; 0: depends on the device.
        max_mb: Megabytes per request.
        max_megapixels: Millions of pixels per image.
        max_images: Images per request.
        formats: Formats to take besides JPEG, PNG, WebP, GIF and BMP: tiff, avif, heic, jpeg2000, ppm, ico; may be repeated.
        max_rate: Requests per second from one address; 0: any number.
        max_seconds: Seconds that an answer may take.
        max_requests: Requests in progress at once; others are told that the server is busy.
        max_connections: Open connections from one address; behind a proxy all visitors have its address.
        sha256: Open the model only if its file has this SHA-256.
        log_level: What is logged on standard error, as JSON lines.
        access_log: Log each request too.
    """
    from vizsla.serve.limits import Limits, formats_of
    from vizsla.serve.server import ServePlan
    from vizsla.serve.server import serve as run_serve

    if run is not None and nearest is not None:
        raise ConfigError("--run and --nearest cannot be used together. Choose one of them.")
    if data is not None and run is None:
        raise ConfigError(
            "--data says where the images of --run are now. Give --run RUN, or leave --data out."
        )
    check_device(device)
    if fixes is not None:
        check_writable(fixes, force=True)
    body_bytes = round(max_mb * 1e6)
    limits = Limits(
        body_bytes=body_bytes,
        buffered_bytes=max(256_000_000, body_bytes),
        pixels=round(max_megapixels * 1e6),
        images=max_images,
        formats=formats_of(formats),
        requests_per_second=max_rate,
        seconds=max_seconds,
        requests=max_requests,
        connections=max(512, max_connections),
        connections_per_client=max_connections,
    )
    plan = ServePlan(
        model=model_file(model),
        host=host,
        port=port,
        device=device,
        limits=limits,
        allowed_hosts=allowed_host,
        title=title,
        max_batch=max_batch,
        sha256=sha256,
        log_level=log_level,
        access_log=access_log,
        examples=examples,
        fixes=fixes,
    )
    run_serve(
        plan,
        make_index=lambda predictor: _index(predictor, run=run, nearest=nearest, data=data),
        say=say,
    )


def _index(
    predictor: Predictor, *, run: Path | None, nearest: Path | None, data: Path | None
) -> NearestIndex | None:
    """Read the training images, with a bar in a terminal."""
    from vizsla.serve.nearest import MOST_IMAGES, build_index, images_of_folder, images_of_run
    from vizsla.train.display import Display

    if run is not None:
        images = images_of_run(run, data=data)
    elif nearest is not None:
        images = images_of_folder(nearest)
    else:
        return None
    display = Display()
    total = min(len(images), MOST_IMAGES)
    with display.bar("reading training images", total=total) as move:
        index = build_index(predictor, images, on_progress=move)
    left_out = f"; {index.num_left_out:,} cannot be read" if index.num_left_out else ""
    of = f" of {len(images):,}" if len(images) > total else ""
    display.line(f"Similar images come from {len(index.labels):,}{of} training images{left_out}.")
    return index


def export(
    model: Path,
    /,
    *,
    onnx: Path | None = None,
    torch: Path | None = None,
    openvino: Path | None = None,
    executorch: Path | None = None,
    space: Path | None = None,
    docker: Path | None = None,
    int8: bool = False,
    fp16: bool = False,
    calibrate: Path | None = None,
    images: Annotated[tuple[Path, ...], Parameter(name=["--images", "--pictures"])] = (),
    force: bool = False,
) -> None:
    """Write a model for other programs: ONNX, torch.export, OpenVINO, ExecuTorch; a Space, a Docker image.

    Its answers are compared with the model's before anything is kept; beside an ONNX file lie images and answers that vizsla verify
    compares with anywhere. On the validation images of the run a table shows how often the answers are the same, accuracy, size and
    speed. Needs: pip install onnx onnxruntime onnxscript

    For example:

        vizsla export runs/pets --onnx pets.onnx
        vizsla export runs/pets --onnx pets-small.onnx --int8
        vizsla export model.safetensors --openvino pets.xml --int8 --calibrate data
        vizsla export runs/pets --space pets-space --docker pets-docker --int8

    Args:
        model: A model.safetensors, or the folder of a run.
        onnx: ONNX file to write, with its preprocessing inside.
        torch: Program of torch.export (.pt2) to write.
        openvino: OpenVINO file (.xml, with a .bin beside it) to write. Needs: pip install openvino
        executorch: Program of ExecuTorch (.pte) to write. Needs: pip install executorch
        space: New folder to write: a Hugging Face Space, a web page for trying the model.
        docker: New folder to write: files for docker build; the container answers HTTP requests with only onnxruntime.
        int8: Compute in 8 bits, calibrated on training images: a quarter of the size, and faster on most processors.
        fp16: Compute in float16: half the size.
        calibrate: Images to calibrate and measure on: a folder, or a CSV file, as for evaluate. Default: those of the run.
        images: An image or a folder of them to check with; may be repeated. Default: the validation images, or some made for this.
        force: Replace files that exist; a folder that exists is never replaced.
    """
    from vizsla.export.measure import measured_lines
    from vizsla.export.verify import golden_path
    from vizsla.export.write import export_model
    from vizsla.run.folder import RunFolder

    model = run_of(model)
    if int8 and fp16:
        raise ConfigError("--int8 and --fp16 cannot be used together. Choose one of them.")
    beside = [
        None if onnx is None else golden_path(onnx),
        openvino and openvino.with_suffix(".bin"),
    ]
    for path in (onnx, torch, openvino, executorch, *beside):
        if path is not None:
            check_writable(path, force=force)
    for folder in (space, docker):
        if folder is not None:
            check_vacant(folder)
    data: ImageTable | Path | None = calibrate
    if data is None and model.is_dir():
        try:
            data = RunFolder(model).table()
        except DataError as error:
            say(f"The images of the run cannot be used for measuring: {error}", err=True)
    written = export_model(
        model_file(model),
        onnx=onnx,
        torch_program=torch,
        openvino=openvino,
        executorch=executorch,
        space=space,
        docker=docker,
        precision="int8" if int8 else "float16" if fp16 else "float32",
        images=images,
        data=data,
        on_note=partial(say, err=True),
    )
    for one in written:
        parity = one.parity
        say(
            f"{one.path}: max difference {parity.max_difference:.1e} on {parity.num_images:,} images "
            f"in {parity.num_batches:,} batches (worst: {parity.worst})"
        )
        if one.golden is not None:
            say(f"{one.golden}: images and answers for `vizsla verify {one.path}`")
    if decoding := written[0].decoding:
        say(
            f"Programs that decode JPEG files in full, where vizsla decodes a part of a large one: max difference "
            f"{decoding.max_difference:.1e}, {decoding.mean_difference:.1e} on average, on {decoding.num_images:,} files"
        )
    if written[0].measured:
        say()
        for line in measured_lines([written[0].measured[0], *(one.measured[1] for one in written)]):
            say(line)


def verify(file: Path, /, *, golden: Path | None = None) -> None:
    """Check that an ONNX file answers as when it was written.

    Exit code 0: it does, to 0.001, or in float16 and int8 for most images and on average (the file knows how far). Exit code 2:
    it does not, or a file is missing or damaged.

    For example:

        vizsla verify pets.onnx

    Args:
        file: The ONNX file, as vizsla export wrote it.
        golden: Images and answers; default: FILE.golden.npz.
    """
    from vizsla.export.verify import verify_onnx

    parity = verify_onnx(file, golden=golden)
    say(
        f"{file}: max difference {parity.max_difference:.1e} on {parity.num_images:,} images "
        f"in {parity.num_batches:,} batches; the same answer for {parity.agreement:.1%}"
    )
