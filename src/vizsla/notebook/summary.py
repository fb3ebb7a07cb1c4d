"""Show how images are prepared: the steps of ``dls.after_item`` and ``dls.after_batch``, and the text of ``DataBlock.summary``.

One line for each step: its name, then its settings. What vizsla does in one go, such as all geometry in one interpolation, is one
step with its members below one another. H, W: sides of an image; B: images of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import NUM_OWN_DRAWS, BatchAugmentation, OwnTransform
from vizsla.augment.colour import Brightness, Contrast, Hue, Saturation
from vizsla.augment.erasing import RandomErasing
from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
from vizsla.augment.normalize import Normalize
from vizsla.data.cache.cache import ImageCache
from vizsla.data.images.item_transforms import RandomFlip, run_functions
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.table.block import CategoryBlock, MultiCategoryBlock, as_list, output_block
from vizsla.data.table.splits import RandomSplitter
from vizsla.errors import ConfigError, DataError
from vizsla.lists import collection_text
from vizsla.notebook.images import PILImage
from vizsla.notebook.tensors import TensorImage, as_target
from vizsla.notebook.transforms import IntToFloatTensor, Pipeline, ToTensor
from vizsla.seeding import counter_uniform
from vizsla.text import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vizsla.augment.batch_augmentation import BatchTransform
    from vizsla.data.images.item_transforms import ItemPipeline
    from vizsla.data.table.block import DataBlock
    from vizsla.data.table.splits import Split

    Getters = tuple[Callable[[Any], Any] | None, Callable[[Any], Any]]

_ORDER = (
    (Flip, Dihedral, Warp, Rotate, Zoom),
    (RandomResizedCropGPU,),
    (Brightness, Contrast, Saturation),
    (Hue,),
    (Normalize,),
    (RandomErasing,),
)
"""The order in which they work, whatever order they were given in."""

_DECIDED_BY_FIRST = ("size", "mode", "pad_mode", "align_corners", "batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a pipeline, as people see it.

    Attributes:
        name: Name of the step, or of the first of its members.
        settings: Its settings.
        members: What else happens in the same step: names and settings.
        transforms: The batch transforms behind it; none for steps that every image goes through.
        act: What a call of the step does to an image or a batch, by hand.
    """

    name: str
    settings: dict[str, Any]
    members: tuple[tuple[str, dict[str, Any]], ...] = ()
    transforms: tuple[BatchTransform | OwnTransform, ...] = ()
    act: Callable[[Any], Any] | None = None

    def __call__(self, x: Any) -> Any:
        """Return an image, or a tuple that begins with one, after this step; a training image's draws are torch's."""
        if self.act is None:
            return x
        return (self.act(x[0]), *x[1:]) if isinstance(x, tuple) else self.act(x)

    def __str__(self) -> str:
        lines = [_line(self.name, self.settings)]
        lines += [f"    + {_line(name, settings)}" for name, settings in self.members]
        return "\n".join(lines) + ("\n" if self.settings or self.members else "")


