"""Train into a run folder: check the images, train by the recipe, write model, numbers and report.

Everything that can be refused is refused before training: the place to write to is tried and every image is read first.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import tomllib
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vizsla import __version__
from vizsla.data.images.bit_depth import bit_depth_line, decide_bit_depth
from vizsla.data.images.duplicates import find_copies
from vizsla.data.images.facts import ImageNotes, count_smaller, enlarged_text
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.order import check_balance
from vizsla.data.table.check import (
    find_unreadable,
    fingerprint,
    note_suspicious,
    paths_with_causes,
    settle_unreadable,
)
from vizsla.data.table.fixes import fixes_text, write_fixes
from vizsla.errors import ConfigError, all_at_once
from vizsla.evaluate.calibration import calibrate, calibration_line
from vizsla.evaluate.metrics import Metric, imbalance_lines, summarise
from vizsla.evaluate.thresholds import (
    as_thresholds,
    at_temperature,
    check_task_of_thresholds,
    fit_thresholds,
)
from vizsla.files import atomic_write
from vizsla.machine import device_name, peak_memory_bytes
from vizsla.model_file.bundle import MANIFEST_KEY, safetensors_header, save_bundle
from vizsla.recipe.config import AUTO, USUAL_THRESHOLD, DataConfig, at_size
from vizsla.recipe.end_to_end import END_TO_END
from vizsla.recipe.features_first import cache_for, fit_size
from vizsla.recipe.going_on import beside, check_classes, choices_of
from vizsla.recipe.recipe import TrainedRun, network_of_run, train_classifier
from vizsla.report.build import ReportContent, check_report_installed
from vizsla.run import folder as files
from vizsla.run.report import commands_of, write_explained
from vizsla.text import counted, valid_unicode
from vizsla.train.checkpoint import Checkpoint
from vizsla.train.display import Display, format_seconds
from vizsla.train.distributed import (
    VERSIONS,
    all_of,
    any_of,
    check_same_images,
    check_same_settings,
    is_main,
)
from vizsla.train.profile import RunProfile
from vizsla.train.recorder import save_history
from vizsla.types import as_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.data.cache.cache import ImageCache
    from vizsla.evaluate.compare import Comparison
    from vizsla.recipe.config import TrainConfig
    from vizsla.types import ImageTable

CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run is about, for its report and its files.

    Attributes:
        title: Heading of the report.
        data: Where the images come from, in words.
        config: Choices of the training.
        on_bad: Refuse unreadable images, or train on the rest.
        source: What ``config.toml`` names as the data: a path, or the name of a data set; None is ``data``.
        where: Where labels and split come from.
        sides: If the run goes on from an earlier model, in which set its images were, see ``RunFolder.sides``; None if that is not known.
        references: (name, accuracy) of published results on the same data.
        notes: Sentences for the end of the report, such as a licence.
    """

    title: str
    data: str
    config: TrainConfig
    on_bad: Literal["error", "skip"] = "error"
    source: Path | str | None = None
    where: DataConfig = field(default_factory=DataConfig)
    sides: Mapping[str, str] | None = None
    references: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """What a run left.

    Attributes:
        folder: Where its files are.
        metrics: On the validation images, with intervals.
        interrupted: Ctrl-C ended it early.
        imbalance: What ``imbalance_lines`` says.
        problem: What ended it early otherwise, or empty.
    """

    folder: Path
    metrics: tuple[Metric, ...]
    interrupted: bool
    imbalance: tuple[str, ...] = ()
    problem: str = ""


