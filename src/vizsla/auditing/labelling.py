"""Go through the labels of images one by one: what to look at next, what it probably is, and what was decided, kept in a file.

A head is fitted on the labels so far, in closed form with exact leave-one-out, after every few decisions (``recipe/head_fit.py``).
Labelled images come up where their labels are suspected (``evaluate/label_errors.py``). Of the others those come first that the
head would learn most from: uncertain (Lewis and Gale, "A sequential algorithm for training text classifiers", SIGIR 1994), like many
others (information density: Settles and Craven, EMNLP 2008), unlike those before them, and of a class that has few.

Every decision is in the file of fixes before it counts, so that whatever ends the process loses none.

Shapes: N images, D features, C classes that have labels.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vizsla.data.images.reader import ImageReader
from vizsla.data.table.check import find_unreadable
from vizsla.data.table.fixes import positions_of_fixes, read_fixes, take_back, write_fixes
from vizsla.data.table.labels import class_texts
from vizsla.errors import ConfigError, DataError, OutputError
from vizsla.evaluate.label_errors import Suspect, label_noise
from vizsla.evaluate.predictions import Predictions
from vizsla.evaluate.statistics import wilson_interval
from vizsla.files import atomic_write
from vizsla.infer.neighbours import evenly_spread, nearest
from vizsla.infer.run import extract_features
from vizsla.paths import ImagePaths
from vizsla.recipe.features_first import (
    cache_for,
    fit_size,
    load_network,
    loaders_for,
    pooling_classifier,
)
from vizsla.recipe.head_fit import (
    NUM_LANDMARKS_OF_MANY,
    FeatureLayout,
    default_setting,
    fit_feature_head,
)
from vizsla.text import counted, joined, percent_text, quoted, valid_unicode
from vizsla.train.display import Bars, Display
from vizsla.train.step import resolve_precision
from vizsla.types import LONGEST_CLASS_NAME, Fix, ImageTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vizsla.data.table.labels import LabelledImages
    from vizsla.recipe.config import TrainConfig
    from vizsla.recipe.head_fit import FitOptions

Action = Literal["label", "keep", "drop"]
"""What a person says of an image: it is of this class; its label is right; it does not belong here."""
View = Literal["todo", "doubtful", "decided", "all"]
"""Images to go through: suspected labels, then images without one; labels that the network contradicts, as it often does; those
that somebody decided on, the latest first; all."""

NUM_NEIGHBOURS = 5
MOST_COMPARED = 2000
"""Images that density is measured against: 20,000 images take 2 s on one core."""
MOST_COVERED = 1000
MOST_ORDERED = 64
"""Unlabelled images that are put in order before the next fit; the others follow by their own worth."""
WHY = "decided on the label page"


class ConflictError(DataError):
    """Somebody else has decided on an image since it was shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Accuracy after some labels: how many images have one, how many of them are right when left out, and the 95 % interval."""

    num_labels: int
    num_right: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """What the head says after its last fit.

    Attributes:
        classes: The C classes that it knows.
        probabilities: float32 ``(N, C)``; of images that it was fitted on, by the head that was fitted without them.
        suspects: Suspected labels by position, the surest first.
        doubtful: Other labels that it contradicts, least probable first.
        unlabelled: Positions of images without a label, the most instructive first.
        accuracy: None before two classes have labels.
    """

    classes: tuple[str, ...] = ()
    probabilities: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    suspects: dict[int, Suspect] = field(default_factory=dict[int, Suspect])
    doubtful: dict[int, Suspect] = field(default_factory=dict[int, Suspect])
    unlabelled: tuple[int, ...] = ()
    accuracy: Point | None = None


class Labelling:
    """Images, what was decided about them, and what a head that is fitted on it suggests; several threads may use it.

    Attributes:
        shown: The path of each image as fixes name it.
        given: The class that the data says, or empty.
        file: The file of fixes.
        revision: Grows with every change.
        history: The accuracy after each fit.
        num_elsewhere: Fixes of the file that are about no image here.

    Args:
        images: As ``images_to_label`` returns them, without those that cannot be read.
        num_own: How many of them belong to the data; those after them are added by their fixes.
        features: Of each image by a frozen network, float32 ``(N, D)``.
        layout: What their columns are.
        file: Fixes that are there count, and decisions are appended; its folder must exist.
        classes: Names of classes to begin with, besides those of the data and of the file.
        seed: For the choice of landmarks.

    Raises:
        TableError: What is in the file is not fixes.
        OutputError: It cannot be written.
        ConfigError: A name cannot be that of a class.
    """

    def __init__(
        self,
        images: LabelledImages,
        *,
        num_own: int,
        features: Tensor,
        layout: FeatureLayout,
        file: Path,
        classes: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.images = images
        self.file = file
        self.given = [text or "" for text in class_texts(images.labels)]
        self.shown = [images.shown_path(position) for position in range(num_own)]
        self.shown += map(valid_unicode, ImagePaths.of(images.paths).chosen(range(num_own, len(images.paths))).texts())  # fmt: skip
        self.revision = 0
        self.history: list[Point] = []
        self._num_own = num_own
        self._features_ND = features
        self._layout = layout
        self._close_ND = layout.last_stage(features)
        self._density_N = _density(self._close_ND)
        self._seed = seed
        self._lock = threading.RLock()
        self._judged = Judged(unlabelled=tuple(range(len(self.shown))))
        self._log: list[tuple[int, Fix]] = []
        self._fixes: dict[int, list[Fix]] = {}
        fixes = sorted(read_fixes(file) if file.exists() else (), key=lambda fix: fix.seconds)
        positions = positions_of_fixes(images, fixes)
        self.num_elsewhere = positions.count(None)
        for position, fix in zip(positions, fixes, strict=True):
            if position is not None:
                self._note(position, fix)
        found = sorted({*self.given} - {""})
        known = [*found, *_read_names(self._names_file), *(fix.label for _, fix in self._log if fix.gives_label)]  # fmt: skip
        self._classes = list(dict.fromkeys(known))
        for name in classes:
            self.add_class(name)

    # --- what is decided ---

    @property
    def _names_file(self) -> Path:
        return self.file.with_name(f"{self.file.stem}.classes.txt")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of their keys: those of the data, sorted, then new ones as they were named."""
        return tuple(self._classes)

    @property
    def names_new_classes(self) -> bool:
        """Whether labels were given that no image of the data has, though others have labels."""
        known = {*self.given} - {""}
        return bool(known and {*self.class_counts()} - known)

    @property
    def num_decided(self) -> int:
        """Images that somebody decided on."""
        with self._lock:
            return sum(map(self.is_decided, self._fixes))

    @property
    def latest(self) -> tuple[int, str] | None:
        """Position and version of the last decision, which is the first to be undone; None if there is none."""
        position = self._log[-1][0] if self._log else None
        return (
            None
            if position is None or not self.is_decided(position)
            else (position, self.version(position))
        )

    def label(self, position: int) -> str:
        """Return the class of an image as decided, else as the data says; empty where it has none or is dropped."""
        fix = self.fix(position)
        if fix is None or fix.action == "keep":
            return self.given[position]
        return fix.label if fix.gives_label else ""

    def class_counts(self) -> Counter[str]:
        """Return how many images have each class now."""
        counts = Counter(self.given)
        with self._lock:
            for position in self._fixes:
                counts[self.given[position]] -= 1
                counts[self.label(position)] += 1
        del counts[""]
        return +counts

    def fix(self, position: int) -> Fix | None:
        """Return the fix of an image that counts."""
        fixes = self._fixes.get(position)
        return fixes[-1] if fixes else None

    def is_decided(self, position: int) -> bool:
        """Return whether somebody decided on an image; a fix without a date, as an audit writes it, is a suggestion."""
        return bool(self.version(position))

    def version(self, position: int) -> str:
        """Return what changes whenever something is decided of an image: the time of the last decision, or empty."""
        fix = self.fix(position)
        return "" if fix is None else fix.when

    def add_class(self, name: str) -> str:
        """Name a class, if it is new, and return its name without blanks around it.

        Raises:
            ConfigError: It cannot be the name of a class.
            OutputError: It cannot be written down.
        """
        name = valid_unicode(name).strip()
        if not name or len(name) > LONGEST_CLASS_NAME or not name.isprintable():
            raise ConfigError(
                f"A class name has 1 to {LONGEST_CLASS_NAME:,} printable characters. Received: "
                f"{name[:40]!r}"
            )
        with self._lock:
            if name not in self._classes:
                # An unused name is in no fix, and the order decides which key means which class.
                with atomic_write(self._names_file) as temporary:
                    lines = [*self._classes, name]
                    temporary.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
                self._classes.append(name)
                self.revision += 1
        return name

    def decide(self, position: int, action: Action, *, label: str = "", version: str) -> None:
        """Write a decision down; one that is as it was changes nothing.

        Args:
            position: Of the image.
            action: What was decided.
            label: The class, one of ``classes``, where the action is ``"label"``.
            version: That of the image when it was shown.

        Raises:
            ConflictError: It has another one now.
            ConfigError: There is no such class, or no label to keep.
            OutputError: The decision cannot be written; it does not count then.
        """
        with self._lock:
            fix = self._made(position, action, label)
            before = self.fix(position)
            if before and before.when and (before.action, before.label) == (fix.action, fix.label):
                return
            if version != self.version(position):
                raise ConflictError(
                    f"{quoted(self.shown[position])} has been decided in the meantime: "
                    f"{self.decision(position)}."
                )
            write_fixes(self.file, [fix], append=True)
            self._note(position, fix)
            self.revision += 1

    def undo(self, position: int, *, version: str) -> None:
        """Take the last decision about an image back, which is that of this version; what was decided before counts again.

        Raises:
            ConflictError: The last one is another.
            DataError: It is not in the file any more.
            OutputError: The file cannot be written.
        """
        with self._lock:
            fix = self.fix(position)
            if fix is None or not version or version != fix.when:
                raise ConflictError(
                    f"{quoted(self.shown[position])} has been decided in the meantime: "
                    f"{self.decision(position)}."
                )
            take_back(self.file, fix)
            self._fixes[position].pop()
            self._log.remove((position, fix))
            self.revision += 1

    def decision(self, position: int) -> str:
        """Return what was decided of an image, in words."""
        fix = self.fix(position)
        if fix is None:
            return "nothing"
        return {"keep": "keep its label", "drop": "drop it"}.get(fix.action, fix.label)

    def _made(self, position: int, action: Action, label: str) -> Fix:
        if action == "label" and label not in self._classes:
            raise ConfigError(f"There is no class {label!r}. Add the class first.")
        if action == "keep" and not self.given[position]:
            raise ConfigError(
                f"{quoted(self.shown[position])} has no label to keep. Choose a class, or drop it."
            )
        if action == "label" and label == self.given[position]:
            action, label = "keep", ""
        now = datetime.now(UTC)
        if (
            self._log and self._log[-1][1].when
        ):  # no two decisions have one version, whatever the clock does
            latest = datetime.fromtimestamp(self._log[-1][1].seconds, UTC)
            now = max(now, latest + timedelta(microseconds=2))
        return Fix(
            path=self.shown[position],
            action=action
            if action != "label"
            else "relabel"
            if position < self._num_own
            else "add",
            label=label if action == "label" else "",
            why=WHY,
            when=now.isoformat(),
        )

    def _note(self, position: int, fix: Fix) -> None:
        self._fixes.setdefault(position, []).append(fix)
        self._log.append((position, fix))

    # --- what the head says ---

    @property
    def judged(self) -> Judged:
        """What the head says after its last fit."""
        return self._judged

    def fit(self) -> int:
        """Fit the head on the labels as they are now, and return the revision that it knows."""
        with self._lock:
            revision = self.revision
            labels = [self.label(position) for position in range(len(self.shown))]
            dropped = {p for p in self._fixes if (fix := self.fix(p)) and fix.action == "drop"}
        places = torch.tensor([p for p, label in enumerate(labels) if label], dtype=torch.int64)
        counts = Counter(filter(None, labels))
        without = [p for p, label in enumerate(labels) if not label and p not in dropped]
        if len(counts) < 2:
            order = self._order(without, places, torch.zeros(len(labels), 0), [])
            judged = Judged(unlabelled=order)
        else:
            judged = self._judge(labels, places, counts, without)
        with self._lock:
            self._judged = judged
            if judged.accuracy is not None and (not self.history or judged.accuracy != self.history[-1]):  # fmt: skip
                self.history.append(judged.accuracy)
            self.revision += 1
        return revision

    def _judge(
        self,
        labels: Sequence[str],
        places: Tensor,
        counts: Counter[str],
        without: Sequence[int],
    ) -> Judged:
        classes = tuple(sorted(counts))
        targets = torch.tensor([classes.index(labels[place]) for place in places.tolist()])
        values = self._features_ND[places][:, None]
        options: FitOptions = {"layout": self._layout, "num_classes": len(classes), "seed": self._seed}  # fmt: skip
        fit = fit_feature_head(
            values,
            targets,
            setting=default_setting(self._layout, num_rows=len(places)),
            num_landmarks=NUM_LANDMARKS_OF_MANY,
            **options,
        )
        columns = self._layout.columns(fit.setting.stages, fit.setting.statistics)
        with torch.inference_mode():
            logits_NC = fit.head.classify(self._features_ND[:, columns])
        logits_NC = logits_NC.clone()
        fitted = places[fit.sample]
        logits_NC[fitted] = fit.left_out
        left_out = Predictions(
            rows=fitted,
            paths=tuple(self.shown[place] for place in fitted.tolist()),
            logits=fit.left_out,
            targets=targets[fit.sample],
            vocab=classes,
        )
        noise = label_noise(left_out)
        right = int(left_out.correct.sum())
        low, high = wilson_interval(right, len(fitted))
        probabilities_NC = logits_NC.softmax(1)

        def by_position(suspects: Sequence[Suspect]) -> dict[int, Suspect]:
            return {int(fitted[each.position]): each for each in suspects}

        return Judged(
            classes=classes,
            probabilities=probabilities_NC,
            suspects={} if noise is None else by_position(noise.suspects),
            doubtful={} if noise is None else by_position(noise.confused),
            unlabelled=self._order(
                without, places, probabilities_NC, [counts[name] for name in classes]
            ),
            accuracy=Point(num_labels=len(fitted), num_right=right, low=low, high=high),
        )

    def _order(
        self,
        without: Sequence[int],
        places: Tensor,
        probabilities_NC: Tensor,
        counts: Sequence[int],
    ) -> tuple[int, ...]:
        """Return the positions of images without a label, the most instructive first; see ``instructive_order``."""
        rows = torch.tensor(list(without), dtype=torch.int64)
        known = places[torch.tensor(evenly_spread(range(len(places)), most=MOST_COVERED), dtype=torch.int64)]  # fmt: skip
        order = instructive_order(
            self._close_ND[rows],
            density=self._density_N[rows],
            probabilities=probabilities_NC[rows],
            counts=counts,
            known=self._close_ND[known],
        )
        return tuple(rows[order].tolist())

    def queue(self, view: View) -> list[int]:
        """Return the positions of a view in the order in which to look at them."""
        with self._lock:
            latest = dict.fromkeys(position for position, _ in reversed(self._log))
            if view == "decided":
                return list(filter(self.is_decided, latest))
            if view == "all":
                return list(range(len(self.shown)))
            suggested = [position for position in reversed(latest) if self.fix(position)]
            order = {
                "todo": [*suggested, *self._judged.suspects, *self._judged.unlabelled],
                "doubtful": [*self._judged.doubtful],
            }[view]
            return [position for position in dict.fromkeys(order) if not self.is_decided(position)]

    def suggestion(self, position: int) -> tuple[str, float]:
        """Return the class that an image probably is and its probability, 0-1; empty before the head knows any."""
        judged = self._judged
        if not judged.classes:
            return "", 0.0
        best = judged.probabilities[position].max(0)
        return judged.classes[int(best.indices)], float(best.values)

    def reason(self, position: int) -> str:
        """Return why an image is in the queue, in words; empty where it is not."""
        fix = self.fix(position)
        if fix is not None and not fix.when:
            return fix.why
        suspect = self._judged.suspects.get(position) or self._judged.doubtful.get(position)
        if suspect is None:
            return ""
        said = f"{percent_text(suspect.probability)} {self._judged.classes[suspect.suggestion]}"
        return f"{said}, {percent_text(suspect.label_probability)} as labelled"

    def neighbours(self, positions: Sequence[int]) -> list[list[int]]:
        """Return for each image the positions of the labelled ones that are most like it; of any, while there are too few."""
        with self._lock:
            known = [p for p in range(len(self.shown)) if self.label(p)]
        if len(known) <= NUM_NEIGHBOURS:
            known = list(range(len(self.shown)))
        rows = torch.tensor(known)
        asked = self._close_ND[torch.tensor(list(positions), dtype=torch.int64)]
        near = nearest(asked, self._close_ND[rows], count=NUM_NEIGHBOURS + 1)
        return [
            [known[other] for other, _ in found if known[other] != position][:NUM_NEIGHBOURS]
            for position, found in zip(positions, near, strict=True)
        ]

    def lacking(self) -> str:
        """Return what training still needs, in words; empty where it can begin."""
        counts = self.class_counts()
        single = sorted(name for name, number in counts.items() if number < 2)
        if len(counts) < 2:
            return f"Training needs at least two classes. So far there are {len(counts)}."
        if single:
            return (
                "Training needs at least two images of each class. These have one: "
                f"{joined(list(map(quoted, single)), limit=5)}."
            )
        return ""


