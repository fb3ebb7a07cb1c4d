"""The command line: words typed in a terminal become calls of the public functions.

Results go to standard output, errors to standard error. Exit codes: 0 done, 2 the input was wrong (one message says how), 130
stopped by Ctrl-C, 143 by SIGTERM. Heavy modules are imported inside the commands, so that ``--help`` answers at once. A new
command is a function in ``training.py`` or ``models.py`` and a line in ``COMMANDS``; a new option of training is a field of
``TrainConfig``.
"""

from __future__ import annotations

import sys
import tomllib
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App, Parameter
from cyclopts.config import Dict

from vizsla import __version__
from vizsla.cli.mistakes import check_numbers, option_name, own_words
from vizsla.cli.models import compare, embed, evaluate, export, predict, serve, verify
from vizsla.cli.terminal import reported_errors, sigterm_as_ctrl_c
from vizsla.cli.training import (
    audit,
    bench,
    check,
    demo,
    find_lr,
    label,
    list_archs,
    pack,
    report,
    show_cache,
    train,
)
from vizsla.errors import ConfigError
from vizsla.run.folder import locate_data

if TYPE_CHECKING:
    from cyclopts import ArgumentCollection

COMMANDS = {
    "demo": (demo, "[OPTIONS]"),
    "train": (train, "DATA [OPTIONS]"),
    "find-lr": (find_lr, "DATA [OPTIONS]"),
    "check": (check, "DATA [OPTIONS]"),
    "audit": (audit, "DATA [OPTIONS]"),
    "label": (label, "DATA [OPTIONS]"),
    "pack": (pack, "DATA OUT [OPTIONS]"),
    "evaluate": (evaluate, "MODEL DATA [OPTIONS]"),
    "compare": (compare, "RUN RUN [OPTIONS]"),
    "predict": (predict, "MODEL IMAGES... [OPTIONS]"),
    "embed": (embed, "MODEL IMAGES... --out FILE [OPTIONS]"),
    "cache": (show_cache, "[OPTIONS]"),
    "serve": (serve, "MODEL [OPTIONS]"),
    "export": (export, "MODEL --onnx FILE [OPTIONS]"),
    "verify": (verify, "FILE [OPTIONS]"),
    "report": (report, "RUN [OPTIONS]"),
    "bench": (bench, "[DATA] [OPTIONS]"),
    "list-archs": (list_archs, "[WORD]"),
}
"""The function of each command, and what follows its name."""


def shown_default(value: object) -> object:
    """Return a default as the help shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in ("", ()) else value


def read_config(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Apply ``--config FILE`` to every option that was not typed, and refuse what is no number where one is wanted."""
    check_numbers(arguments)
    given = [argument.tokens for argument in arguments if "--config" in argument.names]
    if not given or not given[0]:
        return
    file = Path(given[0][0].value)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read --config {file}: {error}. Give the config.toml of a run folder, or a TOML file like it."
        ) from error
    typed = [
        argument.tokens[0].value
        for argument in arguments
        if "--data" in argument.names and argument.tokens
    ]
    if typed or "data" in values:
        data, labels = locate_data(values, file.parent, Path(typed[0]) if typed else None)
        values |= {"data": str(data), "labels": labels}
    if values.get("fixes"):
        values["fixes"] = str(file.parent / str(values["fixes"]))
    values.pop("data_from_here", None)
    options = {option_name(name): value for name, value in values.items()}
    Dict({commands[0]: options}, source=str(file))(app, commands, arguments)


app = App(
    name="vizsla",
    help="Turn a folder of labelled images into a strong, honest image classifier.",
    version=f"vizsla {__version__}",
    version_flags="--version",
    help_flags=("--help", "-h"),
    help_epilogue="--debug, anywhere, shows the whole traceback of an error.",
    default_parameter=Parameter(
        negative_bool=(),  # --no-... is for the choices of a training
        negative_iterable=(),
        name_transform=option_name,
        show_default=shown_default,
        allow_repeating=True,  # the last one counts, as a script that adds to given words expects
    ),
    config=read_config,
    result_action="return_value",
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
for number, (name, (command, usage)) in enumerate(COMMANDS.items()):
    app.command(command, name=name, sort_key=number, usage=f"Usage: vizsla {name} {usage}")
app.register_install_completion_command()


def main() -> None:
    """Run the command line and end the process with its exit code."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    # File and class names need not be valid Unicode, and a terminal may lack their letters; escapes are shown instead.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    command = next((word for word in words if word in COMMANDS), "")
    doing = f"running vizsla {command}".rstrip()
    with sigterm_as_ctrl_c(), reported_errors(doing=doing, debug=debug):
        app(own_words(app, [word for word in words[:end] if word != "--debug"] + words[end:]))
    sys.exit(0)