def run_training(
    table: ImageTable,
    *,
    plan: RunPlan,
    out: Path,
    force: bool = False,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    profile: bool = False,
    display: Display,
) -> FinishedRun:
    """Check the images, train, and write everything into a run folder.

    If ``out`` exists, ``out-2``, ``out-3`` ... is taken, unless ``force``: then the files of an earlier run are replaced once
    all new ones are written. ``resume`` goes on with a run in ``out`` that was cut off, or begins where there is none; with
    ``force`` also with other data or settings. ``profile`` also writes ``profile.json``, which makes runs on CUDA slower.

    Raises:
        OutputError: The folder cannot be written to, which is found before training; or a file cannot be written.
        PictureError: Images cannot be read, and ``plan.on_bad`` is ``"error"``; all are named. Found before training.
        ConfigError: There is nothing to resume because the run is finished, or it is one with other data or settings; or torchrun
            may restart processes and the run could not go on.
        DataError: The data differ between machines.
        VizslaError: As from ``train_classifier``.
    """
    if plan.config.threshold != USUAL_THRESHOLD:
        check_task_of_thresholds(table.task)
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and not resume:
        raise ConfigError(
            "After a restart by torchrun --max-restarts, training would begin again in another folder. Add "
            "--resume: it continues from the last checkpoint, or starts if there is none."
        )
    check_same_settings(
        {**_asked_of_all(plan.config), "--resume": resume, "--force": force, **VERSIONS}
    )
    check_same_images(table)
    started = time.monotonic()
    times = RunProfile(wanted=profile)
    num_pictures = len(table.train_rows) + len(table.valid_rows)
    config, earlier = choices_of(plan.config)
    plan = replace(plan, config=config)
    if config.weights and MANIFEST_KEY in safetensors_header(Path(config.weights)):
        display.line(
            f"{config.weights} is a model. This run uses only its body; to keep its head and classes: --from "
            f"{config.weights}."
        )
    if earlier is not None:
        for line in check_classes(earlier, table):
            display.line(line)
        doubt = _doubt_about(table, plan=plan)
        if doubt:
            display.line(doubt)
            plan = replace(plan, notes=(*plan.notes, doubt))
    # Of several processes one has the folder; the others train with it and write nothing.
    claim = files.make_run_folder(out, force=force or resume) if is_main() else nullcontext(out)

    def checkpoint_in(folder: Path) -> Checkpoint:
        place = folder / files.CHECKPOINT_FOLDER
        return Checkpoint(place, every_seconds=checkpoint_seconds, resume=resume, force=force)

    checkpoint = checkpoint_in(out)
    with ExitStack() as held:
        with times.part("loading the network", num_images=num_pictures):
            folder, backbone, *_ = all_at_once(
                lambda: held.enter_context(claim),
                lambda: network_of_run(plan.config, checkpoint=checkpoint, earlier=earlier),
                check_report_installed,
                lambda: check_balance(plan.config.balance, table.targets[table.train_rows]),
            )
        if backbone is not None and earlier is None:
            config, told = fit_size(plan.config, backbone)
            plan = replace(plan, config=config, notes=(*plan.notes, *told))
            for line in told:
                display.line(line)
        if folder != out:
            display.line(f"{out} exists. The results go to {folder}.")
            checkpoint = checkpoint_in(folder)
        if resume and (folder / files.MODEL).is_file() and not checkpoint.path.is_file():
            raise ConfigError(
                f"There is nothing to resume in {out}: it has a model but no checkpoint, because the run finished "
                "or stopped before its first checkpoint. To train again, leave out --resume (with --force in the "
                f"same folder); to train its model further: --from {out}."
            )
        with files.noted_on_stop("There was no model to save yet."):
            cache = cache_for(table, config=plan.config)
            with times.part("reading images", num_images=num_pictures):
                table, enlarged = read_all(table, plan=plan, cache=cache, display=display)
            if enlarged:
                display.line(enlarged)
                plan = replace(plan, notes=(*plan.notes, enlarged))
            plan = replace(plan, notes=(*plan.notes, *table.notes))
            for copies in find_copies(table, num_workers=plan.config.num_threads):
                display.line(copies.line())
                if copies.kind != "across sets":  # the report shows these
                    plan = replace(plan, notes=(*plan.notes, copies.line()))
            display.line(cache.describe())
            digest = fingerprint(table)
            run = train_classifier(
                table,
                config=plan.config,
                display=display,
                cache=cache,
                checkpoint=checkpoint,
                profile=times,
                backbone=backbone,
                earlier=earlier,
            )
            # The one that was chosen, so that the same options give the same run elsewhere.
            arch = run.classifier.backbone.spec.arch
            if plan.config.arch == AUTO or plan.config.minutes != "auto":
                plan = replace(plan, config=replace(plan.config, arch=arch))
            plan = replace(plan, config=at_size(plan.config, as_size(run.resize.size)[0]))
            run, told = _with_thresholds(run, goal=plan.config.threshold)
            for line in told:
                display.line(line)
            plan = replace(plan, notes=(*plan.notes, *told))
            if (found := _beside(run)) is not None:
                display.line(found.sentence)
                plan = replace(plan, notes=(*plan.notes, found.sentence))
            metrics = summarise(run.predictions)
        if is_main():
            note = f"The results were being written to {folder}; some files are missing."
            onward = " Continue with --resume." if checkpoint.path.is_file() else ""
            with files.noted_on_stop(note + onward), files.place_to_write(folder, onward) as place:
                seconds = time.monotonic() - started
                with times.part("results", num_images=num_pictures):
                    write_run(
                        place,
                        run=run,
                        table=table,
                        plan=plan,
                        metrics=metrics,
                        seconds=seconds,
                        display=display,
                        cache=cache,
                        home=folder,
                        digest=digest,
                    )
                if profile:
                    _write_text(place / files.PROFILE, json.dumps(times.values(), indent=2) + "\n")
                    times.show(display)
        if not run.interrupted and not run.problem:
            # All wait for the results: if one is killed meanwhile, torchrun starts all again, and they need the checkpoint.
            any_of(flag=False)
            if is_main():  # the model file has the weights
                checkpoint.path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # its folder stays if something else is in it
                    checkpoint.path.parent.rmdir()
    return FinishedRun(
        folder=folder,
        metrics=metrics,
        interrupted=run.interrupted,
        imbalance=_imbalance(run, metrics=metrics, config=plan.config),
        problem=run.problem,
    )


