"""Parameter groups, freezing and weight decay. Golden values: tests/golden."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from vizsla import ConfigError
from vizsla.models import (
    Classifier,
    ConcatPoolHead,
    Group,
    build_backbone,
    decay_split,
    fine_groups,
    freeze_to,
    layer_decay_rates,
    norm_parameters,
    parameter_groups,
    train_mode,
)

FOLDER = Path(__file__).resolve().parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "models_groups.json").read_text("utf-8"))
FREEZING = json.loads((FOLDER / "models_freezing.json").read_text("utf-8"))
BUILDERS = {name: getattr(torchvision.models, name) for name in GOLDEN["resnets"]}


def make_classifier(arch: Any, *, pretrained: bool = False, num_classes: int = 37) -> Classifier:
    backbone = build_backbone(arch, pretrained=pretrained)
    vocab = tuple(str(number) for number in range(num_classes))
    return Classifier(backbone, ConcatPoolHead(backbone.num_features, num_classes), vocab=vocab)


def named(classifier: Classifier, divide: Callable[..., Iterable[Group]]) -> list[list[str]]:
    """Return the names of the parameters of each group, without the prefix of the body."""
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    return [[names[id(p)].split("network.")[-1] for p in group] for group in divide(classifier)]


def count(group: Group) -> int:
    return sum(parameter.numel() for parameter in group)


def toy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def toy_groups(model: nn.Sequential) -> tuple[Group, ...]:
    return tuple(tuple(layer.parameters()) for layer in model)


def trains(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_golden_groups_of_resnets():
    for name, expected in GOLDEN["resnets"].items():
        with torch.device("meta"):
            classifier = make_classifier(BUILDERS[name])
        groups = parameter_groups(classifier)
        freeze_to(groups, -1, train_norms=norm_parameters(classifier))
        for group, golden in zip(groups, expected, strict=True):
            assert (len(group), count(group)) == (golden["n_tensors"], golden["n_params"]), name
            trained = tuple(parameter for parameter in group if parameter.requires_grad)
            assert len(trained) == golden["trainable_tensors_when_frozen"], name
            assert count(trained) == golden["trainable_params_when_frozen"], name
            decayed, undecayed = decay_split(group, module=classifier)
            assert len(undecayed) == golden["n_tensors_without_wd"], name
            assert len(decayed) + len(undecayed) == len(group), name


def test_groups_of_the_packaged_network():
    sizes = GOLDEN["lite0_stage_sizes"]
    early = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
    late = tuple(name for name in sizes if name not in early)
    classifier = make_classifier("efficientnet_lite0")
    groups = parameter_groups(classifier)
    for group, names in zip(groups, (early, late), strict=False):
        assert len(group) == sum(sizes[name]["n_tensors"] for name in names)
        assert count(group) == sum(sizes[name]["n_params"] for name in names)
    assert count(groups[2]) == GOLDEN["lite0_head_params"]
    body = tuple(classifier.backbone.parameters())
    _, undecayed = decay_split(body, module=classifier.backbone)
    assert len(undecayed) == GOLDEN["lite0_body_without_decay"]


def test_groups_of_a_transformer():
    early, late, _ = named(make_classifier("test_vit"), parameter_groups)
    assert {name.split(".")[0] for name in early} == {"cls_token", "pos_embed", "patch_embed", "blocks"}  # fmt: skip
    assert {name.split(".")[1] for name in early if "blocks" in name} == set("012")
    assert {name.split(".")[0] for name in late} == {"blocks", "norm"}


def test_fine_groups_are_blocks():
    for arch, count in [
        ("convnext_tiny", 20),
        ("swin_base_patch4_window7_224", 26),
        ("efficientnet_b3", 28),
        ("vit_large_patch16_224", 26),
        ("efficientnet_lite0", 18),
        (torchvision.models.resnet34, 18),
        ("torchvision:vit_l_16", 26),
        ("torchvision:swin_s", 29),
    ]:
        with torch.device("meta"):
            assert len(fine_groups(make_classifier(arch))) == count


def test_fine_groups_of_a_resnet():
    with torch.device("meta"):
        classifier = make_classifier(torchvision.models.resnet18)
    assert [names[0] for names in named(classifier, fine_groups)] == [
        "conv1.weight",
        *(f"layer{layer}.{block}.conv1.weight" for layer in (1, 2, 3, 4) for block in (0, 1)),
        "head.layers.2.weight",
    ]
    assert [len(group) for group in fine_groups(classifier)] == [3, 6, 6, 9, 6, 9, 6, 9, 6, 6]


def test_parameters_between_blocks_join_the_block_before():
    with torch.device("meta"):
        vit, convnext = (
            make_classifier(arch) for arch in ("torchvision:vit_b_32", "convnext_atto")
        )
    first, *_, last, _ = named(vit, fine_groups)
    assert first == ["class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"]
    assert last[-2:] == ["encoder.ln.weight", "encoder.ln.bias"]
    last = named(convnext, fine_groups)[-2]  # with a single norm
    assert last[0] == "stages.3.blocks.1.gamma"
    assert last[-2:] == ["head.norm.weight", "head.norm.bias"]


def test_fine_groups_of_an_own_network():
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
            self.layers = nn.Sequential(stem, nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Identity()])[0])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images * self.scale)

    groups = named(make_classifier(Body(), num_classes=2), fine_groups)
    assert [names[0] for names in groups] == ["scale", "layers.1.weight", "head.layers.2.weight"]


def test_layer_decay_rates():
    assert layer_decay_rates(1.0, num_groups=4, decay=0.5) == (0.125, 0.25, 0.5, 1.0)
    assert layer_decay_rates(0.1, num_groups=2, decay=1) == (0.1, 0.1)
    assert layer_decay_rates(0.1, num_groups=1, decay=0.5) == (0.1,)
    for rate, decay, received in [
        (0.1, 0.0, "decay.*0.0"),
        (0.1, 1.5, "decay.*1.5"),
        (0.1, float("nan"), "decay.*nan"),
        (0.0, 0.5, "learning rate.*0.0"),
        (float("inf"), 0.5, "learning rate.*inf"),
    ]:
        with pytest.raises(ConfigError, match=received):
            layer_decay_rates(rate, num_groups=3, decay=decay)


def test_shared_parameter_is_in_one_group():
    first, last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    last.weight = first.weight
    classifier = make_classifier(nn.Sequential(first, last), num_classes=2)
    early, late, _ = parameter_groups(classifier)
    assert [id(parameter) for parameter in early] == [id(first.weight), id(first.bias)]
    assert [id(parameter) for parameter in late] == [id(last.bias)]


def test_groups_of_a_body_without_parts():
    classifier = make_classifier(nn.Identity(), num_classes=2)
    assert [len(group) for group in parameter_groups(classifier)] == [0, 0, 6]
    assert [len(group) for group in fine_groups(classifier)] == [6]


ALL = [f"{layer}.{part}" for layer in range(3) for part in ("weight", "bias")]


def test_freeze_to():
    for n, expected in [(0, ALL), (1, ALL[2:]), (-1, ALL[4:]), (-3, ALL)]:
        model = toy()
        freeze_to(toy_groups(model), n)
        assert trains(model) == expected
        freeze_to(toy_groups(model), 0)
        assert trains(model) == ALL
        freeze_to((tuple(model.parameters()),), -1)  # one group
        assert trains(model) == ALL
        freeze_to(toy_groups(model), -1, train_norms=norm_parameters(model))
        assert trains(model) == ALL[2:]


def test_freeze_to_at_its_limits():
    model = toy()
    model(torch.randn(5, 3)).sum().backward()
    freeze_to(toy_groups(model), -1)  # frozen parameters lose their gradients
    assert [parameter.grad is None for parameter in model.parameters()] == [True] * 4 + [False] * 2
    with pytest.warns(UserWarning, match=r"freeze_to\(3\).*3 parameter groups"):
        freeze_to(toy_groups(model), 3)
    assert trains(model) == []
    with pytest.raises(ConfigError, match=r"freeze_to\(-4\).*3 parameter groups"):
        freeze_to(toy_groups(model), -4)


def adam(model: nn.Module, groups: tuple[Group, ...], *, decay: float = 0.01) -> torch.optim.AdamW:
    """Return the optimiser of the golden runs; all parameters are handed to it, frozen ones too."""
    settings: list[dict[str, Any]] = []
    for group in groups:
        decayed, undecayed = decay_split(group, module=model)
        settings += [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(settings, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=decay)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, *, steps: int) -> None:
    images = torch.tensor(FREEZING["problem"]["x"])
    targets = torch.tensor(FREEZING["problem"]["y"])
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimiser.step()


def golden_toy() -> nn.Sequential:
    model = toy()
    initial = FREEZING["problem"]["init"]
    model.load_state_dict({name: torch.tensor(v) for name, v in initial.items()}, strict=False)
    return model


def test_training_while_frozen_gives_the_golden_parameters():
    for case in FREEZING["cases"]:
        model = golden_toy()
        layers = list(model)
        cut = 1 if case["name"] == "frozen" else 2
        early = tuple(p for layer in layers[:cut] for p in layer.parameters())
        late = tuple(p for layer in layers[cut:] for p in layer.parameters())
        norms = () if case["name"] == "frozen_bn_fixed" else norm_parameters(model)
        freeze_to((early, late), -1, train_norms=norms)
        train(model, adam(model, (early, late)), steps=5)
        for name, expected in case["params_after_step"][-1].items():
            parameter = model.get_parameter(name).detach().numpy()
            np.testing.assert_allclose(parameter, expected, atol=3e-4, err_msg=name)


def test_parameters_that_are_frozen_again_never_change():
    model = golden_toy()
    groups = toy_groups(model)
    optimiser = adam(model, groups, decay=0.3)
    train(model, optimiser, steps=1)
    freeze_to(groups, -1)
    frozen = [parameter.clone() for parameter in (*groups[0], *groups[1])]
    # The first step after freezing does not reset the gradients.
    optimiser.step()
    train(model, optimiser, steps=4)
    assert all(torch.equal(p, q) for p, q in zip((*groups[0], *groups[1]), frozen, strict=True))


def test_biases_and_norms_take_no_weight_decay():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.MultiheadAttention(4, 2)
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    _, undecayed = decay_split(tuple(model.parameters()), module=model)
    norms = [f"{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")]
    expected = {"0.bias", *norms, "3.in_proj_bias", "3.out_proj.bias"}
    assert {names[id(parameter)] for parameter in undecayed} == expected


def test_norms_of_other_libraries_count_as_norms():
    from timm.layers.norm import LayerNorm2d, RmsNorm
    from timm.layers.norm_act import BatchNormAct2d

    model = nn.Sequential(BatchNormAct2d(4), LayerNorm2d(4), RmsNorm(4), nn.Linear(4, 4))
    assert len(norm_parameters(model)) == 5


def test_training_mode_leaves_the_statistics_of_frozen_norms_alone():
    model = golden_toy()
    for norms, expected in [((), [True, False, True]), (norm_parameters(model), [True] * 3)]:
        freeze_to(toy_groups(model), -1, train_norms=norms)
        train_mode(model)
        assert [part.training for part in model] == expected
    without_parameters = nn.Sequential(nn.BatchNorm1d(3, affine=False))
    train_mode(without_parameters)
    assert without_parameters[0].training
