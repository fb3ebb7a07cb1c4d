"""What follows from measured times: estimates, bottlenecks and advice, in exact arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from vizsla import ConfigError, TrainConfig
from vizsla.bench import MEASURED as KNOWN
from vizsla.bench import Elsewhere, Measured, advice_of, estimates_of

if TYPE_CHECKING:
    from vizsla.bench import Extrapolation

MEASURED = Measured(
    num_train=100,
    num_valid=50,
    shares_processor=True,
    size=224,
    read_strip=0.02,
    read_centred=0.01,
    forward=0.04,
    phases={
        "waiting for data": 0.01,
        "augmentation": 0.02,
        "forward": 0.03,
        "backward": 0.06,
        "optimiser": 0.01,
        "everything else": 0.03,
    },
    step=0.16,
    frozen_step=0.1,
)


def test_estimates_add_up_what_the_parts_take():
    features, frozen, first, later = estimates_of(MEASURED)
    # 150 images are read; 100 are looked at twice and 50 once.
    assert features.name == "features first, once"
    assert features.seconds == pytest.approx(1.5 + 10.0)
    assert (features.bottleneck, features.share) == ("forward", pytest.approx(10 / 11.5))
    assert frozen.seconds == pytest.approx(10.0 + 2.0)
    assert first.seconds == pytest.approx(2.0 + 16.0 + 2.0)
    assert later.seconds == pytest.approx(16.0 + 2.0)
    assert (later.bottleneck, later.share) == ("the network", pytest.approx(10 / 18))


def test_estimates_follow_device_cache_and_missing_parts():
    *_, first, later = estimates_of(replace(MEASURED, shares_processor=False, read_strip=0.5))
    assert (first.bottleneck, first.seconds, first.share) == ("reading images", 50.0, 1.0)
    assert (first.reading, first.network) == (50.0, pytest.approx(18.0))
    assert later.seconds == pytest.approx(18.0)
    *_, later = estimates_of(replace(MEASURED, kept_share=0.25))  # what is not kept is read again
    assert later.seconds == pytest.approx(18.0 + 0.75 * 100 * 0.02)
    names = [each.name for each in estimates_of(replace(MEASURED, frozen_step=None))]
    ends = ["the first end-to-end epoch", "each later end-to-end epoch"]
    assert names == ["features first, once", *ends]


def test_settings_that_are_faster_by_a_tenth_are_named():
    same = replace(
        MEASURED,
        steps_by_batch={64: 0.15, 16: 0.2},
        steps_by_size={160: 0.155},
        reads_by_workers={1: 0.03, 4: 0.019},
    )
    assert advice_of(same) == ()
    faster = replace(MEASURED, steps_by_batch={64: 0.08, 16: 0.1}, steps_by_size={160: 0.1})
    assert advice_of(faster) == (
        "--bs 64: 2.00 times the images a second in end-to-end steps (12.5 instead of 6.2)",
        "--size 160: 1.60 times the images a second in end-to-end steps; the network sees less",
    )


def test_more_threads_are_named_where_the_epoch_gains():
    slow = replace(MEASURED, reads_by_workers={4: 0.01})
    assert advice_of(slow) == ()  # 20 seconds become 19
    slow = replace(slow, read_strip=0.2)
    assert advice_of(slow) == (
        "--workers 4: reads 20.00 times as fast (100 instead of 5 images/s); the first end-to-end epoch takes 19 s "
        "instead of 38 s",
    )


def test_a_small_cache_is_named_where_reading_costs():
    small = replace(MEASURED, kept_share=0.5, needed="9.0 GB")
    assert advice_of(small) == ()
    (advice,) = advice_of(replace(small, read_strip=0.36))
    assert advice == (
        "A larger --cache-budget, or --cache disk: prepared images take 9.0 GB and there is room for 50% of them; with "
        "room for all a later epoch takes 18 s instead of 36 s"
    )


def test_other_machines_follow_from_what_was_measured():
    config = TrainConfig(arch="resnet34", epochs=3)
    features, frozen, first, later = here = estimates_of(MEASURED)

    def estimate(**options: Any) -> Extrapolation:
        elsewhere = Elsewhere(**options)
        elsewhere.check(config)
        return elsewhere.estimate(here, config=config, step=MEASURED.step, device="cpu")

    found = estimate(machines=4, efficiency=0.5, price=3.0)
    assert [each.seconds for each in found.estimates] == pytest.approx(
        [each.seconds / 2 for each in here]
    )
    assert found.seconds == pytest.approx(
        (features.seconds + first.seconds + 2 * later.seconds) / 2
    )
    assert found.cost == pytest.approx(3.0 * 4 * found.seconds / 3600)
    # A GPU computes while images are read: here reading takes longest where they are read.
    found = estimate(gpu="anything", speed_up=100.0)
    expected = [max(each.reading, each.network / 100) for each in here]
    assert [each.seconds for each in found.estimates] == pytest.approx(expected)
    assert (frozen.reading, found.cost) == (0.0, None)
    for name in ("h100", "H100"):
        assert estimate(gpu=name).speed_up == pytest.approx(KNOWN["h100"]["resnet34"] * 0.16)
    assert any(
        "100%" in line or "100 %" in line
        for line in estimate(machines=2, efficiency=1.0).assumptions
    )


def test_speeds_that_nobody_measured_are_refused():
    wrong: tuple[dict[str, Any], ...] = (
        {"machines": 0},
        {"speed_up": 0.0},
        {"speed_up": float("inf")},
        {"efficiency": 0.0},
        {"efficiency": 1.5},
        {"price": -1.0},
        {"gpu": "b300"},
    )
    for options in wrong:
        (value,) = options.values()
        with pytest.raises(ConfigError, match=f"Received: .?{value}"):
            Elsewhere(**options)
    with pytest.raises(
        ConfigError, match=r"resnet34 and resnet50 at 224 .* Received: convnext_atto"
    ):
        Elsewhere(gpu="h100").check(TrainConfig(arch="convnext_atto"))
    with pytest.raises(ConfigError, match="Received: resnet34 at 128"):
        Elsewhere(gpu="h100").check(TrainConfig(arch="resnet34", size=128))
    Elsewhere(gpu="b300", speed_up=50).check(TrainConfig(arch="convnext_atto"))