def instructive_order(
    features: Tensor,
    *,
    density: Tensor,
    probabilities: Tensor,
    counts: Sequence[int],
    known: Tensor,
) -> Tensor:
    """Return the order in which to label images, most instructive first, int64 ``(N,)``.

    Args:
        features: float32 ``(N, D)``, each row of length 1.
        density: float32 ``(N,)``, how like many others an image is, 0-1.
        probabilities: float32 ``(N, C)``; no columns where nothing is known yet.
        counts: Labels that each of the C classes has.
        known: float32 ``(K, D)``, features of labelled images.
    """
    num_images, num_classes = probabilities.shape
    uncertain_N, predicted_N = torch.ones(num_images), torch.zeros(num_images, dtype=torch.int64)
    had_C = torch.tensor(list(counts) or [0])
    if num_classes:
        best_N2 = probabilities.topk(2, dim=1)
        uncertain_N = 1 - (best_N2.values[:, 0] - best_N2.values[:, 1])
        predicted_N = best_N2.indices[:, 0]
    worth_N = uncertain_N * density
    covered_N = (features @ known.T).amax(1) if len(known) else torch.zeros(num_images)
    first: list[int] = []
    is_left_N = torch.ones(num_images, dtype=torch.bool)
    for _ in range(min(MOST_ORDERED, num_images)):
        score_N = worth_N * (1 - covered_N).clamp_min(1e-3) / (1 + had_C[predicted_N])
        chosen = int(score_N.masked_fill(~is_left_N, -1).argmax())
        first.append(chosen)
        is_left_N[chosen] = False
        covered_N = torch.maximum(covered_N, features @ features[chosen])
        had_C[predicted_N[chosen]] += 1
    rest = worth_N.masked_fill(~is_left_N, -1).argsort(descending=True, stable=True)
    return torch.cat([torch.tensor(first, dtype=torch.int64), rest[: num_images - len(first)]])


