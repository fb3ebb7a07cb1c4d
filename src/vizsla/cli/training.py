"""Commands that take DATA or what a training left: demo, train, find-lr, check, audit, label, pack, bench, report, cache."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vizsla.cli.mistakes import data_place, run_folder
from vizsla.cli.terminal import (
    as_json,
    check_choices,
    check_device,
    check_writable,
    count_lines,
    counts_line,
    data_name,
    finish,
    free_path,
    new_folder,
)
from vizsla.errors import ConfigError, DataError, PictureError
from vizsla.recipe.config import DataConfig, TrainConfig, Truncated
from vizsla.text import counted, listed, quoted, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.train.display import Display
    from vizsla.types import ImageTable

Labels = Annotated[DataConfig, Parameter(name="*")]
Choices = Annotated[TrainConfig, Parameter(name="*", negative_bool="no-")]

AS_FOUND, DEFAULTS = DataConfig(), TrainConfig()

MADE_UP = "photographs like those made up"
MADE_UP_COUNTS = (800, 200)
MOST_LISTED = 40
"""Networks that are listed: each is built to count its parameters, without memory for them, in about 0.1 s."""


def demo(
    *,
    out: Path = Path("runs/demo"),
    epochs: int | Literal["auto"] = "auto",
    seed: int = 0,
    force: bool = False,
) -> None:
    """Train on 2,624 images of solar cells: which are defective?

    The images are in the package elpv-dataset: pip install elpv-dataset jinja2

    Args:
        out: Folder for the results.
        epochs: End-to-end epochs after the head was fitted; auto: 5 on a CUDA device, else 0.
        seed: Split, crops and everything else that is random follow from it.
        force: Write into the folder even if it exists.
    """
    from vizsla.data.demo_data import SOLAR_CELLS, solar_cells
    from vizsla.run.train import RunPlan, run_training
    from vizsla.train.display import Display

    display = Display()
    display.line(f"Data: {SOLAR_CELLS.name}")
    display.line(f"Licence: {SOLAR_CELLS.licence}. {SOLAR_CELLS.terms} {SOLAR_CELLS.licence_url}")
    plan = RunPlan(
        title="Defects in solar cells",
        data=SOLAR_CELLS.name,
        source="elpv-dataset",
        config=TrainConfig(epochs=epochs, seed=seed),
        references=SOLAR_CELLS.published,
        notes=(
            f"The images are under {SOLAR_CELLS.licence} ({SOLAR_CELLS.licence_url}): {SOLAR_CELLS.terms}",
            *SOLAR_CELLS.citation,
        ),
    )
    run = run_training(solar_cells(seed=seed), plan=plan, out=out, force=force, display=display)
    finish(run, references=SOLAR_CELLS.published)


def train(
    data: Path | None = None,
    *,
    where: Labels = AS_FOUND,
    choices: Choices = DEFAULTS,
    on_bad: Literal["error", "skip"] = "error",
    out: Path | None = None,
    checkpoint_every: float = 300.0,
    profile: bool = False,
    resume: bool = False,
    force: bool = False,
    config: Path | None = None,  # noqa: ARG001 (``read_config`` has taken what it says)
) -> None:
    r"""Train a classifier; write the model, its metrics and a report.

    Results go into a new folder, by default runs/NAME; an earlier run is never overwritten without --force.

    For example:

        vizsla train pets
        vizsla train pets/images --labels 'regex:(.+)_\d+\.jpg$' --epochs 3 --size 160
        vizsla train pets --epochs 10 --resume
        vizsla train pets --from runs/pets
        vizsla train --config runs/pets/config.toml --seed 1
        torchrun --nproc-per-node 4 -m vizsla train pets --epochs 5

    Args:
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME.
        on_bad: Refuse images that cannot be read, or skip them and train on the rest.
        out: Folder for the results; default: runs/NAME.
        checkpoint_every: Seconds between checkpoints of the end-to-end epochs, for --resume.
        profile: Print where the time went and write it to profile.json; on CUDA steps are slower then.
        resume: Resume an interrupted run in this folder, or start a new one.
        force: Write into the folder even if it exists; with --resume: even if data or settings differ.
        config: The config.toml of a run folder: its settings apply unless an option is given.
    """
    if data is None:
        raise ConfigError("Give DATA, a folder of images or a CSV file, or --config FILE.")
    if os.environ.get("RANK", "0") == "0":  # torch takes seconds to import
        say(f"Looking at {data}")
    from dataclasses import replace

    import torch

    from vizsla.run.folder import RunFolder, run_of
    from vizsla.run.train import RunPlan, run_training
    from vizsla.train import distributed
    from vizsla.train.display import Display
    from vizsla.types import is_labelled

    check_choices(choices)
    with distributed.start(choices.device) as own_device:
        if own_device is not None:
            choices = replace(choices, device=str(own_device))
        display = Display(quiet=not distributed.is_main())
        sides: dict[str, str] | None = None
        run_before = run_of(Path(choices.start_from))
        if choices.start_from and (run_before / "config.toml").is_file():
            try:
                sides = RunFolder(run_before).sides()
            except DataError as error:
                display.line(
                    f"It is unknown which images {choices.start_from} was trained on: {error}"
                )
        table = _read_data(data, where, seed=choices.seed, display=display, sides=sides)
        display.line(counts_line(table))
        name = data_name(data)
        plan = RunPlan(
            title=name,
            data=str(data),
            source=data,
            config=choices,
            on_bad=on_bad,
            where=where,
            sides=sides,
        )
        run = run_training(
            table,
            plan=plan,
            out=Path("runs") / name if out is None else out,
            force=force,
            resume=resume,
            checkpoint_seconds=checkpoint_every,
            profile=profile,
            display=display,
        )
        main = distributed.is_main()
    if main:
        untouched = is_labelled(table.targets)
        untouched[torch.cat([table.train_rows, table.valid_rows])] = False
        words = [] if where.labels == AS_FOUND.labels else ["--labels", where.labels]
        judge = shlex.join(["vizsla", "evaluate", str(run.folder), str(data), *words])
        finish(run, untouched=int(untouched.sum()), judge=judge)


def find_lr(
    data: Path,
    /,
    *,
    where: Labels = AS_FOUND,
    choices: Choices = DEFAULTS,
    steps: int = 100,
    out: Path | None = None,
) -> None:
    """Suggest a learning rate for the end-to-end epochs.

    Prints rates for train --lr and draws the loss over the rate. Give the same options as to train: the rate is raised
    from where its end-to-end epochs would begin, and nothing of that is kept.

    Args:
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME.
        steps: Steps of each of three runs.
        out: The plot, a PNG; default: NAME-learning-rate.png. If it exists, the next free number is added.
    """
    from vizsla.recipe.features_first import EPOCH_COLUMNS
    from vizsla.run.find_rate import find_rate
    from vizsla.train.display import Display
    from vizsla.train.rates.lr_finder import save_finder_plot
    from vizsla.train.rates.suggestions import describe

    check_choices(choices)
    plot = free_path(Path(f"{data_name(data)}-learning-rate.png") if out is None else out)
    check_writable(plot)
    display = Display()
    table = _read_data(data, where, seed=choices.seed, display=display)
    display.line(counts_line(table))
    display.header(EPOCH_COLUMNS)
    curve, suggestions = find_rate(table, config=choices, display=display, num_it=steps)
    say()
    for line in describe(suggestions):
        say(line)
    say(f"Plot: {save_finder_plot(plot, curve, suggestions)}")


def check(
    data: Path,
    /,
    *,
    where: Labels = AS_FOUND,
    truncated: Truncated = "strict",
    bit_depth: int | Literal["auto"] = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Show what is in the data and what is wrong with it; or what a notebook for fastai uses that vizsla does not have.

    Exit code 0: it can be trained on. Exit code 2: it cannot; all faults are named. A notebook or script is read, not run.

    For example:

        vizsla check pets
        vizsla check lesson.ipynb
        vizsla check labels.csv --labels csv:labels.csv,image=file,label=breed --json

    Args:
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME; or a notebook (.ipynb) or script (.py).
        truncated: JPEGs that end too early: strict: unreadable; ok: take what is there.
        bit_depth: Bits that the values of 16-bit images use, 8 to 16; auto: decided once for all images, by the largest value.
        seed: The split that is drawn follows from it.
        json: Print the counts, or what was found, as one JSON object.
    """
    if data.suffix in (".ipynb", ".py"):
        _check_code(data, json=json)
        return
    from vizsla.data.cache.cache import ImageCache
    from vizsla.data.images.duplicates import find_copies
    from vizsla.data.table.check import describe_data
    from vizsla.run.train import RunPlan, read_all
    from vizsla.train.display import Display

    display = Display(quiet=json)
    table = _read_data(data, where, seed=seed, display=display)
    config = TrainConfig(truncated=truncated, bit_depth=bit_depth)
    on_bad = "skip" if json else "error"  # an object of facts is printed first
    plan = RunPlan(title="", data=str(data), config=config, on_bad=on_bad)
    table, enlarged = read_all(table, plan=plan, cache=ImageCache(mode="off"), display=display)
    summary = describe_data(table, copies=find_copies(table))
    if json:
        say(as_json(summary))
        if summary.unreadable:
            number = counted(len(summary.unreadable), "image")
            raise PictureError(f"{number} cannot be read. Repair or remove the files.")
        return
    for line in count_lines(summary):
        display.line(line)
    display.line(f"All {summary.num_train + summary.num_valid:,} images can be read.")
    for line in (enlarged, *(each.line() for each in summary.copies)):
        if line:
            display.line(line)


