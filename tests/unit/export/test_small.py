"""Files in 8 and 16 bits, and of other engines, against the model on image files; how ``runtime.py`` prepares images."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from vizsla import (
    ConfigError,
    DataError,
    MissingExtraError,
    ModelFileError,
    PictureError,
    Predictor,
    Resize,
)
from vizsla.data.images import sizing
from vizsla.export import (
    TOLERANCES,
    ExportedModel,
    Golden,
    OnnxPredictor,
    Parity,
    Tolerance,
    export_model,
    golden_path,
    prepared,
    read_golden,
    verify_onnx,
    write_golden,
)
from vizsla.export.verify import Precision
from vizsla.model_file import manifest_to_json, read_manifest, save_bundle

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def check_measured(one: ExportedModel, *, precision: Precision) -> None:
    """It is like the model on image files, and says so."""
    model, own = one.measured
    assert own.parity == one.parity
    assert own.parity.num_images == 12
    assert not TOLERANCES[precision].fault(own.parity)
    assert model.metric is not None
    assert own.metric is not None
    assert (own.metric.name, own.metric.num_pictures) == ("accuracy", 12)
    assert own.metric.low <= model.metric.value <= own.metric.high
    assert own.images_per_second > 0
    file = one.path / "model.onnx" if one.path.is_dir() else one.path
    assert own.num_bytes == file.stat().st_size
    metadata = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert metadata["vizsla.precision"] == precision


def test_a_file_in_8_bits_answers_as_the_model_on_image_files(small: tuple[ExportedModel, ...]):
    for one in small:
        check_measured(one, precision="int8")


@pytest.mark.slow
def test_a_file_in_float16_answers_as_the_model_on_image_files(trained: Any, tmp_path: Path):
    (one,) = export_model(
        trained.model, onnx=tmp_path / "m.onnx", precision="float16", data=trained.data
    )
    check_measured(one, precision="float16")
    weights = {each.data_type for each in onnx.load(one.path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights
    assert verify_onnx(one.path).agreement == 1.0


def test_only_the_weights_of_the_backbone_have_8_bits_with_a_scale_for_each_channel(
    small: tuple[ExportedModel, ...],
):
    proto = onnx.load(small[0].path)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    weights = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim == 4]
    assert weights
    # 7 bits: more overflow on processors without VNNI.
    assert max(np.abs(array.astype(int)).max() for array in weights) <= 64
    scales = {each.input[1] for each in proto.graph.node if each.op_type == "DequantizeLinear"}
    assert {len(weight) for weight in weights} <= {arrays[name].size for name in scales}
    gemm_inputs = {
        name for node in proto.graph.node if node.op_type == "Gemm" for name in node.input
    }
    made_by = {name: node.op_type for node in proto.graph.node for name in node.output}
    assert "DequantizeLinear" not in {made_by.get(name) for name in gemm_inputs}


def test_verify_knows_the_tolerance_of_a_file(small: tuple[ExportedModel, ...], tmp_path: Path):
    file = Path(shutil.copy(small[0].path, tmp_path / "m.onnx"))
    assert small[0].golden is not None
    batches = list(read_golden(small[0].golden))
    write_golden(golden_path(file), batches)
    parity = verify_onnx(file)
    assert (parity.num_images, parity.agreement) == (12, 1.0)
    assert parity.mean_difference < 1e-3
    for batch in batches:  # the other class
        batch.answers[:] = batch.answers[:, ::-1]
    write_golden(golden_path(file), batches)
    with pytest.raises(ModelFileError, match=r"m\.onnx"):
        verify_onnx(file)


def test_a_tolerance_says_what_is_too_far_off():
    answers = np.array([[0.9, 0.1], [0.52, 0.48]], np.float32)
    found = np.array([[0.8, 0.2], [0.48, 0.52]], np.float32)
    parity = Parity().with_batch(Golden(name="a", answers=answers), found=found)
    assert parity.mean_difference == pytest.approx((0.1 + 0.04) / 2, abs=1e-6)
    assert parity.agreement == 0.5
    for tolerance, words in (
        (Tolerance(max_difference=0.05), "0.1"),
        (Tolerance(mean_difference=0.05), "on average"),
        (Tolerance(agreement=0.6), "50.0%"),
        (Tolerance(max_difference=0.2, mean_difference=0.1, agreement=0.5), ""),
    ):
        assert words in tolerance.fault(parity)
        assert bool(words) == bool(tolerance.fault(parity))
    labels = Parity(task="multi_category").with_batch(
        Golden(name="a", answers=answers), found=found
    )
    assert (
        labels.agreement,
        Parity(task="regression")
        .with_batch(Golden(name="a", answers=answers), found=found)
        .agreement,
    ) == (0.5, 1.0)


def test_what_cannot_be_small_is_refused(trained: Any, tmp_path: Path):
    target = tmp_path / "m.onnx"
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"precision": "int8"}, "--calibrate"),
        ({"precision": "float16"}, "--calibrate"),
        ({"precision": "int8", "images": [trained.data]}, "--calibrate"),
        ({"precision": "int4"}, "int4"),
        ({"precision": "int8", "torch_program": tmp_path / "m.pt2"}, "float32"),
    )
    for options, words in cases:
        with pytest.raises(ConfigError, match=words):
            export_model(trained.model, onnx=target, **options)
    one_image = tmp_path / "one"
    one_image.mkdir()
    shutil.copy(next(trained.data.rglob("*.jpg")), one_image)
    with pytest.raises(DataError, match="too few"):
        export_model(trained.model, onnx=target, precision="int8", data=one_image)
    assert list(tmp_path.iterdir()) == [one_image]


@pytest.mark.slow
def test_other_engines_answer_as_the_model(trained: Any, tmp_path: Path):
    pytest.importorskip("openvino")
    (one,) = export_model(trained.model, openvino=tmp_path / "m.xml", data=trained.data)
    assert one.parity.max_difference < 1e-3
    assert one.measured[1].parity.agreement == 1.0
    weights = tmp_path / "m.bin"
    assert one.measured[1].num_bytes == one.path.stat().st_size + weights.stat().st_size
    import openvino

    model: Any = openvino.Core().read_model(tmp_path / "m.xml")
    assert json.loads(model.get_rt_info(["vizsla", "vocab"]).astype(str)) == list(
        Predictor.load(trained.model).vocab
    )
    assert sorted(tmp_path.iterdir()) == [weights, one.path]


@pytest.mark.slow
def test_executorch_answers_as_the_model(trained: Any, tmp_path: Path):
    pytest.importorskip("executorch")
    (one,) = export_model(trained.model, executorch=tmp_path / "m.pte", data=trained.data)
    assert one.parity.max_difference < 1e-3
    assert one.measured[1].parity.agreement == 1.0


def test_an_engine_that_is_not_installed_is_named(trained: Any, tmp_path: Path):
    for engine in ("openvino", "executorch"):
        if find_spec(engine) is None:
            options: dict[str, Any] = {engine: tmp_path / "m.bin"}
            with pytest.raises(MissingExtraError, match=f"pip install .*{engine}"):
                export_model(trained.model, **options)
    assert not list(tmp_path.iterdir())


# --- runtime.py ------------------------------------------------------------------------------------------------------


def kinds_of_images() -> dict[str, bytes]:
    random = np.random.default_rng(5)
    smooth = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(
        (130, 90), Image.Resampling.BICUBIC
    )
    grey16 = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 16)
    alpha = smooth.convert("RGBA")
    alpha.putalpha(smooth.convert("L"))
    palette = smooth.quantize(16)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found: dict[str, bytes] = {}
    for name, image, options in (
        ("plain.jpg", smooth, {"quality": 90}),
        ("huge.jpg", smooth.resize((1300, 900)), {"quality": 90}),
        ("grey.jpg", smooth.convert("L"), {}),
        ("cmyk.jpg", smooth.convert("CMYK"), {}),
        ("profile.jpg", smooth, {"icc_profile": srgb}),
        ("alpha.png", alpha, {}),
        ("grey-alpha.png", alpha.convert("LA"), {}),
        ("palette.png", palette, {"transparency": 3}),
        ("one-bit.png", smooth.convert("1"), {}),
        ("grey16.png", grey16, {}),
        ("grey16.tif", grey16, {}),
        ("animated.gif", palette, {"save_all": True, "append_images": [palette.rotate(90)]}),
        ("lossless.webp", smooth, {"lossless": True}),
        ("tiny.bmp", smooth.resize((2, 3)), {}),
    ):
        stream = BytesIO()
        image.save(
            stream,
            {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2].upper()),
            **options,
        )
        found[name] = stream.getvalue()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = BytesIO()
        smooth.resize((260, 120)).save(stream, "JPEG", exif=exif)
        found[f"turned-{orientation}.jpg"] = stream.getvalue()
    return found


def test_images_of_all_kinds_are_prepared_as_vizsla_does(
    tmp_path: Path, make_classifier: Any, monkeypatch: pytest.MonkeyPatch
):
    # As on processors for which torch has no fast resize: then nothing differs.
    monkeypatch.setattr(sizing, "resampler", lambda: "Pillow")
    images = kinds_of_images()
    for resize in (Resize((40, 32)), Resize(36, "pad"), Resize((30, 44), "squish")):
        path = save_bundle(
            tmp_path / "m.safetensors",
            classifier=make_classifier(("a", "b")),
            resize=resize,
            bit_depth=12,
        )
        manifest = json.loads(manifest_to_json(read_manifest(path)))
        predictor = Predictor.load(path, device="cpu")
        for name, data in images.items():
            expected, found = predictor.prepare(data), prepared(data, manifest)
            assert np.array_equal(found, expected), (name, resize)


def test_several_labels_are_decided_by_the_thresholds_of_the_file(
    small: tuple[ExportedModel, ...],
):
    predictor = OnnxPredictor(small[0].path)
    predictor.task, predictor.manifest["thresholds"] = "multi_category", [0.2, 0.9]
    said = predictor.describe(np.array([0.3, 0.8], np.float32))
    assert said["prediction"] == [predictor.vocab[0]]
    assert said["probability"] == pytest.approx(0.2)
    answers = np.array([[0.3, 0.8]], np.float32)
    for thresholds, agreement in (((0.2, 0.9), 1.0), (None, 0.0)):
        parity = Parity(task="multi_category", thresholds=thresholds)
        found = np.array([[0.55, 0.85]], np.float32)
        assert (
            parity.with_batch(Golden(name="a", answers=answers), found=found).agreement == agreement
        )


def test_an_image_that_cannot_be_read_is_our_error(
    small: tuple[ExportedModel, ...], tmp_path: Path
):
    predictor = OnnxPredictor(small[0].path, formats=("PNG",), max_pixels=1000)
    images = kinds_of_images()
    for image in (tmp_path / "none.jpg", b"x", images["plain.jpg"], images["alpha.png"]):
        with pytest.raises(PictureError):
            predictor.predict(image)
    pixels = np.zeros((20, 30, 3), np.uint8)
    assert predictor.predict(pixels) == predictor.predict(Image.fromarray(pixels))
    foreign = tmp_path / "m.onnx"
    foreign.write_bytes(b"x")
    for path in (foreign, tmp_path / "none.onnx"):
        with pytest.raises(ModelFileError, match=str(path)):
            OnnxPredictor(path)
