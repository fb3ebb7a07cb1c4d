"""The choices of a run, and what is wrong with those that cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from vizsla.errors import ConfigError
from vizsla.recipe.config import TrainConfig
from vizsla.recipe.recipe import EPOCH_COLUMNS


def test_defaults_can_work():
    config = TrainConfig()
    assert config.kept_size == round(1.3 * config.size)
    assert EPOCH_COLUMNS[-1] == "time"


def test_a_presize_of_ones_own_is_kept():
    assert TrainConfig(size=64, presize=64).kept_size == 64
    assert TrainConfig(size=100).kept_size == 130


@pytest.mark.parametrize(
    "choice",
    [
        {"epochs": -1},
        {"epochs": 1.5},
        {"epochs": "many"},
        {"size": 0},
        {"size": -64},
        {"presize": 100},
        {"presize": "large"},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-3},
        {"device": "tpu"},
    ],
    ids=str,
)
def test_a_choice_that_cannot_work_is_refused(choice: dict[str, Any]):
    ((name, value),) = choice.items()
    with pytest.raises(ConfigError, match=f"Received: {value!r}") as error:
        TrainConfig(**choice)
    assert name in str(error.value)