def _check_code(file: Path, *, json: bool) -> None:
    """Print what a notebook or script uses that is not there."""
    from vizsla.from_fastai import check_notebook

    found = check_notebook(file)
    if json:
        say(as_json(found))
    else:
        say(f"{file}: {counted(found.num_cells, 'cell')} of code, written for {found.written_for}.")
        if found.unread:
            say(f"Not Python, and not checked: cells {', '.join(map(str, found.unread))}.")
        for each in found.imports:
            say(f"Cell {each.cell} line {each.line}: {each.code} -> {each.instead}")
        places: dict[str, list[str]] = {}
        for each in found.missing:
            text = each.instead if each.instead.endswith((".", "?")) else f"Write {each.instead}"
            places.setdefault(f"{each.problem} {text}", []).append(f"{each.cell} line {each.line}")
        for text, where in places.items():
            say(f"Cell {', '.join(where)}: {text}")
    if found.missing:
        number = counted(len(found.missing), "thing")
        raise ConfigError(
            f"{number} in {quoted(file)} would fail with vizsla. Change them as the lines above say; docs/from-fastai.md has more."
        )
    if not json:
        say("Everything else that it uses is there.")


def audit(
    data: Path,
    /,
    *,
    where: Labels = AS_FOUND,
    out: Path | None = None,
    arch: str = DEFAULTS.arch,
    size: int = DEFAULTS.size,
    seed: int = 0,
    device: str = "auto",
    bs: int = 32,
    workers: int = -1,
    json: bool = False,
) -> None:
    """Look for wrong labels, duplicates, odd images and shortcuts; write a page.

    Reads every image and computes its features once, with a frozen network. Nothing is changed. In the folder are audit.html,
    audit.json, issues.csv with a row for each image that was found, and fixes.csv with suggested labels: delete the rows that
    are wrong, and give it to train --fixes.

    For example:

        vizsla audit pets
        vizsla audit labels.csv --labels csv:labels.csv,image=file,label=breed --json

    Args:
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME.
        out: Folder for the results; default: NAME-audit. If it exists, the next free number is added.
        arch: Network whose features are compared.
        size: Side of the square that the network sees, in pixels.
        seed: Seed of everything that is random.
        device: auto, cpu, cuda or mps.
        bs: Images that are computed together.
        workers: Threads that read images; -1: one per core.
        json: Print everything as one JSON object, too.
    """
    from vizsla.auditing.audit import audit as look
    from vizsla.report.build import check_report_installed
    from vizsla.train.display import Display

    choices = TrainConfig(
        arch=arch, size=size, seed=seed, device=device, batch_size=bs, num_workers=workers
    )
    check_choices(choices)
    check_report_installed()
    folder = free_path(Path(f"{data_name(data)}-audit") if out is None else out, is_folder=True)
    display = Display(quiet=json)
    with new_folder(folder):
        table = _read_data(data, where, seed=seed, display=display)
        display.line(counts_line(table))
        found = look(table, config=choices, display=display)
        page = found.save(folder)
    if json:
        say(as_json(found.to_dict()))
        return
    say()
    for line in found.lines():
        say(line)
    say()
    say(f"Audit: {page}")


