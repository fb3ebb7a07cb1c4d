"""Write the report of a run: one offline HTML file that needs nothing else, ever.

The page holds its images as ``data:`` addresses. A Content-Security-Policy forbids everything but those images, the one
style sheet and the one script (which sorts tables) inside, both named by their hash: even a hostile file name loads and runs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, MissingExtraError
from vizsla.evaluate.interpret import confusion_matrix, least_certain, worst_mistakes
from vizsla.evaluate.metrics import imbalance_lines, measure, per_class
from vizsla.files import atomic_write
from vizsla.infer.mistakes import Evidence, explained_positions
from vizsla.report import cards, charts, tables
from vizsla.report.cards import BUDGET_BYTES, Album
from vizsla.report.slices import slice_findings
from vizsla.text import duration_text, percent_range, percent_text, printable, valid_unicode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jinja2 import Environment
    from markupsafe import Markup

    from vizsla.evaluate.metrics import Metric
    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.types import ImageTable

NONE = "\u2013"
"""Stands in for a missing number."""
NUM_CARDS = 12
NUM_CONFUSED_PAIRS = 10
NUM_CONFUSED_PAIRS_ALONE = 30
NUM_SUSPECTS = 12
NUM_DUPLICATES = 12
NUM_SKIPPED = 100
NUM_OPEN_ROWS = 50
LARGEST_MATRIX = 40
"""Classes; a larger confusion matrix could not be read."""
NUM_SHADES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """Everything that a report shows.

    Attributes:
        title: Heading of the page.
        facts: (name, value): what was trained on what, with which recipe and versions.
        history: One point per epoch, over all stages.
        metrics: As ``summarise`` gives them.
        references: (name, accuracy 0-1) of published results on the same data.
        predictions: What the final classifier said about the validation images.
        table: The table that ``predictions.rows`` point into.
        notes: Sentences to show at the end.
        evidence: What explains the mistakes, if anything.
        data: (finding, advice) of what training found out about its data on the way; None if it did not look.
        temperature: What the model file divides logits by; None where it is not known.
        commands: (what it does, command) for the reader to type next.

    Raises:
        ConfigError: A reference is not a share 0-1, or a row of the predictions is not in the table.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    history: tuple[HistoryPoint, ...]
    metrics: tuple[Metric, ...]
    references: tuple[tuple[str, float], ...]
    predictions: Predictions
    table: ImageTable
    notes: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    data: tuple[tuple[str, str], ...] | None = None
    temperature: float | None = None
    commands: tuple[tuple[str, str], ...] = ()

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
    """Write the report as one HTML file, whole or not at all, and return its path.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OutputError: The file cannot be written; an old one is untouched.
    """
    return write_page(path, render_report(content))


def write_page(path: Path, page: str) -> Path:
    """Write a page, whole or not at all, and return its path."""
    # Lone surrogates are escaped while rendering; this keeps a forgotten one from losing the whole page.
    with atomic_write(path) as temporary:
        temporary.write_bytes(valid_unicode(page).encode())
    return path


def render_report(content: ReportContent) -> str:
    """Return the page as text; the same content gives the same text."""
    return render_page("page.html", **_values(content))


def render_page(template: str, **values: object) -> str:
    """Return a page from one of the templates, with the style sheet and the script of all pages."""
    environment = _environment()
    from markupsafe import Markup

    # Read apart from the templates: the hashes are over exactly these characters.
    style, script = (
        (files("vizsla.report") / "templates" / name).read_text(encoding="utf-8")
        for name in ("style.css", "sort.js")
    )
    return environment.get_template(template).render(
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        **values,
    )


