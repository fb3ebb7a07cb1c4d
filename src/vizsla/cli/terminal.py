"""What the commands share: errors as messages, results as lines, early checks of choices."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict
from errno import EDQUOT, EFBIG, EIO, ENOSPC
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cyclopts import CycloptsError

from vizsla.cli.mistakes import in_options, usage_text
from vizsla.errors import ConfigError, OutputError, VizslaError, all_at_once, memory_checked
from vizsla.run.folder import check_not_of_run
from vizsla.text import one_line, say

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from vizsla.data.table.check import DataSummary
    from vizsla.evaluate.compare import Comparison
    from vizsla.predict.evaluation import Evaluation
    from vizsla.recipe.config import TrainConfig
    from vizsla.run.train import FinishedRun
    from vizsla.types import ImageTable


_NUM_MISTAKES = 10
"""That an evaluation lists."""


def end(code: int, message: str = "") -> NoReturn:
    """End the command with an exit code, after a message on standard error."""
    if message:
        say(message, err=True)
    sys.exit(code)


@contextmanager
def reported_errors(*, doing: str, debug: bool = False) -> Generator[None]:
    """Turn our errors and words that make no sense into one message and exit code 2, Ctrl-C into 130, SIGTERM into 143.

    ``doing`` says what is done, for when memory runs out; ``debug`` shows the traceback instead of the message.
    """
    import traceback
    import warnings

    def stop(code: int, error: BaseException, message: str) -> NoReturn:
        shown = "".join(traceback.format_exception(error)).rstrip() if debug else message
        end(code, shown if debug else f"vizsla: {shown}")

    def warn(
        message: Warning | str, category: type[Warning], name: str, line: int, *_: object
    ) -> None:
        is_ours = Path(__file__).parents[1] in Path(name).parents
        shown = warnings.formatwarning(message, category, name, line).rstrip()
        say(f"vizsla: {message}" if is_ours else shown, err=True)

    # Pillow warns of oddities in files that it reads anyway; we report what it cannot read.
    warnings.filterwarnings("ignore", module="PIL")
    before, warnings.showwarning = warnings.showwarning, warn
    cure = "Use smaller batches or images, close other programs, or use a machine with more memory."
    try:
        with memory_checked(doing, cure=cure):
            yield
    except CycloptsError as error:
        if isinstance(error.__cause__, VizslaError):  # a configuration that cannot work
            stop(2, error.__cause__, in_options(str(error.__cause__)))
        stop(2, error, usage_text(error))
    except VizslaError as error:
        stop(2, error, " ".join([in_options(str(error)), *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt as error:
        code, what = (143, "Told to end.") if error.args else (130, "Stopped by Ctrl-C.")
        stop(code, error, " ".join([what, *getattr(error, "__notes__", ())]))
    except BrokenPipeError:
        # The reader of our lines has seen enough (head, for example). What is still in the buffer would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # Without a file name it is standard output, redirected to a file on a full disk.
        if error.filename is not None or error.errno not in (ENOSPC, EDQUOT, EFBIG, EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        cure = "The output is not complete; free some space and run the command again."
        stop(2, error, f"Cannot write to standard output: {error.strerror}. {cure}")
    finally:
        warnings.showwarning = before


@contextmanager
def sigterm_as_ctrl_c() -> Generator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that nothing is left behind; its exception has the number as its argument."""

    def stop(number: int, frame: object) -> NoReturn:
        del frame
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(
    run: FinishedRun,
    *,
    references: tuple[tuple[str, float], ...] = (),
    untouched: int = 0,
    judge: str = "",
) -> None:
    """Print the result of a run, where its files are, and how to judge it on labelled images that it left untouched."""
    metric = run.metrics[0]
    form = ".2%" if metric.name in ("accuracy", "exact_match") else ".3f"
    say(
        f"\nValidation {metric.name.replace('_', ' ')} {metric.value:{form}}, "
        f"95 % interval {metric.low:{form}} to {metric.high:{form}} ({metric.num_pictures:,} images)"
    )
    for line in run.imbalance:
        say(line)
    for name, value in references:
        say(f"Published: {value:.2%} {name}")
    say(f"Results: {run.folder}{'/'}  (open {run.folder / 'report.html'})")
    if untouched:
        say(
            f"Untouched so far: {untouched:,} labelled images in neither set. To evaluate the model on them: "
            f"{judge}"
        )
    if run.problem:
        end(2, f"vizsla: {run.problem}")
    say(f"Next: classify images   vizsla predict {run.folder} IMAGES")
    say(f"      show a web page   vizsla serve {run.folder}")
    say(f"      correct labels    vizsla label {run.folder}")
    if run.interrupted:
        end(130)


