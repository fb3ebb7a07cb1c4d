"""A rehearsal loads kernels and leaves no trace: neither in the weights nor in what is random."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from vizsla.train.cuda_graphs import rehearsal


def test_on_a_cpu_there_is_nothing_to_rehearse(make_learner: Any):
    with rehearsal(make_learner()) as thread:
        assert thread is None


@pytest.mark.gpu
def test_weights_statistics_and_random_numbers_stay_as_they_were(
    make_learner: Any, make_loaders: Any
):
    learner = make_learner(make_loaders(num_workers=2).to("cuda"), precision="bf16")
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    random_state = torch.cuda.get_rng_state()
    with rehearsal(learner) as thread:
        assert thread is not None
        thread.join()
    assert not [t for t in threading.enumerate() if t.name == "vizsla-rehearsal"]
    assert torch.equal(torch.cuda.get_rng_state(), random_state)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in learner.model.parameters())


@pytest.mark.gpu
def test_who_looks_on_sees_no_rehearsal(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_workers=2).to("cuda"))
    learner.cuda_graphs = False
    with rehearsal(learner) as thread:
        assert thread is None