def label(
    data: Path,
    /,
    *,
    labels: str = AS_FOUND.labels,
    label_level: int | Literal["auto"] = "auto",
    unlabelled: Path | None = None,
    classes: tuple[str, ...] = (),
    fixes: Path | None = None,
    arch: str | None = None,
    size: int | None = None,
    device: str = "auto",
    bs: int = 32,
    workers: int = -1,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_host: tuple[str, ...] = (),
) -> None:
    """Go through suspected labels and unlabelled images on a page; nothing is moved.

    Shows the images whose label is probably wrong, and those without one, the most instructive first. A head learns from
    each decision. Decisions are rows of a CSV file that train --fixes takes; stop and start again at any moment.

    For example:

        vizsla label runs/pets
        vizsla label photos --labels none --classes cat --classes dog
        vizsla label pets --unlabelled new-photos

    Args:
        data: As for train, labelled or not; or the folder of a run: its data.
        labels: Where labels come from, as for train; none: nobody has labelled any image yet.
        label_level: Which level of folders names the class, as for train.
        unlabelled: A folder of further images; those that get a label are added to training.
        classes: A class to begin with; may be repeated. Others can be named on the page.
        fixes: The CSV file of decisions; those in it count. Default: NAME-fixes.csv.
        arch: Network whose features are compared; default: that of the run, or of train.
        size: Side of the square that the network sees, in pixels; default as for arch.
        device: auto, cpu, cuda or mps.
        bs: Images that are computed together.
        workers: Threads that read images; -1: one per core.
        host: Address to listen at; 0.0.0.0 lets other machines in that have the whole address.
        port: Port to listen at; 0: any free one.
        allowed_host: Another name of this machine; may be repeated.
    """
    from dataclasses import replace

    from vizsla.auditing.labelling import Labelling, open_labelling
    from vizsla.data.table.fixes import read_fixes, write_fixes
    from vizsla.data.table.from_words import images_to_label
    from vizsla.run.folder import CONFIG, FIXES, RunFolder, locate_data
    from vizsla.serve.server import check_extra
    from vizsla.train.display import Display

    check_extra("show the label page")
    from vizsla.serve.label_app import serve_labels

    config = TrainConfig(device=device, batch_size=bs, num_workers=workers)
    data = run_folder(data)
    train, place, level = ["vizsla", "train"], data, label_level
    is_run = (data / CONFIG).is_file()
    if is_run:
        run = RunFolder(data)
        if labels != AS_FOUND.labels or label_level != "auto":
            raise ConfigError(f"{data} is the folder of a run, which says where labels come from. Leave --labels and --label-level out.")  # fmt: skip
        place, labels = locate_data(run.config, data)
        level = run.config.get("label_level", "auto")
        config = replace(run.train_config(device=device), batch_size=bs, num_workers=workers)
        train += ["--config", str(data / CONFIG)]
    else:
        train += [str(data), *([] if labels == AS_FOUND.labels else ["--labels", labels])]
        train += [] if label_level == "auto" else ["--label-level", str(label_level)]
    config = replace(config, **{name: value for name, value in (("arch", arch), ("size", size)) if value is not None})  # fmt: skip
    check_choices(config)
    name = data_name(place)
    file = Path(f"{name}-fixes.csv") if fixes is None else fixes
    check_writable(file, force=True)
    images, num_own = images_to_label(place, labels=labels, label_level=level, unlabelled=unlabelled)  # fmt: skip
    display = Display()

    def make() -> Labelling:
        if is_run and not file.exists() and (data / FIXES).is_file():
            write_fixes(file, read_fixes(data / FIXES))
        for note in images.notes:
            display.line(note)
        labelling = open_labelling(images, num_own=num_own, file=file, config=config, classes=classes, display=display)  # fmt: skip
        if labelling.num_elsewhere:
            rows = counted(labelling.num_elsewhere, "row")
            display.line(f"{file} has {rows} about images that are not here; vizsla train refuses it until you delete them.")  # fmt: skip
        return labelling

    def command(labelling: Labelling) -> str:
        new = ["--new-classes"] if labelling.names_new_classes else []
        return shlex.join([*train, "--fixes", str(file), *new])

    serve_labels(
        make,
        file=file,
        title=name,
        command=command,
        host=host,
        port=port,
        allowed_hosts=allowed_host,
        say=say,
    )


