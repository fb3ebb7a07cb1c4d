"""The check of an ONNX file that runs anywhere: what it accepts, what it finds, and that it needs neither torch nor trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vizsla.errors import ModelFileError
from vizsla.export.verify import Golden, Parity, golden_path, read_golden, verify_onnx, write_golden

if TYPE_CHECKING:
    from pathlib import Path

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def mean_colour(path: Path, *, name: str = "images", opset: int = 18) -> Path:
    """Write an ONNX file whose answers are the mean red, green and blue, 0-1."""
    make, proto = onnx.helper, onnx.TensorProto
    nodes = [
        make.make_node("Cast", [name], ["floats"], to=proto.FLOAT),
        make.make_node("Mul", ["floats", "scale"], ["scaled"]),
        make.make_node("ReduceMean", ["scaled", "axes"], ["answers"], keepdims=0),
    ]
    graph = make.make_graph(
        nodes,
        "mean",
        [make.make_tensor_value_info(name, proto.UINT8, ["batch", "height", "width", 3])],
        [make.make_tensor_value_info("answers", proto.FLOAT, ["batch", 3])],
        [
            make.make_tensor("scale", proto.FLOAT, [], [1 / 255]),
            make.make_tensor("axes", proto.INT64, [2], [1, 2]),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def golden(*, count: int = 2, off: float = 0.0, name: str = "a picture") -> Golden:
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    answers = (images / 255).mean((1, 2)).astype(np.float32)
    answers[-1, 1] += off
    return Golden(name=name, images=images, answers=answers)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = mean_colour(tmp_path / "model.onnx")
    write_golden(golden_path(path), [golden(), golden(count=3)])
    return path


def test_the_golden_pictures_lie_beside_the_file(file: Path):
    assert golden_path(file).name == "model.golden.npz"
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.golden.npz", "model.onnx"]


def test_a_file_that_answers_as_before_is_verified(file: Path):
    parity = verify_onnx(file)
    assert parity.max_difference < 1e-6
    assert (parity.num_batches, parity.num_pictures) == (2, 5)


def test_a_file_that_answers_otherwise_is_refused_with_the_picture(file: Path):
    write_golden(golden_path(file), [golden(), golden(count=3, off=0.002, name="dog.7.jpg")])
    with pytest.raises(ModelFileError, match=r"dog\.7\.jpg they differ by 0\.002"):
        verify_onnx(file)
    write_golden(golden_path(file), [golden(off=0.0009)])
    assert verify_onnx(file).max_difference == pytest.approx(0.0009, abs=1e-6)


def test_another_golden_file_may_be_given(file: Path, tmp_path: Path):
    other = golden_path(file).rename(tmp_path / "other.npz")
    assert verify_onnx(file, golden=other).num_pictures == 5


def test_numbers_above_1_are_compared_by_ratio():
    batch = Golden(
        name="a", images=golden(count=1).images, answers=np.array([[2000.0]], np.float32)
    )
    parity = Parity().with_batch(batch, found=np.array([[2001.0]], np.float32))
    assert parity.max_difference == pytest.approx(0.0005)


@pytest.mark.parametrize("found", [[[np.nan, 0, 0]], [[0, 0]], [[0, 0, 0]] * 2])
def test_answers_of_another_shape_or_not_finite_are_infinitely_far_off(found: list[list[float]]):
    parity = Parity().with_batch(golden(count=1), found=np.array(found, dtype=np.float32))
    assert parity.max_difference == float("inf")
    assert not parity.is_close


def test_a_missing_file_is_named(file: Path, tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"There is no ONNX file .*none\.onnx"):
        verify_onnx(tmp_path / "none.onnx")
    golden_path(file).unlink()
    with pytest.raises(ModelFileError, match=r"model\.golden\.npz: there is no such file"):
        verify_onnx(file)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04" + bytes(60)])
def test_a_damaged_file_is_our_error(file: Path, content: bytes):
    good = golden_path(file).read_bytes()
    golden_path(file).write_bytes(content)
    with pytest.raises(ModelFileError, match=r"golden\.npz"):
        verify_onnx(file)
    golden_path(file).write_bytes(good[: len(good) // 2])
    with pytest.raises(ModelFileError, match=r"golden\.npz"):
        verify_onnx(file)
    golden_path(file).write_bytes(good)
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"cannot open .*model\.onnx|not written by"):
        verify_onnx(file)


def test_nothing_in_a_golden_file_is_unpickled(file: Path):
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return pytest.fail, ("it was unpickled",)

    arrays = {"name_0": np.array("a"), "images_0": np.array([Bomb()]), "answers_0": np.zeros(1)}
    with golden_path(file).open("wb") as stream:
        np.savez(stream, allow_pickle=True, **arrays)
    with pytest.raises(ModelFileError, match="allow_pickle=False"):
        list(read_golden(golden_path(file)))


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((1, 5, 7), np.uint8)},
        {"images": np.zeros((1, 5, 7, 3), np.float32)},
        {"images": np.zeros((0, 5, 7, 3), np.uint8), "answers": np.zeros((0, 3), np.float32)},
        {"answers": np.zeros((2, 3), np.float32)},
        {"answers": np.zeros(3, np.float32)},
        {"answers": np.zeros((1, 3), np.int64)},
    ],
    ids=["three axes", "floats", "empty", "other count", "one axis", "whole numbers"],
)
def test_a_golden_file_of_other_things_is_refused(file: Path, change: dict[str, np.ndarray]):
    parts = {"images": golden(count=1).images, "answers": golden(count=1).answers, **change}
    arrays = {f"{name}_0": value for name, value in {**parts, "name": np.array("a")}.items()}
    np.savez(golden_path(file), allow_pickle=False, **arrays)
    with pytest.raises(ModelFileError, match="'a' has pictures"):
        verify_onnx(file)


def test_a_foreign_onnx_file_is_refused(file: Path):
    mean_colour(file, name="pixels")
    with pytest.raises(ModelFileError, match=r"its inputs are \['pixels'\]"):
        verify_onnx(file)
