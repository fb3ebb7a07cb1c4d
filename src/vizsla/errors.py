"""Every error that vizsla raises on purpose; each message says what, where, what was received, what to do.

    VizslaError
    ├── DataError              the pictures, labels or splits that were given cannot be used
    │   ├── PictureError       one or more picture files cannot be read
    │   ├── LabelError         a label is missing, unknown, or cannot be taken from a name
    │   └── TableError         a CSV or DataFrame lacks a column, or a row of it is unusable
    ├── ConfigError            an argument or option has a value that cannot work
    ├── WeightsError           pretrained weights cannot be found, fetched or matched
    ├── ModelFileError         a model file is damaged, foreign, or newer than this version
    ├── OutputError            a result cannot be written; what was there before is untouched
    ├── TrainingError          training cannot go on (non-finite loss, nothing to train on)
    └── MissingExtraError      an optional dependency is not installed

The command line prints the message alone and exits with code 2; ``--debug`` adds the traceback.
"""

from __future__ import annotations


class VizslaError(Exception):
    """Base of all errors that vizsla raises on purpose."""


class DataError(VizslaError):
    """The pictures, labels or splits that were given cannot be used."""


class PictureError(DataError):
    """One or more picture files cannot be read."""


class LabelError(DataError):
    """A label is missing, unknown, or cannot be taken from a file name."""


class TableError(DataError):
    """A CSV file or DataFrame lacks a column, or one of its rows is unusable."""


class ConfigError(VizslaError, ValueError):
    """An argument or option has a value that cannot work."""


class WeightsError(VizslaError):
    """Pretrained weights cannot be found, fetched or matched to the network."""


class ModelFileError(VizslaError):
    """A model file is damaged, not one of ours, or newer than this version of vizsla."""


class OutputError(VizslaError):
    """A result cannot be written. Whatever was at that place before is untouched."""


class TrainingError(VizslaError):
    """Training cannot start or cannot go on."""


class MissingExtraError(VizslaError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: The package that could not be imported.
        extra: The vizsla extra that brings it.
        purpose: What it is needed for, as it ends the sentence "... is needed to".
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"The package {package!r} is needed to {purpose} and is not installed. "
            f'Install it with: pip install "vizsla[{extra}]"'
        )
