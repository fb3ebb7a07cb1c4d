"""``vizsla cache`` and the cache options of ``vizsla train``, as typed in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from vizsla.cli.app import app
from vizsla.data.cache.cache import PictureCache
from vizsla.data.cache.key import PictureKey
from vizsla.errors import ConfigError
from vizsla.recipe.recipe import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def filled_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VIZSLA_HOME whose cache holds three pictures."""
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path))
    cache = PictureCache(mode="disk")
    for number in range(3):
        key = PictureKey(path=str(number), num_bytes=1, modified_ns=2, preparation="whole")
        cache.get(key, lambda: np.zeros((300, 300, 3), np.uint8))
    return tmp_path


def test_cache_shows_place_size_and_budget(filled_home: Path):
    result = CliRunner().invoke(app, ["cache"])
    assert result.exit_code == 0
    place, size, budget = result.stdout.splitlines()
    assert place == f"place   {filled_home / 'cache' / 'pictures'}"
    assert size == "size    0.8 MB, 3 pictures"
    assert budget.startswith("budget  ")
    assert "a quarter of the space" in budget


def test_cache_clear_removes_the_pictures_and_says_so(filled_home: Path):
    result = CliRunner().invoke(app, ["cache", "--clear"])
    assert result.exit_code == 0
    folder = filled_home / "cache" / "pictures"
    assert result.stdout == f"Removed 3 pictures, 0.8 MB, from {folder}\n"
    assert list(folder.iterdir()) == []
    assert CliRunner().invoke(app, ["cache"]).stdout.splitlines()[1] == "size    0.0 MB, 0 pictures"


def test_cache_makes_no_folder_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path / "none"))
    for arguments in (["cache"], ["cache", "--clear"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cache", "disc"], "cache is one of auto, memory, disk, off, device. Received: 'disc'"),
        (["--cache-budget", "lots"], "cache_budget is a number of bytes such as 500MB"),
    ],
)
def test_train_refuses_cache_options_that_cannot_work(
    picture_folder: Path, arguments: list[str], said: str
):
    result = CliRunner().invoke(app, ["train", str(picture_folder), *arguments])
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_training_configuration_knows_its_cache():
    assert TrainConfig(cache="disk", cache_budget="4GB").cache == "disk"
    assert TrainConfig(cache_budget=500).cache_budget == 500
    with pytest.raises(ConfigError, match="cache_budget"):
        TrainConfig(cache_budget=-1)
