"""The graph against ``Resize`` and ``BatchAugmentation``; ONNX files and programs against the predictor."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

from vizsla import (
    ConfigError,
    DataError,
    DataLoaders,
    Learner,
    ModelFileError,
    OutputError,
    PictureError,
    Predictor,
    Resize,
    TrainConfig,
    train_classifier,
)
from vizsla.data.images import sizing as resample
from vizsla.data.table import resolve_data
from vizsla.evaluate import calibrate
from vizsla.export import (
    LARGEST_DIFFERENCE,
    TOLERANCES,
    ExportedModel,
    Golden,
    OnnxAnswers,
    OnnxPredictor,
    Parity,
    Presize,
    Reference,
    compare,
    export_model,
    golden_path,
    graph,
    inference_graph,
    read_golden,
    separable_resize,
    verify_onnx,
    write_golden,
)
from vizsla.model_file import FinalResize, load_bundle, save_bundle
from vizsla.models import Classifier, ConcatPoolHead, FeatureHead, build_backbone
from vizsla.recipe import END_TO_END
from vizsla.train import Display
from vizsla.types import Task

if TYPE_CHECKING:
    from conftest import Done

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

VOCAB = ("cross", "disc", "none", "Füchse")


def noise(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_file(path: Path, *, task: Task = "category", **arguments: Any) -> Path:
    backbone = build_backbone("test_efficientnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(VOCAB), lin_ftrs=[16], seed=1)
    classifier = Classifier(backbone, head, vocab=VOCAB, task=task).train()
    with torch.no_grad():
        classifier(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        for weights in head.parameters():
            weights.mul_(2)
    arguments = {"resize": Resize((48, 40)), "size": (32, 36), **arguments}
    return save_bundle(path, classifier=classifier.eval(), **arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(tmp_path_factory.mktemp("model") / "model.safetensors", bit_depth=12)


@pytest.fixture(scope="module")
def written(model: Path) -> tuple[ExportedModel, ...]:
    return export_model(
        model, onnx=model.with_suffix(".onnx"), torch_program=model.with_suffix(".pt2")
    )


@pytest.fixture(scope="module")
def exported(written: tuple[ExportedModel, ...]) -> Path:
    return written[0].path


# --- the graph -------------------------------------------------------------------------------------------------------

SIZES = ((48, 40), (120, 160), (160, 120), (31, 400), (400, 31), (1, 1), (2, 50), (1000, 1), (47, 41), (2100, 2050))  # fmt: skip


@pytest.mark.parametrize(
    "resize",
    [
        Resize((48, 40)),
        Resize(33),
        Resize((30, 48), "squish"),
        *(Resize((48, 40), "pad", mode) for mode in ("reflection", "border", "zeros")),  # pyright: ignore[reportArgumentType]
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("by", ["torch", "Pillow"])
def test_the_graph_presizes_to_the_same(resize: Resize, by: str, monkeypatch: pytest.MonkeyPatch):
    if by == "Pillow":  # as on processors without vector instructions that torch knows
        for module in (resample, graph):
            monkeypatch.setattr(module, "resampler", lambda: "Pillow")
    elif resample.resampler() != by:
        pytest.skip("torch has no fast resize for this processor")
    presize = Presize(resize)
    for number, (height, width) in enumerate(SIZES):
        pixels = noise(height, width, seed=number)
        expected = np.asarray(resize(Image.fromarray(pixels))).astype(np.float32)
        found = presize(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2))[0].permute(1, 2, 0)
        wrong = np.abs(found.numpy() - expected)
        assert wrong.max() <= 1, (height, width)
        assert (wrong > 0).mean() <= 5e-4, (height, width)


FINALS = (
    FinalResize(size=(32, 36)),
    FinalResize(size=(20, 18)),
    FinalResize(size=(90, 101)),
    FinalResize(size=(32, 36), align_corners=False, pad_mode="zeros"),
    FinalResize(size=(32, 32), mode="bicubic"),
    FinalResize(size=(20, 20), mode="nearest", align_corners=False),
    FinalResize(size=(24, 24), crop_ratio=(0.75, 4 / 3), crop_scale=0.8),
    FinalResize(size=(64, 40), crop_ratio=(1.0, 1.0)),
)


def test_the_graph_resizes_as_validation_does():
    pixels = torch.from_numpy(noise(48, 50))[None].permute(0, 3, 1, 2)
    for final in FINALS:
        expected = final.augmentation()(pixels, rows=torch.arange(1), epoch=0, training=False)
        resize = separable_resize(final, source_size=(48, 50))
        assert resize is not None
        torch.testing.assert_close(
            resize(pixels.float()) / 255, expected, atol=2e-5, rtol=0, msg=repr(final)
        )
    # One that does nothing is left out.
    assert separable_resize(FinalResize(), source_size=(48, 50)) is None
    assert separable_resize(FinalResize(size=(48, 50)), source_size=(48, 50)) is None


def test_a_model_whose_images_have_no_size_yet_is_refused(tmp_path: Path):
    path = make_file(tmp_path / "m.safetensors", resize=None)
    with pytest.raises(ConfigError, match=r"item_tfms=Resize"):
        inference_graph(load_bundle(path))


# --- the files -------------------------------------------------------------------------------------------------------


def test_an_onnx_file_answers_as_the_predictor_does(model: Path, exported: Path):
    predictor, answers = Predictor.load(model, device="cpu"), OnnxAnswers(exported)
    for count, height, width in ((1, 77, 130), (4, 48, 40), (2, 1, 1), (1, 9, 300), (7, 200, 64)):
        images = np.stack([noise(height, width, seed=number) for number in range(count)])
        expected = torch.stack([predictor.predict(image).probabilities for image in images])
        assert np.abs(answers(images) - expected.numpy()).max() < 1e-4


def test_the_graph_of_each_task_answers_as_the_predictor_does(tmp_path: Path):
    image = noise(61, 80)
    for task in ("multi_category", "regression"):
        path = make_file(tmp_path / f"{task}.safetensors", task=task)
        expected = Predictor.load(path, device="cpu").predict(image).probabilities
        with torch.no_grad():
            found = inference_graph(load_bundle(path))(torch.from_numpy(image)[None])[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_head_on_features_is_exported_and_what_decoding_in_full_changes_is_told(tmp_path: Path):
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    num_features = 3 * sum(backbone.stage_channels[1:3])
    head = FeatureHead(
        stages=[1, 2], statistics=["mean", "std", "max"], num_features=num_features, num_classes=2, num_landmarks=3,
        bandwidth=0.7, with_linear=True,
    )  # fmt: skip
    random = torch.Generator().manual_seed(1)
    for tensor in (head.linear.weight, head.landmarks):
        torch.nn.init.normal_(tensor, generator=random)
    classifier = Classifier(backbone, head, vocab=("x", "y"), task="regression")
    path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=Resize(40, "pad"))
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(noise(60, 80)).resize((900, 700)).save(images / "large.jpg")
    Image.fromarray(noise(50, 70)).save(images / "one.png")
    (written,) = export_model(path, onnx=tmp_path / "m.onnx", images=[images])
    assert written.parity.max_difference < 1e-3  # both programs get the same pixels
    assert written.decoding is not None
    assert written.decoding.num_images == 1
    assert 0 < written.decoding.max_difference < 0.1
    (output,) = onnx.load(written.path).graph.output
    assert output.name == "values"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        *("vit_tiny_patch16_dinov3_qkvb", "eva02_tiny_patch14_224", "convnextv2_atto"),
        *("vit_base_patch32_siglip_256", "test_convnext+test_vit"),
    ],
)
def test_networks_of_all_families_are_trained_saved_and_exported(
    arch: str, image_folder: Path, tmp_path: Path
):
    weights = tmp_path / "weights.safetensors"
    body = build_backbone(arch, pretrained=False, seed=1).network
    safetensors.torch.save_model(body, str(weights))
    config = TrainConfig(arch=arch, weights=str(weights), size=100, epochs=1, device="cpu")
    run = train_classifier(
        resolve_data(image_folder, seed=0), config=config, display=Display(quiet=True)
    )
    patch = max(side for part in run.classifier.backbone.parts for side in part.patch_size)
    assert run.resize.size[0] % patch == 0
    assert abs(run.resize.size[0] - 100) <= patch / 2
    assert [point.stage for point in run.history][-1] == END_TO_END
    path = save_bundle(tmp_path / "m.safetensors", classifier=run.classifier, resize=run.resize)
    (written,) = export_model(path, onnx=tmp_path / "m.onnx")
    assert written.parity.max_difference < 1e-4
    predictor, answers = Predictor.load(path, device="cpu"), OnnxAnswers(written.path)
    expected = torch.stack(
        [predictor.predict(noise(90, 70, seed=number)).probabilities for number in range(2)]
    )
    images = np.stack([noise(90, 70, seed=number) for number in range(2)])
    assert np.abs(answers(images) - expected.numpy()).max() < 1e-4


def test_what_was_written_says_how_far_off_it_is(written: tuple[ExportedModel, ...]):
    first, second = written
    assert [one.path.suffix for one in written] == [".onnx", ".pt2"]
    assert (first.golden, second.golden) == (golden_path(first.path), None)
    for one in written:
        assert one.parity.max_difference < 1e-4
        assert one.parity.num_images > one.parity.num_batches > 9
    assert verify_onnx(first.path).num_batches >= 9


def test_an_onnx_file_knows_its_classes_and_nothing_of_this_machine(exported: Path, model: Path):
    proto = onnx.load(exported)
    onnx.checker.check_model(proto)
    metadata = {prop.key: prop.value for prop in proto.metadata_props}
    assert json.loads(metadata["vizsla.vocab"]) == list(VOCAB)
    assert metadata["vizsla.task"] == "category"
    assert metadata["vizsla.bit_depth"] == "12"
    assert json.loads(metadata["vizsla.manifest"])["backbone"]["name"] == "test_efficientnet"
    (given,), (answer,) = proto.graph.input, proto.graph.output
    assert given.name == "images"
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [0, 0, 0, 3]
    assert [dim.dim_value for dim in answer.type.tensor_type.shape.dim] == [0, len(VOCAB)]
    for file in (exported, model.with_suffix(".pt2")):
        assert b'File \\"' not in file.read_bytes()
        assert str(model.parent).encode() not in file.read_bytes()
        assert b"graph.py" not in file.read_bytes()


def test_the_docs_programs_work(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = (Path(__file__).parents[3] / "docs" / "onnx.md").read_text(encoding="utf-8")
    Image.fromarray(noise(60, 90)).save(tmp_path / "photo.jpg")
    for block in page.split("```python\n")[1:]:
        program = block.split("```")[0]
        for name, path in (
            ("pets.onnx", exported),
            ("pets.golden.npz", golden_path(exported)),
            ("photo.jpg", tmp_path / "photo.jpg"),
        ):
            program = program.replace(f'"{name}"', repr(str(path)))
        exec(compile(program, "onnx.md", "exec"), {})  # noqa: S102 (our own page)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[0] in VOCAB
    assert shown[1].startswith("made for this check, 240 x 320 ")
    assert shown[-2:] == [shown[0].split()[0], "uint8 3"]


def test_without_torch_or_vizsla_the_answers_are_those_of_the_predictor(
    exported: Path, model: Path, tmp_path: Path, python: Callable[..., str]
):
    files = [tmp_path / f"{number}.jpg" for number in range(4)]
    for number, file in enumerate(files):
        small = Image.fromarray(noise(9, 12, seed=number))
        small.resize((200 + number, 150), Image.Resampling.BICUBIC).save(file)
    shutil.copy(inspect.getfile(OnnxPredictor), tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"x")
    blocked = "import sys; sys.modules['torch'] = None; "
    program = f"{blocked}sys.modules['vizsla'] = None; sys.path.insert(0, '.'); import runtime; print(runtime.main(sys.argv[1:]))"
    *lines, bad, code = python(
        "-c", program, exported, *files, "bad.jpg", cwd=tmp_path
    ).splitlines()
    assert code == "2"
    assert "bad.jpg" in json.loads(bad)["error"]
    predictor = Predictor.load(model, device="cpu")
    for file, line in zip(files, lines, strict=True):
        said, expected = json.loads(line), predictor.predict(file).to_dict()
        assert said["path"] == str(file)
        assert said["probabilities"] == pytest.approx(expected["probabilities"], abs=0.005)
        assert said["prediction"] == max(said["probabilities"], key=said["probabilities"].get)
        assert {*expected, "path"} - {*said} <= {"familiarity", "none_of_these"}
    program = f"{blocked}from vizsla.export import OnnxPredictor; print(OnnxPredictor(sys.argv[1]).predict(sys.argv[2])['prediction'])"
    assert python("-c", program, exported, files[0]).strip() == json.loads(lines[0])["prediction"]


def test_given_images_are_compared_in_batches(exported: Path, model: Path, tmp_path: Path):
    for number in range(3):
        Image.fromarray(noise(50 + number, 70)).save(tmp_path / f"{number}.png")
    predictor = Predictor.load(model, device="cpu")
    reference = Reference(predictor, images=[tmp_path, tmp_path / "2.png"], cover=None)
    (parity,), kept = compare(reference.batches(), answers=[OnnxAnswers(exported)])
    assert [batch.images.shape for batch in kept] == [
        (1, 50, 70, 3), (2, 50, 70, 3), (1, 51, 70, 3), (5, 51, 70, 3), (1, 52, 70, 3), (1, 52, 70, 3)
    ]  # fmt: skip
    assert (parity.num_images, parity.num_batches) == (11, 6)
    assert not TOLERANCES["float32"].fault(parity)
    assert parity.worst.startswith(str(tmp_path))
    # The golden file knows no folders.
    write_golden(tmp_path / "g.npz", kept[:2])
    names = [batch.name for batch in read_golden(tmp_path / "g.npz")]
    assert names == ["0.png", "0.png (2 times)"]


def test_what_cannot_be_checked_is_not_written(model: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty"):
        export_model(model, onnx=tmp_path / "m.onnx", images=[tmp_path / "empty"])
    with pytest.raises(ConfigError, match="Nothing to export to"):
        export_model(model)
    with pytest.raises(ModelFileError):
        export_model(tmp_path / "none.safetensors", onnx=tmp_path / "m.onnx")
    with pytest.raises(OutputError):
        export_model(model, torch_program=tmp_path / "none" / "m.pt2")
    (tmp_path / "bad.jpg").write_bytes(b"x")
    predictor = Predictor.load(model, device="cpu")
    with pytest.raises(PictureError, match=r"bad\.jpg"):
        next(Reference(predictor, images=[tmp_path / "bad.jpg"], cover=None).batches())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jpg", "empty"]


def test_a_program_that_answers_otherwise_is_refused_with_the_image(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Another kind of resampling than the predictor's: what a mistake in the graph would look like.
    plain = Presize.forward

    def other(self: Presize, planes: torch.Tensor) -> torch.Tensor:
        return (plain(self, planes) + 40).clamp(0, 255)

    monkeypatch.setattr(Presize, "forward", other)
    target = tmp_path / "m.pt2"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match=rf"m\.pt2.*made for this.*{LARGEST_DIFFERENCE:g}"):
        export_model(model, torch_program=target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_an_onnx_file_of_a_calibrated_run_is_calibrated(image_folder: Path, tmp_path: Path):
    table = resolve_data(image_folder, valid=0.5, seed=0)
    loaders = DataLoaders(table, resize=Resize(32), batch_size=4, num_workers=0, device="cpu")
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[8], seed=1)
    classifier = Classifier(backbone, head, vocab=table.vocab)
    learner = Learner(loaders, classifier, loss_func=torch.nn.functional.cross_entropy, quiet=True)
    learner.fit_one_cycle(2, 1e-2)
    calibration = calibrate(learner.predictions(), temperature=2.5)
    assert calibration is not None
    path = save_bundle(
        tmp_path / "m.safetensors",
        classifier=classifier,
        resize=Resize(32),
        calibration=calibration,
    )
    (written,) = export_model(path, onnx=tmp_path / "m.onnx")
    predictor, answers = Predictor.load(path, device="cpu"), OnnxAnswers(written.path)
    plain = Predictor(classifier, resize=Resize(32))
    for number, file in enumerate(table.paths[:4]):
        pixels = np.asarray(Image.open(file).convert("RGB"))
        expected = predictor.predict(pixels).probabilities
        found = torch.from_numpy(answers(pixels[None])[0])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=f"image {number}")
        uncalibrated = plain.predict(pixels).probabilities
        # Where the network is undecided the probabilities hardly move, but the log odds do.
        torch.testing.assert_close(
            2.5 * expected.logit(), uncalibrated.logit(), atol=1e-5, rtol=1e-4
        )


def test_a_model_is_exported_and_verified_on_the_command_line(
    tmp_path: Path, make_classifier: Any, vizsla: Callable[..., Done]
):
    model, onnx = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    save_bundle(model, classifier=make_classifier(("a", "b")), resize=Resize(40))
    done = vizsla("export", str(model), "--onnx", str(onnx))
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith(f"{onnx}: max difference ")
    assert second.endswith(f"images and answers for `vizsla verify {onnx}`")
    verified = vizsla("verify", str(onnx))
    assert verified.code == 0
    assert verified.out.startswith(f"{onnx}: max difference ")
    onnx.with_suffix(".golden.npz").write_bytes(b"x")
    damaged = vizsla("verify", str(onnx))
    assert damaged.code == 2
    assert "golden.npz" in damaged.err
    for words, fact in (
        ((), "--onnx FILE, --torch FILE"),
        (("--onnx", "x.onnx", "--int8", "--fp16"), "--int8 and --fp16"),
        (("--onnx", "x.onnx", "--int8"), "--calibrate"),
    ):
        refused = vizsla("export", model, *words)
        assert (refused.code, fact in refused.err) == (2, True), words


@pytest.mark.slow
def test_a_run_is_exported_in_8_bits_and_measured_on_its_own_images(
    vizsla: Callable[..., Done], image_folder: Path, tmp_path: Path
):
    run, file = tmp_path / "run", tmp_path / "m.onnx"
    assert vizsla("train", image_folder, "--size", 64, "--epochs", 0, "--out", run).code == 0
    done = vizsla("export", run, "--onnx", file, "--int8")
    assert done.code == 0, done.err
    head, model, own = done.out.splitlines()[-3:]
    assert "accuracy" in head
    assert model.startswith("model.safetensors  ")
    assert own.startswith("m.onnx  ")
    assert vizsla("verify", file).code == 0
    image_folder.rename(tmp_path / "moved")
    done = vizsla("export", run, "--onnx", file, "--int8", "--force")
    assert (done.code, "--calibrate" in done.err) == (2, True)
    moved = vizsla(
        "export", run, "--onnx", file, "--int8", "--force", "--calibrate", tmp_path / "moved"
    )
    assert (moved.code, "accuracy" in moved.out) == (0, True)


def mean_colour(path: Path, *, name: str = "images") -> Path:
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
        [make.make_tensor("scale", proto.FLOAT, [], [1 / 255]), make.make_tensor("axes", proto.INT64, [2], [1, 2])],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def golden(*, count: int = 2, off: float = 0.0, name: str = "an image") -> Golden:
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    answers = (images / 255).mean((1, 2)).astype(np.float32)
    answers[-1, 1] += off
    return Golden(name=name, images=images, answers=answers)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = mean_colour(tmp_path / "model.onnx")
    write_golden(golden_path(path), [golden(), golden(count=3)])
    return path


def test_a_file_is_verified_by_the_images_beside_it(file: Path, tmp_path: Path):
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.golden.npz", "model.onnx"]
    parity = verify_onnx(file)
    assert parity.max_difference < 1e-6
    assert (parity.num_batches, parity.num_images) == (2, 5)
    other = golden_path(file).rename(tmp_path / "other.npz")
    assert verify_onnx(file, golden=other).num_images == 5


def test_a_file_that_answers_otherwise_is_refused_with_the_image(file: Path):
    write_golden(golden_path(file), [golden(), golden(count=3, off=0.002, name="dog.7.jpg")])
    with pytest.raises(ModelFileError, match=r"dog\.7\.jpg they differ by 0\.002"):
        verify_onnx(file)
    write_golden(golden_path(file), [golden(off=0.0009)])
    assert verify_onnx(file).max_difference == pytest.approx(0.0009, abs=1e-6)


def test_large_numbers_are_compared_by_ratio():
    one = golden(count=1)
    batch = Golden(name="a", images=one.images, answers=np.array([[2000.0]], np.float32))
    parity = Parity().with_batch(batch, found=np.array([[2001.0]], np.float32))
    assert parity.max_difference == pytest.approx(0.0005)
    for found in ([[np.nan, 0, 0]], [[0, 0]], [[0, 0, 0]] * 2):
        parity = Parity().with_batch(one, found=np.array(found, dtype=np.float32))
        assert parity.max_difference == float("inf")
        assert TOLERANCES["float32"].fault(parity)


def test_a_missing_or_foreign_file_is_named(file: Path, tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"There is no ONNX file .*none\.onnx"):
        verify_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match=r"\['pixels'\]"):
        verify_onnx(mean_colour(tmp_path / "other.onnx", name="pixels"))
    golden_path(file).unlink()
    with pytest.raises(ModelFileError, match=r"model\.golden\.npz: there is no such file"):
        verify_onnx(file)


def test_a_damaged_file_is_our_error(file: Path):
    foreign = (b"", b"x" * 100, b"PK\x03\x04" + bytes(60))
    good = golden_path(file).read_bytes()
    for content in (*foreign, good[: len(good) // 2]):
        golden_path(file).write_bytes(content)
        with pytest.raises(ModelFileError, match=r"golden\.npz"):
            verify_onnx(file)
    golden_path(file).write_bytes(good)
    for content in foreign:
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


def test_a_golden_file_of_other_things_is_refused(file: Path):
    images, answers = golden(count=1).images, golden(count=1).answers
    for wrong_images, wrong_answers in (
        (np.zeros((1, 5, 7), np.uint8), answers),
        (np.zeros((1, 5, 7, 3), np.float32), answers),
        (np.zeros((0, 5, 7, 3), np.uint8), np.zeros((0, 3), np.float32)),
        (images, np.zeros((2, 3), np.float32)),
        (images, np.zeros(3, np.float32)),
        (images, np.zeros((1, 3), np.int64)),
    ):
        arrays = {"name_0": np.array("a"), "images_0": wrong_images, "answers_0": wrong_answers}
        np.savez(golden_path(file), allow_pickle=False, **arrays)
        with pytest.raises(ModelFileError, match="'a' has images"):
            verify_onnx(file)
