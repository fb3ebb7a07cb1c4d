"""What a cell ends with says what it is: in one line, or as a card whose texts are escaped."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

from vizsla import ConfigError, DataLoaders, Learner, load_learner
from vizsla.notebook import Card


def test_a_card_escapes_its_texts_and_draws_bars():
    card = Card(title="A<b", facts=(("<i>", "x & y"),), bars=(("cat", 0.25),))
    assert card.text() == "A<b(<i>=x & y, cat=0.25)"
    html = card.html()
    assert "<i>" not in html
    assert "x &amp; y" in html
    assert 'value="0.2500"' in html


def test_loaders_say_how_many_images_of_which_classes_they_have(dls: DataLoaders):
    assert repr(dls) == (
        "DataLoaders(training=16 images, validation=4 images, "
        "classes=4 (Bengal, Birman, beagle, great_pyrenees), size=24x24, batch=4, device=cpu)"
    )
    assert "shuffled" in repr(dls.train)
    assert "only resized" in repr(dls.valid)
    html = dls._repr_html_()
    assert html.count("<tr>") == 6 + 1 + len(dls.vocab)
    assert html.count('<img src="data:image/jpeg') == 6
    counted = re.findall(r'right">(\d+)</td><td style="text-align:right">(\d+)</td>', html)
    assert [sum(map(int, column)) for column in zip(*counted, strict=True)] == [16, 4]
    assert dls.valid._repr_html_().count("<tr>") == 4


def test_a_learner_says_what_it_is_and_how_far(learn: Learner):
    assert "network=efficientnet_lite0" in repr(learn)
    assert "epochs=0" in repr(learn)
    assert "16 training and 4 validation images of 24x24 pixels" in learn._repr_html_()


def test_a_misspelt_method_names_the_one_that_was_meant(learn: Learner):
    for owner, name, meant in (
        (learn, "fit_one_cyle", "fit_one_cycle"),
        (learn.dls, "show_bacth", "show_batch"),
    ):
        with pytest.raises(AttributeError, match=meant):
            getattr(owner, name)
    assert not hasattr(learn, "nothing_like_this")
    assert "Identity" not in str(learn.summary())
    assert copy.copy(learn).dls is learn.dls


def test_a_loaded_learner_predicts_in_a_notebook(learn: Learner, breeds: Path, tmp_path: Path):
    loaded = load_learner(learn.export(tmp_path / "pets.safetensors"))
    assert "file=pets.safetensors" in repr(loaded)
    assert "<table>" in loaded._repr_html_()
    assert loaded.dls.vocab == learn.dls.vocab
    files = sorted(breeds.iterdir())[:5]
    probabilities, targets, decoded = loaded.get_preds(
        dl=loaded.dls.test_dl(files), with_decoded=True
    )
    prediction = loaded.predict(files[3])
    assert probabilities is not None
    assert decoded is not None
    assert targets is None
    assert probabilities[3].tolist() == pytest.approx(prediction.probabilities.tolist(), abs=1e-5)
    assert int(decoded[3]) == prediction.index
    assert repr(prediction) == repr(
        (prediction.label, torch.tensor(prediction.index), prediction.probabilities)
    )
    assert prediction._repr_html_().count("<meter") == 3
    with pytest.raises(ConfigError, match="test_dl"):
        loaded.get_preds()
    with pytest.raises(ConfigError, match="evaluate"):
        loaded.validate()