def _asked_of_all(config: TrainConfig) -> dict[str, object]:
    """Return the choices that all processes have to share: not the device, nor how images are read and kept."""
    own = ("device", "num_workers", "cache", "cache_budget")
    return {name: value for name, value in asdict(config).items() if name not in own}


def _with_thresholds(run: TrainedRun, *, goal: str) -> tuple[TrainedRun, tuple[str, ...]]:
    """Return a run whose predictions are decided by other thresholds than 0.5, and what to say of them."""
    found, told = run.predictions, ()
    if goal == USUAL_THRESHOLD:
        return run, told
    if goal == "f1" or goal.startswith("precision:"):
        fitted = fit_thresholds(found, goal)
        given, told = fitted.values, tuple(fitted.lines())
    else:
        given = float(goal)
    chosen = as_thresholds(given, vocab=found.vocab, task=found.task)
    return replace(run, predictions=replace(found, thresholds=chosen)), told


def read_all(
    table: ImageTable, *, plan: RunPlan, cache: ImageCache, display: Display
) -> tuple[ImageTable, str]:
    """Read every image of both splits once, into the cache.

    Returns:
        The table of the readable images, which names those that seem incomplete and has the bit depth of those of 16 bits, and a
        sentence about those that are smaller than the size; empty if there are none.

    Raises:
        PictureError: Some cannot be read, and ``plan.on_bad`` is ``"error"``; all are named.
        DataError: 16-bit images may be of different depths, see ``decide_bit_depth``.
    """
    import torch

    size, num_workers = as_size(plan.config.size), plan.config.num_threads
    as_size(plan.config.kept_size)  # Refused now, if at all, not after the images were read.
    notes = ImageNotes(size)
    rows = torch.cat([table.train_rows, table.valid_rows])
    largest_values: dict[str, int] = {}
    bit_depth = plan.config.stated_bit_depth
    reader = ImageReader(
        resize=plan.config.resizing(),
        cache=cache,
        truncated=plan.config.truncated,
        on_decoded=notes.note,
        bit_depth=bit_depth,
        on_wide=lambda path, largest: largest_values.update({str(path): largest}),
    )
    with display.bar("reading images", total=len(rows)) as move:
        unreadable = find_unreadable(
            table, rows, reader=reader, num_workers=num_workers, on_progress=move
        )
    # What one machine cannot read is left out on all.
    everywhere = {row: cause for part in all_of(unreadable) for row, cause in part}
    unreadable = tuple(everywhere.items())
    table = settle_unreadable(table, unreadable, on_bad=plan.on_bad)
    if unreadable:
        display.line(
            f"Skipped {counted(len(unreadable), 'unreadable image')}; the report lists the causes."
        )
    if largest_values:
        bit_depth = decide_bit_depth(largest_values)
    if bit_depth is not None:
        display.line(bit_depth_line(bit_depth))
        table = replace(table, bit_depth=bit_depth)
    table = note_suspicious(table, notes.doubts)
    if table.suspicious:
        display.line(table.notes[-1])
    rows = torch.cat([table.train_rows, table.valid_rows])
    number = count_smaller(table, rows, size=size, num_workers=num_workers, noted=notes)
    return table, enlarged_text(number, size=size)


