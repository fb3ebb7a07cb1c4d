"""Going through labels: what is decided is in the file at once, what the head says follows, and the order helps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import ConfigError, DataError, Fix, OutputError, read_fixes, write_fixes
from vizsla.auditing import ConflictError, Labelling, instructive_order
from vizsla.data.table import LabelledImages, resolve_data
from vizsla.recipe import FeatureLayout

if TYPE_CHECKING:
    from collections.abc import Callable

Make = Any

LAYOUT = FeatureLayout(stages=(0,), statistics=("mean",), channels=(8,))
CENTRES = torch.nn.functional.one_hot(torch.arange(3), 8).float() * 4


def features_of(kinds: list[int]) -> torch.Tensor:
    """Return features of images of three kinds that lie apart."""
    noise = torch.randn((len(kinds), 8), generator=torch.Generator().manual_seed(0))
    return CENTRES[torch.tensor(kinds)] + 0.5 * noise


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a labelling of 60 images, 20 of each kind, from their labels by name."""

    def made(labels: dict[str, str] | None = None, num_own: int = 60, **options: Any) -> Labelling:
        root = tmp_path / "photos"
        root.mkdir(exist_ok=True)
        names = [f"{number:02}.jpg" for number in range(60)]
        for name in names:
            (root / name).touch()
        images = LabelledImages(
            root=root,
            paths=[root / name for name in names],
            labels=tuple((labels or {}).get(name, "") for name in names),
        )
        return Labelling(
            images,
            num_own=num_own,
            features=features_of([number // 20 for number in range(60)]),
            layout=LAYOUT,
            file=tmp_path / "fixes.csv",
            **options,
        )

    return made


KINDS = {f"{number:02}.jpg": "abc"[number // 20] for number in range(60)}


def test_twenty_labels_from_nothing_give_suggestions_and_a_table(make: Make, tmp_path: Path):
    labelling = make(classes=["c", "a", " b "])
    labelling.fit()
    assert labelling.classes == ("c", "a", "b")
    assert labelling.suggestion(0) == ("", 0.0)
    assert labelling.lacking()
    while labelling.num_decided < 20:
        image = labelling.queue("todo")[0]
        labelling.decide(image, "label", label=KINDS[labelling.shown[image]], version="")
        if labelling.num_decided % 4 == 0:
            labelling.fit()
    right = [labelling.suggestion(p)[0] == KINDS[labelling.shown[p]] for p in range(60)]
    assert sum(right) >= 57
    accuracy = labelling.judged.accuracy
    assert accuracy is not None
    assert 0 < accuracy.low < accuracy.num_right / accuracy.num_labels <= accuracy.high <= 1
    assert len(labelling.history) > 2
    assert not labelling.lacking()
    assert not labelling.names_new_classes
    table = resolve_data(tmp_path / "photos", fixes=labelling.file, seed=0)
    assert len(table.train_rows) + len(table.valid_rows) == 20
    assert all(table.label(row) == KINDS[table.shown_path(row)] for row in range(20))


def test_suspected_labels_come_first_and_a_decision_ends_the_suspicion(make: Make):
    labels = KINDS | {"03.jpg": "b", "33.jpg": "c"}
    del labels["50.jpg"]
    labelling = make(labels)
    labelling.fit()
    assert {labelling.shown[p] for p in labelling.queue("todo")[:2]} == {"03.jpg", "33.jpg"}
    assert labelling.shown[labelling.queue("todo")[-1]] == "50.jpg"
    assert labelling.suggestion(3)[0] == "a"
    assert "a" in labelling.reason(3)
    near = labelling.neighbours([3])[0]
    assert len(near) == 5
    assert 3 not in near
    before = labelling.judged.accuracy
    labelling.decide(3, "label", label="a", version="")
    labelling.decide(33, "keep", version="")
    labelling.fit()
    assert [labelling.shown[p] for p in labelling.queue("todo")] == ["50.jpg"]
    assert labelling.queue("decided") == [33, 3]
    assert labelling.judged.accuracy.num_right > before.num_right
    assert labelling.class_counts() == {"a": 20, "b": 19, "c": 20}


def test_every_decision_is_in_the_file_and_a_new_start_has_it(make: Make):
    labelling = make(KINDS, classes=["new"])
    for position, action, label in ((0, "label", "new"), (1, "drop", ""), (2, "keep", ""), (3, "label", "a"), (0, "label", "b")):  # fmt: skip
        labelling.decide(position, action, label=label, version=labelling.version(position))
        rows = [(fix.path, fix.action, fix.label) for fix in read_fixes(labelling.file)]
        assert rows[-1] == (labelling.shown[position], *{("label", "a"): ("keep", "")}.get((action, label), (action if action != "label" else "relabel", label)))  # fmt: skip
    again = make(KINDS)
    assert again.classes == ("a", "b", "c", "new")
    assert [again.label(p) for p in range(4)] == ["b", "", "a", "a"]
    assert again.num_decided == 4
    # Undo goes on where the process before ended, one decision after another.
    undone: list[int] = []
    while again.latest is not None:
        position, version = again.latest
        again.undo(position, version=version)
        undone.append(position)
    assert undone == [0, 3, 2, 1, 0]
    assert read_fixes(again.file) == ()
    assert again.class_counts() == {"a": 20, "b": 20, "c": 20}


def test_who_saw_an_older_version_changes_nothing(make: Make):
    labelling = make(KINDS)
    labelling.decide(0, "label", label="b", version="")
    seen = labelling.version(0)
    with pytest.raises(ConflictError):
        labelling.decide(0, "drop", version="")
    labelling.decide(0, "label", label="b", version="")  # the same decision: nobody is overruled
    assert labelling.version(0) == seen
    labelling.undo(0, version=seen)
    for stale in (seen, ""):
        with pytest.raises(ConflictError):
            labelling.undo(0, version=stale)
    labelling.decide(0, "drop", version="")
    with pytest.raises(ConflictError):
        labelling.decide(0, "keep", version=seen)
    assert [fix.action for fix in read_fixes(labelling.file)] == ["drop"]


def test_what_cannot_be_decided_is_refused_and_leaves_no_trace(make: Make, tmp_path: Path, full_disk: Callable[..., Any]):  # fmt: skip
    labelling = make()
    labelling.add_class("a")
    for action, label in (("keep", ""), ("label", "unheard"), ("label", "")):
        with pytest.raises(ConfigError):
            labelling.decide(0, action, label=label, version="")
    for name in ("", "  ", "two\nlines", "a\0b", "x" * 1001):
        with pytest.raises(ConfigError):
            labelling.add_class(name)
    with full_disk(), pytest.raises(OutputError):
        labelling.decide(0, "label", label="a", version="")
    assert (labelling.label(0), labelling.num_decided, labelling.file.exists()) == ("", 0, False)
    labelling.decide(0, "label", label="a", version="")
    write_fixes(labelling.file, [])  # by hand
    with pytest.raises(DataError):
        labelling.undo(0, version=labelling.version(0))
    assert labelling.label(0) == "a"


def test_suggestions_of_an_audit_are_looked_at_and_not_undone(make: Make):
    labelling = make(KINDS)
    audited = [Fix(path="09.jpg", action="relabel", label="b", why="looks like b"), Fix(path="gone.jpg", action="drop")]  # fmt: skip
    write_fixes(labelling.file, audited)
    labelling = make(KINDS)
    labelling.fit()
    assert (labelling.queue("todo")[0], labelling.reason(9), labelling.latest) == (9, "looks like b", None)  # fmt: skip
    assert labelling.num_elsewhere == 1
    labelling.decide(9, "label", label="b", version="")
    assert labelling.num_decided == 1
    assert 9 not in labelling.queue("todo")
    position, version = labelling.latest
    labelling.undo(position, version=version)
    assert read_fixes(labelling.file) == tuple(audited)


def test_images_from_elsewhere_are_added(make: Make, tmp_path: Path):
    labels = {name: label for name, label in KINDS.items() if name < "40.jpg"}
    labelling = make(labels, num_own=40, classes=["c"])
    labelling.decide(50, "label", label="c", version="")
    assert labelling.names_new_classes
    [fix] = read_fixes(labelling.file)
    assert (fix.action, fix.label, Path(fix.path)) == ("add", "c", tmp_path / "photos" / "50.jpg")
    assert make(labels, num_own=40).label(50) == "c"


def test_the_order_prefers_doubt_crowds_news_and_rare_classes():
    away, here, there = torch.nn.functional.normalize(CENTRES, dim=1)
    features = torch.stack([here, here, there, away])
    sure, unsure = [0.98, 0.02], [0.52, 0.48]
    options: dict[str, Any] = {"density": torch.ones(4), "counts": [5, 5], "known": features[:0]}

    def first(probabilities: list[list[float]], **changes: Any) -> int:
        found = instructive_order(features, probabilities=torch.tensor(probabilities), **options | changes)  # fmt: skip
        assert sorted(found.tolist()) == [0, 1, 2, 3]
        return int(found[0])

    assert first([sure, sure, unsure, sure]) == 2
    assert first([unsure] * 4, density=torch.tensor([0.1, 0.1, 0.1, 0.9])) == 3
    assert first([unsure] * 4, known=features[[0, 3]]) == 2
    assert first([unsure, unsure, unsure, [0.48, 0.52]], counts=[9, 0]) == 3
    options["counts"] = []
    nothing_known = instructive_order(features, probabilities=torch.zeros(4, 0), **options)
    assert {0, 1} - {*nothing_known[:3].tolist()}  # of two that are the same, one waits
    none = instructive_order(features[:0], probabilities=torch.zeros(0, 2), density=torch.ones(0), counts=[1, 1], known=features)  # fmt: skip
    assert none.tolist() == []


def test_names_that_are_no_plain_text_come_back_as_they_were(make: Make):
    names = ["=1+1", "'quoted", "<b>&", "été 犬", "a;b", '"x"', "a,b"]
    labelling = make(classes=names)
    for position, name in enumerate(names):
        labelling.decide(position, "label", label=name, version="")
    again = make()
    assert list(again.classes) == names
    assert [again.label(position) for position in range(len(names))] == names
    again.fit()
    assert replace(again.judged.accuracy, num_right=0).num_labels == len(names)
