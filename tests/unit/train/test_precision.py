"""Which number format is used where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vizsla.errors import ConfigError
from vizsla.train.step import resolve_precision


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


def test_on_cuda_networks_with_batch_norms_get_what_those_are_fast_in():
    device = torch.device("cuda")
    norms = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert resolve_precision("auto", device=device, model=norms) == "fp16"
    assert resolve_precision("auto", device=device, model=nn.LayerNorm(4)) == "bf16"
    assert resolve_precision("bf16", device=device, model=norms) == "bf16"
    assert resolve_precision("auto", device=torch.device("cpu"), model=norms) == "fp32"


@pytest.mark.parametrize("wish", ["half", "", "BF16", None])
def test_anything_else_is_refused(wish: str):
    with pytest.raises(ConfigError, match=f"'auto', 'fp32', 'bf16' or 'fp16'. Received: {wish!r}"):
        resolve_precision(wish, device=torch.device("cpu"))
