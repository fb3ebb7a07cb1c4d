"""Look at a data set before it is trained on, and say what is wrong with it, what gives the classes away, and what would help.

One pass reads the files (``traits.py``), one computes the features of a frozen network; everything else follows from these
two. A head is fitted on the features with exact leave-one-out (``recipe/head_fit.py``), so that every label is judged by a
head that has not seen it. Nothing is changed, moved or deleted.

Shapes: N images, D features, C classes, K neighbours.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vizsla.auditing.shortcuts import (
    TELLING,
    Cue,
    Grouping,
    drawn_places,
    find_grouping,
    probe,
    probe_cues,
)
from vizsla.auditing.traits import FAULTS, read_traits
from vizsla.data.images.near_duplicates import GreyImages, find_near_duplicates
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.table.check import paths_with_causes
from vizsla.data.table.fixes import write_fixes
from vizsla.errors import DataError
from vizsla.evaluate.label_errors import LabelNoise, Suspect, label_noise
from vizsla.evaluate.statistics import normal_quantile, wilson_interval
from vizsla.files import atomic_write
from vizsla.infer.neighbours import nearest
from vizsla.infer.run import extract_features, table_predictions
from vizsla.recipe.config import TrainConfig
from vizsla.recipe.features_first import (
    SHARES,
    cache_for,
    fit_size,
    load_network,
    loaders_for,
    pooling_classifier,
)
from vizsla.recipe.head_fit import (
    FeatureLayout,
    HeadFit,
    default_setting,
    fit_feature_head,
)
from vizsla.seeding import generator
from vizsla.text import counted, joined, percent_range, percent_text, quoted, valid_unicode
from vizsla.train.display import Bars, Display
from vizsla.train.step import resolve_precision
from vizsla.types import Fix, is_labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vizsla.auditing.traits import Traits
    from vizsla.evaluate.predictions import Predictions
    from vizsla.recipe.head_fit import FitOptions
    from vizsla.types import Batch, ImageTable

Severity = Literal["mend", "look", "know"]
"""mend: training suffers from it; look: a person has to decide; know: a fact about the data."""

NUM_NEIGHBOURS = 5
FAR = 3.5
"""Robust standard deviations of the logarithm of the distance to the nearest images (Iglewicz and Hoaglin, "How to detect and
handle outliers", 1993, who recommend 3.5)."""
USUAL = 0.3
"""What more than this share of the images has is a trait of the data, not a fault of an image."""
FEW_IMAGES = 10
"""Of a class: fewer leave its accuracy unknown by 30 per cent and more."""
UNEQUAL = 10.0
LITTLE_NOISE = 0.02
"""Share of wrong labels that hardly costs accuracy."""
CONTRADICTED = 0.1
"""Probability of a label below which the network contradicts it."""
LEARNT_INSTEAD = (
    "The network may learn this instead of the object. Make it the same for all classes, or test "
    "on images from another source."
)
MOST_MASKED = 600
MASKED_SHARE = 0.6
"""Of each side, in the centre, that is hidden when the surroundings alone are judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image of a finding.

    Attributes:
        row: Of the table.
        reason: Why it is here, in words.
        suggestion: The class that it probably is, or empty.
        score: How sure that is, 0-1; 1 where there is no doubt.
        related: Rows of images that explain it: duplicates, or the most similar images.
    """

    row: int
    reason: str
    suggestion: str = ""
    score: float = 1.0
    related: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: Short name, the same in ``issues.csv``.
        severity: See ``Severity``.
        title: What was found, one sentence with its figure.
        advice: What to do about it.
        items: The images concerned, surest first; empty where it is about all of them.
    """

    kind: str
    severity: Severity
    title: str
    advice: str
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MoreData:
    """What twice as many images would bring.

    Attributes:
        points: (images, leave-one-out accuracy) on growing parts.
        num_images: Of the prediction.
        accuracy: Predicted.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    points: tuple[tuple[int, float], ...]
    num_images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Audit:
    """The results of an audit of a data set.

    Attributes:
        table: The images.
        findings: What was found, most serious first.
        rows: int64 ``(N,)``, rows that were examined.
        left_out: Leave-one-out predictions: those of heads fitted without the image; None if images do not have one class each.
        noise: Estimated share of wrong labels; None as before.
        cues: How well classes can be predicted from something other than the object.
        grouping: Groups that a random split would divide; None if there are none.
        more_data: None where the accuracy does not depend on the number of images.
        network: Name of the frozen network.
        seconds: How long it took.

    Examples:
        >>> found = audit("pets")
        >>> print(found)
        >>> [item.suggestion for item in found.suspects]
        >>> found.save("pets-audit")
    """

    table: ImageTable
    findings: tuple[Finding, ...]
    rows: Tensor
    left_out: Predictions | None = None
    noise: LabelNoise | None = None
    cues: tuple[Cue, ...] = ()
    grouping: Grouping | None = None
    more_data: MoreData | None = None
    network: str = ""
    seconds: float = 0.0

    @property
    def suspects(self) -> tuple[Item, ...]:
        """The images whose label is probably wrong, most likely first."""
        return tuple(item for each in self.findings if each.kind == "label" for item in each.items)

    @property
    def fixes(self) -> tuple[Fix, ...]:
        """The suggested class of each suspect, to be reviewed before training uses them (``fixes=``, ``--fixes``)."""
        return tuple(
            Fix(
                path=self.table.shown_path(item.row),
                action="relabel",
                label=item.suggestion,
                why=item.reason,
            )
            for item in self.suspects
        )

    def __str__(self) -> str:
        """Return a line for each finding, gravest first."""
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield a line for each finding, gravest first, each with its first images."""
        for each in self.findings:
            yield f"{each.severity:<5} {each.title}"
            if each.items:
                shown = [self._shown(item) for item in each.items[:3]]
                more = len(each.items) - len(shown)
                yield f"      {'; '.join(shown)}{f' and {more:,} more' if more else ''}"
            yield f"      {each.advice}"

    def _shown(self, item: Item) -> str:
        rather = f" ({self.table.label(item.row)} -> {item.suggestion}?)" if item.suggestion else ""
        return quoted(self.table.shown_path(item.row)) + rather

    def to_dict(self) -> dict[str, object]:
        """Return everything but images and features, as ``audit.json`` holds it."""
        return {
            "num_images": len(self.rows),
            "network": self.network,
            "seconds": round(self.seconds, 1),
            "accuracy": None
            if self.left_out is None
            else float(self.left_out.correct.float().mean()),
            "noise_rate": None
            if self.noise is None
            else [self.noise.rate, self.noise.low, self.noise.high],
            "cues": [asdict(cue) | {"explained": cue.explained} for cue in self.cues],
            "grouping": None if self.grouping is None else asdict(self.grouping),
            "more_data": None if self.more_data is None else asdict(self.more_data),
            "unreadable": paths_with_causes(self.table.root, self.table.skipped),
            "findings": [
                {
                    **{
                        name: getattr(each, name)
                        for name in ("kind", "severity", "title", "advice")
                    },
                    "images": [self._image(item) for item in each.items],
                }
                for each in self.findings
            ],
        }

    def _image(self, item: Item) -> dict[str, object]:
        path = self.table.shown_path
        return {
            "path": path(item.row),
            "label": self.table.label(item.row),
            "suggestion": item.suggestion,
            "score": round(item.score, 4),
            "reason": item.reason,
            "related": [path(row) for row in item.related],
        }

    def save(self, folder: Path | str) -> Path:
        """Write ``audit.html``, ``audit.json``, ``issues.csv`` (a row for each image of a finding) and ``fixes.csv`` into a folder.

        ``fixes.csv`` has the suggestion for each suspected label, so no row where there are none.

        Raises:
            OutputError: A file cannot be written; an old one is untouched.
            MissingExtraError: jinja2 is not installed.
        """
        from vizsla.auditing.page import render_audit
        from vizsla.report.build import write_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        for name, content in (("audit.json", text), ("issues.csv", self._csv())):
            with atomic_write(folder / name) as temporary:
                temporary.write_text(valid_unicode(content), encoding="utf-8", newline="")
        write_fixes(folder / "fixes.csv", self.fixes)
        return write_page(folder / "audit.html", render_audit(self))

    def _csv(self) -> str:
        written = io.StringIO()
        columns = ["path", "kind", "label", "suggestion", "score", "reason", "related"]
        rows = csv.DictWriter(written, columns, lineterminator="\n")
        rows.writeheader()
        for each in self.findings:
            for item in each.items:
                image = self._image(item)
                related = ";".join(map(str, image.pop("related")))  # pyright: ignore[reportArgumentType] (a list)
                rows.writerow({**image, "kind": each.kind, "related": related})
        return written.getvalue()


def audit(
    data: ImageTable | DataLoaders | Path | str,
    *,
    labels: str = "auto",
    config: TrainConfig | None = None,
    display: Display | None = None,
) -> Audit:
    """Find problems in labelled images; nothing is changed.

    Args:
        data: A folder, a CSV file, loaders, or a table.
        labels: Where labels come from, in the words of ``vizsla train --labels``; for a folder or a file.
        config: Network, size, seed and device; the number of epochs and the rate are not used. None is all defaults.
        display: Where to show progress; None is the screen.

    Returns:
        What was found. For images with several labels, numbers or no label, checks that need one class per image are skipped.

    Raises:
        DataError: The data cannot be read as labelled images, or fewer than two images can be read.
        WeightsError: The weights of the network cannot be found.
    """
    started = time.monotonic()
    config = TrainConfig() if config is None else config
    display = Display() if display is None else display
    table = _table_of(data, labels=labels, seed=config.seed)
    backbone = load_network(config)
    config, notes = fit_size(config, backbone)
    for line in notes:
        display.line(line)
    cache = cache_for(table, config=config)
    loaders = loaders_for(table, config=config, cache=cache)
    table = loaders.table  # it has the depth of 16-bit images
    asked = torch.cat([table.train_rows, table.valid_rows]).sort().values
    with Bars(display) as bars, GreyImages(len(asked)) as greys:
        every = read_traits(
            table,
            asked,
            reader=loaders.reader,
            greys=greys,
            num_workers=config.num_threads,
            on_progress=lambda done: bars.move("reading files", done, len(asked)),
        )
        readable = torch.tensor([one is not None for one in every], dtype=torch.bool)
        rows, traits = asked[readable], [one for one in every if one is not None]
        if len(rows) < 2:
            raise DataError(
                "An audit compares images, so at least two must be readable. Readable: "
                f"{counted(len(rows), 'image')} of {len(asked):,}. vizsla check says what is "
                "wrong with each."
            )
        classifier, pooling, layout = pooling_classifier(loaders, backbone)
        precision = resolve_precision(config.precision, device=loaders.device)

        def features_of(
            some: Tensor, label: str, change: Callable[[Batch], Batch] | None = None
        ) -> Tensor:
            """Return pooled features of some rows, float32 ``(N, D)``."""
            batches = loaders.loader_for(some).batches()
            found = extract_features(
                classifier,
                batches if change is None else (change(batch) for batch in batches),
                head=pooling,
                precision=precision,
                on_progress=lambda done: bars.move(label, done, len(some)),
            )
            return found.values[:, 0]

        features_ND = features_of(rows, "features")
        look = _Look(
            table=table,
            rows=rows,
            traits=traits,
            features_ND=features_ND,
            layout=layout,
            seed=config.seed,
        )
        found = [
            *_unreadable(asked[~readable]),
            *_duplicates(look, greys.of(readable)),
            *_image_faults(look),
        ]
        audited = Audit(table=table, findings=(), rows=rows, network=backbone.spec.name)
        if table.task == "category":
            judged = _judge(look, on_progress=bars.move)
            if judged is not None:
                masked = partial(features_of, label="surroundings alone", change=_without_centre)
                audited, more = _of_classes(look, judged, audited, masked, on_progress=bars.move)
                found += more
        found += _far_away(look)
    order = {"mend": 0, "look": 1, "know": 2}
    return replace(
        audited,
        findings=tuple(sorted(found, key=lambda each: order[each.severity])),
        seconds=time.monotonic() - started,
    )


def _table_of(data: ImageTable | DataLoaders | Path | str, *, labels: str, seed: int) -> ImageTable:
    from vizsla.data.table.from_words import resolve_data

    if isinstance(data, DataLoaders):
        return data.table
    return resolve_data(data, labels=labels, seed=seed) if isinstance(data, str | Path) else data


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Look:
    """The images that are looked at, N rows of a table, with what is known of each."""

    table: ImageTable
    rows: Tensor
    traits: Sequence[Traits]
    features_ND: Tensor
    layout: FeatureLayout
    seed: int

    @property
    def targets(self) -> Tensor:
        return self.table.targets[self.rows]

    @property
    def fit_options(self) -> FitOptions:
        """What is the same for every head that is fitted on them."""
        return {"layout": self.layout, "num_classes": len(self.table.vocab), "seed": self.seed}

    def last_stage(self) -> Tensor:
        return self.layout.last_stage(self.features_ND)


def _unreadable(rows: Tensor) -> Iterator[Finding]:
    if len(rows):
        yield Finding(
            kind="unreadable",
            severity="mend",
            title=f"{counted(len(rows), 'file')} cannot be read.",
            advice="Repair or remove them; vizsla check says what is wrong with each.",
            items=tuple(Item(row=row, reason="cannot be read") for row in rows.tolist()),
        )


def _duplicates(look: _Look, greys: GreyImages) -> Iterator[Finding]:
    """Yield groups of images that are nearly the same: with different labels, across the sets, within a set."""
    table = look.table
    held_out = set(table.valid_rows.tolist())
    by_kind: defaultdict[str, list[Item]] = defaultdict(list)
    for group in find_near_duplicates(table, look.rows, look.last_stage(), greys=greys):
        first, *others = group.rows
        labels = {table.label(row) for row in group.rows} - {""}
        sets = {row in held_out for row in group.rows}
        kind = (
            "contradiction" if len(labels) > 1 else "across sets" if len(sets) > 1 else "duplicate"
        )
        kinds = list(dict.fromkeys(each.kind for each in group.relations))
        likeness = min(each.likeness for each in group.relations)
        by_kind[kind].append(
            Item(row=first, reason=joined(kinds, limit=3), score=likeness, related=tuple(others))
        )
    words: dict[str, tuple[Severity, str, str]] = {
        "contradiction": ("mend", "exact or near duplicates with different labels", "At most one of the labels is right. Decide in fixes.csv: relabel or drop."),
        "across sets": ("mend", "exact or near duplicates in both training and validation", "They inflate the measured accuracy. Drop one of each, or split with --group auto."),
        "duplicate": ("know", "exact or near duplicates", "They weigh more than other images in training; --group auto keeps them on one side of the split."),
    }  # fmt: skip
    for kind, (severity, what, advice) in words.items():
        if items := by_kind[kind]:
            number = sum(1 + len(item.related) for item in items)
            yield Finding(
                kind=kind,
                severity=severity,
                title=f"{counted(number, 'image')} in {counted(len(items), 'group')}: {what}.",
                advice=advice,
                items=tuple(sorted(items, key=lambda item: -item.score)),
            )


def _image_faults(look: _Look) -> Iterator[Finding]:
    for name, meaning, is_so in FAULTS:
        rows = [row for row, one in zip(look.rows.tolist(), look.traits, strict=True) if is_so(one)]
        if not rows:
            continue
        usual = len(rows) > USUAL * len(look.traits)
        share = (
            f"{percent_text(len(rows) / len(look.traits))} of the images are"
            if usual
            else f"{counted(len(rows), 'image is', 'images are')}"
        )
        yield Finding(
            kind=name,
            severity="know" if usual else "look",
            title=f"{share} {name}: {meaning}.",
            advice="This is typical of the data set, so nothing needs doing."
            if usual
            else "Drop the images that nobody could label.",
            items=() if usual else tuple(Item(row=row, reason=meaning) for row in rows),
        )


def _far_away(look: _Look) -> Iterator[Finding]:
    """Yield images that are like no other image to the network."""
    features_ND = look.last_stage()
    count = min(NUM_NEIGHBOURS + 1, len(features_ND))
    near = nearest(features_ND, features_ND, count=count)
    distances = torch.tensor(
        [
            sum(1 - similarity for place, similarity in found if place != own) / max(1, count - 1)
            for own, found in enumerate(near)
        ]
    ).clamp_min(1e-6)
    logs_N = distances.double().log()
    centre = logs_N.median()
    spread = 1.4826 * (logs_N - centre).abs().median().clamp_min(1e-6)
    z_N = (logs_N - centre) / spread
    places = [place for place in z_N.argsort(descending=True).tolist() if z_N[place] > FAR]
    if places:
        items = [
            Item(
                row=int(look.rows[place]),
                reason=f"{float(z_N[place]):.1f} robust standard deviations from the nearest images",
                score=1 - math.exp(-float(z_N[place]) / FAR),
                related=tuple(int(look.rows[other]) for other, _ in near[place] if other != place)[
                    :3
                ],
            )
            for place in places
        ]
        yield Finding(
            kind="outlier",
            severity="look",
            title=f"{counted(len(items), 'image is', 'images are')} unlike all others.",
            advice="Check that they belong to one of the classes; drop those that do not.",
            items=tuple(items),
        )


def _judge(
    look: _Look, *, on_progress: Callable[[str, int, int], None]
) -> tuple[HeadFit, Tensor] | None:
    """Return the best head and the places, int64, of the images that it was fitted on; None without two labelled classes."""
    places = is_labelled(look.targets).nonzero()[:, 0]
    if len(places) < 2 or len(look.targets[places].unique()) < 2:
        return None
    values, targets = look.features_ND[places][:, None], look.targets[places]
    on_progress("judging labels", 0, 1)
    setting = default_setting(look.layout, num_rows=len(values))
    fit = fit_feature_head(values, targets, setting=setting, **look.fit_options)
    on_progress("judging labels", 1, 1)
    return fit, places


def _of_classes(
    look: _Look,
    judged: tuple[HeadFit, Tensor],
    audited: Audit,
    masked: Callable[[Tensor], Tensor],
    *,
    on_progress: Callable[[str, int, int], None],
) -> tuple[Audit, list[Finding]]:
    """Return what needs one class for each image, and add it to the audit."""
    fit, places = judged
    table, vocab = look.table, look.table.vocab
    places = places[fit.sample]
    rows, targets = look.rows[places], look.targets[places]
    left_out = table_predictions(table, rows=rows, logits=fit.left_out, targets=targets)
    noise = label_noise(left_out)
    findings = [*_labels(look, left_out, places, noise), *_class_sizes(look), *_confused(left_out)]

    steps = 3
    on_progress("shortcuts", 0, steps)
    cues = probe_cues(
        [look.traits[place] for place in places.tolist()], targets, vocab=vocab, seed=look.seed
    )
    chosen = drawn_places(len(places), most=MOST_MASKED, seed=look.seed, purpose="masked")
    surroundings_ND = masked(rows[chosen])
    columns = look.layout.columns(fit.setting.stages, fit.setting.statistics)
    cue = probe(
        "the surroundings",
        surroundings_ND[:, columns],
        targets[chosen],
        vocab=vocab,
        seed=look.seed,
    )
    on_progress("shortcuts", 1, steps)
    findings += [*shortcut_findings(cues), *_surroundings(cue, left_out)]
    grouping = find_grouping(
        [table.shown_path(row) for row in rows.tolist()],
        look.features_ND[places],
        targets,
        setting=fit.setting,
        **look.fit_options,
    )
    on_progress("shortcuts", 2, steps)
    if grouping is not None:
        findings.append(
            Finding(
                kind="groups",
                severity="mend",
                title=(
                    "Images with similar names look alike: accuracy is "
                    f"{percent_text(grouping.accuracy)} when groups such as "
                    f"{quoted(grouping.example)} are split between training and validation, "
                    f"{percent_text(grouping.grouped_accuracy)} when they stay together."
                ),
                advice="Keep groups on one side of the split, or the measured accuracy is too high: "
                f"--group 'regex:{grouping.pattern}'",
            )
        )
    more_data = _more_data(look, fit, places)
    on_progress("shortcuts", steps, steps)
    if more_data is not None:
        now = more_data.points[-1][1]
        more = more_data.low > now
        findings.append(
            Finding(
                kind="more data",
                severity="know",
                title=(
                    f"Accuracy is {percent_text(now)} with {more_data.points[-1][0]:,} images; "
                    "twice as many like these would bring it to "
                    f"{percent_range(more_data.low, more_data.high)}."
                ),
                advice="Collect more images."
                if more
                else "It is uncertain whether more images of the same kind would help.",
            )
        )
    if cue is not None:
        cues = (*cues, cue)
    return replace(
        audited, left_out=left_out, noise=noise, cues=cues, grouping=grouping, more_data=more_data
    ), findings


def _labels(
    look: _Look, left_out: Predictions, places: Tensor, noise: LabelNoise | None
) -> Iterator[Finding]:
    if noise is None:
        return
    features_ND = look.last_stage()

    def items_of(suspects: Sequence[Suspect]) -> tuple[Item, ...]:
        asked = places[[each.position for each in suspects]]
        near = nearest(features_ND[asked], features_ND, count=NUM_NEIGHBOURS + 1)
        items: list[Item] = []
        for each, place, found in zip(suspects, asked.tolist(), near, strict=True):
            others = [int(look.rows[other]) for other, _ in found if other != place][
                :NUM_NEIGHBOURS
            ]
            suggestion = left_out.vocab[each.suggestion]
            agree = sum(look.table.label(row) == suggestion for row in others)
            items.append(
                Item(
                    row=int(look.rows[place]),
                    reason=(
                        f"{percent_text(each.probability)} {suggestion}, {percent_text(each.label_probability)} as labelled; "
                        f"{agree} of the {len(others)} most similar images are {suggestion}"
                    ),
                    suggestion=suggestion,
                    score=each.wrong,
                    related=tuple(others),
                )
            )
        return tuple(items)

    if noise.suspects:
        yield label_finding(noise, items=items_of(noise.suspects))
    if confused := [each for each in noise.confused if each.label_probability < CONTRADICTED]:
        yield Finding(
            kind="confused",
            severity="know",
            title=(
                f"{counted(len(confused), 'other label is', 'other labels are')} contradicted by "
                "the network, but no more than its usual confusions explain."
            ),
            advice="If similar classes are mislabelled, those images are among them.",
            items=items_of(confused),
        )


def label_finding(noise: LabelNoise, *, items: tuple[Item, ...] = ()) -> Finding:
    """Return how many labels are suspected, and how many of all may be wrong."""
    rate = f"{percent_text(noise.rate)} ({percent_range(noise.low, noise.high)})"
    return Finding(
        kind="label",
        severity="mend" if noise.low > LITTLE_NOISE else "look",
        title=(
            f"{counted(len(noise.suspects), 'label is', 'labels are')} probably wrong; an "
            f"estimated {rate} of all labels are."
        ),
        advice="Review them with vizsla label DATA; or delete the rows of fixes.csv that you disagree with, and train with --fixes.",
        items=items,
    )


def _class_sizes(look: _Look) -> Iterator[Finding]:
    counts = torch.bincount(
        look.targets[is_labelled(look.targets)], minlength=len(look.table.vocab)
    ).tolist()
    named = sorted(zip(counts, look.table.vocab, strict=True))
    few = [f"{quoted(name)} ({count})" for count, name in named if count < FEW_IMAGES]
    if few:
        yield Finding(
            kind="few images",
            severity="look",
            title=f"{counted(len(few), 'class has', 'classes have')} fewer than {FEW_IMAGES} images: {joined(few, limit=8)}.",
            advice="That is too few to measure their accuracy. Add images, or leave the classes out.",
        )
    if named[0][0] and named[-1][0] >= UNEQUAL * named[0][0]:
        yield Finding(
            kind="imbalance",
            severity="know",
            title=f"Classes are imbalanced: {quoted(named[-1][1])} has {named[-1][0]:,} images, "
            f"{quoted(named[0][1])} {named[0][0]:,}.",
            advice="Use balanced accuracy as the measure; --balance gives rare classes more weight.",
        )


def _confused(left_out: Predictions) -> Iterator[Finding]:
    """Yield pairs of classes that are told apart no better than by naming the more frequent one."""
    logits_NC, targets_N = left_out.logits, left_out.targets
    predicted_N = left_out.predicted
    wrong_N = predicted_N != targets_N
    pairs = {
        tuple(sorted(pair))
        for pair in zip(targets_N[wrong_N].tolist(), predicted_N[wrong_N].tolist(), strict=True)
    }
    alike: list[str] = []
    for one, other in sorted(pairs):
        both_N = (targets_N == one) | (targets_N == other)
        is_one_N = targets_N[both_N] == one
        sizes = int(is_one_N.sum()), int((~is_one_N).sum())
        right = int(((logits_NC[both_N, one] > logits_NC[both_N, other]) == is_one_N).sum())
        if min(sizes) >= FEW_IMAGES and wilson_interval(right, sum(sizes))[0] <= max(sizes) / sum(
            sizes
        ):
            alike.append(
                f"{quoted(left_out.vocab[one])} and {quoted(left_out.vocab[other])} ({percent_text(right / sum(sizes))})"
            )
    if alike:
        yield Finding(
            kind="indistinct classes",
            severity="look",
            title="The network separates "
            f"{counted(len(alike), 'pair of classes', 'pairs of classes')} no better than "
            f"chance: {joined(alike, limit=6)}.",
            advice="Check that the difference is visible at this image size; try a larger --size, "
            "merge the classes, or check their labels.",
        )


def shortcut_findings(cues: Sequence[Cue]) -> Iterator[Finding]:
    """Yield the cues from which many classes follow, or one class does."""
    for cue in cues:
        if cue.explained >= TELLING:
            yield Finding(
                kind="shortcut",
                severity="mend" if cue.explained >= 0.5 else "look",
                title=(
                    f"From {cue.name} alone {percent_text(cue.accuracy)} "
                    f"({percent_range(cue.low, cue.high)}) of the images are classified "
                    f"correctly; by chance {percent_text(cue.chance)}."
                ),
                advice=LEARNT_INSTEAD,
            )
        elif cue.given_away is not None:
            name, share, others = cue.given_away
            yield Finding(
                kind="shortcut",
                severity="look",
                title=(
                    f"{quoted(name)} can be recognised from {cue.name} alone: "
                    f"{percent_text(share)} of its images are, and {percent_text(others)} of "
                    "other images are mistaken for it."
                ),
                advice=LEARNT_INSTEAD,
            )


def _surroundings(surroundings: Cue | None, left_out: Predictions) -> Iterator[Finding]:
    if surroundings is None:
        return
    whole = int(left_out.correct.sum()) / len(left_out.rows)
    if surroundings.high >= whole and surroundings.explained >= TELLING:
        yield Finding(
            kind="shortcut",
            severity="look",
            title=(
                f"With the centre hidden, {percent_text(surroundings.accuracy)} "
                f"({percent_range(surroundings.low, surroundings.high)}) of the images are still "
                f"classified correctly; of whole images, {percent_text(whole)}."
            ),
            advice="The background gives away as much as the object: test on images with other "
            "backgrounds.",
        )


def _without_centre(batch: Batch) -> Batch:
    """Return a batch of which the centre of each image is its mean colour."""
    images = batch.images.clone()
    height, width = images.shape[-2:]
    down, across = (round(side * (1 - MASKED_SHARE) / 2) for side in (height, width))
    mean = images.mean(dim=(-2, -1), keepdim=True)
    images[..., down : height - down, across : width - across] = mean
    return replace(batch, images=images)


def _more_data(look: _Look, fit: HeadFit, places: Tensor) -> MoreData | None:
    """Extrapolate the leave-one-out error by a power law of the number of images; None with too few images to fit one.

    Hestness et al., "Deep learning scaling is predictable, empirically", 2017; least squares, weighted by how well each error
    is known.
    """
    order = places[torch.randperm(len(places), generator=generator(look.seed, "shares"))]
    points: list[tuple[int, int]] = []
    for share in SHARES:
        part = order[: round(share * len(order))].sort().values
        targets = look.targets[part]
        if len(part) < FEW_IMAGES or len(targets.unique()) < 2:
            continue
        some = fit
        if share < 1:
            values = look.features_ND[part][:, None]
            some = fit_feature_head(values, targets, setting=fit.setting, **look.fit_options)
        points.append((len(part), int((some.left_out.argmax(1) == targets).sum())))
    if len(points) < 3:
        return None
    numbers = torch.tensor([float(number) for number, _ in points], dtype=torch.float64)
    # Half a mistake more than there are: the logarithm of no mistake is not known.
    errors = torch.tensor(
        [number - right + 0.5 for number, right in points], dtype=torch.float64
    ) / (numbers + 1)
    weights = (
        errors * numbers / (1 - errors).clamp_min(1e-3)
    )  # 1 / variance of the logarithm of the error
    design = torch.stack([torch.ones_like(numbers), numbers.log()], dim=1)
    covariance = torch.linalg.inv(design.T @ (weights[:, None] * design))
    line = covariance @ design.T @ (weights * errors.log())
    at = torch.tensor([1.0, math.log(2 * points[-1][0])], dtype=torch.float64)
    half = normal_quantile() * float((at @ covariance @ at).sqrt())
    middle = float(at @ line)
    return MoreData(
        points=tuple((number, right / number) for number, right in points),
        num_images=2 * points[-1][0],
        accuracy=1 - min(1.0, math.exp(middle)),
        low=1 - min(1.0, math.exp(middle + half)),
        high=1 - min(1.0, math.exp(middle - half)),
    )
