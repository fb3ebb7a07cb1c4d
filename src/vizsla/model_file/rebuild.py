"""Rebuild a classifier from a manifest, or only the names, types and shapes of the weights that it needs.

The name of the network and the settings of its head come from a file. ``expected_forms`` builds on torch's "meta" device,
where tensors have a shape and no memory, and stops at a network that is far larger than the file: so a small file chooses
neither memory nor time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vizsla.errors import ConfigError, ModelFileError, VizslaError
from vizsla.model_file.manifest import AGAIN
from vizsla.models.backbones import build_backbone, whole_network
from vizsla.models.classifier import Classifier
from vizsla.models.heads import build_head
from vizsla.models.names import split_cut_name
from vizsla.text import joined

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from vizsla.model_file.manifest import Manifest

Form = tuple[str, tuple[int, ...]]
"""Type and shape of a tensor, as the header of a safetensors file has them: ``("F32", (1000, 1280))``."""

Builder = Callable[[], nn.Module | tuple[nn.Module, nn.Module]]
"""Makes the parts of a network that are the user's own: the module, or (body, head) where both are."""

_NOTHING: Mapping[str, nn.Module] = MappingProxyType({})

_MADE_FOR_ONE, _TENSORS_BESIDE = 3, 300
"""Tensors that building makes for each one that is kept, at most, and others: timm builds some networks twice."""

_VALUES_BESIDE, _VALUES_IN_MEMORY = 200_000_000, 1_000_000
"""Values in tensors that are made and not kept, at most, without memory and with it: the classifier of VGG has 124 million."""

_MAKERS_OF_VALUES = frozenset((torch.arange, torch.linspace, torch.tensor, torch.as_tensor))
_MAKERS = _MAKERS_OF_VALUES | {
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
}
_FILLERS = frozenset((nn.init.normal_, Tensor.normal_))
"""Change nothing on the "meta" device, where torch loads its compiler for them, a second."""

_MOST_SHOWN = 500  # Characters of what a library says; it may repeat all settings of the file.
_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
STORED_DTYPES = tuple(_DTYPE_NAMES.values())
"""Types of tensors that a model file may hold."""