def pack(
    data: Path,
    out: Path,
    /,
    *,
    where: Labels = AS_FOUND,
    size: int | None = None,
    format: Literal["jpeg", "png", "webp"] = "jpeg",  # noqa: A002 (the name of the option)
    shard_mb: float = 256,
    seed: int = 0,
    truncated: Truncated = "strict",
    on_bad: Literal["error", "skip"] = "error",
    workers: int = -1,
) -> None:
    """Pack images with labels and split into tar shards, for disks and networks that read large files best.

    OUT is then DATA for train and the other commands, with the same labels, split and order, and WebDataset's loaders read
    it. After an interruption, run the same command to continue: finished shards are kept if their checksums are right.

    For example:

        vizsla pack pets shards
        vizsla pack pets shards-256 --size 256 --format webp
        vizsla train shards

    Args:
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME.
        out: A new folder, or that of the same command before.
        size: Short side in pixels of larger images; default: the bytes of each image as they are.
        format: What images made smaller are written as: jpeg and webp in quality 95, or png.
        shard_mb: Most megabytes of a shard.
        seed: The order in the shards follows from it, and the split where it is drawn.
        truncated: JPEGs that end too early: strict: unreadable; ok: take them.
        on_bad: Refuse images that cannot be read, after packing the rest, or leave them out.
        workers: Threads that read images; -1: one per core.
    """
    from vizsla.data.pack import check_place
    from vizsla.data.pack import pack as write
    from vizsla.machine import shown_bytes
    from vizsla.train.display import Display

    check_place(out)
    display = Display()
    table = _read_data(data, where, seed=seed, display=display)
    display.line(counts_line(table))
    with display.bar("packing images", total=len(table.paths)) as move:
        done = write(
            table,
            out,
            size=size,
            image_format=format,
            shard_mb=shard_mb,
            seed=seed,
            truncated=truncated,
            on_bad=on_bad,
            num_workers="auto" if workers < 0 else workers,
            on_progress=move,
        )
    kept = f", {done.num_kept} of them kept from before" if done.num_kept else ""
    say(
        f"{done.num_images:,} images in {counted(done.num_shards, 'shard')}, {shown_bytes(done.num_bytes)}, in {done.folder}{kept}"
    )
    if done.unreadable:
        entries = [f"{path}: {cause}" for path, cause in done.unreadable]
        say(f"Skipped {counted(len(entries), 'image')} that cannot be read:\n{listed(entries)}")