@dataclass(frozen=True, slots=True, repr=False)
class Steps:
    """The steps of one stage, in order; prints as ``Pipeline: A -> B``.

    Called, they act one after the other; with ``add`` they become more for the loaders they came from.

    Attributes:
        fs: The steps.
    """

    fs: tuple[Step, ...] = ()
    on_add: Callable[[list[Any]], object] | None = None

    def __call__(self, x: Any) -> Any:
        """Return an image or a batch, or a tuple that begins with one, after all steps."""
        for step in self.fs:
            x = step(x)
        return x

    def decode(self, x: Any) -> Any:
        """Return a normalised batch, or a tuple that begins with one, as it was before ``Normalize``."""
        known = [one for step in self.fs for one in step.transforms if isinstance(one, Normalize)]
        for one in known:
            x = (one.decode(x[0]), *x[1:]) if isinstance(x, tuple) else one.decode(x)
        return x

    def add(self, ts: Any) -> None:
        """Add one transform or several to what the loaders do.

        Raises:
            ConfigError: They do not fit those that are there.
        """
        if self.on_add is not None:
            self.on_add(as_list(ts))

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps."""
        return iter(self.fs)

    def __getitem__(self, index: int) -> Step:
        """Return one step."""
        return self.fs[index]

    def __repr__(self) -> str:
        return "Pipeline: " + " -> ".join(str(step) for step in self.fs)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.fs)


def item_steps(
    items: ItemPipeline, *, on_add: Callable[[list[Any]], object] | None = None
) -> Steps:
    """Return what is done to each image before it becomes part of a batch."""

    def by_hand(one: Any) -> Step:
        return replace(step_of_function(one), act=lambda image: _after(one, image))

    own = [by_hand(one) for one in items.before]
    if items.sizing is not None:
        name, settings = type(items.sizing).__name__, settings_of(items.sizing)
        own.append(Step(name=name, settings=settings, act=items.sizing))
    own += [by_hand(one) for one in items.after]
    return Steps((*own, Step(name="ToTensor", settings={}, act=ToTensor())), on_add)


def _after(one: Any, image: Any) -> PILImage:
    """Return an image after one item transform that is not a sizing."""
    if isinstance(one, RandomFlip):
        return one(image)
    draws = torch.rand(NUM_OWN_DRAWS).tolist()
    pixels = run_functions((one,), np.array(image), name="", draws=draws, training=True)
    return PILImage.create(pixels)


def batch_steps(
    augmentation: BatchAugmentation, *, on_add: Callable[[list[Any]], object] | None = None
) -> Steps:
    """Return what is done to a training batch; validation keeps only the size and nothing random."""
    steps = [Step(name="IntToFloatTensor", settings={"div": 255.0}, act=IntToFloatTensor())]
    for kinds in _ORDER:
        transforms = [one for one in transforms_of(augmentation) if type(one) in kinds]
        if not transforms:
            continue
        first, *others = transforms
        members: list[tuple[str, dict[str, Any]]] = []
        for one in others:  # the first one decides some settings for all
            own = _drawn(one).items()
            settings = {name: value for name, value in own if name not in _DECIDED_BY_FIRST}
            members.append((type(one).__name__, settings))
        steps.append(
            Step(
                name=type(first).__name__,
                settings=_drawn(first),
                members=tuple(members),
                transforms=tuple(transforms),
                act=Pipeline(transforms),
            )
        )
    for one in augmentation.own:
        by_hand = Pipeline([one], split_idx=0)
        steps.append(replace(step_of_function(one), transforms=(one,), act=by_hand))
    return Steps(tuple(steps), on_add)


def transforms_of(augmentation: BatchAugmentation) -> tuple[BatchTransform | OwnTransform, ...]:
    """Return the transforms of an augmentation, in the order in which they work."""
    rank: dict[type, tuple[int, int]] = {
        kind: (place, k) for place, kinds in enumerate(_ORDER) for k, kind in enumerate(kinds)
    }
    last = len(_ORDER), 0
    return tuple(sorted(augmentation.transforms, key=lambda one: rank.get(type(one), last)))


def step_of_function(function: object) -> Step:
    """Return the step of a function, or of an object that can be called."""
    own = getattr(function, "name", None) if isinstance(function, OwnTransform) else None
    name = own or getattr(function, "__name__", None) or type(function).__name__
    return Step(name=name.strip(), settings={})


def settings_of(transform: object) -> dict[str, Any]:
    """Return the fields of a dataclass, in order of declaration."""
    if not is_dataclass(transform):
        return {}
    return {field.name: getattr(transform, field.name) for field in fields(transform) if field.repr}


def _drawn(transform: BatchTransform | OwnTransform) -> dict[str, Any]:
    """Return the settings of a transform without the draws that are left to chance."""
    return {
        name: value
        for name, value in settings_of(transform).items()
        if not (name.startswith("draw") and value is None)
    }


def _line(name: str, settings: dict[str, Any]) -> str:
    return f"{name} -- {settings}" if settings else name


_LARGEST_WHOLE = 20
"""Larger tensors are shown by their size."""

_MOST_CLASSES = 10
"""How many classes are shown."""


class CollateError(DataError, RuntimeError):
    """The images of a batch have different sizes."""


@dataclass(kw_only=True)
class _Announced:
    """A splitter that prints its input and output, and keeps the first training item."""

    splitter: Callable[[Any], Split]
    first: Any = None

    @property
    def by_chance(self) -> bool:
        return getattr(self.splitter, "by_chance", False)

    def __call__(self, items: Any) -> Split:
        say(f"Found {len(items)} items")
        train, valid = self.splitter(items)
        say(f"2 datasets of sizes {len(train)},{len(valid)}")
        if len(train):
            place = int(train[0])
            self.first = items.iloc[place] if hasattr(items, "iloc") else items[place]
        return train, valid


def summarise_block(block: DataBlock, source: Any, *, bs: int, path: Path | str) -> DataLoaders:
    """Print what happens to the images of a source, and return its loaders.

    ``bs`` is the number of first training images in the batch.

    Raises:
        DataError: The data has faults; the message has all that were found.
        CollateError: The images of the batch have different sizes.
        ConfigError: ``bs`` is not positive.
    """
    if bs < 1:
        raise ConfigError(f"A batch has at least one image. Received: bs={bs}")
    say(f"Setting-up type transforms pipelines\nCollecting items from {_short(source)}")
    getters = block.getters_used()
    announced = _Announced(splitter=RandomSplitter() if block.splitter is None else block.splitter)
    split_block = replace(block, splitter=announced)
    image_steps, label_steps = _type_steps(block, getters=getters, vocab=None)
    try:
        table = split_block.resolve(source, path)
    finally:
        say(f"Setting up {image_steps}\nSetting up {label_steps}")
    row = int(table.train_rows[0])
    image_steps, label_steps = _type_steps(block, getters=getters, vocab=table.vocab)
    sample = PILImage.create(table.paths[row]), as_target(table.targets[row], task=table.task)
    say("\nBuilding one sample")
    path_of, label_of = getters
    start = announced.first
    found = [] if path_of is None else [path_of(start)]
    _tell_steps(image_steps, start, [*found, sample[0]])
    _tell_steps(label_steps, start, [label_of(start), sample[1]])
    say(f"\nFinal sample: {_shown(sample)}\n\n")
    batch_tfms: Any = block.batch_tfms
    listed = batch_tfms if isinstance(batch_tfms, list | tuple) else [batch_tfms]
    loaders = DataLoaders(
        table,
        resize=block.item_tfms,
        transforms=[transform for transform in listed if transform is not None],
        batch_size=bs,
        cache=ImageCache(mode="off"),
    )
    _tell_batch(loaders, sample)
    return loaders


def _tell_batch(loaders: DataLoaders, sample: tuple[PILImage, Tensor]) -> None:
    """Print how the first training images become a batch."""
    own, together = item_steps(loaders.reader.items), batch_steps(loaders.augmentation)
    say(f"Setting up after_item: {own}\nSetting up before_batch: {Steps()}")
    say(f"Setting up after_batch: {together}\n\nBuilding one batch")
    say("Applying item_tfms to the first sample:")
    target = sample[1]
    made = _images_after(loaders, sample[0])
    _tell_steps(own, sample, [(image, target) for image in made])
    rows = loaders.train.rows[: loaders.bs]
    say(f"\nAdding the next {len(rows) - 1} samples")
    say("\nNo before_batch transform to apply\n\nCollating items in a batch")
    images = _collated(loaders, rows)
    targets = as_target(loaders.table.targets[rows], task=loaders.table.task).to(loaders.device)
    say("\nApplying batch_tfms to the batch built")
    values: list[tuple[Tensor, Tensor]] = []
    transforms: list[BatchTransform | OwnTransform] = []
    for step in together.fs:
        transforms += step.transforms
        augment = BatchAugmentation(transforms, seed=loaders.seed)
        found = augment(images, rows=rows, epoch=0, training=True)
        values.append((TensorImage(found), targets))
    _tell_steps(together, (TensorImage(images), targets), values)
    if len(together) > 2:  # what the steps do not show
        before, after = (f"{one.shape[-2]}x{one.shape[-1]}" for one in (images, values[-1][0]))
        say(
            f"\nIn training all of this is done at once: each image is interpolated once, from {before} to {after}."
        )


def _images_after(loaders: DataLoaders, image: PILImage) -> list[PILImage | TensorImage]:
    """Return an image after each of its item transforms, as training may see it."""
    items = loaders.reader.items
    made: list[PILImage | TensorImage] = []
    for one in items.before:
        made.append(image := _after(one, image))
    if items.sizing is not None:
        presized = items.sizing.presize(image, training=True)
        seen = items.sizing.view(presized, draws=[0.5] * items.sizing.num_draws)
        made.append(image := PILImage.create(np.array(seen)))
    for one in items.after:
        made.append(image := _after(one, image))
    return [*made, ToTensor()(image)]


def _collated(loaders: DataLoaders, rows: Tensor) -> Tensor:
    """Return uint8 ``(B, 3, H, W)`` of some rows, on the device.

    Raises:
        CollateError: They have different sizes.
    """
    reader, table = loaders.reader, loaders.table
    draws = counter_uniform(loaders.seed, "crop", epoch=0, rows=rows, count=reader.num_draws)
    pixels = [
        reader.read(table.paths[row], draws=own)
        for row, own in zip(rows.tolist(), draws.tolist(), strict=True)
    ]
    shapes = [torch.Size((3, *one.shape[:2])) for one in pixels]
    if len(set(shapes)) > 1:
        say(
            "Error! It's not possible to collate your items in a batch\n"
            "Could not collate the 0-th members of your tuples because got the following shapes\n"
            + ",".join(map(str, shapes))
        )
        other = next(place for place, shape in enumerate(shapes) if shape != shapes[0])
        first, second = (
            f"{shapes[at][1]} x {shapes[at][2]} ({table.shown_path(int(rows[at]))})"
            for at in (0, other)
        )
        raise CollateError(
            f"The images of a batch must have the same size, but these differ: {first}, {second}. Add "
            "item_tfms=Resize(...) to the DataBlock, for example item_tfms=Resize(460)."
        )
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return images.to(loaders.device)


def _type_steps(
    block: DataBlock, *, getters: Getters, vocab: Sequence[str] | None
) -> tuple[Steps, Steps]:
    """Return the steps that make the image and the target of an item."""
    path_of, label_of = getters
    own = [] if path_of is None else [step_of_function(path_of)]
    image = Step(name="PILBase.create", settings={})
    output = output_block(block.blocks)
    settings = settings_of(output)
    name = "RegressionSetup"
    if isinstance(output, CategoryBlock | MultiCategoryBlock):
        name = "Categorize" if isinstance(output, CategoryBlock) else "MultiCategorize"
        settings["vocab"] = _classes(output.vocab if vocab is None else vocab)
    encode = Step(name=name, settings=settings)
    return Steps((*own, image)), Steps((step_of_function(label_of), encode))


def _classes(vocab: Sequence[str] | None) -> object:
    """Return all classes, or the first of many, for printing."""
    if vocab is None or len(vocab) <= _MOST_CLASSES:
        return vocab if vocab is None else list(vocab)
    return _Text(collection_text(vocab, limit=_MOST_CLASSES))


class _Text(str):
    """A text that prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _tell_steps(steps: Steps, start: object, values: Sequence[object]) -> None:
    """Print a pipeline, its input, and the result of each of its steps."""
    say(f"  {steps}\n    starting from\n{_indented(start)}")
    for step, value in zip(steps.fs, values, strict=True):
        say(f"    applying {step} gives\n{_indented(value)}")


def _indented(value: object) -> str:
    return "\n".join(f"      {line}" for line in _shown(value).splitlines())


def _shown(value: object) -> str:
    """Return a value as text; large tensors by their size."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, Tensor):
        if value.ndim <= 1 and value.numel() <= _LARGEST_WHOLE:
            return repr(value)
        return f"{type(value).__name__} of size {'x'.join(map(str, value.shape))}"
    return str(value)


def _short(source: object) -> str:
    """Return the name of a source: a path, or the kind and number of its items."""
    if isinstance(source, str | Path):
        return str(source)
    length = f" of {len(source)}" if hasattr(source, "__len__") else ""  # pyright: ignore[reportArgumentType]
    return f"a {type(source).__name__}{length}"
