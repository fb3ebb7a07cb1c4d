"""``python -m tests.fuzz.run TARGET [OPTIONS OF LIBFUZZER]``: feed a target with inputs that reach new branches."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from itertools import chain
from pathlib import Path

import atheris  # pyright: ignore[reportMissingModuleSource] (only where it can be installed)

with atheris.instrument_imports(  # pyright: ignore[reportAttributeAccessIssue]
    include=["vizsla", "PIL", "starlette", "python_multipart"]
):
    from tests.fuzz.targets import MOST_BYTES, TARGETS, kept_seeds


def main() -> None:
    """Fuzz until the options say stop, or something is raised that should not be."""
    warnings.simplefilter(
        "ignore"
    )  # Pillow and the parser of forms warn of what they read, a thousand times a second.
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[sys.argv[1]](Path(folder))
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for number, seed in enumerate(chain(target.seeds(), kept_seeds(sys.argv[1]))):
            (seeds / str(number)).write_bytes(seed)
        options = [f"-max_len={MOST_BYTES}", "-rss_limit_mb=3000", "-timeout=60", *sys.argv[2:]]
        mutators = {"custom_mutator": target.mutate} if hasattr(target, "mutate") else {}
        atheris.Setup([sys.argv[0], *options, str(seeds)], target, **mutators)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
