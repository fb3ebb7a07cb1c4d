"""The line of text, or in a notebook the small HTML card, that loaders, a learner, a predictor or a prediction show of themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import torch

from vizsla.infer.neighbours import evenly_spread
from vizsla.paths import is_address
from vizsla.report.cards import Album
from vizsla.text import counted, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
    from vizsla.predict.prediction import Prediction
    from vizsla.predict.predictor import Predictor
    from vizsla.train.learner import Learner

_MOST_CLASSES = 5
"""How many classes are named."""
_MOST_COUNTED, _NUM_IMAGES, _IMAGE_SIDE = 50, 6, 72


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What an object says about itself.

    Attributes:
        title: Its class, or its most important fact.
        facts: (name, value), most important first.
        bars: (name, share 0-1) drawn as bars.
        counts: (class, training images, validation images), only in HTML.
        images: (small image as a ``data:`` address, label), only in HTML.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    bars: tuple[tuple[str, float], ...] = ()
    counts: tuple[tuple[str, int, int], ...] = ()
    images: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """Return the card as one line."""
        facts = [f"{name}={value}" for name, value in self.facts]
        bars = [f"{name}={share:.2f}" for name, share in self.bars]
        return printable(f"{self.title}({', '.join([*facts, *bars])})")

    def html(self) -> str:
        """Return the card as a table; every text is escaped, no style leaks out."""
        cells = [(name, escape(value)) for name, value in self.facts]
        cells += [
            (
                name,
                f'<meter min="0" max="1" value="{share:.4f}" style="width:8em"></meter> {share:.1%}',
            )
            for name, share in self.bars
        ]
        rows = [
            f'<tr><th style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{value}</td></tr>'
            for name, value in cells
        ]
        card = f"<table><caption><b>{escape(self.title)}</b></caption>{''.join(rows)}</table>"
        if self.images:
            shown = [
                f'<figure style="margin:0"><img src="{address}" alt="" height="{_IMAGE_SIDE}">'
                f"<figcaption>{escape(label)}</figcaption></figure>"
                for address, label in self.images
            ]
            card += f'<div style="display:flex;flex-wrap:wrap;gap:0.6em;margin:0.5em 0">{"".join(shown)}</div>'
        if self.counts:
            cell = '<td style="text-align:right">'
            lines = [
                f'<tr><th style="text-align:left">{escape(name)}</th>{cell}{train:,}</td>{cell}{valid:,}</td></tr>'
                for name, train, valid in self.counts
            ]
            head = "<tr><th></th><th>training</th><th>validation</th></tr>"
            card += f"<details><summary>Images of each class</summary><table>{head}{''.join(lines)}</table></details>"
        return card


def loader_card(loader: DataLoader) -> Card:
    """Return the card of one loader."""
    training = loader.loader.training
    return Card(
        title="DataLoader",
        facts=(
            ("images", f"{loader.n:,}"),
            ("batches", f"{len(loader):,} of {loader.bs}"),
            ("prepared", "shuffled and augmented" if training else "in order, only resized"),
            ("device", str(loader.device)),
        ),
    )


def loaders_card(dls: DataLoaders) -> Card:
    """Return the card of training and validation loaders."""
    size = dls.final_size
    return Card(
        title="DataLoaders",
        facts=(
            ("training", counted(dls.train.n, "image")),
            ("validation", counted(dls.valid.n, "image")),
            _vocab_fact(dls.table.vocab, task=dls.table.task),
            ("size", "as they are" if size is None else f"{size[0]}x{size[1]}"),
            ("batch", str(dls.bs)),
            ("device", str(dls.device)),
        ),
    )


def loaders_html(dls: DataLoaders) -> str:
    """Return the card of loaders with the images of each class, counted, and a few training images."""
    table, counts = dls.table, ()
    if table.task == "category" and len(table.vocab) <= _MOST_COUNTED:
        numbers = (
            torch.bincount(targets[targets >= 0], minlength=len(table.vocab)).tolist()
            for targets in (table.targets[table.train_rows], table.targets[table.valid_rows])
        )
        counts = tuple(zip(table.vocab, *numbers, strict=True))
    rows = table.train_rows
    if table.task == "category":  # so that images of several classes are shown
        rows = rows[table.targets[rows].argsort(stable=True)]
    album = Album()
    images: list[tuple[str, str]] = []
    for row in evenly_spread(rows.tolist(), most=_NUM_IMAGES):
        path = table.paths[row]
        if not is_address(path):  # a card is not worth a download
            found = album.of_file(path, side=2 * _IMAGE_SIDE, bit_depth=table.bit_depth)
            if found.address:
                images.append((found.address, table.label(row)))
    return replace(loaders_card(dls), counts=counts, images=tuple(images)).html()


def learner_card(learn: Learner) -> Card:
    """Return the card of a learner: its network, what trains, and the last epoch."""
    trains = sum(each.numel() for each in learn.model.parameters() if each.requires_grad)
    whole = sum(each.numel() for each in learn.model.parameters())
    last: tuple[tuple[str, str], ...] = ()
    if learn.recorder.history:
        names = learn.recorder.value_names
        values = learn.recorder.values[-1]
        last = tuple((name, f"{value:.4f}") for name, value in zip(names, values, strict=False))
    return Card(
        title="Learner",
        facts=(
            ("network", _network_name(learn.model)),
            _vocab_fact(learn.dls.table.vocab, task=learn.dls.table.task),
            ("parameters", f"{whole:,}"),
            ("training", "all of them" if trains == whole else f"{trains:,} of them"),
            ("epochs", str(len(learn.recorder.history))),
            *last,
            ("device", str(learn.dls.device)),
        ),
    )


def learner_html(learn: Learner) -> str:
    """Return the card of a learner with its data."""
    card, dls = learner_card(learn), learn.dls
    data = f"{dls.train.n:,} training and {counted(dls.valid.n, 'validation image')}"
    size = getattr(dls, "final_size", None)  # cached features have none
    if size is not None:
        data += f" of {size[0]}x{size[1]} pixels"
    return replace(card, facts=(*card.facts[:2], ("data", data), *card.facts[2:])).html()


def predictor_card(predictor: Predictor) -> Card:
    """Return the card of a predictor."""
    file = () if predictor.path is None else (("file", predictor.path.name),)
    is_calibrated = predictor.calibration is not None and predictor.calibration.temperature != 1
    return Card(
        title="Predictor",
        facts=(
            *file,
            ("network", _network_name(predictor.classifier)),
            _vocab_fact(predictor.vocab, task=predictor.task),
            ("probabilities", "calibrated" if is_calibrated else "as they are"),
            ("device", str(predictor.device)),
        ),
    )


def prediction_card(prediction: Prediction) -> Card:
    """Return the card of a prediction: its label and the most probable classes."""
    facts = [("label", prediction.label or "none")]
    if not math.isnan(prediction.probability):
        facts.append(("probability", f"{prediction.probability:.4f}"))
    if prediction.none_of_these:  # "one of" would contradict it
        facts.append(("none of these", "probably"))
    elif prediction.label_set is not None:
        facts.append(("one of", " or ".join(prediction.label_set)))
    return Card(title="Prediction", facts=tuple(facts), bars=prediction.top)


def _vocab_fact(vocab: Sequence[str], *, task: str) -> tuple[str, str]:
    shown = ", ".join(vocab[:_MOST_CLASSES]) + (" ..." if len(vocab) > _MOST_CLASSES else "")
    return ("numbers" if task == "regression" else "classes", f"{len(vocab)} ({shown})")


def _network_name(model: object) -> str:
    spec = getattr(getattr(model, "backbone", None), "spec", None)
    return type(model).__name__ if spec is None else str(spec.name)
