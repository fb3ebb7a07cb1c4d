"""What is known about a finished run in; one HTML file out that needs nothing else, ever.

The page holds its pictures as ``data:`` addresses and has no script. A Content-Security-Policy forbids everything but
those pictures and the one style sheet inside, which it names by its hash, so even a hostile file name loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, DataError, MissingExtraError
from vizsla.evaluate.interpret import least_certain, worst_mistakes
from vizsla.evaluate.metrics import accuracy
from vizsla.files import atomic_write
from vizsla.report import charts, sections
from vizsla.report.texts import printable

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment
    from markupsafe import Markup

    from vizsla.evaluate.metrics import Metric
    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.types import PictureTable

NUM_CARDS = 12
NUM_CONFUSED_PAIRS = 10
NUM_CONFUSED_PAIRS_ALONE = 30
NUM_SKIPPED = 100
NUM_OPEN_ROWS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """Everything that a report shows.

    Attributes:
        title: Heading of the page.
        facts: (name, value): what was trained on what, with which recipe and versions.
        history: One point per epoch, over all stages.
        metrics: Numbers with intervals, as ``summarise`` gives them.
        references: (name, accuracy 0-1) of published results on the same data; may be empty.
        predictions: What the final classifier said about the validation pictures.
        table: The table that ``predictions.rows`` point into.
        notes: Sentences to show at the end.

    Raises:
        ConfigError: A reference is not a share 0-1, or a row of the predictions is not in the table.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    history: tuple[HistoryPoint, ...]
    metrics: tuple[Metric, ...]
    references: tuple[tuple[str, float], ...]
    predictions: Predictions
    table: PictureTable
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.references:
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"The accuracy of the reference {name!r} must be a share from 0 to 1. Received: {value}"
                )
        rows = self.predictions.rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.table.paths):
            raise ConfigError(
                f"The predictions must come from the table of the report, which has rows 0..{len(self.table.paths) - 1}. "
                f"Received: rows {int(rows.min())}..{int(rows.max())}"
            )


def write_report(path: Path, *, content: ReportContent) -> Path:
    """Write the report as one HTML file, whole or not at all.

    Args:
        path: File to write; its folder must exist, an old file is replaced at the end.
        content: What to show. Pictures are read from the table's paths; one that cannot be read any more gets a
            placeholder.

    Returns:
        The path.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OutputError: The file cannot be written; an old one is untouched.
    """
    page = render_report(content)
    # Lone surrogates are escaped while rendering; this keeps a forgotten one from losing the whole report.
    with atomic_write(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return path


def render_report(content: ReportContent) -> str:
    """Return the page as text; the same content gives the same text.

    Args:
        content: What to show.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    environment = _environment()
    from markupsafe import Markup

    # Read apart from the templates: the hash is over exactly these characters.
    style = (files("vizsla.report") / "templates" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template("page.html").render(
        style=Markup(style), style_hash=f"sha256-{digest}", **_values(content)
    )


def _values(content: ReportContent) -> dict[str, object]:
    """Return what the templates print, by the names that they use."""
    predictions, table = content.predictions, content.table
    try:
        metric = accuracy(predictions)
    except DataError:  # nothing has a label; the page says so
        metric = None
    matrix = sections.matrix_rows(predictions) if metric else ()
    return {
        "title": content.title,
        "facts": content.facts,
        "notes": content.notes,
        "headline": sections.headline(predictions, metric=metric) if metric else None,
        "scale": charts.accuracy_scale(metric, references=content.references) if metric else None,
        "panels": charts.learning_curves(content.history),
        "history": sections.history_rows(content.history),
        "metrics": sections.metric_rows(content.metrics),
        "classes": sections.class_rows(predictions) if metric else (),
        "vocab": predictions.vocab,
        "matrix": matrix,
        "pairs": sections.confused_pairs(
            predictions, limit=NUM_CONFUSED_PAIRS if matrix else NUM_CONFUSED_PAIRS_ALONE
        ),
        "mistakes": sections.cards(
            predictions, table=table, positions=worst_mistakes(predictions, NUM_CARDS)
        ),
        "num_mistakes": len(worst_mistakes(predictions)),
        "uncertain": sections.cards(
            predictions, table=table, positions=least_certain(predictions, NUM_CARDS)
        ),
        "skipped": [
            (_shown(path, root=table.root), cause) for path, cause in table.skipped[:NUM_SKIPPED]
        ],
        "num_skipped": len(table.skipped),
        "not_known": sections.NOT_KNOWN,
        "num_open_rows": NUM_OPEN_ROWS,
    }


def _shown(path: Path, *, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _environment() -> Environment:
    """Return a jinja environment that escapes everything and refuses unknown names."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError(
            "jinja2", extra="report", purpose="write the report page"
        ) from error
    environment = Environment(
        loader=PackageLoader("vizsla.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalise,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _finalise(value: object) -> object:
    """Make every printed text safe to look at; what is already markup (the style sheet) passes unchanged."""
    return printable(value) if type(value) is str else value


def _breakable(name: str) -> Markup:
    """Return a path or class name, escaped, that may break after its slashes, underscores and hyphens."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[/_-])(?=[^/_-])", printable(name))
    return Markup("<wbr>").join(escape(part) for part in parts)
