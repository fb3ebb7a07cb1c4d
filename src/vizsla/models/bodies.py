"""Build a network of timm or torchvision without its classifier, by name, with its weights loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from vizsla.errors import WeightsError
from vizsla.models.names import PACKAGED_NAME, kept_parts
from vizsla.models.stages import Stages, sequential_stages, timm_stages, token_stages
from vizsla.models.weights import (
    TIMM_NAME,
    UNKNOWN_LICENCE,
    PublishedFile,
    Weights,
    find_weights_file,
    hub_from_environment,
    lite0_names,
    load_weights,
    packaged_weights,
    read_weights_file,
)
from vizsla.types import Preprocessing, Size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timm.models import PretrainedCfg

IMAGENET_PREPROCESSING = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's images, which most weights expect."""

_RANDOM = Weights(tensors={}, origin="random")
"""In place of pretrained weights: the network keeps its random start."""

_TORCHVISION_HEAD = ("avgpool", "classifier", "fc", "head", "heads")
"""Torchvision's names for the first part after the body."""

_TORCHVISION_LICENCE = "BSD-3-Clause"

# Both have extra classifiers halfway, for training from scratch; without them the layers run one after the other.
_TORCHVISION_OPTIONS: dict[str, dict[str, bool]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}
_TORCHVISION_EXTRAS = ("AuxLogits", "aux1", "aux2")
"""Names of these extra classifiers."""

# Their weights are from TensorFlow and expect values from -1 to 1; torchvision converts images in ``forward``, which is not run here.
_TENSORFLOW_VALUES = (0.5, 0.5, 0.5)

# Networks of tokens are made for one size unless asked for more; not all of them have both options.
_ANY_SIZE_OPTIONS: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """A network without its classifier.

    Attributes:
        network: The layers.
        stages: How to get maps out of them.
        preprocessing: What the weights expect of images.
        origin: Where the weights come from, in words; ``"random"`` without any.
        licence: Of the weights, as an SPDX name where known.
        num_parts: How many of the whole network's children were kept, if not the usual number.
    """

    network: nn.Module
    stages: Stages
    preprocessing: Preprocessing
    origin: str
    licence: str
    num_parts: int | None = None


def packaged_body(name: str, *, pretrained: bool, given: Weights | None) -> Body:
    """Build EfficientNet-Lite0, whose weights come from an installed package."""
    from timm.models import PretrainedCfg, get_pretrained_cfg

    record = get_pretrained_cfg(TIMM_NAME) or PretrainedCfg()
    weights = given or (packaged_weights() if pretrained else _RANDOM)
    network = _timm_network(TIMM_NAME, record)
    named = replace(weights, tensors=lite0_names(weights.tensors))
    return _timm_as_body(network, named, record=record, name=name)


def timm_body(name: str, *, pretrained: bool, given: Weights | None) -> Body:
    """Build a network of timm."""
    from timm.models import PretrainedCfg, get_pretrained_cfg

    record = get_pretrained_cfg(name) or PretrainedCfg()
    if given is not None or not pretrained:
        network = _timm_network(name, record)
        return _timm_as_body(network, given or _RANDOM, record=record, name=name)
    published = _published_timm_weights(name, record)
    network = _timm_network(name, record, published=published)
    body = _timm_as_body(network, _RANDOM, record=record, name=name)
    return replace(body, origin=published.origin, licence=published.licence)


def torchvision_body(
    name: str, *, pretrained: bool, given: Weights | None, cut: int | None = None
) -> Body:
    """Build a network of torchvision, with the weights that torchvision calls ``DEFAULT`` unless some are given.

    ``cut`` says how many of the network's children to keep, or, negative, to leave out; None keeps those before its head.
    """
    from torchvision import models

    usual = cast("Any", models.get_model_weights(name)).DEFAULT
    expected = usual.transforms()
    side = int(expected.crop_size[0])
    mean, std = _triple(expected.mean), _triple(expected.std)
    if name in _TORCHVISION_OPTIONS:
        mean = std = _TENSORFLOW_VALUES
    preprocessing = Preprocessing(mean=mean, std=std, size=(side, side))
    weights = given or _RANDOM
    if given is None and pretrained:
        weights = _published_weights(
            PublishedFile(url=usual.url),
            what=f"torchvision's {name}",
            licence=str(usual.meta.get("license", _TORCHVISION_LICENCE)),
        )
    network = models.get_model(name, weights=None, **_TORCHVISION_OPTIONS.get(name, {}))
    parts = [part for part, _ in network.named_children()]
    usual_number = next(
        (i for i, part in enumerate(parts) if part in _TORCHVISION_HEAD), len(parts)
    )
    number = (
        usual_number if cut is None else kept_parts(network, cut=cut, name=f"torchvision's {name}")
    )
    body_parts, head_parts = tuple(parts[:number]), tuple(parts[number:])
    for part in head_parts:
        delattr(network, part)
    stages = _torchvision_stages(network, body_parts, size=preprocessing.size, name=name)
    if weights is not _RANDOM:
        ignored = (*head_parts, *_TORCHVISION_EXTRAS)
        load_weights(network, weights, ignored=ignored, what=f"torchvision's {name}")
    return Body(
        network=network,
        stages=stages,
        preprocessing=preprocessing,
        origin=weights.origin,
        licence=weights.licence,
        num_parts=None if number == usual_number else number,
    )