def data_name(data: Path) -> str:
    """Return the name of results on some data: the name of the folder, or of the file without its suffix."""
    if set(data.name) & {*"*?[{"}:  # a pattern of shards
        return data.parent.name or "shards"
    return Path(os.path.abspath(data)).name if data.is_dir() else data.stem  # noqa: PTH100 (a link keeps its own name)


def counts_line(table: ImageTable) -> str:
    """Return the numbers of images and of what is predicted as a sentence."""
    word = {"category": "classes", "multi_category": "labels", "regression": "numbers"}[table.task]
    return (
        f"{len(table.train_rows):,} images to learn from, {len(table.valid_rows):,} to validate on, "
        f"{len(table.vocab)} {word if len(table.vocab) > 1 else word.removesuffix('s')}"
    )


def count_lines(summary: DataSummary) -> list[str]:
    """Return the counts of each class and their total as a table, and the range of each number.

    Images in neither set have a column where there are any.
    """
    rows = [
        ("class" if summary.classes else "", "train", "valid", "other"),
        *(
            (one.label, f"{one.num_train:,}", f"{one.num_valid:,}", f"{one.num_other:,}")
            for one in summary.classes
        ),
        ("total", f"{summary.num_train:,}", f"{summary.num_valid:,}", f"{summary.num_other:,}"),
    ]
    width = max(len(row[0]) for row in rows)
    columns = 3 if summary.num_other else 2
    lines = [
        "  ".join([name.ljust(width), *(cell.rjust(7) for cell in cells[:columns])])
        for name, *cells in rows
    ]
    return lines + [
        f"{one.label}: {one.least:.7g} to {one.most:.7g}, mean {one.mean:.4g}"
        for one in summary.numbers
    ]


def evaluation_lines(found: Evaluation) -> Iterator[str]:
    """Yield what an evaluation found: what was judged, metrics, each class, confusions, calibration, mistakes, unreadable files."""
    from vizsla.evaluate.calibration import reliability
    from vizsla.evaluate.interpret import most_confused
    from vizsla.evaluate.metrics import imbalance_lines, per_class

    yield from found.notes
    yield ""
    for metric in found.metrics:
        # Resamples that all give the same value say nothing about its range.
        known = metric.low < metric.high
        interval = (
            f"95 % interval {metric.low:.4f} to {metric.high:.4f}"
            if known
            else "interval not known"
        )
        yield f"{metric.name.replace('_', ' '):<28} {metric.value:.4f}   {interval}"
    yield from imbalance_lines(found.predictions, found.metrics)
    if found.predictions.task != "regression":
        scores = sorted(
            per_class(found.predictions), key=lambda score: (not score.support, score.recall)
        )
        width = max(len("class"), *(len(score.name) for score in scores))
        yield ""
        yield f"{'class':<{width}}  images  recall  precision      f1"
        for score in scores:
            yield f"{score.name:<{width}} {score.support:7,} {score.recall:7.1%} {score.precision:10.1%} {score.f1:7.3f}"
    pairs = most_confused(found.predictions)[:5] if found.predictions.task == "category" else []
    if pairs:
        yield ""
        yield from (
            f"{count:,} of {actual} taken for {predicted}" for actual, predicted, count in pairs
        )
    if found.predictions.task != "regression":
        yield ""
        yield "stated   right   95 % interval    answers"
        for one in reliability(found.predictions):
            yield f"{one.stated:6.1%}  {one.share_right:6.1%}  {one.low:6.1%} to {one.high:6.1%}  {one.num_answers:7,}"
    if mistakes := _mistakes(found):
        yield ""
        yield "Most wrong (--csv FILE has all images):"
        for one in mistakes:
            sure = f" ({one['probability']:.1%})" if "probability" in one else ""
            yield f"{one['path']}: {one['label'] or '(none)'}, predicted {one['prediction'] or '(none)'}{sure}"
    yield from (f"cannot be read: {path}: {cause}" for path, cause in found.unreadable)


