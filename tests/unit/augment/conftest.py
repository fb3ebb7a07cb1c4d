"""Images recorded from the reference, and batches of noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="session")
def golden() -> Mapping[str, dict[str, Any]]:
    """The recorded cases by name, with the source as ``"images"`` and the result as ``"expected"``."""
    record = json.loads((GOLDEN / "augment.json").read_text(encoding="utf-8"))
    with np.load(GOLDEN / "augment.npz") as arrays:
        images = {name: torch.from_numpy(arrays[name].astype(np.float32) / 65535) for name in arrays.files}  # fmt: skip
    return {
        case["out"]: case | {"images": images[case["input"]], "expected": images[case["out"]]}
        for case in record["cases"]
    }


@pytest.fixture
def make_batch() -> Callable[..., Tensor]:
    """Return a function that makes uint8 noise (B, 3, H, W), channels-last as a loader yields it."""

    def make(count: int = 4, size: tuple[int, int] = (20, 24), *, seed: int = 0) -> Tensor:
        noise = torch.Generator().manual_seed(seed)
        shape = (count, *size, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise).permute(0, 3, 1, 2)

    return make
