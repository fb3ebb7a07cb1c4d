"""Networks and heads of the user's own: trained, judged, written, and opened with the function that makes them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vizsla import (
    CategoryBlock,
    ConfigError,
    DataBlock,
    ImageBlock,
    ImageDataLoaders,
    Learner,
    ModelFileError,
    Normalize,
    PILImageBW,
    Predictor,
    RandomSplitter,
    Resize,
    accuracy,
    get_image_files,
    grad_cam,
    load_learner,
    parent_label,
    vision_learner,
)
from vizsla.export import export_model
from vizsla.model_file import read_manifest

SIZE = 32


class Own(nn.Module):
    """Calls ``view`` on images and on maps, as people do."""

    def __init__(self, num_outputs: int = 2, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.last = nn.Linear(width * (SIZE // 4) ** 2 + 3, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).relu()
        colours = images.view(images.size(0), 3, -1).mean(2)
        return self.last(torch.cat([maps.view(maps.size(0), -1), colours], dim=1))


def own_head(num_features: int = 96, num_outputs: int = 2) -> nn.Sequential:
    layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_features, num_outputs)
    return nn.Sequential(*layers)


def own_body() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 9, 1)
    )


def grey_network() -> nn.Sequential:
    layers = nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, 2))


@pytest.fixture
def dls(image_folder: Path) -> Any:
    options: Any = {"bs": 4, "num_workers": 0, "device": "cpu"}
    return ImageDataLoaders.from_folder(
        image_folder, valid_pct=0.25, seed=1, item_tfms=Resize(SIZE), **options
    )


@pytest.fixture
def grey_block() -> DataBlock:
    return DataBlock(
        (ImageBlock(PILImageBW), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(0.25, seed=1),
        item_tfms=Resize(SIZE),
    )


def untrained(dls: Any, arch: Any = "test_resnet", **options: Any) -> Any:
    return vision_learner(dls, arch, pretrained=False, quiet=True, **options)


def test_a_module_of_ones_own_goes_the_whole_way(dls: Any, image_folder: Path, here: Path):
    network = Own()
    learn: Any = Learner(dls, network, metrics=accuracy, quiet=True)
    assert learn.model is network
    learn.fine_tune(1, 1e-2)
    assert len(learn.recorder.values) == 2
    assert learn.validate() == pytest.approx(learn.recorder.values[-1][1:], abs=1e-6)
    file = sorted(image_folder.rglob("*.jpg"))[0]
    expected = learn.predict(file)
    path = learn.export("own.safetensors")

    again = load_learner(path, builder=Own)
    found = again.predict(file)
    assert found.label == expected.label
    assert torch.allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert read_manifest(path).own_parts == {"network": "Own"}
    assert again.evaluate(image_folder).metrics[0].num_pictures == 24
    again_preds = again.get_preds(dl=again.dls.test_dl([file]))[0]
    assert again_preds is not None
    assert torch.allclose(again_preds[0], found.probabilities, atol=1e-5)
    sent: Predictor = pickle.loads(pickle.dumps(again))  # noqa: S301 (our own)
    assert sent.predict(file).label == expected.label
    with pytest.raises(ConfigError, match=r"Own is your own.*no feature maps"):
        grad_cam(learn.classifier, torch.zeros(1, 3, SIZE, SIZE))


@pytest.mark.slow
def test_a_graph_of_a_network_of_ones_own_needs_no_builder_afterwards(dls: Any, here: Path):
    path = Learner(dls, Own(), quiet=True).export("own.safetensors")
    written = export_model(path, torch_program="own.pt2", builder=Own)[0]
    assert written.parity.max_difference < 1e-3


def test_own_heads_and_bodies_train_in_groups_and_come_back(
    dls: Any, image_folder: Path, here: Path
):
    file = sorted(image_folder.rglob("*.jpg"))[0]
    body, both = own_body(), (own_body(), own_head(9))
    for learn, builder, parts in (
        (untrained(dls, custom_head=own_head()), own_head, {"head": "Sequential"}),
        (untrained(dls, body, cut=-1, lin_ftrs=[]), own_body, {"body": "Sequential[:3]"}),
        (
            untrained(dls, both[0], custom_head=both[1]),
            lambda: (own_body(), own_head(9)),
            {"body": "Sequential", "head": "Sequential"},
        ),
    ):
        learn.freeze()
        before = [value.clone() for value in learn.groups[0]]
        learn.fit(1, 1e-2)
        trained = [group for group in learn.groups if any(each.requires_grad for each in group)]
        assert trained[-1] is learn.groups[-1]
        norms = {
            id(each)
            for part in learn.model.modules()
            if isinstance(part, nn.BatchNorm2d)
            for each in part.parameters()
        }
        for old, new in zip(before, learn.groups[0], strict=True):
            assert id(new) in norms or torch.equal(old, new)
        learn.unfreeze()
        learn.fit(1, 1e-3)
        expected = learn.predict(file).probabilities
        path = learn.export("parts.safetensors")
        assert read_manifest(path).own_parts == parts
        found = Predictor.load(path, "cpu", builder=builder).predict(file).probabilities
        assert torch.allclose(found, expected, atol=1e-5)


def test_images_for_an_own_network_are_normalised_where_the_loaders_say_so(
    image_folder: Path, here: Path
):
    class Recording(Own):
        def forward(self, images: Tensor) -> Tensor:
            self.mean = images.mean(dim=(0, 2, 3))
            return super().forward(images)

    means: list[Tensor] = []
    stats = ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    for transforms in ([], [Normalize.from_stats(*stats)], [Normalize()]):
        loaders = ImageDataLoaders.from_folder(
            image_folder, valid_pct=0.25, seed=1, item_tfms=Resize(SIZE), batch_tfms=transforms, bs=4, num_workers=0, device="cpu"
        )  # fmt: skip
        torch.manual_seed(0)
        learn: Any = Learner(loaders, Recording(), quiet=True)
        learn.get_preds()
        means.append(learn.model.mean)
        file = sorted(image_folder.rglob("*.jpg"))[0]
        expected = learn.predict(file).probabilities
        found = load_learner(learn.export("own.safetensors"), builder=Recording).predict(file)
        assert torch.allclose(found.probabilities, expected, atol=1e-5)
    mean, std = map(torch.tensor, stats)
    assert torch.allclose(means[1], (means[0] - mean) / std, atol=1e-4)
    assert means[2].abs().max() < 1


def test_networks_that_do_not_fit_are_refused_before_the_first_step(dls: Any):
    def head(layers: Any) -> Any:
        return partial(untrained, dls, custom_head=layers)

    cases: list[tuple[Any, str]] = [
        (lambda: Learner(dls, Own(3)), r"Own .*\(1, 3, 32, 32\).*\(1, 2\).*Received: \(1, 3\)"),
        (lambda: Learner(dls, nn.Conv2d(1, 2, 3)), r"Conv2d .*fails"),
        (lambda: Learner(dls, nn.LSTM(32, 2)), r"LSTM .*fails|LSTM .*Received"),
        (lambda: Learner(dls, "resnet34"), r"'resnet34'.*vision_learner"),  # pyright: ignore[reportArgumentType]
        (lambda: Learner(dls, Own), r"Own.*MyNetwork\(\)"),  # pyright: ignore[reportArgumentType]
        (head(own_head(64)), r"head Sequential .*\(1, 96, .*fails"),
        (head(own_head(96, 5)), r"head Sequential .*Received: \(1, 5\)"),
        (head("linear"), r"custom_head.*'linear'"),
    ]
    for make, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            make()
    networks = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    Learner(dls, networks, quiet=True).fit(1)


def test_a_file_with_parts_of_ones_own_asks_for_their_builder(
    dls: Any, vizsla: Any, image_folder: Path, here: Path
):
    path = Learner(dls, Own(), quiet=True).export("own.safetensors")
    head = untrained(dls, custom_head=own_head()).export("head.safetensors")
    plain = untrained(dls).export("plain.safetensors")
    for file, part in ((path, "network Own"), (head, "head Sequential")):
        with pytest.raises(ModelFileError, match=rf"{part}.*builder="):
            load_learner(file)
        for words in (
            ("predict", file, image_folder),
            ("evaluate", file, image_folder),
            ("export", file, "--torch", "own.pt2"),
            ("serve", file, "--port", 0),
        ):
            done = vizsla(*words)
            assert (done.code, part in done.err, "Traceback" in done.err) == (2, True, False), words
    cases: list[tuple[Any, Path, type[Exception], str]] = [
        (partial(Own, width=9), path, ModelFileError, r"conv.weight is F32 \[8.*\[9.*builder"),
        (own_head, path, ModelFileError, "conv.bias is unexpected"),
        (lambda: own_head(96, 3), head, ModelFileError, r"head.layers.2"),
        (lambda: 1 / 0, path, ConfigError, "ZeroDivisionError"),
        (lambda size: size, path, ConfigError, "without arguments"),
        (lambda: "Own", path, ConfigError, "Received: str"),
        (lambda: (Own(), own_head()), path, ConfigError, "Received: Own, Sequential"),
        (Own, plain, ConfigError, "test_resnet.*Leave out builder=Own"),
    ]
    for builder, file, error, facts in cases:
        with pytest.raises(error, match=facts):
            Predictor.load(file, "cpu", builder=builder)


def test_networks_of_lessons_train_and_come_back(
    star: Any, dls: Any, image_folder: Path, here: Path
):
    def made() -> nn.Sequential:
        body = star.create_body(star.xresnet18(widen=0.25), cut=-6)
        return nn.Sequential(body, star.create_head(32, 2, lin_ftrs=[8]))

    file = sorted(image_folder.rglob("*.jpg"))[0]
    options: Any = {"metrics": accuracy, "quiet": True, "opt_func": star.ranger}
    learn: Any
    for learn, builder in (
        (untrained(dls, star.xresnet18, cut=5, opt_func=star.ranger, normalize=False), None),
        (Learner(dls, made(), splitter=star.default_split, **options), made),
    ):
        learn.freeze()
        assert learn.num_frozen_groups == len(learn.groups) - 1
        learn.unfreeze()
        learn.fit(1, 1e-2)
        learn.save("again")
        expected = learn.predict(file).probabilities
        path = learn.export("lesson.safetensors")
        learn.fit(1, 1e-1)
        learn.load("again")
        assert torch.allclose(learn.predict(file).probabilities, expected, atol=1e-5)
        found = load_learner(path, builder=builder).predict(file)
        assert torch.allclose(found.probabilities, expected, atol=1e-5)
    assert read_manifest(path).own_parts == {"network": "Sequential"}


def test_images_are_not_normalised_where_vision_learner_is_told_so(image_folder: Path):
    stats = ([0.6, 0.4, 0.3], [0.2, 0.2, 0.1])
    for transforms, mean in (([], 0.0), ([Normalize.from_stats(*stats)], 0.6)):
        dls = ImageDataLoaders.from_folder(
            image_folder, valid_pct=0.25, item_tfms=Resize(SIZE), batch_tfms=transforms, bs=4
        )
        assert untrained(dls).model.preprocessing.mean[0] == 0.5
        assert untrained(dls, normalize=False).model.preprocessing.mean[0] == mean


@pytest.mark.parametrize("normalize", [None, Normalize.from_stats([0.4], [0.2])])
def test_networks_of_one_channel_see_grey_images_everywhere(
    grey_block: DataBlock, image_folder: Path, tmp_path: Path, normalize: Normalize | None
):
    block = replace(grey_block, batch_tfms=normalize)
    dls: Any = block.dataloaders(image_folder, bs=4, device="cpu", num_workers=0)
    images = dls.valid.one_batch()[0].as_subclass(Tensor)
    file = dls.valid.items[0]
    block = replace(block, blocks=(ImageBlock, CategoryBlock))
    colours = block.dataloaders(image_folder, bs=4, device="cpu", num_workers=0).valid.one_batch()[
        0
    ]
    weights = torch.tensor([0.299, 0.587, 0.114])  # of Pillow's mode L
    expected = torch.einsum("bchw,c->bhw", colours.as_subclass(Tensor), weights)[:, None]
    torch.testing.assert_close(images, expected)
    learner = Learner(dls, grey_network(), path=tmp_path, quiet=True)
    learner.fit(1)
    seen = images[:1] if normalize is None else normalize(images[:1])
    logits = learner.model.eval()(seen)
    answer = learner.predict(file)[2]
    torch.testing.assert_close(answer, logits.softmax(1)[0].detach())
    opened = Predictor.load(learner.export(), "cpu", builder=grey_network)
    torch.testing.assert_close(opened.predict(file).probabilities, answer)


def test_networks_by_name_get_grey_images_in_three_channels(
    grey_block: DataBlock, image_folder: Path, tmp_path: Path
):
    dls: Any = grey_block.dataloaders(image_folder, bs=4, device="cpu", num_workers=0)
    learner = untrained(dls, n_in=1, path=tmp_path)
    file, in_grey = dls.valid.items[0], tmp_path / "grey.png"
    with Image.open(file) as colours:
        colours.convert("L").save(in_grey)
    model = learner.export()
    predictor = Predictor.load(model, "cpu")
    answer, same = (predictor.predict(one).probabilities for one in (file, in_grey))
    torch.testing.assert_close(answer, learner.predict(file)[2])
    torch.testing.assert_close(same, answer, atol=5e-3, rtol=0)
    assert read_manifest(model).preprocessing.grey
