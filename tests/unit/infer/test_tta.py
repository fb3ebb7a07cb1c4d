"""How augmented and plain pictures are weighed. Golden values: tests/golden/tta.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vizsla.infer.run import mix_with_plain

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tta.json").read_text("utf-8"))
VIEWS, PLAIN = torch.tensor(GOLDEN["aug_preds"]), torch.tensor(GOLDEN["plain_preds"])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "beta_0_25"),
        ({"beta": 0.25}, "beta_0_25"),
        ({"beta": 0.6}, "beta_0_6"),
        ({"use_max": True}, "use_max"),
    ],
)
def test_views_and_plain_pictures_are_mixed_as_recorded(options: dict[str, Any], name: str):
    mixed = mix_with_plain(VIEWS, PLAIN, **options)
    torch.testing.assert_close(mixed, torch.tensor(GOLDEN[name]), atol=1e-5, rtol=0)


def test_without_a_beta_both_come_apart():
    mean, plain = mix_with_plain(VIEWS, PLAIN, beta=None)
    torch.testing.assert_close(mean, torch.tensor(GOLDEN["beta_none"][0]), atol=1e-5, rtol=0)
    assert torch.equal(plain, PLAIN)


@pytest.mark.parametrize(("beta", "expected"), [(0.0, VIEWS.mean(dim=0)), (1.0, PLAIN)])
def test_the_ends_of_beta_are_one_or_the_other(beta: float, expected: torch.Tensor):
    mixed = mix_with_plain(VIEWS, PLAIN, beta=beta)
    torch.testing.assert_close(mixed, expected)
