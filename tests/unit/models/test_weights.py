"""Files of weights: read safely, matched completely."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from torch import nn

from vizsla.errors import WeightsError
from vizsla.models.weights import Weights, load_weights, read_checked_file, read_weights_file

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.tensor([1.0, -1.0])}


@pytest.fixture
def linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2))


def weights(tensors: dict[str, torch.Tensor]) -> Weights:
    return Weights(tensors=tensors, origin="file x.pth")


def save(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same(read: dict[str, torch.Tensor]) -> None:
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_safetensors_are_read(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "w.safetensors")
    assert_same(read_weights_file(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saved_is_read(tmp_path, legacy):
    assert_same(read_weights_file(save(TENSORS, tmp_path / "w.pth", legacy=legacy)))


def test_the_content_decides_not_the_suffix(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "w.pth")
    assert_same(read_weights_file(str(tmp_path / "w.pth")))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_ema"])
def test_weights_inside_a_checkpoint_are_found(tmp_path, key):
    assert_same(read_weights_file(save({"epoch": 3, key: TENSORS}, tmp_path / "w.pth")))


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path, legacy):
    path = save({"0.weight": Attack(tmp_path / "proof")}, tmp_path / "w.pth", legacy=legacy)
    with pytest.raises(WeightsError, match=r"w\.pth was refused: it wants to use \w+\.mkdir"):
        read_weights_file(path)
    assert not (tmp_path / "proof").exists()


def test_a_pickled_network_is_refused_with_the_way_out(tmp_path, linear):
    with pytest.raises(WeightsError, match=r"Save the state dict alone"):
        read_weights_file(save(linear, tmp_path / "w.pth"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: No such file"):
        read_weights_file(tmp_path / "none.pth")


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="is not a file of weights: it is neither"):
        read_weights_file(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_called_damaged(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        save(TENSORS, path)
    else:
        safetensors.torch.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WeightsError, match="is damaged: "):
        read_weights_file(path)


@pytest.mark.parametrize("legacy_bytes", [b"\x80", b"\x80\x02", b"\x80\x02}q\x00.", b"\x80\x02N."])
def test_a_broken_stream_is_refused(tmp_path, legacy_bytes):
    (tmp_path / "w.pth").write_bytes(legacy_bytes)
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_weights_file(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "lr": 0.1}, r"2 other things \(epoch, lr\)"),
        ({}, "none in a dict"),
        ([1, 2], "none in a list"),
        (torch.zeros(2), "none in a Tensor"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path, content, found):
    with pytest.raises(WeightsError, match=rf"holds no weights: .* found {found}"):
        read_weights_file(save(content, tmp_path / "w.pth"))


def test_a_file_is_read_if_its_digest_is_the_expected_one(tmp_path):
    path = save(TENSORS, tmp_path / "w.pth")
    assert_same(read_checked_file(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))


def test_a_file_with_another_digest_is_refused(tmp_path):
    path = save(TENSORS, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"digest is [0-9a-f]{{64}}, expected {'0' * 64}"):
        read_checked_file(path, sha256="0" * 64)


def test_a_missing_checked_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth.*Install its package again"):
        read_checked_file(tmp_path / "none.pth", sha256="0" * 64)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.network."])
def test_weights_are_loaded_with_and_without_known_prefixes(linear, prefix):
    given = {prefix + name: tensor for name, tensor in TENSORS.items()}
    load_weights(linear, weights(given), what="my network")
    assert_same(linear.state_dict())


def test_the_head_of_a_model_file_of_ours_is_left_out(linear):
    given = {f"backbone.network.{name}": tensor for name, tensor in TENSORS.items()}
    given["head.layers.0.weight"] = torch.zeros(7)
    load_weights(linear, weights(given), what="my network")
    assert_same(linear.state_dict())


def test_the_former_classifier_is_left_out(linear):
    given = {**TENSORS, "fc.weight": torch.zeros(9, 2), "fc.bias": torch.zeros(9)}
    load_weights(linear, weights(given), ignored=("fc",), what="my network")
    assert_same(linear.state_dict())


def test_half_precision_weights_are_loaded_as_float32(linear):
    load_weights(linear, weights({name: t.half() for name, t in TENSORS.items()}), what="it")
    assert_same(linear.state_dict())


def test_counters_of_batches_may_be_missing():
    norm = nn.BatchNorm1d(2)
    given = {name: tensor for name, tensor in norm.state_dict().items() if "num_" not in name}
    load_weights(norm, weights({**given, "weight": torch.tensor([2.0, 3.0])}), what="it")
    assert norm.weight.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"0.weight": TENSORS["0.weight"]}, r"1 missing \(0\.bias\)"),
        ({**TENSORS, "1.weight": torch.zeros(1)}, r"1 not part of the network \(1\.weight\)"),
        (
            {**TENSORS, "0.bias": torch.zeros(5)},
            r"1 of another shape \(0\.bias \(5,\), expected \(2,\)\)",
        ),
        (
            {f"{number}.x": torch.zeros(1) for number in range(5)},
            r"2 missing \(0\.weight, 0\.bias\); 5 not part of the network \(0\.x, 1\.x, 2\.x, \.\.\.\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(linear, given, problem):
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"file x\.pth do not fit my network: {problem}\. Give"):
        load_weights(linear, weights(given), what="my network")
    assert all(torch.equal(tensor, before[name]) for name, tensor in linear.state_dict().items())
