"""Python's collector leaves alone what was there before a server began, and looks at it again afterwards."""

from __future__ import annotations

import gc

import pytest

from vizsla.machine import long_lived_objects_set_aside


def test_what_is_there_already_is_set_aside_for_the_while_and_comes_back():
    def fail() -> None:
        with long_lived_objects_set_aside():
            assert gc.get_freeze_count() > 1000
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.get_freeze_count() == 0