def write_run(
    folder: Path,
    *,
    run: TrainedRun,
    table: ImageTable,
    plan: RunPlan,
    metrics: tuple[Metric, ...],
    seconds: float,
    display: Display,
    cache: ImageCache | None = None,
    home: Path | None = None,
    digest: str = "",
) -> None:
    """Write the files of a run, the model first and the report last; ``home`` is where they will be in the end.

    ``digest`` is the fingerprint of the table before training: an image may be gone since.

    Raises:
        OutputError: A file cannot be written; one that was there before is untouched.
    """
    trained_on = run.is_as_it_was or any(point.stage == END_TO_END for point in run.history)
    # A head that was only fitted on features has a temperature already, from its leave-one-out predictions.
    calibration = calibrate(run.predictions, temperature=None if trained_on else 1.0)
    if table.task != "regression":
        display.line(calibration_line(calibration, by_head=not trained_on))
    save_bundle(
        folder / files.MODEL,
        classifier=run.classifier,
        resize=run.resize,
        metrics=metrics,
        data_fingerprint=digest or fingerprint(table),
        notes=run.recipe,
        calibration=calibration,
        bit_depth=table.bit_depth,
        flip=run.flips.sideways,
        thresholds=at_temperature(
            run.predictions.thresholds, 1 if calibration is None else calibration.temperature
        ),
    )
    save_history(folder / files.HISTORY, run.history)
    run.predictions.save_csv(folder / files.PREDICTIONS)
    facts = _facts(run, table=table, plan=plan, seconds=seconds)
    numbers = _metrics_json(run, metrics=metrics, facts=facts, plan=plan, table=table)
    _write_text(folder / files.METRICS, numbers)
    where = plan.where
    if where.fixes or table.fixes:
        where = replace(where, fixes=write_fixes(folder / files.FIXES, table.fixes).name)
    choices = files.config_text(
        folder if home is None else home,
        source=plan.data if plan.source is None else plan.source,
        where=where,
        on_bad=plan.on_bad,
        config=plan.config,
    )
    _write_text(folder / files.CONFIG, choices)
    content = ReportContent(
        title=plan.title,
        facts=facts,
        history=run.history,
        metrics=metrics,
        references=plan.references,
        predictions=run.predictions,
        table=table,
        notes=plan.notes,
        temperature=None if calibration is None else calibration.temperature,
        commands=commands_of(
            folder if home is None else home, config=tomllib.loads(choices), task=table.task
        ),
    )
    found = write_explained(
        folder / files.REPORT,
        content=content,
        classifier=run.classifier,
        config=plan.config,
        display=display,
        cache=cache,
        known=run.known,
    )
    for each in found:
        display.line(f"Data: {each.title}")
    if found:
        display.line("Data: vizsla audit shows these images and checks further.")


