"""Go on from an earlier model: open what holds it, and keep its body and the rows of the classes that are there again.

Two kinds of files hold a model: what ``export`` and ``vizsla train`` write, and what ``learn.save`` writes, which does not say how
images are prepared or what the head is made of. A file of weights alone is neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla.data.images.bit_depth import FULL_DEPTH
from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError
from vizsla.model_file.bundle import MANIFEST_KEY, Bundle, load_bundle, safetensors_header
from vizsla.models.backbones import build_backbone
from vizsla.models.heads import build_head, keep_classes
from vizsla.models.weights import Weights, load_weights
from vizsla.text import counted, joined
from vizsla.train.checkpoint import VALUES_KEY, load_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from vizsla.data.images.sizing import Sizing
    from vizsla.models.names import Architecture
    from vizsla.models.stages import Backbone
    from vizsla.types import ImageTable, Size

_MOST_NAMED = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierModel:
    """A model to go on from.

    Attributes:
        place: The file.
        arch: Name of the network.
        vocab: Its classes or numbers, in the order of its outputs.
        body: Weights of its network by name.
        head: Weights of its head by name.
        bundle: What a model file says of it; None for a file of ``learn.save``.
    """

    place: Path
    arch: str
    vocab: tuple[str, ...]
    body: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    bundle: Bundle | None = None

    def build_body(self, arch: Architecture | None, *, cut: int | None, seed: int) -> Backbone:
        """Return the network with the weights of the earlier model.

        Raises:
            ConfigError: ``arch`` is another network.
        """
        preprocessing = None if self.bundle is None else self.bundle.manifest.preprocessing
        backbone = build_backbone(
            self.arch if arch is None else arch,
            pretrained=False,
            preprocessing=preprocessing,
            cut=cut,
            seed=seed,
        )
        if self.arch not in (backbone.spec.arch, backbone.spec.name):
            raise ConfigError(
                f"The model {self.place} is a {self.arch}, and continuing cannot change the network. Received: "
                f"arch {backbone.spec.arch!r}. Give {self.arch!r}, or leave arch out."
            )
        load_weights(
            backbone,
            Weights(tensors=self.body, origin=str(self.place)),
            what=f"the network {self.arch}",
        )
        if self.bundle is not None:
            backbone.spec = self.bundle.manifest.backbone
        else:
            backbone.spec = replace(backbone.spec, weights=f"file {self.place.name}")
        return backbone

    def build_head(self, backbone: Backbone, *, num_classes: int) -> nn.Module | None:
        """Return a head like the earlier one for a number of classes, not yet with its weights; None if its settings are not known."""
        if self.bundle is None:
            return None
        settings = self.bundle.manifest.head
        return build_head(settings, stage_channels=backbone.stage_channels, num_classes=num_classes)

    def keep_head(self, head: nn.Module, table: ImageTable) -> bool:
        """Copy what a head for the classes of a table can take of the earlier one; return whether it could."""
        task = table.task if self.bundle is None else self.bundle.manifest.task
        return task == table.task and keep_classes(
            head, self.head, known=self.vocab, wanted=table.vocab
        )

    @property
    def preparation(self) -> str:
        """How it sees images, in words; empty where that is not known."""
        if self.bundle is None:
            return ""
        manifest = self.bundle.manifest
        return shown_preparation(manifest.size, manifest.resize, manifest.bit_depth)

    def account(self, vocab: Sequence[str], *, what: str) -> list[str]:
        """Return which classes are kept, new and dropped with those of ``vocab``, a line each, after one that says ``what`` is kept."""
        sets = (
            ("kept", [name for name in vocab if name in self.vocab]),
            ("new", [name for name in vocab if name not in self.vocab]),
            ("dropped", [name for name in self.vocab if name not in vocab]),
        )
        return [
            f"Continuing from {self.place} ({self.arch}): {what}.",
            *(
                f"  {word}: {counted(len(names), 'class', 'classes')}: {joined(names, limit=_MOST_NAMED)}"
                for word, names in sets
                if names and vocab
            ),
        ]


def shown_preparation(size: Size | None, resize: Sizing | None, bit_depth: int | None) -> str:
    """Return how images are prepared, in words: their size, how they come to it, and the bits of 16-bit images."""
    pixels = (
        "images of their own sizes" if size is None else f"images of {size[0]} x {size[1]} pixels"
    )
    method = f" ({resize.method})" if isinstance(resize, Resize) else ""
    bits = "" if bit_depth in (None, FULL_DEPTH) else f", {bit_depth} bits of 16"
    return f"{pixels}{method}{bits}"


def earlier_model(file: Path | str) -> EarlierModel | None:
    """Open a model file, the folder of a run, or what ``learn.save`` wrote; None for a file of weights alone.

    Raises:
        ModelFileError: A model file is damaged, or there is none in the folder.
    """
    place = Path(file)
    place = place / "model.safetensors" if place.is_dir() else place
    header = safetensors_header(place)
    if MANIFEST_KEY in header or Path(file).is_dir():
        bundle = load_bundle(place)
        return EarlierModel(
            place=place,
            arch=bundle.manifest.backbone.arch,
            vocab=bundle.manifest.vocab,
            body=bundle.classifier.backbone.state_dict(),
            head=bundle.classifier.head.state_dict(),
            bundle=bundle,
        )
    if VALUES_KEY not in header:
        return None
    tensors, values = load_state(place)
    parts = {
        part: {
            name.removeprefix(f"model/{part}."): value
            for name, value in tensors.items()
            if name.startswith(f"model/{part}.")
        }
        for part in ("backbone", "head")
    }
    about = values.get("identity", {}).get("model", values)  # the former in a checkpoint
    if not parts["backbone"]:  # a network without our parts
        return None
    return EarlierModel(
        place=place,
        arch=str(about["architecture"]),
        vocab=tuple(map(str, about["vocab"])),
        body=parts["backbone"],
        head=parts["head"],
    )