def bench(
    data: Path | None = None,
    /,
    *,
    where: Labels = AS_FOUND,
    choices: Choices = DEFAULTS,
    seconds: float = 40.0,
    machines: int | None = None,
    gpu: str = "",
    speed_up: float | None = None,
    efficiency: float | None = None,
    price: float | None = None,
    json: bool = False,
) -> None:
    """Measure what training and predicting cost on this machine.

    Reads some of the images, takes some steps with random weights, and says what each part costs, how long training on
    all of them would take, what takes most of it, and which settings are faster. Give the same options as to train.

    For example:

        vizsla bench pets
        vizsla bench pets --arch resnet34 --bs 64 --device cuda
        vizsla bench --json
        vizsla bench pets --machines 4 --gpu a10 --speed-up 30 --price 1.2

    Args:
        data: A folder of images or of tar shards, a pattern of shards, a CSV file that lists images, Parquet files, or a Hugging Face
            dataset, hf:OWNER/NAME; without it photographs are made up.
        seconds: About how long to measure.
        machines: Estimate for so many machines too, each like this one or with one GPU.
        gpu: Their GPU. h100 is known with resnet34 and resnet50 at 224 pixels; any other name needs --speed-up.
        speed_up: How many times as fast as this machine they run the network.
        efficiency: What several machines reach of the sum of their speeds; 0.9 is assumed.
        price: Of one machine for an hour; the cost of the run is estimated with it.
        json: Print everything as one JSON object.
    """
    import tempfile

    from vizsla.bench.elsewhere import EFFICIENCY, Elsewhere
    from vizsla.bench.results import lines_of
    from vizsla.bench.run import run_bench
    from vizsla.train.display import Display

    check_choices(choices)
    if data is None and where != AS_FOUND:
        raise ConfigError(
            "--labels, --valid and the other words about labels and the split are about DATA. Give DATA, or leave them out."
        )
    elsewhere: Elsewhere | None = None
    if gpu or any(each is not None for each in (machines, speed_up, efficiency, price)):
        elsewhere = Elsewhere(
            machines=1 if machines is None else machines,
            gpu=gpu,
            speed_up=speed_up,
            efficiency=EFFICIENCY if efficiency is None else efficiency,
            price=price,
        )
        elsewhere.check(choices)
    display = Display(quiet=json)
    with tempfile.TemporaryDirectory(prefix="vizsla-bench-") as folder:
        if data is None:
            table, counts = _made_up(Path(folder), choices.batch_size, display), MADE_UP_COUNTS
        else:
            table = _read_data(data, where, seed=choices.seed, display=display)
            counts = None
        result = run_bench(
            table,
            config=choices,
            data=MADE_UP if data is None else str(data),
            counts=counts,
            seconds=seconds,
            elsewhere=elsewhere,
            display=display,
        )
    if json:
        say(as_json(result))
        return
    for line in lines_of(result):
        display.line(line)