def _facts(
    run: TrainedRun, *, table: ImageTable, plan: RunPlan, seconds: float
) -> tuple[tuple[str, str], ...]:
    """Return (name, value) of what was trained on what, for people."""
    import torch

    spec = run.classifier.backbone.spec
    device = next(run.classifier.parameters()).device
    what = {"category": "Classes", "multi_category": "Labels", "regression": "Numbers"}[table.task]
    more = " ..." if len(table.vocab) > 12 else ""
    return (
        ("Date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("Data", plan.data),
        (
            "Images",
            f"{len(table.train_rows):,} to learn from, {len(table.valid_rows):,} to validate on",
        ),
        *([("Fixes", fixes_text(table.fixes))] if table.fixes else []),
        (what, f"{len(table.vocab)}: {', '.join(table.vocab[:12])}{more}"),
        ("Network", spec.name),
        ("Weights", f"{spec.weights}; licence: {spec.licence}" if spec.licence else spec.weights),
        (
            "Recipe",
            run.recipe
            + (" Stopped early by Ctrl-C." if run.interrupted else "")
            + f" {run.problem}".rstrip(),
        ),
        ("Augmentation", _augmentation(run, config=plan.config)),
        ("Image size", f"{plan.config.size} x {plan.config.size} pixels"),
        ("Seed", str(plan.config.seed)),
        ("Time", f"{format_seconds(seconds)} on {device_name(device)}"),
        ("Peak memory", f"{peak_memory_bytes() / 2**30:.1f} GiB"),
        (
            "Versions",
            f"vizsla {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        ),
    )


def _imbalance(
    run: TrainedRun, *, metrics: tuple[Metric, ...], config: TrainConfig
) -> tuple[str, ...]:
    lines = imbalance_lines(run.predictions, metrics)
    if lines and config.balance == "none":
        lines += ("--balance auto gives rare classes equal weight in training.",)
    return lines


def _augmentation(run: TrainedRun, *, config: TrainConfig) -> str:
    """Say how training images varied."""
    flips = {"mirrored": run.flips.sideways, "upside down": run.flips.upside_down}
    said = [name for name, is_on in flips.items() if is_on] or ["not mirrored"]
    if any(point.stage == END_TO_END for point in run.history):
        said += [f"strength: {config.augment}", *(["no changes of colour"] * (not config.colour))]
    return ", ".join(said)


def _beside(run: TrainedRun) -> Comparison | None:
    """Compare the run with the earlier model that it went on from; None if there is none, or no image whose label that knows."""
    return None if run.before is None else beside(run.before, run.predictions)


def _doubt_about(table: ImageTable, *, plan: RunPlan) -> str:
    """Return why figures on the validation images may be too good: an earlier model was trained on some; empty if on none."""
    if plan.sides is None:
        return (
            f"It is unknown which images {plan.config.start_from} was trained on. If any of them are in the "
            "validation set, its figures and those of this run are too high. Give the folder of its run, with "
            "its images in their original place."
        )
    sides = plan.sides
    rows = table.valid_rows.tolist()
    seen = sum(sides.get(os.path.realpath(table.file(row))) == "train" for row in rows)
    if not seen:
        return ""
    return (
        f"{plan.config.start_from} was trained on {seen:,} of the {len(rows):,} validation images, because the "
        "split is set by the data or its groups: its figures and those of this run are too high. Move these "
        "images to training."
    )


def _metrics_json(
    run: TrainedRun,
    *,
    metrics: tuple[Metric, ...],
    facts: tuple[tuple[str, str], ...],
    plan: RunPlan,
    table: ImageTable,
) -> str:
    """Return the numbers of a run as JSON, with what its report needs to be made again."""
    values: dict[str, object] = {
        "title": plan.title,
        "metrics": {metric.name: asdict(metric) for metric in metrics},
        "references": dict(plan.references),
        "facts": dict(facts),
        "interrupted": run.interrupted,
        "notes": list(plan.notes),
        "skipped": paths_with_causes(table.root, table.skipped),
        "moved": dict(table.moved),
        "suspicious": paths_with_causes(table.root, table.suspicious),
    }
    if run.predictions.thresholds is not None:
        values |= {"thresholds": run.predictions.thresholds}
    if (found := _beside(run)) is not None:
        values["earlier"] = {"model": plan.config.start_from, **asdict(found)}
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(valid_unicode(text), encoding="utf-8")
