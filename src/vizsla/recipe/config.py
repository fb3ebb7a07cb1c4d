"""The options of a run, as dataclasses that check themselves; the command line and ``config.toml`` are made from the same fields.

Nothing heavy is imported, so that ``vizsla train --help`` answers at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from vizsla.data.images.sizing import PadMode, Resize

Precision = Literal["auto", "fp32", "bf16", "fp16"]
CacheMode = Literal["auto", "memory", "disk", "off", "device"]
Truncated = Literal["strict", "ok"]
Augment = Literal["none", "light", "default", "strong"]
ResizeWord = Literal["crop", "squish", "pad", "pad-border", "pad-zeros"]
Balance = Literal["none", "auto", "weights", "sample"]
GradientCompression = Literal["none", "fp16", "bf16", "powersgd"]

EPOCHS_ON_GPU = 5
AUTO = "auto"
USUAL_THRESHOLD = "0.5"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where labels and the split come from; see ``resolve_data``.

    Attributes:
        labels: auto (metadata.csv or metadata.jsonl beside the images, else folder) | folder | name (beagle_17.jpg is a beagle) | none (only fixes name classes) | regex:PATTERN (on the file name) | csv:FILE[,image=COLUMN][,label=COLUMN]. After the columns of a
            table, delimiter=TEXT: several labels in a cell; label=A,label=B or label=*: in several columns; kind=number:
            numbers are predicted. Of a Hugging Face dataset or Parquet files: hf:COLUMN, with the same words after it.
        valid: Share of each class to hold out; auto: the split of the data where it has one, else 0.2; pool:0.2: pool the
            parts of the data's own split and draw another.
        label_level: Which level of folders names the class, counted from 1 below the split folders; auto: the one that can.
        min_per_class: Refuse classes with fewer images; auto: 2 where a split is drawn; 1: train on single images too, their
            classes are not measured.
        group: Images of one group, such as one patient, are never in both sets: a column of the table, or regex:PATTERN (on
            the path below DATA); auto: near duplicates, such as crops and resized copies.
        fixes: A CSV file of labels to change and images to add or drop, with the columns path, action (relabel, add, drop or
            keep), label, why and when, as vizsla label writes it; no image file is touched.
        new_classes: Let fixes name classes that the data does not have.
    """

    labels: str = "auto"
    valid: str = "auto"
    label_level: int | Literal["auto"] = "auto"
    min_per_class: int | Literal["auto"] = "auto"
    group: str = ""
    fixes: str = ""
    new_classes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The choices of a training run; each default is a good first try on photographs.

    Attributes:
        arch: Network, by its name in timm or torchvision. The weights of the default are installed with vizsla. auto: the best for
            these images of those whose weights are on this machine, alone or two joined; NAME+NAME: two joined.
        weights: A weights file for the network instead of the published ones; from a model, only its body is used.
        start_from: A model to continue from, a file or the folder of a run: its network, image size and preparation are
            kept, and its classes, with new ones added. Given the folder, images that it was trained on stay out of a
            validation set that is drawn.
        epochs: End-to-end epochs after the head was fitted; auto: as many as pay within the minutes, without these 5 on a CUDA
            device, else 0.
        minutes: Time to spend, from reading the images' features on, where it pays: on a larger network and on larger images where
            these are the defaults, then on end-to-end epochs; auto: the features, and the epochs that auto says.
        size: Side of the square that the network sees, in pixels; most weights were trained for 224.
        presize: Short side at which images are kept for random crops, in pixels; auto: 1.3 times the size, so that
            rotations and crops do not run out of image.
        resize_method: How images become squares. crop: the largest square in the middle (end-to-end epochs move it); squish;
            pad with the image mirrored, pad-border with its edges, pad-zeros with black.
        patience: Stop the end-to-end epochs when this many in a row did not lower the loss of held-out training images; 0:
            never.
        batch_size: Images in a step.
        learning_rate: Peak learning rate of the late layers in the end-to-end epochs.
        seed: Seed of the split, crops and everything else that is random.
        precision: Number format of the network; auto: fp32 on a CPU, fp16 or bf16 on CUDA.
        num_workers: Threads that read images; auto (or -1): one per core.
        device: auto, cpu, cuda or mps.
        cache: Where prepared images are kept between epochs, see ``ImageCache``.
        cache_budget: What they may take, such as 4GB; auto: a share of what is free.
        truncated: JPEGs that end too early: strict: unreadable; ok: take what is there.
        bit_depth: Bits that the values of 16-bit images use, 8 to 16; auto: decided once for all images, by the largest value.
        augment: How much training images vary: none: mirror nothing and change nothing; the others say how strongly the
            end-to-end epochs crop, turn, warp, and change brightness and contrast.
        flip: Mirror training images left to right; auto: unless that makes classes alike, such as arrows, or augment is
            none. An explicit True or False is always followed.
        vertical_flip: Also turn training images upside down, as is right for microscopes and satellites, unless flip is
            auto and that makes classes alike.
        colour: Let the end-to-end epochs change brightness and contrast; the hue never changes.
        threshold: Of several labels, the probability above which an image has one: a number; f1: for each label the one with the
            best F1 on the validation images; precision:0.9: the lowest at which that share of the images that get it have it.
        balance: What to do where classes are of unequal size: weights: images of rare classes count more; sample: they come up
            more often in the end-to-end epochs; auto: sample where one class has three times as many images as another.
            Probabilities are then those for classes that are equally frequent.
        compress_gradients: Of several processes (torchrun), how gradients are sent: fp16, bf16: half the traffic; powersgd: far
            less, only approximately.

    Raises:
        ConfigError: A value cannot work.
    """

    arch: str = "efficientnet_lite0"
    weights: str = ""
    start_from: str = ""
    epochs: int | Literal["auto"] = "auto"
    minutes: float | Literal["auto"] = "auto"
    size: int = 224
    presize: int | Literal["auto"] = "auto"
    resize_method: ResizeWord = "crop"
    patience: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-4
    seed: int = 0
    precision: Precision = "auto"
    num_workers: int | Literal["auto"] = "auto"
    device: str = "auto"
    cache: CacheMode = "auto"
    cache_budget: int | str = "auto"
    truncated: Truncated = "strict"
    bit_depth: int | Literal["auto"] = "auto"
    augment: Augment = "default"
    flip: bool | Literal["auto"] = "auto"
    vertical_flip: bool = False
    colour: bool = True
    threshold: str = USUAL_THRESHOLD
    balance: Balance = "none"
    compress_gradients: GradientCompression = "none"

    def __post_init__(self) -> None:
        if not _is_whole(self.size, least=1):
            raise ConfigError(f"size is a positive whole number of pixels. Received: {self.size!r}")
        for name, least in (("epochs", 0), ("presize", self.size), ("num_workers", -1)):
            value = getattr(self, name)
            if value != "auto" and not _is_whole(value, least=least):
                raise ConfigError(
                    f"{name} is 'auto' or a whole number from {least} on. Received: {value!r}"
                )
        if not _is_whole(self.patience, least=0):
            raise ConfigError(
                f"patience is a number of epochs, or 0 for no end before the last. Received: {self.patience!r}"
            )
        if self.minutes != "auto":
            if isinstance(self.minutes, bool) or not 0 < self.minutes < math.inf:
                raise ConfigError(
                    f"minutes is 'auto' or a positive number. Received: {self.minutes!r}"
                )
            if self.epochs != "auto":
                raise ConfigError(
                    "minutes are spent on as many epochs as pay, and epochs is a number of them. "
                    f"Received: minutes={self.minutes!r}, epochs={self.epochs!r}. Give one of them."
                )
        if not _is_whole(self.batch_size, least=1):
            raise ConfigError(f"batch_size is at least 1. Received: {self.batch_size!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is a positive number. Received: {self.learning_rate}")
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise ConfigError(
                f"device is 'auto', 'cpu', 'cuda' or 'mps'. Received: {self.device!r}"
            )
        for name, kind in (
            ("precision", Precision),
            ("cache", CacheMode),
            ("truncated", Truncated),
            ("augment", Augment),
            ("resize_method", ResizeWord),
            ("balance", Balance),
            ("compress_gradients", GradientCompression),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"{name} is one of {', '.join(get_args(kind))}. Received: {getattr(self, name)!r}"
                )
        for name in ("vertical_flip", "colour", "flip"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "flip" and value == "auto"):
                words = "'auto', True or False" if name == "flip" else "True or False"
                raise ConfigError(f"{name} is {words}. Received: {value!r}")
        if self.weights and self.arch == AUTO:
            raise ConfigError(
                "arch 'auto' compares networks with their published weights, and weights is a file for one network. "
                f"Received: weights={self.weights!r}. Name its network: --arch NAME."
            )
        if self.weights and self.start_from:
            raise ConfigError(
                "weights starts a new model from the body in a file, while start_from (--from) continues "
                f"training a whole model. Received: weights={self.weights!r}, start_from={self.start_from!r}. "
                "Give one of them."
            )
        if self.bit_depth != "auto" and not (
            _is_whole(self.bit_depth, least=8) and self.bit_depth <= 16
        ):
            raise ConfigError(
                f"bit_depth is 'auto' or a whole number from 8 to 16. Received: {self.bit_depth!r}"
            )
        number = self.threshold.removeprefix("precision:")
        least = 0 if number == self.threshold else 1e-9  # any threshold has a precision of 0
        if self.threshold != "f1" and not _is_share(number, least=least):
            raise ConfigError(
                f"threshold is a number from 0 to 1, 'f1', or a precision such as 'precision:0.9'. Received: {self.threshold!r}"
            )
        if self.cache_budget != "auto":
            from vizsla.machine import parse_bytes

            parse_bytes(self.cache_budget, option="cache_budget")
            if self.cache == "off":
                raise ConfigError(
                    f"cache_budget is what the cache may take, and cache is 'off'. Received: {self.cache_budget!r}"
                )

    @property
    def kept_size(self) -> int:
        """The presize in pixels."""
        return round(1.3 * self.size) if isinstance(self.presize, str) else self.presize

    def resizing(self, *, presized: bool = False) -> Resize:
        """Return what brings images to the size, or to the presize for random crops."""
        from vizsla.data.images.sizing import Resize

        size = self.kept_size if presized else self.size
        if self.resize_method in ("crop", "squish"):
            return Resize(size, self.resize_method)
        padding: dict[str, PadMode] = {"pad-border": "border", "pad-zeros": "zeros"}
        return Resize(size, "pad", padding.get(self.resize_method, "reflection"))

    @property
    def stated_bit_depth(self) -> int | None:
        """The bit depth, None if it is to be decided."""
        return None if isinstance(self.bit_depth, str) else self.bit_depth

    @property
    def num_threads(self) -> int | None:
        """The number of reading threads, None for one per core."""
        chosen = self.num_workers
        return None if isinstance(chosen, str) or chosen < 0 else chosen

    def epochs_on(self, device: torch.device) -> int:
        """Return the number of end-to-end epochs on a device."""
        if isinstance(self.epochs, str):
            return EPOCHS_ON_GPU if device.type == "cuda" else 0
        return self.epochs

    def trains_on(self, device: torch.device) -> bool:
        """Return whether there may be end-to-end training on a device."""
        return self.minutes != "auto" or self.epochs_on(device) > 0

    @property
    def chooses_epochs(self) -> bool:
        """Whether the number of end-to-end epochs is what pays, not what was asked for."""
        return self.epochs == "auto" or self.patience > 0


def _is_share(text: str, *, least: float) -> bool:
    try:
        return least <= float(text) <= 1
    except ValueError:
        return False


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def at_size(config: TrainConfig, size: int) -> TrainConfig:
    """Return the options with another size, and the presize no smaller."""
    presize = config.presize if isinstance(config.presize, str) else max(config.presize, size)
    return replace(config, size=size, presize=presize)