# What build_backbone and build_head, and below them timm and torch, raise on names and settings that they do not know.
_BUILD_ERRORS = (
    VizslaError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def build_own_parts(
    manifest: Manifest, builder: Builder | None, *, path: Path
) -> dict[str, nn.Module]:
    """Return the parts of the network that are the user's own (``Manifest.own_parts``), as the builder makes them.

    Raises:
        ModelFileError: There are such parts and no builder.
        ConfigError: The builder fails, makes something else, or is not needed.
    """
    names = manifest.own_parts
    what = " and ".join(f"{part} {name}" for part, name in names.items())
    returns = "the module" if len(names) == 1 else "(body, head)"
    if builder is None:
        if not names:
            return {}
        raise ModelFileError(
            f"{path} holds the weights of your own {what}, but no code to rebuild it. Open it in Python with a "
            f"function that takes no arguments and returns {returns}: load_learner({path.name!r}, "
            "builder=FUNCTION). The same argument of vizsla.export.export_model writes an ONNX file, which needs "
            "no code."
        )
    shown = getattr(builder, "__name__", type(builder).__name__)
    if not names:
        raise ConfigError(
            f"{path} holds a network that vizsla builds itself, {manifest.backbone.name}. Leave out builder={shown}."
        )
    try:
        made = builder()
    except Exception as error:
        raise ConfigError(
            f"The builder {shown} failed: {type(error).__name__}: {error}. It is called without arguments and "
            f"must return {returns} for the {what} in {path}."
        ) from error
    parts = made if isinstance(made, tuple) else (made,)
    if len(parts) != len(names) or not all(isinstance(part, nn.Module) for part in parts):  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(
            f"The builder {shown} must return {returns} for the {what} in {path}: nn.Module. Received: "
            f"{', '.join(type(part).__name__ for part in parts)}"
        )
    return dict(zip(names, parts, strict=True))


def rebuild_classifier(
    manifest: Manifest, *, path: Path, own: Mapping[str, nn.Module] = _NOTHING
) -> Classifier:
    """Return a classifier with random weights, around the user's ``own`` parts; the global random state is left as it is.

    Raises:
        ModelFileError: The installed libraries do not know the network, or the settings of the head make no sense.
    """
    with torch.random.fork_rng(devices=[]), _explained(manifest, path=path):
        return _build(manifest, own)


def expected_forms(
    manifest: Manifest,
    *,
    path: Path,
    found: Mapping[str, Form],
    own: Mapping[str, nn.Module] = _NOTHING,
) -> dict[str, Form]:
    """Return types and shapes of the weights that a manifest asks for, by name; ``found`` are those of the file.

    Raises:
        ModelFileError: The network cannot be built, or is far larger than the file: no time is spent on the rest of it.
    """
    num_values = sum(math.prod(shape) for _, shape in found.values())
    problem: Exception | None = None
    with torch.random.fork_rng(devices=[]), _explained(manifest, path=path):
        attempts = (
            (torch.device("meta"), False, False),
            # torchvision's RegNets calculate with the values of small tensors while they are built: now these have some.
            (nullcontext(), False, True),
            # timm's Gemmas do so while they are tried on an image.
            (nullcontext(), True, True),
        )
        # A user's own network exists already, and is tried on an image.
        own_network = manifest.backbone.source == "module"
        for device, in_memory, keeps_values in attempts[-1:] if own_network else attempts:
            bounded = _Bounded(
                num_tensors=len(found),
                num_values=num_values,
                in_memory=in_memory,
                keeps_values=keeps_values,
            )
            try:
                with device, bounded:
                    return forms_of(_build(manifest, own).state_dict())
            except (RuntimeError, ConfigError) as error:
                problem = error
        raise problem or AssertionError


def form_of(tensor: Tensor) -> Form:
    """Return type and shape of a tensor in a model file, which holds all real numbers as float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return _DTYPE_NAMES.get(dtype, str(dtype)), tuple(tensor.shape)


def forms_of(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """Return type and shape of each tensor."""
    return {name: form_of(tensor) for name, tensor in tensors.items()}


def describe_differences(expected: Mapping[str, Form], found: Mapping[str, Form]) -> str:
    """Name up to three tensors that are missing, unexpected, or of another type or shape; empty if all fit."""
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name[:200]} is unexpected" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} is {_shown_form(found[name])} and should be {_shown_form(expected[name])}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    return joined(sorted(problems), limit=3, separator="; ")


def shown_versions(manifest: Manifest) -> str:
    """Return the versions that a file was written with, for messages."""
    versions = {**manifest.libraries, "vizsla": manifest.vizsla_version}
    named = [name for name in ("vizsla", "torch", "torchvision", "timm") if name in versions]
    return ", ".join(f"{name} {versions[name][:40]}" for name in named)


def _build(manifest: Manifest, own: Mapping[str, nn.Module]) -> Classifier:
    vocab, preprocessing = manifest.vocab, manifest.preprocessing
    if "network" in own:
        backbone = whole_network(own["network"], preprocessing=preprocessing)
    elif "body" in own:
        _, cut = split_cut_name(manifest.backbone.name)
        backbone = build_backbone(own["body"], preprocessing=preprocessing, cut=cut)
    else:
        arch = manifest.backbone.arch
        backbone = build_backbone(arch, pretrained=False, preprocessing=preprocessing)
    # The weights that it gets are not random; the manifest says where they come from.
    backbone.spec = manifest.backbone
    head = build_head(
        manifest.head,
        stage_channels=backbone.stage_channels,
        num_classes=len(vocab),
        own_layers=own.get("head"),
    )
    return Classifier(
        backbone, head, vocab=vocab, task=manifest.task, class_type=manifest.class_type
    )


def _shown_form(form: Form) -> str:
    return f"{form[0]} {list(form[1])}"[:200]


@contextmanager
def _explained(manifest: Manifest, *, path: Path) -> Generator[None]:
    """Turn what libraries raise on names and settings that they do not know into one error of ours."""
    spec = manifest.backbone
    try:
        yield
    except _TooLargeError:
        raise ModelFileError(
            f"The weights in {path} do not fit the network {spec.name[:200]}, which is far larger than the file. {AGAIN}"
        ) from None
    except _BUILD_ERRORS as error:
        raise ModelFileError(
            f"The network of {path} cannot be built: {spec.source} {spec.name[:200]!r} with a head of kind "
            f"{str(manifest.head.get('kind'))[:80]!r}. The reason: {str(error)[:_MOST_SHOWN]} The file was written with "
            f"{shown_versions(manifest)}; installing these versions may help."
        ) from error


class _TooLargeError(Exception):
    """A network is far larger than the file that names it."""


class _Bounded(TorchFunctionMode):
    """Stops what makes far more than a file of ``num_tensors`` tensors with ``num_values`` values needs.

    Weights are made on the "meta" device unless they are to be ``in_memory``. ``keeps_values``: small tensors that are
    calculated with are on the CPU, even where code names another device.
    """

    def __init__(
        self, *, num_tensors: int, num_values: int, in_memory: bool, keeps_values: bool
    ) -> None:
        super().__init__()
        self._in_memory = in_memory
        self._keeps_values = keeps_values
        self._tensors_left = _MADE_FOR_ONE * num_tensors + _TENSORS_BESIDE
        self._values_left = _MADE_FOR_ONE * num_values
        self._values_left += _VALUES_IN_MEMORY if in_memory else _VALUES_BESIDE

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if func in _FILLERS:
            filled = cast("Tensor", kwargs["tensor"] if "tensor" in kwargs else args[0])
            if filled.is_meta:
                return filled
        if func in _MAKERS_OF_VALUES:
            if self._keeps_values:
                kwargs.pop("device", None)
        elif not self._in_memory and (func in _MAKERS or kwargs.get("device") is not None):
            kwargs["device"] = "meta"
        made = func(*args, **kwargs)
        if func in _MAKERS:
            self._tensors_left -= 1
            self._values_left -= cast("Tensor", made).numel()
            if min(self._tensors_left, self._values_left) < 0:
                raise _TooLargeError
        return made
