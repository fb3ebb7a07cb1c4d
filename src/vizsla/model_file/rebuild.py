"""Rebuild a classifier from a manifest, or only the names, types and shapes of the weights that it needs.

The name of the network and the settings of its head come from a file. ``expected_forms`` builds on torch's "meta" device,
where tensors have a shape and no memory, so a file cannot make the program allocate more than the weights that it brings.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vizsla.errors import ModelFileError, VizslaError
from vizsla.models.backbones import Backbone, build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import build_head

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from vizsla.model_file.manifest import Manifest

Form = tuple[str, tuple[int, ...]]
"""Type and shape of a tensor, as the header of a safetensors file has them: ``("F32", (1000, 1280))``."""

_MOST_NAMED = 3
_MOST_SHOWN = 500  # Characters of what a library says; it may repeat all settings that a file has.
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

    Args:
        manifest: What to build.
        path: The model file, for messages.

    Raises:
        ModelFileError: The installed libraries do not know the network, or the settings of the head make no sense.
    """
    with torch.random.fork_rng(devices=[]), _explained(manifest, path=path):
        backbone = _backbone(manifest)
        return _joined(backbone, _head(manifest, backbone=backbone), manifest=manifest)


def expected_forms(manifest: Manifest, *, path: Path) -> dict[str, Form]:
    """Return types and shapes of the weights that a manifest asks for, by name, without memory for them.

    Args:
        manifest: What to build.
        path: The model file, for messages.

    Raises:
        ModelFileError: As for ``rebuild_classifier``.
    """
    with torch.random.fork_rng(devices=[]), _explained(manifest, path=path):
        try:
            with torch.device("meta"):
                backbone = _backbone(manifest)
        except (VizslaError, RuntimeError):
            # A few networks calculate with tensors while they are made, which needs their values: torchvision's
            # RegNets and one of timm's 1,300. Their memory is what the library says, not what the file says.
            backbone = _backbone(manifest)
        with torch.device("meta"), _WithoutStorage():
            head = _head(manifest, backbone=backbone)
            classifier = _joined(backbone, head, manifest=manifest)
    return {name: form_of(tensor) for name, tensor in classifier.state_dict().items()}


def form_of(tensor: Tensor) -> Form:
    """Return type and shape of a tensor."""
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)


def describe_differences(expected: Mapping[str, Form], found: Mapping[str, Form]) -> str:
    """Name up to three tensors that are missing, unexpected, or of another type or shape.

    Args:
        expected: What the network needs.
        found: What there is.

    Returns:
        One line, empty if all fit.
    """
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name[:200]} is unexpected" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} is {_shown_form(found[name])} and should be {_shown_form(expected[name])}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    problems.sort()
    rest = len(problems) - _MOST_NAMED
    return "; ".join(problems[:_MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def shown_versions(manifest: Manifest) -> str:
    """Return with which versions a file was written, for messages."""
    libraries = manifest.libraries
    named = [name for name in ("torch", "torchvision", "timm") if name in libraries]
    versions = [
        f"vizsla {manifest.vizsla_version[:40]}",
        *(f"{name} {libraries[name][:40]}" for name in named),
    ]
    return ", ".join(versions)


def _backbone(manifest: Manifest) -> Backbone:
    backbone = build_backbone(
        manifest.backbone.arch, pretrained=False, preprocessing=manifest.preprocessing
    )
    backbone.spec = (
        manifest.backbone
    )  # It says where the weights come from, and they are not random.
    return backbone


def _head(manifest: Manifest, *, backbone: Backbone) -> nn.Module:
    return build_head(
        manifest.head, stage_channels=backbone.stage_channels, num_classes=len(manifest.vocab)
    )


def _joined(backbone: Backbone, head: nn.Module, *, manifest: Manifest) -> Classifier:
    return Classifier(backbone, head, vocab=manifest.vocab, task=manifest.task)


def _shown_form(form: Form) -> str:
    dtype, shape = form
    return f"{dtype} {list(shape)}"[:200]


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
    """Makes new tensors on the "meta" device also where the code that makes them names another one."""

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