def _density(features_ND: Tensor) -> Tensor:
    """Return how like its ten nearest of a sample of all images each one is, 0-1, float32 ``(N,)``."""
    chosen = torch.tensor(evenly_spread(range(len(features_ND)), most=MOST_COMPARED), dtype=torch.int64)  # fmt: skip
    sample = features_ND[chosen]
    parts = [
        (part @ sample.T).topk(min(11, len(sample)), dim=1).values[:, 1:].mean(1)
        for part in features_ND.split(4096)
    ]
    return torch.cat(parts).nan_to_num().clamp_min(0.0).add(1e-3) if parts else torch.zeros(0)


def _read_names(file: Path) -> list[str]:
    """Return the names of a file of classes; none where there is no such file.

    Raises:
        OutputError: It cannot be read.
    """
    if not file.exists():
        return []
    try:
        return [name for name in file.read_text(encoding="utf-8").split("\n") if name.strip()]
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{file} is not a list of classes, one per line: {error}. Remove the file; classes "
            "that have labels stay."
        ) from error


def open_labelling(
    images: LabelledImages,
    *,
    num_own: int,
    file: Path,
    config: TrainConfig,
    classes: Sequence[str] = (),
    display: Display | None = None,
) -> Labelling:
    """Read images, compute their features, take up the decisions of a file, and fit the head for the first time.

    Args:
        images: As ``images_to_label`` returns them; those that cannot be read are left out, with a line.
        num_own: As ``images_to_label`` returns it.
        file: Of fixes.
        config: Network, size and device.
        classes: Names of classes to begin with.
        display: Where to show progress; None is the screen.

    Raises:
        DataError: Fewer than two images can be read.
        WeightsError: The weights of the network cannot be found.
        OutputError: The file cannot be written.
        TableError: What is in it is not fixes.
    """
    display = Display() if display is None else display
    rows = torch.arange(len(images.paths))
    table = ImageTable(
        root=images.root,
        paths=images.paths,
        targets=torch.zeros(len(rows), dtype=torch.int64),
        vocab=("image",),
        train_rows=rows,
        valid_rows=rows[:0],
    )
    backbone = load_network(config)
    config, _ = fit_size(config, backbone)
    cache = cache_for(table, config=config)
    reader = ImageReader(resize=config.resizing(), cache=cache, truncated=config.truncated)
    with Bars(display) as bars:
        unreadable = find_unreadable(
            table,
            rows,
            reader=reader,
            num_workers=config.num_threads,
            on_progress=lambda done: bars.move("reading images", done, len(rows)),
        )
        bad = {row for row, _ in unreadable}
        rows = torch.tensor([row for row in rows.tolist() if row not in bad], dtype=torch.int64)
        if len(rows) < 2:
            raise DataError(
                "Labelling compares images, so at least two must be readable. Readable: "
                f"{counted(len(rows), 'image')} of {len(table.paths):,}. vizsla check says what "
                "is wrong with each."
            )
        loaders = loaders_for(replace(table, train_rows=rows), config=config, cache=cache)
        classifier, pooling, layout = pooling_classifier(loaders, backbone)
        found = extract_features(
            classifier,
            loaders.loader_for(rows).batches(),
            head=pooling,
            precision=resolve_precision(config.precision, device=loaders.device),
            on_progress=lambda done: bars.move("features", done, len(rows)),
        )
    if bad:
        display.line(f"Skipped {counted(len(bad), 'image')} that cannot be read; vizsla check lists them.")  # fmt: skip
    labelling = Labelling(
        images.without(bad),
        num_own=num_own - sum(row < num_own for row in bad),
        features=found.values[:, 0],
        layout=layout,
        file=file,
        classes=classes,
        seed=config.seed,
    )
    labelling.fit()
    return labelling
