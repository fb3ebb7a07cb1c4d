"""Rebuild a classifier from a manifest, or only the names, types and shapes of the weights that it needs.

The name of the network and the settings of its head come from a file. ``expected_forms`` builds on torch's "meta" device,
where tensors have a shape and no memory, so a file cannot make the program allocate more than the weights in it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vizsla.errors import ModelFileError, VizslaError
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import build_head
from vizsla.text import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from vizsla.model_file.manifest import Manifest
    from vizsla.models.stages import Backbone

Form = tuple[str, tuple[int, ...]]
"""Type and shape of a tensor, as the header of a safetensors file has them: ``("F32", (1000, 1280))``."""

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


def rebuild_classifier(manifest: Manifest, *, path: Path) -> Classifier:
    """Return a classifier with random weights; the global random state is left as it is.

    Raises:
        ModelFileError: The installed libraries do not know the network, or the settings of the head make no sense.
    """
    with torch.random.fork_rng(devices=[]), _explained(manifest, path=path):
        return _with_head(_backbone(manifest), manifest)


def expected_forms(manifest: Manifest, *, path: Path) -> dict[str, Form]:
    """Return types and shapes of the weights that a manifest asks for, by name, without memory for them."""
    with torch.random.fork_rng(devices=[]), _explained(manifest, path=path):
        try:
            with torch.device("meta"):
                backbone = _backbone(manifest)
        except (VizslaError, RuntimeError):
            # A few networks calculate with tensor values while they are built: torchvision's RegNets and one of timm's
            # 1,300. Their memory is what the library says, not what the file says.
            backbone = _backbone(manifest)
        with torch.device("meta"), _WithoutStorage():
            return forms_of(_with_head(backbone, manifest).state_dict())


def form_of(tensor: Tensor) -> Form:
    """Return type and shape of a tensor."""
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)


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


def _backbone(manifest: Manifest) -> Backbone:
    backbone = build_backbone(
        manifest.backbone.arch, pretrained=False, preprocessing=manifest.preprocessing
    )
    # The weights that it gets are not random; the manifest says where they come from.
    backbone.spec = manifest.backbone
    return backbone


def _with_head(backbone: Backbone, manifest: Manifest) -> Classifier:
    vocab = manifest.vocab
    head = build_head(manifest.head, stage_channels=backbone.stage_channels, num_classes=len(vocab))
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
    except _BUILD_ERRORS as error:
        raise ModelFileError(
            f"The network of {path} cannot be built: {spec.source} {spec.name[:200]!r} with a head of kind "
            f"{str(manifest.head.get('kind'))[:80]!r}. The reason: {str(error)[:_MOST_SHOWN]} The file was written with "
            f"{shown_versions(manifest)}; installing these versions may help."
        ) from error


class _WithoutStorage(TorchFunctionMode):
    """Makes new tensors on the "meta" device even where code names another device."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