def _hash(text: str) -> str:
    """Return the name that a Content-Security-Policy has for a style sheet or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _values(content: ReportContent) -> dict[str, object]:
    """Return what the templates print, by the names that they use."""
    predictions, table, evidence = content.predictions, content.table, content.evidence
    measured = bool(content.metrics) and bool(predictions.labelled.any())
    has_classes = measured and predictions.task != "regression"
    metrics = [tables.metric_row(metric) for metric in content.metrics]
    values: dict[str, object] = {
        "title": content.title,
        "facts": content.facts,
        "data": content.data,
        "notes": content.notes,
        "commands": content.commands,
        "label_command": next((c for _, c in content.commands if c.startswith("vizsla label")), ""),
        "task": predictions.task,
        "vocab": predictions.vocab,
        "first": metrics[0] if measured else None,
        "scale": None,
        "panels": charts.learning_curves(content.history),
        "history": content.history,
        "metrics": metrics,
        "interval_methods": tables.interval_methods(content.metrics),
        "classes": (),
        "calibration": charts.calibration_of(predictions, kept=content.temperature),
        "slices": slice_findings(predictions, evidence.valid_facts) if has_classes else None,
        "skipped": [
            (_shown(path, root=table.root), cause) for path, cause in table.skipped[:NUM_SKIPPED]
        ],
        "num_skipped": len(table.skipped),
        "num_train": len(table.train_rows),
        "num_train_facts": 0 if evidence.train_facts is None else len(evidence.train_facts.rows),
        "looked_at_training_labels": evidence.left_out is not None,
        "dash": NONE,
        "not_known": tables.NOT_KNOWN,
        "num_open_rows": NUM_OPEN_ROWS,
    }
    if has_classes:
        # The class that is found least comes first; classes without images come last.
        values["classes"] = sorted(
            per_class(predictions), key=lambda score: (score.support == 0, score.recall)
        )
    if measured and content.metrics[0].name == "accuracy":
        supports = Counter(predictions.targets[predictions.labelled].tolist())
        most_frequent = min(supports, key=lambda index: (-supports[index], index))
        num_labelled = supports.total()
        name, share = predictions.vocab[most_frequent], supports[most_frequent] / num_labelled
        baseline = (f"Always answering {printable(name)}", round(share, 3))
        values |= {
            "scale": charts.accuracy_scale(
                content.metrics[0], references=content.references or (baseline,)
            ),
            "num_correct": int(predictions.correct.sum()),
            "num_labelled": num_labelled,
            "imbalance": imbalance_lines(predictions, content.metrics),
            "most_frequent": (name, share) if content.references else None,
        }
    return values | _galleries(content, has_classes=has_classes)


def _galleries(content: ReportContent, *, has_classes: bool) -> dict[str, object]:
    """Return everything with images. What comes first gets its images first where there are too many for the page."""
    predictions, table, evidence = content.predictions, content.table, content.evidence
    album = Album(BUDGET_BYTES)
    worst = explained_positions(predictions, NUM_CARDS)
    mistakes = cards.mistake_cards(predictions, worst, evidence=evidence, table=table, album=album)
    uncertain: list[cards.Card] = []
    if predictions.task != "regression":
        positions = least_certain(predictions, NUM_CARDS)
        uncertain = cards.cards(predictions, positions, table=table, album=album)
    suspects, num_suspects = cards.suspect_cards(
        predictions, left_out=evidence.left_out, table=table, album=album, limit=NUM_SUSPECTS
    )
    duplicates = cards.duplicate_cards(
        predictions, evidence=evidence, table=table, album=album, limit=NUM_DUPLICATES
    )
    twins = [each.position for each in evidence.duplicates]
    others = predictions.labelled.clone()
    others[twins] = False
    without: Metric | None = None
    if twins and content.metrics and bool(others.any()):
        without = measure(predictions.take(others), content.metrics[0].name)
    confusions: list[cards.Confusion] = []
    matrix: list[list[int]] = []
    if has_classes and predictions.task == "category":
        confusions = cards.confusions(predictions, table=table, album=album)
        if len(predictions.vocab) <= LARGEST_MATRIX:
            matrix = confusion_matrix(predictions).tolist()
    groups = [confusion for confusion in confusions if confusion.cards]
    return {
        "mistakes": mistakes,
        "num_mistakes": len(worst_mistakes(predictions)) if has_classes else len(mistakes),
        "has_heat": any(card.heat for card in mistakes),
        "has_neighbours": any(card.neighbours for card in mistakes),
        "uncertain": uncertain,
        "suspects": suspects,
        "num_suspects": num_suspects,
        "duplicates": duplicates,
        "num_duplicates": len(twins),
        "without_twins": without and tables.metric_row(without),
        "num_without_twins": int(others.sum()),
        "matrix": matrix,
        "pairs": confusions[: NUM_CONFUSED_PAIRS if matrix else NUM_CONFUSED_PAIRS_ALONE],
        "groups": groups,
        "anchors": {group.anchor for group in groups},
        "num_linked": sum(group.count for group in groups),
    }


def _shown(path: Path, *, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def check_report_installed() -> None:
    """Raise MissingExtraError if jinja2 is not installed."""
    if find_spec("jinja2") is None:
        raise MissingExtraError("jinja2", extra="report", purpose="write the report page")


def _environment() -> Environment:
    """Return a jinja environment that escapes everything and refuses unknown names."""
    check_report_installed()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vizsla.report"),
        autoescape=True,
        undefined=StrictUndefined,
        # Every printed text is safe to look at; what is already markup (the style sheet) passes unchanged.
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "breakable": _breakable,
        "percent": percent_text,
        "known_percent": lambda share: "" if share is None else percent_text(share),
        "percent_range": lambda ends: percent_range(*ends),
        "loss": lambda value: NONE if value is None else f"{value:.4f}",
        "duration": duration_text,
        "shade": _shade,
    }
    environment.filters.update(filters)
    return environment


def _breakable(name: str) -> Markup:
    """Return a path or class name, escaped, that may break after its slashes, underscores and hyphens."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[/_-])(?=[^/_-])", printable(name))
    return Markup("<wbr>").join(escape(part) for part in parts)


def _shade(share: float, is_right: bool) -> str:
    """Return the style class of a cell of the matrix; mistakes are few, so a square root makes small shares visible."""
    strength = share if is_right else share**0.5
    return f"{'right' if is_right else 'wrong'}-{max(1, round(NUM_SHADES * strength))}"