def _read_data(
    data: Path,
    where: DataConfig,
    *,
    seed: int,
    display: Display,
    sides: Mapping[str, str] | None = None,
) -> ImageTable:
    """Return the checked table of what the user named, and say what was guessed of it and what was left out."""
    from vizsla.data.table.from_words import resolve_data

    table = resolve_data(data_place(data), **asdict(where), seed=seed, sides=sides)
    for note in table.notes:
        display.line(note)
    return table


def _made_up(folder: Path, batch_size: int, display: Display) -> ImageTable:
    """Make photographs of two classes and return their table."""
    from vizsla.bench.made_up import make_photographs
    from vizsla.data.table.from_words import resolve_data

    number = max(16, min(128, 4 * batch_size))
    with display.bar("making photographs", total=number) as move:
        make_photographs(folder, number=number, on_progress=move)
    return resolve_data(folder, seed=0)


def report(run: Path, /, *, data: Path | None = None, device: str = "auto") -> None:
    """Write the report of a run again, from its files.

    Only training has seen each training image with a model that did not learn from it (leave-one-out), and a run folder
    does not keep what that model said: the new page lists suspected labels of validation images, and none of training
    images. The page, report.html in that folder, is replaced at the end.

    For example:

        vizsla report runs/pets --data /mnt/photos/pets

    Args:
        run: A folder that train or demo wrote.
        data: Where its images are now, if they have moved.
        device: auto, cpu, cuda or mps.
    """
    from vizsla.run.report import rebuild_report
    from vizsla.train.display import Display

    check_device(device)
    run = run_folder(run)
    if (run / "report.html").exists():
        say(f"{run / 'report.html'} exists, and is replaced at the end.")
    say(f"Report: {rebuild_report(run, data=data, device=device, display=Display())}")