def _timm_as_body(
    network: nn.Module, weights: Weights, *, record: PretrainedCfg, name: str
) -> Body:
    """Load weights into a network of timm without its classifier, and describe it."""
    if weights.tensors:
        load_weights(
            network, weights, ignored=_names(record.classifier), what=f"the network {name}"
        )
    _, height, width = record.input_size
    size = (height, width)
    return Body(
        network=network,
        stages=timm_stages(network, size=size, name=name),
        preprocessing=Preprocessing(mean=_triple(record.mean), std=_triple(record.std), size=size),
        origin=weights.origin,
        licence=weights.licence,
    )


def _timm_network(
    name: str, record: PretrainedCfg, *, published: Weights | None = None
) -> nn.Module:
    """Return a network of timm without its classifier, for images of any size where the network allows that."""
    for options in _ANY_SIZE_OPTIONS if record.fixed_input_size else ():
        try:
            return _create_timm_network(name, published=published, options=options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
    return _create_timm_network(name, published=published, options={})


def _create_timm_network(
    name: str, *, published: Weights | None, options: Mapping[str, Any]
) -> nn.Module:
    import timm

    if published is None:
        return timm.create_model(name, num_classes=0, **options)
    # timm loads them, because it knows how the files of each family differ from its networks. It loads them into the whole
    # network, classifier included: only then does it insist that everything fits.
    overlay = {"state_dict": dict(published.tensors)}
    try:
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except (RuntimeError, KeyError) as error:
        raise WeightsError(
            f"The weights from {published.origin} do not fit timm's {name}: {error}. "
            "Update timm, or give weights of this architecture with weights_file."
        ) from error
    untyped = cast("Any", network)
    untyped.pretrained_cfg.pop("state_dict", None)  # Else the network keeps a second copy of them.
    untyped.reset_classifier(0)
    return network


def _published_timm_weights(name: str, record: PretrainedCfg) -> Weights:
    usual = record.hf_hub_filename or "pytorch_model.bin"
    # The same weights without a pickle around them, under the name that timm gives them there.
    safe = usual.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
    url = record.url if isinstance(record.url, str) else ""
    needs_own_reader = url.endswith(".npz")
    published = PublishedFile(
        repository="" if str(record.custom_load) == "hf" else record.hf_hub_id or "",
        names=(safe, usual) if usual.endswith(".bin") else (usual,),
        url="" if needs_own_reader else url,
    )
    return _published_weights(
        published, what=f"timm's {name}", licence=record.license or UNKNOWN_LICENCE
    )


def _published_weights(published: PublishedFile, *, what: str, licence: str) -> Weights:
    """Read published weights from this machine or the network."""
    try:
        path = find_weights_file(published, hub=hub_from_environment())
    except WeightsError as error:
        raise WeightsError(
            f"There are no pretrained weights for {what}: {error}. Give a file of weights (weights_file), use the "
            f"architecture {PACKAGED_NAME!r}, whose weights come with an installed package, or start from random weights "
            "(pretrained=False), which need far more images and epochs."
        ) from error
    return Weights(
        tensors=read_weights_file(path),
        origin=f"{published.repository or 'torchvision'} ({path.name})",
        licence=licence,
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _torchvision_stages(
    network: nn.Module, parts: tuple[str, ...], *, size: Size, name: str
) -> Stages:
    """Find the stages of a network of torchvision without its head."""
    if name.startswith("vit_") and parts == ("conv_proj", "encoder"):
        return token_stages(network)
    steps = tuple(step for part in parts for step in _steps(network, part))
    return sequential_stages(network, steps=steps, size=size, name=name)


def _steps(network: nn.Module, part: str) -> tuple[str, ...]:
    """Return the names of the layers in a container, or of the part itself if it is a layer."""
    module = network.get_submodule(part)
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return tuple(f"{part}.{name}" for name, _ in module.named_children())
    return (part,)
