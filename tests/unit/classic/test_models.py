"""The network of lesson one: order, counts and initialisation against recorded numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla import ConfigError
from vizsla.classic import (
    AdaptiveConcatPool2d,
    ConvLearner,
    ConvnetBuilder,
    Flatten,
    ImageClassifierData,
    accuracy,
    children,
    efficientnet_lite0,
    resnet18,
    resnet34,
    resnet50,
    tfms_from_stats,
    vgg16,
)
from vizsla.classic.models import head_layers, model_summary, stats_of
from vizsla.models import freeze_to


def build(f: Any, *, vocab: tuple[str, ...] = ("a", "b"), **options: Any) -> ConvnetBuilder:
    settings: dict[str, Any] = {
        "task": "category", "stats": None, "ps": None, "xtra_fc": None, "xtra_cut": 0,
        "custom_head": None, "pretrained": False, "seed": 0,
    }  # fmt: skip
    return ConvnetBuilder(f, vocab=vocab, **(settings | options))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def original(recorded: Any) -> Any:
    return recorded["model"]


@pytest.fixture(scope="module")
def small() -> ConvnetBuilder:
    """A resnet18 with random weights."""
    return build(resnet18)


def test_bodies_have_the_recorded_sizes_and_groups(original: Any):
    for f in (resnet18, resnet50, vgg16):
        models, name = build(f), f.__name__
        assert models.nf == original["nf"][name]
        assert count(nn.Sequential(*models.body)) == original["body_params"][name]
        groups = [len(group) for group in models.get_layer_groups()]
        assert groups == original["group_child_counts"][name]
        assert count(models.fc_model) == original["head_params"][f"nf{models.nf}_c2"]


def test_the_head_is_the_recorded_one(small: ConvnetBuilder, original: Any):
    layers = list(small.model)[8:]
    assert [type(layer).__name__ for layer in layers] == [
        name.split("(")[0] for name in original["head_order"]
    ]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.25, 0.5]
    assert count(build(resnet18, vocab=("a", "b", "c")).fc_model) == original["head_params"]["nf1024_c3"]  # fmt: skip


def test_the_parts_share_their_weights(small: ConvnetBuilder, original: Any):
    weights = small.model.state_dict()
    heads = {name.split(".")[0] for name in weights if int(name.split(".")[0]) > 7}
    assert sorted(heads) == original["full_state_dict_head_prefixes"]
    heads = {name.split(".")[0] for name in small.fc_model.state_dict()}
    assert sorted(heads) == original["head_state_dict_prefixes"]
    trained = {id(parameter) for parameter in small.classifier.parameters()}
    assert trained == {id(parameter) for parameter in small.model.parameters()}


def test_the_engine_computes_what_the_sequence_does():
    models = build(resnet18, stats=((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    models.classifier.eval()
    with torch.no_grad():
        expected = models.model((images - mean) / std)
        assert torch.allclose(models.classifier(images), expected, atol=1e-5)
    assert torch.allclose(expected.exp().sum(1), torch.ones(2))


def test_linear_layers_start_as_recorded(small: ConvnetBuilder, original: Any):
    linears = [layer for layer in small.fc_model if isinstance(layer, nn.Linear)]
    for linear, name in zip(linears, ("linear_1024", "linear_512"), strict=True):
        assert linear.weight.std().item() == pytest.approx(original["init_std"][name], rel=0.05)
        assert not linear.bias.any()


def test_freezing_leaves_the_recorded_tensors(small: ConvnetBuilder, original: Any):
    groups = small.parameter_groups()
    for n, name in ((-1, "frozen"), (0, "unfrozen"), (1, "freeze_to_1")):
        freeze_to(groups, n)
        training = [sum(parameter.requires_grad for parameter in group) for group in groups]
        assert training == original["resnet18_trainable_tensors_per_group"][name]


def test_variants_of_the_head_are_the_recorded_ones(original: Any):
    golden = original["variants"]
    widths = (1024, 512, 2)
    plain = head_layers((1024, 2), ps=None, task="category", seed=0)
    assert [type(layer).__name__ for layer in plain] == [n.split("(")[0] for n in golden["xtra_fc=[]"]]  # fmt: skip
    without = head_layers(widths, ps=0, task="category", seed=0)
    assert [type(layer).__name__ for layer in without] == golden["ps=0"]
    deep = head_layers((1024, 1024, 512, 2), ps=None, task="category", seed=0)
    assert [layer.p for layer in deep if isinstance(layer, nn.Dropout)] == golden["xtra_fc=[1024,512]_ps"]  # fmt: skip
    assert isinstance(head_layers(widths, ps=None, task="multi_category", seed=0)[-1], nn.Sigmoid)
    assert isinstance(head_layers(widths, ps=None, task="regression", seed=0)[-1], nn.Linear)


def test_more_of_the_body_may_be_cut(original: Any):
    golden = original["variants"]["xtra_cut=1"]
    models = build(resnet34, xtra_cut=1)
    assert (models.name, models.nf) == (golden["name"], golden["nf"])
    assert [len(group) for group in models.get_layer_groups()] == golden["groups"]
    with pytest.raises(ConfigError, match="xtra_cut"):
        build(resnet18, xtra_cut=8)
    with pytest.raises(ConfigError, match=r"ps .* 2 .*\[0\.1\]"):
        build(resnet18, ps=[0.1])


def test_a_head_and_a_function_of_the_users_own():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 2))
    models = build(resnet18, custom_head=head)
    assert models.fc_model is head
    assert models.model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 2)

    def mine(pretrained: bool) -> nn.Module:
        assert pretrained is False
        return nn.Conv2d(3, 6, 3)

    models = build(mine)
    assert (models.name, models.nf, len(models.body)) == ("mine_0", 12, 1)
    assert [len(group) for group in models.get_layer_groups()] == [0, 3, 8]


def test_a_whole_network_of_the_users_own_trains_is_saved_and_predicts(lesson: str):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Conv2d(3, 4, 3, stride=4)
            self.out = nn.Linear(4 * 8 * 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.out(Flatten()(F.relu(self.maps(x)))), dim=1)

    data = ImageClassifierData.from_paths(
        lesson, tfms=tfms_from_stats(((0.5,) * 3, (0.25,) * 3), 32), bs=8
    )
    net = Net()
    learn = ConvLearner.from_model_data(net, data, opt_fn=torch.optim.Adam)
    assert learn.model is net
    assert learn.children == children(net) == [net.maps, net.out]
    assert all(parameter.requires_grad for parameter in net.parameters())
    before = learn.predict()
    x, _ = next(iter(data.val_dl))
    assert net.eval()(x).detach().numpy() == pytest.approx(before[: len(x)], abs=1e-5)
    learn.save("before")
    assert len(learn.fit([1e-2, 1e-3], 1, cycle_len=2, metrics=[accuracy])) == 2
    assert not np.allclose(learn.predict(), before)
    learn.load("before")
    assert np.allclose(learn.predict(), before)
    learn.freeze()
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]
    assert learn.TTA(n_aug=2)[0].shape == (3, 12, 3)
    assert list(learn.summary()) == ["Conv2d-1", "Linear-2"]
    with pytest.raises(ConfigError, match="precompute"):
        learn.set_data(data, precompute=True)


def test_the_engines_functions_are_known_by_name():
    from torchvision import models as torchvision_models

    models = build(torchvision_models.resnet18)
    assert [len(group) for group in models.get_layer_groups()] == [6, 4, 8]
    assert stats_of(torchvision_models.resnet18) == stats_of(resnet18)


def test_efficientnet_lite0_runs_layer_by_layer():
    models = build(efficientnet_lite0)
    assert (models.nf, [len(group) for group in models.get_layer_groups()]) == (2560, [5, 8, 8])
    with pytest.raises(ConfigError, match="without brackets"):
        build(nn.Conv2d(3, 6, 3))  # a network instead of a function


def test_pooling_gives_the_largest_value_first(recorded: Any):
    golden = recorded["images"]["adaptive_concat_pool"]
    maps = torch.tensor(golden["in_1x2x2x2"], dtype=torch.float32).reshape(1, 2, 2, 2)
    assert AdaptiveConcatPool2d()(maps).flatten().tolist() == golden["out_max_then_avg"]


def test_the_summary_of_resnet34_is_the_recorded_one(original: Any):
    golden = original["summary_resnet34_224"]
    found = model_summary(build(resnet34).model, (3, 224, 224))
    names = list(found)
    assert len(names) == golden["entries"]
    assert names[: len(golden["first"])] == golden["first"]
    assert names[-len(golden["last"]) :] == golden["last"]
    first = found["Conv2d-1"]
    for key, value in golden["Conv2d-1"].items():
        assert first[key] == value
    assert sum(entry["nb_params"] for entry in found.values()) == golden["sum_nb_params_c2"]