def show_cache(*, clear: bool = False) -> None:
    """Show what is kept on disk between runs, or remove it.

    Args:
        clear: Remove all images from it, and the indexes and blocks of shards.
    """
    import shutil

    from vizsla.data.cache.disk import cache_folder, clear_disk_cache, disk_use
    from vizsla.data.storage import block_folder, index_folder
    from vizsla.machine import shown_bytes

    folder = cache_folder()
    if clear:
        before = clear_disk_cache(folder)
        size = shown_bytes(before.num_bytes)
        say(f"Removed {before.num_images:,} images, {size}, from {folder}")
        for other in (index_folder(), block_folder()):
            shutil.rmtree(other, ignore_errors=True)
        return
    use = disk_use(folder)
    say(f"place   {use.folder}")
    say(f"size    {shown_bytes(use.num_bytes)}, {use.num_images:,} images")
    say(
        f"budget  {shown_bytes(use.budget_bytes)}, a quarter of the space that is free or taken by it; "
        "train --cache-budget changes it for a run"
    )


def list_archs(word: str = "", /) -> None:
    """List networks for --arch: parameters, image size, and where their weights are.

    Without WORD those whose weights are on this machine, which train --arch auto compares on your own images. Accuracy on ImageNet
    is shown for torchvision's weights; timm does not publish that of its own with the package.

    For example:

        vizsla list-archs
        vizsla list-archs dinov3

    Args:
        word: A part of the name.
    """
    from vizsla.models.backbones import local_networks, network_facts
    from vizsla.models.names import architecture_names, nearest_names
    from vizsla.train.display import Display

    here = local_networks()
    every = architecture_names()
    names = (
        [name for name in dict.fromkeys((*here, *every)) if word.lower() in name]
        if word
        else list(here)
    )
    if not names:
        raise ConfigError(
            f"No network has {word!r} in its name. The nearest names are: {', '.join(nearest_names(word, every))}."
        )
    display = Display()
    shown = names[:MOST_LISTED]
    display.header(
        ["network".ljust(max(map(len, shown))), "parameters", "image size", "ImageNet", "weights"]
    )
    for name in shown:
        facts = network_facts(name, is_here=name in here)
        number = "" if facts.num_parameters is None else f"{facts.num_parameters / 1e6:.1f} M"
        size = "" if facts.size is None else f"{facts.size} px"
        accuracy = "" if facts.accuracy is None else f"{facts.accuracy:.1%}"
        display.row([name, number, size, accuracy, facts.weights])
    if len(names) > len(shown):
        display.line(f"And {len(names) - len(shown):,} more: give a longer WORD.")
    if not word:
        display.line(
            f"{len(every):,} networks can be used in all: vizsla list-archs WORD finds them by a part of their name."
        )
