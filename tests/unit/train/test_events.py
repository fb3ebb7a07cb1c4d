"""Cells about learners, callbacks and records see what they see with fastai (tests/golden/record_learner.py); what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.record_learner import CELLS, draw, run_cells

from vizsla import (
    Callback,
    ConfigError,
    CrossEntropyLossFlat,
    ImageDataLoaders,
    SaveModelCallback,
)
from vizsla.train.callbacks import ActivationStats, CancelValidException

FOLDER = Path(__file__).resolve().parents[2] / "golden"
RECORD = json.loads((FOLDER / "learner.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def seen(star: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_cells(vars(star), draw(tmp_path_factory.mktemp("cells")))


def test_cells_see_what_they_see_with_fastai(seen: dict[str, Any]):
    for name in CELLS:
        assert seen[name] == RECORD[name], name


# --- what fastai does not have, and what is refused --------------------------------------------------------------------


def test_events_take_fit_or_nothing_in_the_whole_class():
    def takes_nothing(self: Any) -> None: ...

    def takes_fit(self: Any, fit: Any) -> None: ...

    for base, methods, facts in (
        (Callback, {"after_batch": takes_fit}, r"after_batch .*def after_batch\(self\)"),
        (Callback, {"after_epoch": takes_nothing, "before_fit": takes_fit}, "after_epoch.*fit"),
        (SaveModelCallback, {"after_epoch": takes_nothing}, r"after_epoch\(self, fit\)"),
        (Callback, {"after_bacth": takes_nothing}, "after_bacth .*after_batch"),
    ):
        with pytest.raises(ConfigError, match=facts):
            type("Mine", (base,), methods)


def test_an_error_of_a_callback_reaches_the_user_unchanged(make_learner: Any):
    class Mine(Callback):
        def after_pred(self) -> None:
            raise ZeroDivisionError(self.training)

    learner = make_learner()
    with pytest.raises(ZeroDivisionError, match="True"):
        learner.fit(1, cbs=Mine)
    assert learner.xb == (None,)
    learner.fit(1)


def test_validation_can_be_left_out(make_learner: Any):
    class Blind(Callback):
        def before_validate(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            if self.epoch == 0:
                raise CancelValidException

    learner = make_learner(cbs=Blind)
    learner.fit(2)
    assert len(learner.recorder.values) == 1
    assert learner.recorder.log[0] == 0


def test_what_is_set_again_is_checked_as_at_the_start(make_learner: Any, tmp_path: Path):
    learner = make_learner()
    with pytest.raises(ConfigError, match="quotes"):
        learner.metrics = ["accuracy"]
    with pytest.raises(ConfigError, match="2 classes"):
        learner.loss_func = CrossEntropyLossFlat(weight=[1, 1, 1])
    others = draw(tmp_path / "others")
    with pytest.raises(ConfigError, match="blue"):
        learner.dls = ImageDataLoaders.from_folder(others, valid_pct=0.5, bs=2)
    with pytest.raises(ConfigError, match="lr_find"):
        learner.recorder.plot_lr_find()
    options: Any
    for options in ({"bs": 0}, {"shuffle": True}):
        with pytest.raises(ConfigError, match=r"bs=0|shuffle=True"):
            learner.dls.valid.new(**options)
    learner.loss_func = None
    learner.fit(1)


def test_activations_that_were_not_recorded_are_refused(make_learner: Any):
    stats = ActivationStats(every=2)
    learner = make_learner(cbs=stats)
    with pytest.raises(ConfigError, match="Fit first"):
        stats.plot_layer_stats(0)
    learner.fit(1)
    assert len(stats.stats) == (len(learner.dls.train) + 1) // 2
    with pytest.raises(ConfigError, match="Received: 999"):
        stats.layer_stats(999)
    with pytest.raises(ConfigError, match="with_hist=True"):
        stats.color_dim(0)


def test_a_model_is_body_and_head_as_in_a_lesson_about_heat_maps(make_learner: Any):
    learner = make_learner()
    body, head = learner.model[0], learner.model[-1]
    stored: list[torch.Tensor] = []
    hook = body.register_forward_hook(lambda m, i, o: stored.append(o.detach().clone()))
    images, _ = learner.dls.one_batch()
    logits = learner.model.eval()(images)
    hook.remove()
    assert torch.allclose(head(stored[0]), logits)
    assert list(body[:-1].children()) == list(learner.model.backbone.network.children())[:-1]
    assert isinstance(head[-1], torch.nn.Linear)
    assert len(learner.model) == 2
    assert list(learner.model[1:].children()) == [head]
