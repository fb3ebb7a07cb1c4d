"""Which number format is used where."""

from __future__ import annotations

import pytest
import torch

from vizsla.errors import ConfigError
from vizsla.train.precision import resolve_precision


@pytest.mark.parametrize(
    ("wish", "device", "found"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "mps", "fp32"),
        ("auto", "cuda", "bf16"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("fp16", "cuda", "fp16"),
        ("fp16", "cpu", "fp32"),
    ],
)
def test_auto_follows_the_device_and_a_wish_is_kept(wish: str, device: str, found: str):
    assert resolve_precision(wish, device=torch.device(device)) == found


@pytest.mark.parametrize("wish", ["half", "", "BF16", None])
def test_anything_else_is_refused(wish: str):
    with pytest.raises(ConfigError, match=f"'auto', 'fp32', 'bf16' or 'fp16'. Received: {wish!r}"):
        resolve_precision(wish, device=torch.device("cpu"))
