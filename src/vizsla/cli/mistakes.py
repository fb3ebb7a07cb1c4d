"""What new users type: words of other tools become vizsla's own, arguments in the wrong order are swapped, errors name the cure."""

# ruff: noqa: PTH110, PTH112, PTH113 (those of Path raise OSError where a name is too long)
from __future__ import annotations

import difflib
import re
from dataclasses import fields
from glob import glob, has_magic
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cyclopts import default_name_transform
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from vizsla.errors import ConfigError
from vizsla.paths import is_address
from vizsla.recipe.config import DataConfig, TrainConfig
from vizsla.run.folder import CONFIG, MODEL, run_of
from vizsla.text import joined, quoted, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App, ArgumentCollection, CycloptsError

OTHER_COMMANDS = {
    **dict.fromkeys(("fit", "finetune", "fine-tune", "learn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "eval", "test", "score"), "evaluate"),
    **dict.fromkeys(("classify", "infer", "inference"), "predict"),
    **dict.fromkeys(("lr-find", "lr-finder"), "find-lr"),
    **dict.fromkeys(("models", "list-models", "archs"), "list-archs"),
    "benchmark": "bench",
}
"""Commands of other tools."""
OTHER_OPTIONS = {
    "arch": ("model", "model-name", "architecture", "backbone", "network"),
    "bs": ("batch-size", "batch", "batchsize"),
    "size": ("imgsz", "img-size", "image-size", "img", "input-size"),
    "epochs": ("epoch", "num-epochs", "n-epochs", "max-epochs"),
    "lr": ("learning-rate", "lr0"),
    "workers": ("num-workers", "threads"),
    "out": ("output", "output-dir", "out-dir", "project", "save-dir"),
    "valid": ("val", "val-split", "valid-pct", "validation-split", "validation"),
    "precision": ("dtype",),
    "top": ("topk", "top-k"),
}
"""Options of other tools, by the option that means the same."""
MODEL_OPTIONS = ("model", "weights", "checkpoint", "run", "model-path")
DATA_OPTIONS = ("data", "source", "dataset", "images", "input", "path", "data-dir")
"""Options that stand for MODEL and for DATA or images where a command takes these by their place."""
DEVICES = {"gpu": "cuda", "0": "cuda"}


_SHORT_NAMES = {
    "batch_size": "bs",
    "learning_rate": "lr",
    "num_workers": "workers",
    "start_from": "from",  # a word of Python's own
}


def option_name(field: str) -> str:
    """Return the name of a configuration field on the command line."""
    return _SHORT_NAMES.get(field) or default_name_transform(field)


def own_words(app: App, words: Sequence[str]) -> list[str]:
    """Return what was typed with commands, options and ``name=value`` of other tools as vizsla's."""
    command = next((place for place, word in enumerate(words) if not word.startswith("-")), None)
    if command is None:
        return list(words)
    name = OTHER_COMMANDS.get(plain(words[command]), words[command])
    if name not in app or name.startswith("-"):
        return list(words)
    arguments = app[name].assemble_argument_collection(default_parameter=app.default_parameter)
    own = {each for one in arguments for each in one.names}
    models = MODEL_OPTIONS if name in ("evaluate", "predict", "embed", "serve", "export") else ()
    images = () if "--data" in own else DATA_OPTIONS
    first: list[str] = []  # MODEL
    found: list[str] = []
    last: list[str] = []  # DATA
    rest, before = list(words[command + 1 :]), ""
    while rest and rest[0] != "--":
        word = rest.pop(0)
        option, has_value, value = word.partition("=")
        is_bare = has_value and option.isidentifier() and not before.startswith("--")
        is_new = option not in own and (option.startswith("--") or is_bare)
        role, before = plain(option), word
        if is_new and role in (*models, *images):
            if not has_value:
                value = rest.pop(0) if rest else ""
            (first if role in models else last).append(value)
            continue
        meant = _own_option(role, own) if is_new else option
        if meant == "--arch" and role == "model" and "--from" in own:
            meant = "--from" if is_model(Path(value or "".join(rest[:1]))) else meant
        if found[-1:] == ["--device"]:
            meant = DEVICES.get(word, word)
        found.append(f"{meant or option}{has_value}{value}")
    return [*words[:command], name, *first, *found, *last, *rest]


def plain(word: str) -> str:
    """Return a command or option without hyphens in front, as options are written."""
    return word.lstrip("-").replace("_", "-").lower()


def _own_option(name: str, own: set[str]) -> str:
    """Return the option of a command that a name means, or nothing."""
    meant = (name, *(each for each, others in OTHER_OPTIONS.items() if name in others))
    return next((f"--{each}" for each in meant if f"--{each}" in own), "")


# --- MODEL, RUN and DATA ---


def is_model(path: Path) -> bool:
    """Whether a path is a model file or the folder of a run."""
    return isfile(path / MODEL) or (path.suffix == ".safetensors" and isfile(path))


def model_first(model: Path, *others: Path) -> tuple[Path, ...]:
    """Return MODEL and what follows it; if the last one is the model, and the first is not, they are swapped, after a line that says so."""
    if not others or is_model(model) or not is_model(others[-1]):
        return (model, *others)
    say(f"MODEL comes first: {others[-1]} is taken as the model.", err=True)
    return (others[-1], model, *others[:-1])


def model_file(model: Path) -> Path:
    """Return the model file of a run folder; any other path stays.

    Raises:
        ConfigError: It is a folder without a model, or a file of another kind.
    """
    if isdir(model):
        if not is_model(model):
            raise ConfigError(
                f"{quoted(model)} is a folder without a model. MODEL comes first and is the folder of a run, such as runs/pets, or "
                f"its {MODEL}; images come after it."
            )
        return model / MODEL
    if isfile(model) and model.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        raise ConfigError(
            f"{quoted(model)} is not a model file of vizsla, which ends in .safetensors. It was not opened. To begin a training with its weights: "
            f"vizsla train DATA --arch NAME --weights {model}"
        )
    if model.suffix == ".onnx":
        raise ConfigError(f"{quoted(model)} is an ONNX file. Give the model that it was made of.")
    return model


def run_folder(run: Path) -> Path:
    """Return the folder of a run, also where a file in it was given."""
    return run.parent if isfile(run) and isfile(run.parent / CONFIG) else run


def data_place(data: Path) -> Path:
    """Return DATA as a path that is there: ``~`` is the home folder, a pattern of all images in a folder is that folder, an archive on the web is downloaded.

    Raises:
        ConfigError: It is a model or a run, or a pattern of some images in a folder.
    """
    if is_model(data) or isfile(data / CONFIG):
        run = run_of(data)
        raise ConfigError(
            f"{quoted(data)} is a model or the folder of a run, and DATA is labelled images. To train further from it: vizsla train "
            f"DATA --from {run}. To train again with its settings: vizsla train --config {run / CONFIG}. To judge it: vizsla "
            f"evaluate {run} DATA"
        )
    address = str(data).replace(":/", "://", 1)
    if re.match(r"https?://.*\.(zip|tgz|tar|tar\.\w+)$", address):
        from vizsla.data.download import untar_data

        return untar_data(address)
    data = data if is_address(data) or exists(data) else data.expanduser()
    is_pattern = has_magic(str(data)) and data.suffix not in (".tar", ".parquet")
    if is_address(data) or exists(data) or not is_pattern:
        return data
    return _folder_of_pattern(data)


def _folder_of_pattern(pattern: Path) -> Path:
    """Return the folder whose images a pattern matches, all of them."""
    from vizsla.data.table.sources import get_image_files

    first = next(place for place, part in enumerate(pattern.parts) if has_magic(part))
    folder = Path(*pattern.parts[:first])
    matched = list(map(Path, glob(str(pattern), recursive=True)))  # noqa: PTH207 (patterns may be absolute)
    if not matched:
        raise ConfigError(
            f"Nothing matches {quoted(pattern)}. Give the folder that holds the images."
        )
    if len(matched) == 1 and matched[0].is_dir():
        return matched[0]
    inside = set(get_image_files(folder))
    some = {image for image in inside if {image, *image.parents} & {*matched}}
    if some != inside:
        raise ConfigError(
            f"{quoted(pattern)} matches {len(some):,} of the {len(inside):,} images in {quoted(folder)}. Give the folder, whose folders "
            "name the classes, or a CSV file that lists images and labels."
        )
    say(f"{pattern}: these are all images in {folder}.", err=True)
    return folder


def expanded(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return paths of images with quoted patterns and ``~`` replaced by what they stand for."""
    found: list[Path] = []
    for path in paths:
        if exists(path) or is_address(path):
            found.append(path)
            continue
        path = path.expanduser()
        matched = sorted(glob(str(path), recursive=True)) if has_magic(str(path)) else []  # noqa: PTH207
        found += map(Path, matched) if matched else [path]
    return tuple(found)


# --- errors ---


def check_numbers(arguments: ArgumentCollection) -> None:
    """Raise ConfigError if a word is not the number that its option takes; cyclopts itself rounds 1.5 to 2."""
    for argument in arguments:
        kinds = get_args(argument.hint) or (argument.hint,)
        choices = [word for kind in kinds for word in get_args(kind) if isinstance(word, str)]
        number = next((kind for kind in (int, float) if kind in kinds), None)
        if str in kinds or (number is None and not (bool in kinds and choices)):
            continue
        what = {int: "a whole number", float: "a number", None: "yes or no"}[number]
        for token in argument.tokens:
            value = str(token.value)
            if value and value.lower() not in choices and not _fits(value, number):
                wanted = ", ".join([*choices, what]).replace(", a ", " or a ")
                raise ConfigError(f"{argument.name} is {wanted}. Received: {value}")


def _fits(text: str, kind: type[float] | None) -> bool:
    if kind is None:
        return text.lower() in ("yes", "no", "true", "false", "on", "off", "y", "n", "1", "0")
    try:
        kind(text)
    except ValueError:
        return False
    return True


def usage_text(error: CycloptsError) -> str:
    """Return what is wrong with the words typed, and the cure."""
    chain = list(error.command_chain or ())
    name = " ".join(["vizsla", *chain])
    see = f"{name} --help lists the options."
    if isinstance(error, UnknownCommandError) and error.app is not None:
        typed = str((error.unused_tokens or [""])[0])
        commands = [each for each in error.app if not each.startswith("-")]
        near = difflib.get_close_matches(plain(typed), commands, n=1)
        meant = f" Did you mean vizsla {near[0]}?" if near else ""
        if exists(typed):
            meant = f" To train on these images: vizsla train {typed}."
        return f"There is no command {typed!r}.{meant} The commands are: {', '.join(commands)}."
    if isinstance(error, UnknownOptionError):
        option = str(error.token.keyword or error.token.value).partition("=")[0]
        if error.token.source != "cli":
            return f"{error.token.source} names {option}, and {name} has no such option. Leave it out. {see}"
        names = [each for one in error.argument_collection for each in one.names]
        near = difflib.get_close_matches(option, names, n=1, cutoff=0.65)
        meant = f" Did you mean {near[0]}?" if near else ""
        return f"{name} has no option {option}.{meant} {see}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        what = error.keyword or error.argument.name
        if what.startswith("-") and (error.keyword or error.argument.tokens):
            return f"{what} needs a value: {what} VALUE. {see}"
        usage = "" if error.app is None else str(error.app.usage)
        return f"{name} needs {what}. {usage}"
    if isinstance(error, UnusedCliTokensError):
        left = joined([quoted(each) for each in error.unused_tokens or ()], limit=3)
        return f"{name} cannot use {left}: too many words. Put names with spaces in quotes. {see}"
    if isinstance(error, CoercionError):
        return re.sub(r'"([^"]*)"', r"\1", str(error).strip())
    return str(error).strip()


def in_options(text: str) -> str:
    """Return the message of an error with the names of options for those of arguments in Python, and without classes of errors."""
    names = [each.name for config in (TrainConfig, DataConfig) for each in fields(config)]
    # Where a clause begins; elsewhere the word may be another's, as in "Parquet file size is 4 bytes".
    pattern = rf"(?:^|(?<=[.:,] )|(?<= and )|(?<=\n))(?<!in Python )({'|'.join(names)})(?= is | must be )|(?<![\w\-.'/(])({'|'.join(names)})(?==)"
    text = re.sub(pattern, lambda found: f"--{option_name(found[1] or found[2])}", text)
    text = re.sub(r"\b[A-Z]\w*(?:Error|Exception): |\[Errno \d+\] ", "", text)
    return text.replace("True or False", "yes or no")