def _mistakes(found: Evaluation) -> list[dict[str, object]]:
    """Return the images with the largest losses; of classes, only those that were predicted wrong."""
    from vizsla.evaluate.interpret import top_losses, worst_mistakes

    predictions = found.predictions
    of_classes = predictions.task != "regression"
    worst = (worst_mistakes if of_classes else top_losses)(predictions, _NUM_MISTAKES)
    shown = predictions.take(worst)
    sure = shown.confidence.tolist() if of_classes else []
    return [
        {
            "path": path,
            "label": shown.label(place),
            "prediction": shown.prediction(place),
            **({"probability": sure[place]} if of_classes else {}),
            "loss": loss,
        }
        for place, (path, loss) in enumerate(zip(shown.paths, shown.losses.tolist(), strict=True))
    ]


def evaluation_json(found: Evaluation) -> str:
    """Return the same as one JSON object in ASCII."""
    from vizsla.evaluate.calibration import reliability
    from vizsla.evaluate.metrics import per_class

    has_classes = found.predictions.task != "regression"
    bins = reliability(found.predictions) if has_classes else ()
    values = {
        "metrics": {metric.name: asdict(metric) for metric in found.metrics},
        "classes": [asdict(score) for score in per_class(found.predictions)] if has_classes else [],
        "reliability": list(map(asdict, bins)),
        "mistakes": _mistakes(found),
        "unreadable": dict(found.unreadable),
        "notes": list(found.notes),
    }
    return json.dumps(values)


def comparison_json(found: Comparison) -> str:
    """Return a comparison as one JSON object in ASCII, with its verdict."""
    verdict = {"can_be_told_apart": found.can_be_told_apart, "sentence": found.sentence}
    return json.dumps(asdict(found) | verdict)


def check_writable(path: Path, *, force: bool = False) -> None:
    """Raise OutputError, before anything is computed, if a file cannot be written, or exists and ``force`` was not given."""
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OutputError(f"Cannot write {path}: {what}. Choose another place.")
    check_not_of_run(path)
    if path.exists() and not force:
        raise OutputError(f"{path} exists. Choose another name, or replace it with --force.")


def free_path(path: Path, *, is_folder: bool = False) -> Path:
    """Return a path, or, after a line that says so, the next one with a number that is free."""
    stem, suffix = (path.name, "") if is_folder else (path.stem, path.suffix)
    numbered = (path.with_name(f"{stem}-{number}{suffix}") for number in count(2))
    free = next(
        each
        for each in chain([path], numbered)
        if not each.exists() or (each.is_dir() and not is_folder)
    )
    if free != path:
        say(f"{path} exists. The result goes to {free}.")
    return free


@contextmanager
def new_folder(folder: Path) -> Generator[None]:
    """Make a folder before anything is computed; it goes again if nothing was written to it.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder {folder}: {one_line(error)}. Choose another place."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # it has the results
            folder.rmdir()


def check_choices(choices: TrainConfig) -> None:
    """Raise ConfigError, before the images are read, if there is no such network or no such device, or neither."""
    from vizsla.models.names import resolve_architecture
    from vizsla.recipe.config import AUTO, TrainConfig

    arch = TrainConfig().arch if choices.arch == AUTO else choices.arch
    all_at_once(lambda: resolve_architecture(arch), lambda: check_device(choices.device))


def check_device(device: str) -> None:
    """Raise ConfigError, before anything is read, if there is no such device."""
    import torch

    is_there = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device not in is_there:
        raise ConfigError(
            f"--device is auto, cpu, cuda or mps. Received: {device}. To choose one of several GPUs, put CUDA_VISIBLE_DEVICES=1 before vizsla."
        )
    if not is_there[device]:
        raise ConfigError(
            f"This machine has no {device} device that torch can use. Leave --device out to take the best one there is."
        )


def as_json(value: object) -> str:
    """Return a dataclass of plain values as one JSON object in ASCII."""
    return json.dumps(asdict(value))  # pyright: ignore[reportArgumentType] (any dataclass)
