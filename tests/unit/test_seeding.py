"""Philox against its published vectors; counter-based numbers that depend on their key alone; named generators."""

from __future__ import annotations

import torch

from vizsla.seeding import counter_uniform, derive_seed, generator, philox_4x32

# From the file kat_vectors of Random123, the authors' own implementation, "philox4x32 10".
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_philox_gives_the_published_words_for_each_counter_of_a_batch():
    for counter, key, expected in KNOWN_ANSWERS:
        first, second = words(key)
        found = philox_4x32(torch.tensor([[[1, 2, 3, 4], words(counter)]]), (first, second))
        assert found.shape == (1, 2, 4)
        assert found[0, 1].tolist() == words(expected)
        assert found[0, 0].tolist() != words(expected)


def uniform(rows: list[int], **changed: int | str) -> torch.Tensor:
    wanted = {"seed": 7, "stream": "zoom", "epoch": 2, "count": 6} | changed
    return counter_uniform(
        int(wanted["seed"]),
        str(wanted["stream"]),
        epoch=int(wanted["epoch"]),
        rows=torch.tensor(rows, dtype=torch.int64),
        count=int(wanted["count"]),
    )


def test_numbers_do_not_depend_on_batch_or_count():
    together = uniform([5, 2**40, 0, 9])
    assert torch.equal(uniform([9, 0, 2**40, 5]), together.flip(0))
    for at, row in enumerate([5, 2**40, 0, 9]):
        assert torch.equal(uniform([row]), together[at : at + 1])
    assert torch.equal(uniform([3, 4], count=9)[:, :6], uniform([3, 4]))
    assert uniform([]).shape == (0, 6)


def test_every_part_of_the_key_changes_every_number():
    rows = [0, 1, 2]
    for changed in (uniform(rows, seed=8), uniform(rows, stream="warp"), uniform(rows, epoch=3)):
        assert not (uniform(rows) == changed).any()
    assert not (uniform([1]) == uniform([1 + 2**32])).any()  # A row takes two words.


def test_numbers_are_uniform_and_below_one():
    numbers = uniform(list(range(20000)), count=2)
    assert numbers.dtype == torch.float32
    assert 0 <= float(numbers.min()) < 1e-3
    assert 1 - 1e-3 < float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 43.8  # chi-square, 19 degrees, 0.1 %
    assert abs(float(torch.corrcoef(numbers.T)[0, 1])) < 0.03


def test_parts_of_a_run_never_share_a_seed():
    seeds = {derive_seed(seed, name) for seed in range(50) for name in ("split", "crop", "zoom")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_named_generator_starts_again_each_time():
    first, second = (torch.rand(4, generator=generator(1, "split")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(4, generator=generator(2, "split")))
