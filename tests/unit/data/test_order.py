"""The order of an epoch: turns, even draws by weight, parts for several processes."""

from __future__ import annotations

import pytest
import torch

from vizsla.data.loading.order import (
    balancing_weights,
    check_share,
    checked_weights,
    drawn,
    part,
    rows_of,
    shuffled,
    turns_of,
)
from vizsla.errors import ConfigError


def test_turns_count_how_often_a_row_came_up_before():
    rows = torch.tensor([7, 3, 7, 7, 0, 3])
    turns = turns_of(rows)
    assert torch.equal(rows_of(turns), rows)
    assert [turn >> 32 for turn in turns.tolist()] == [0, 0, 1, 2, 0, 1]


def test_turns_of_rows_that_do_not_repeat_are_the_rows():
    rows = torch.randperm(50)
    assert torch.equal(turns_of(rows), rows)
    assert turns_of(rows[:0]).tolist() == []


def test_drawn_classes_come_equally_often_and_their_pictures_evenly():
    targets = torch.tensor([0] * 60 + [1] * 30 + [2] * 7)
    rows = torch.arange(100, 197)
    weights = balancing_weights(targets)
    for epoch in range(5):
        found = drawn(rows, weights=weights, groups=targets, seed=1, epoch=epoch) - 100
        counts = torch.bincount(targets[found], minlength=3)
        assert counts.sum() == 97
        assert counts.max() - counts.min() <= 1
        each = torch.bincount(found, minlength=97)
        assert set(each[:60].tolist()) <= {0, 1}
        assert set(each[60:90].tolist()) <= {1, 2}
        assert set(each[90:].tolist()) <= {4, 5}


def test_drawn_rows_depend_on_seed_and_epoch_alone():
    rows, weights = torch.arange(40), torch.linspace(1, 3, 40)
    drawings = [
        drawn(rows, weights=weights, seed=seed, epoch=epoch).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert drawings[0] == drawings[3]
    assert len({tuple(each) for each in drawings}) == 3


def test_a_weight_of_zero_keeps_a_row_out():
    weights = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0])
    found = [drawn(torch.arange(5), weights=weights, seed=0, epoch=epoch) for epoch in range(50)]
    counts = torch.bincount(torch.cat(found), minlength=5).tolist()
    assert counts[0] == counts[2] == counts[4] == 0
    assert abs(counts[3] - 2 * counts[1]) < 30


def test_equal_weights_draw_each_row_once_in_the_usual_number():
    found = drawn(torch.arange(33), weights=torch.ones(33), seed=0, epoch=0)
    assert sorted(found.tolist()) == list(range(33))
    assert sorted(shuffled(torch.arange(33), seed=0, epoch=0).tolist()) == list(range(33))


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 8, 64])
def test_parts_are_neighbours_of_even_number_and_together_the_batch(num_rows: int):
    batch = torch.arange(num_rows)
    for world in (1, 2, 3, 8):
        parts = [part(batch, share=(rank, world)) for rank in range(world)]
        assert torch.equal(torch.cat(parts), batch)
        sizes = [len(each) for each in parts]
        assert max(sizes) - min(sizes) <= 1


def test_what_cannot_be_drawn_or_shared_is_refused():
    with pytest.raises(ConfigError, match=r"3 numbers of at least 0.*shape \(2,\)"):
        checked_weights([1.0, 2.0], count=3)
    with pytest.raises(ConfigError, match="negative or not finite"):
        checked_weights([1.0, float("nan")], count=2)
    with pytest.raises(ConfigError, match="All weights are 0"):
        checked_weights([0.0, 0.0], count=2)
    with pytest.raises(ConfigError, match=r"share=\(2, 2\)"):
        check_share((2, 2))
    with pytest.raises(ConfigError, match="do not have one class each"):
        balancing_weights(torch.zeros(4, 3))
