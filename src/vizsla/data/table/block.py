"""DataBlock: where images, labels and split come from; and the blocks: what the network sees, and what it predicts."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from PIL import Image

from vizsla.augment.batch_augmentation import instances
from vizsla.data.images.item_transforms import Grey, function_name
from vizsla.data.loading.dataloaders import (
    BatchTransforms,
    DataLoader,
    DataLoaders,
    LoaderOptions,
    check_loader_options,
)
from vizsla.data.table.check import (
    checked_table,
    label_problems,
    lookalike_classes,
    missed_labels,
    settle_draw,
    unknown_classes,
)
from vizsla.data.table.fixes import Fixes, apply_fixes, given_fixes
from vizsla.data.table.labels import (
    UNKNOWN_CLASS,
    CategoryMap,
    ColReader,
    LabelledImages,
    LabelSet,
    class_texts,
    class_type_of,
    each_item,
    is_fraction,
    is_missing,
    is_several,
    n_hot,
    names_of,
    number_targets,
    read_encoded,
    read_label_set,
    read_numbers,
    same_length,
    take_labels,
)
from vizsla.data.table.sources import holds_images
from vizsla.data.table.splits import RandomSplitter, Split, Splitter
from vizsla.errors import ConfigError, DataError, LabelError, Problem
from vizsla.paths import ImagePaths
from vizsla.text import counted, quoted
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Unpack

    from vizsla.data.images.item_transforms import ItemTransforms
    from vizsla.notebook.datasets import Datasets
    from vizsla.types import ClassType, ImageTable, Task


@dataclass(frozen=True)
class ImageBlock:
    """The input is an image.

    Args:
        cls: The class that notebooks open images with. With ``PILImageBW`` displayed batches are grey, ``(B, 1, H, W)``,
            and so is the input of a network with one channel; other networks get three equal channels.
    """

    cls: type[Image.Image] | None = field(default=None, repr=False)

    @property
    def item_tfms(self) -> list[Any]:
        """What is done to images because of the class."""
        return [Grey()] if getattr(self.cls, "is_grey", False) else []


@dataclass(frozen=True)
class CategoryBlock:
    """One of several classes is predicted.

    Args:
        vocab: The classes; their order is kept. ``None`` takes those of the training images.
        sort: Whether to sort classes taken from the images.
        add_na: Whether a class ``"#na#"`` at position 0 takes labels that are not in the vocabulary.
    """

    vocab: Sequence[str] | None = None
    sort: bool = True
    add_na: bool = False
    task: ClassVar[Task] = "category"

    def table(self, images: LabelledImages) -> ImageTable:
        """Return the checked table of images.

        Images in neither set stay in it. Where their label is missing or unknown, their target is ``UNLABELLED``.
        """
        texts = class_texts(images.labels)
        images = settle_draw(images, texts, keep_out=self.add_na)
        if self.vocab is None:
            own = [images.labels[p] for p in images.train if texts[p] is not None]
            classes, class_type = _class_names(own, sort=self.sort, add_na=self.add_na)
            images = _say_types(images, class_type)
        else:
            classes, class_type = _class_names(self.vocab, sort=False, add_na=self.add_na)
        known = [text for text in texts if text] if self.add_na else classes
        found = {texts[position] for position in (*images.train, *images.valid)}
        if len(found) == 1 and None not in found:
            number = counted(len(images.train) + len(images.valid), "image")
            text = (
                f"There is only one class, {found.pop()!r}, for all {number}. A classifier needs at least two. "
                f"{images.advice}"
            )
            only = Problem(kind=LabelError, text=text.rstrip(), spoils_training_only=True)
            class_problems = [only]
        else:
            class_problems = unknown_classes(images, texts, known)
        if self.vocab is None:
            class_problems += lookalike_classes(images, texts, classes)
        index = {name: position for position, name in enumerate(classes)}
        unknown = index[UNKNOWN_CLASS] if self.add_na else UNLABELLED
        targets = [UNLABELLED if text is None else index.get(text, unknown) for text in texts]
        return checked_table(
            images,
            label_problems=label_problems(images, texts),
            class_problems=class_problems,
            targets=torch.tensor(targets, dtype=torch.int64),
            vocab=classes,
            task="category",
            class_type=class_type or "text",
        )


@dataclass(frozen=True)
class MultiCategoryBlock:
    """Any number of several classes is predicted; an image's label is a list of them, which may be empty.

    Args:
        encoded: Whether a label is a list of zeros and ones, one for each class, instead of a list of classes.
        vocab: The classes; their order is kept. ``None`` takes those of the training images, sorted; with ``encoded`` the
            names of the columns that a ``ColReader`` reads.
        add_na: Whether a class ``"#na#"`` at position 0 takes labels that are not in the vocabulary.

    Raises:
        ConfigError: ``encoded`` and ``add_na`` are both true: zeros and ones cannot name an unknown class.

    Examples:
        >>> MultiCategoryBlock(vocab=["cloudy", "clear", "water"])
        MultiCategoryBlock(encoded=False, vocab=['cloudy', 'clear', 'water'], add_na=False)
    """

    encoded: bool = False
    vocab: Sequence[str] | None = None
    add_na: bool = False
    task: ClassVar[Task] = "multi_category"

    def __post_init__(self) -> None:
        if self.encoded and self.add_na:
            raise ConfigError(
                "MultiCategoryBlock: add_na=True is for labels outside the vocabulary, which cannot occur with "
                "encoded=True. Leave one of them out."
            )

    def table(self, images: LabelledImages) -> ImageTable:
        """Return the checked table, as ``CategoryBlock.table`` does; unknown targets are NaN.

        Raises:
            ConfigError: Labels are zeros and ones, and neither ``vocab`` nor a column says of what.
        """
        labels = self.label_sets(images)
        given = self._given_vocab(images)
        texts = list(map(names_of, labels))
        images = settle_draw(replace(images, labels=tuple(labels)), texts, keep_out=self.add_na)
        in_train = [labels[position] for position in images.train]
        seen = [name for label in in_train if isinstance(label, tuple) for name in label]
        classes, class_type = _class_names(
            seen if given is None else given, sort=given is None, add_na=self.add_na
        )
        images = _say_types(images, class_type)
        class_problems: list[Problem] = []
        if not self.add_na:
            class_problems += unknown_classes(images, texts, classes)
        if given is None:
            class_problems += lookalike_classes(images, texts, classes)
        if not classes and in_train and all(isinstance(label, tuple) for label in in_train):
            text = f"None of the {len(in_train)} training images has a class; all lists of labels are empty. {images.advice}"
            class_problems.append(Problem(kind=LabelError, text=text.rstrip()))
        unknown = classes.index(UNKNOWN_CLASS) if self.add_na else None
        return checked_table(
            images,
            label_problems=missed_labels(images),
            class_problems=class_problems,
            targets=n_hot(texts, classes, unknown=unknown),
            vocab=classes,
            task="multi_category",
            class_type=class_type or "text",
        )

    def label_sets(self, images: LabelledImages) -> list[LabelSet | LabelError]:
        """Return the classes of each image, or the error that says why there are none.

        Raises:
            ConfigError: As ``table`` does.
        """
        given = self._given_vocab(images)
        if not self.encoded:
            cells = map(_without_empty_cells, images.labels) if images.names else images.labels
            return list(map(read_label_set, cells))
        if given:
            return [read_encoded(label, tuple(map(str, given))) for label in images.labels]
        raise ConfigError(
            "MultiCategoryBlock(encoded=True) needs vocab, the class names in the order of the zeros and ones. "
            "Received: vocab=None"
        )

    def _given_vocab(self, images: LabelledImages) -> Sequence[Any] | None:
        return (self.vocab or images.names) if self.encoded else self.vocab


@dataclass(frozen=True)
class RegressionBlock:
    """Numbers are predicted; an image's label is a number, or a sequence of numbers, of the same length for all images.

    Args:
        n_out: How many numbers an image has; ``None`` takes it from the labels.

    Raises:
        ConfigError: ``n_out`` is below 1.
    """

    n_out: int | None = None
    task: ClassVar[Task] = "regression"

    def __post_init__(self) -> None:
        if self.n_out is not None and self.n_out < 1:
            raise ConfigError(
                f"RegressionBlock: n_out must be at least 1. Received: {self.n_out!r}"
            )

    def table(self, images: LabelledImages) -> ImageTable:
        """Return the checked table, as ``CategoryBlock.table`` does; unknown targets are NaN."""
        numbers = same_length(list(map(read_numbers, images.labels)), expected=self.n_out)
        images = replace(images, labels=tuple(numbers))
        num_numbers = next((len(label) for label in numbers if isinstance(label, tuple)), 1)
        vocab = tuple(images.names)
        if len(vocab) != num_numbers:
            places = range(num_numbers)
            vocab = ("value",) if num_numbers == 1 else tuple(f"value_{place}" for place in places)
        return checked_table(
            images,
            label_problems=missed_labels(images),
            targets=number_targets(numbers, num_numbers=num_numbers),
            vocab=vocab,
            task="regression",
        )


def _class_names(
    labels: Sequence[object], *, sort: bool, add_na: bool
) -> tuple[tuple[str, ...], ClassType | None]:
    """Return the classes as text, and what they were, as ``class_type_of`` does; the order is that of their values."""
    class_type = class_type_of(labels)
    values = (
        map(str, labels) if class_type is None else labels
    )  # 1 and True are equal, "1" and "True" not
    return tuple(map(str, CategoryMap(values, sort=sort, add_na=add_na))), class_type


def _say_types(images: LabelledImages, class_type: ClassType | None) -> LabelledImages:
    if class_type is not None:
        return images
    note = "labels mix text, whole numbers, and true and false, so all are read as text"
    return replace(images, notes=(*images.notes, note))


OutputBlock = CategoryBlock | MultiCategoryBlock | RegressionBlock


@dataclass(frozen=True)
class TransformBlock:
    """A block defined by transforms: those that open an image, or those that turn a label into a target.

    Args:
        type_tfms: Functions of an item. For images the last but those of images is ``PILImage.create``; for labels the last is
            ``Categorize()``, ``MultiCategorize()`` or ``RegressionSetup()``. Without them, ``DataBlock.datasets`` gives items as
            they are.
        item_tfms: As ``DataBlock`` takes them; those of the ``DataBlock`` follow.
        batch_tfms: As ``DataBlock`` takes them; those of the ``DataBlock`` follow.
        dl_type: Not supported; loaders are always ours.
        dls_kwargs: Options for ``DataBlock.dataloaders``.
    """

    type_tfms: Any = None
    item_tfms: Any = None
    batch_tfms: Any = None
    dl_type: Any = None
    dls_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_loader_type(self.dl_type)


def check_loader_type(dl_type: Any) -> None:
    """Raise a ConfigError for a class of loaders that is not ours."""
    if dl_type not in (None, DataLoader):
        raise ConfigError(
            f"dl_type is not supported; leave it out. Received: {dl_type!r}. For imbalanced classes use "
            "balance='sample'."
        )


def as_steps(transforms: Any) -> list[Any]:
    """Return transforms, given as one, a list, or a pipeline, as a list in the order in which they work."""
    listed = as_list(getattr(transforms, "fs", transforms))
    made = instances(listed, keep_implied=True)
    return sorted(made, key=lambda one: getattr(one, "order", 0))


def as_list(transforms: Any) -> list[Any]:
    """Return transforms, given as one or a list, as a list without None."""
    listed = transforms if isinstance(transforms, list | tuple) else [transforms]
    return [one for one in listed if one is not None]


def image_steps(transforms: Any) -> tuple[Callable[[Any], Any] | None, ImageBlock, list[Any]]:
    """Divide transforms that open an image: what gives its path (None: the item), the block, and item transforms.

    Raises:
        ConfigError: None of them is ``PILImage.create``.
    """
    steps = as_steps(transforms)
    openers = [getattr(step, "function", step) for step in steps]
    place = next((place for place, one in enumerate(openers) if _opens_images(one)), None)
    if place is None:
        names = ", ".join(map(_step_name, steps)) or "nothing"
        raise ConfigError(
            f"The transforms of the image are {names}; none of them is PILImage.create. vizsla itself reads the "
            "images: put PILImage.create in place of your own function that opens them, after the functions that "
            "return the path and before those that change the image. Pairs of images, masks, points, boxes, text "
            "and tables are not supported."
        )
    path_of = composed(steps[:place]) if place else None
    block = ImageBlock(getattr(openers[place], "__self__", None))
    return path_of, block, instances(steps[place + 1 :])


def label_steps(transforms: Any) -> tuple[list[Callable[[Any], Any]], OutputBlock]:
    """Divide transforms of a label: the functions that give it, and the block.

    Raises:
        ConfigError: None of them says what is predicted.
    """
    steps = as_steps(transforms)
    places = [place for place, one in enumerate(steps) if hasattr(one, "output_block")]
    later = [] if not places else instances(steps[places[0] + 1 :])
    if len(places) != 1 or any(type(one).__name__ != "OneHotEncode" for one in later):
        names = ", ".join(map(_step_name, steps)) or "nothing"
        raise ConfigError(
            f"The transforms of the label are {names}. The last must say what is predicted: Categorize(), "
            "MultiCategorize(), EncodedMultiCategorize(vocab) or RegressionSetup() (OneHotEncode() may follow)."
        )
    return steps[: places[0]], steps[places[0]].output_block()


def composed(functions: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return functions as one: the only one itself."""
    if len(functions) == 1:
        return getattr(functions[0], "function", functions[0])

    def one_after_the_other(item: Any) -> Any:
        for function in functions:
            item = function(item)
        return item

    return one_after_the_other


def _opens_images(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    is_create = getattr(function, "__name__", "") == "create"
    return function is Image.open or (
        is_create and isinstance(owner, type) and issubclass(owner, Image.Image)
    )


def _step_name(step: Any) -> str:
    return function_name(getattr(step, "function", step))


def fixed_images(
    images: LabelledImages, block: OutputBlock, fixes: Fixes, *, new_classes: bool = False
) -> tuple[LabelledImages, frozenset[int]]:
    """Return images with the labels of their fixes, as ``block`` reads them, and the positions of those to leave out."""
    given = given_fixes(fixes)
    if not given:
        return images, frozenset()
    known: dict[str, Any] = {}
    encoded: tuple[str, ...] = ()
    if isinstance(block, CategoryBlock):
        texts = zip(class_texts(images.labels), images.labels, strict=True)
        known = {text: label for text, label in texts if text is not None}
    elif isinstance(block, MultiCategoryBlock):
        sets = block.label_sets(images)
        known = {str(one): one for found in sets if isinstance(found, tuple) for one in found}
        encoded = tuple(map(str, block.vocab or images.names)) if block.encoded else ()
    if not isinstance(block, RegressionBlock):
        known |= {str(name): name for name in (*(block.vocab or ()), *encoded)}
    return apply_fixes(
        images, given, task=block.task, known=known, encoded=encoded, new_classes=new_classes
    )


OutputBlockOrClass = (
    OutputBlock | type[CategoryBlock] | type[MultiCategoryBlock] | type[RegressionBlock]
)
BlockOrClass = (
    ImageBlock | type[ImageBlock] | OutputBlockOrClass | TransformBlock | type[TransformBlock]
)

_CHOICE = (
    "CategoryBlock (one of several classes), MultiCategoryBlock (any number of them, multi-label) or RegressionBlock "
    "(numbers)"
)


_USUAL: tuple[BlockOrClass, ...] = (ImageBlock, CategoryBlock)


def output_block(blocks: Sequence[BlockOrClass] | None) -> OutputBlock:
    """Return the block of the labels; ``blocks`` must be an image and one kind of label, ``None`` is a category."""
    blocks = _USUAL if blocks is None else blocks
    made = _instances(blocks)
    if len(made) == 2 and isinstance(made[0], ImageBlock | TransformBlock):
        if isinstance(made[0], TransformBlock):
            image_steps(made[0].type_tfms)
        if isinstance(made[1], OutputBlock):
            return made[1]
        if isinstance(made[1], TransformBlock):
            return label_steps(made[1].type_tfms)[1]
    names = [block.__name__ if isinstance(block, type) else repr(block) for block in blocks]
    raise ConfigError(
        f"blocks is an ImageBlock, one image in, and one block for its label: {_CHOICE}. "
        f"Received: ({', '.join(names)})"
    )


def _instances(blocks: Iterable[BlockOrClass]) -> list[Any]:
    return [block() if isinstance(block, type) else block for block in blocks]


def block_for_labels(labels: Iterable[Any], y_block: OutputBlockOrClass | None) -> OutputBlock:
    """Return ``y_block``, or the block for a list of labels: decimal numbers are predicted, lists are several labels."""
    if y_block is not None:
        return _made(y_block)
    known = [label for label in labels if not is_missing(label)]
    if any(map(is_several, known)):
        return MultiCategoryBlock()
    is_decimal = any(map(is_fraction, known)) and not any(isinstance(label, str) for label in known)
    return RegressionBlock() if is_decimal else CategoryBlock()


def block_for_columns(
    label_col: str | int | Sequence[str | int],
    label_delim: str | None,
    y_block: OutputBlockOrClass | None,
) -> OutputBlock:
    """Return ``y_block``, or the block for labels in columns of a table."""
    if y_block is not None:
        return _made(y_block)
    several_columns = not isinstance(label_col, str | int) and len(label_col) > 1
    return MultiCategoryBlock() if several_columns or label_delim is not None else CategoryBlock()


def _made(y_block: OutputBlockOrClass) -> OutputBlock:
    block = y_block() if isinstance(y_block, type) else y_block
    if not isinstance(block, OutputBlock):  # pyright: ignore[reportUnnecessaryIsInstance] (from the user)
        raise ConfigError(f"y_block is {_CHOICE}. Received: {y_block!r}")
    return block


def item_labeller(
    block: OutputBlock, get_y: Callable[[Any], Any], vocab: Sequence[str]
) -> Callable[[Any], Any]:
    """Return what gives the label of one item as a block reads it: of zeros and ones, and of cells, the names of the classes."""
    if isinstance(block, MultiCategoryBlock) and block.encoded:
        return lambda item: read_encoded(get_y(item), vocab)
    if isinstance(block, MultiCategoryBlock) and isinstance(get_y, ColReader):
        return lambda item: _without_empty_cells(get_y(item))
    return get_y


def _without_empty_cells(label: Any) -> Any:
    if is_missing(label):
        return []
    return [one for one in label if not is_missing(one)] if isinstance(label, list) else label


@dataclass(frozen=True)
class DataBlock:
    r"""Describes how to turn a source into labelled images; it can be reused for any number of sources.

    Args:
        blocks: Input and output, classes or instances: ``ImageBlock``, and ``CategoryBlock``, ``MultiCategoryBlock`` or
            ``RegressionBlock``; or a ``TransformBlock`` in place of each. ``None`` is an image and a category; ``datasets`` then
            gives what ``get_x`` and ``get_y`` return, and opens nothing.
        dl_type: Not supported; loaders are always ours.
        getters: ``(get_x, get_y)`` in one list.
        n_inp: Number of inputs, 1.
        item_tfms: A ``Resize`` (or ``RandomResizedCrop``, ``RandomCrop``, ``CropPad``, ``RatioResize``), or a list of one
            of these, functions of uint8 ``(H, W, 3)`` arrays, and ``Transform`` objects. Those before it see the whole decoded
            image, those after it the resized one; functions act in training and validation alike. A ``Transform`` of an order
            above 1 comes after it, wherever it is listed.
        batch_tfms: Augmentations, as ``aug_transforms`` gives them, and ``Transform`` objects, which act on their result.
        get_items: Called with the source, returns the items; ``None``: the source is the items.
        splitter: Called with the items, returns the positions of the training and of the validation items; ``None`` is
            ``RandomSplitter()``.
        get_y: Called with an item, returns its label: a class, a list of classes, a number or a list of numbers. Several
            functions, one after the other, are a ``Pipeline``.
        get_x: Called with an item, returns the path of its image; ``None``: the item is the path.
        fixes: A file of fixes, or what ``read_fixes`` returns: labels to change and images to drop, in the sets that the
            splitter made.
        new_classes: Whether fixes may name classes that no image of the data has.

    Raises:
        ConfigError: One of the arguments cannot work.

    Examples:
        >>> pets = DataBlock(
        ...     blocks=(ImageBlock, CategoryBlock),
        ...     get_items=get_image_files,
        ...     splitter=RandomSplitter(seed=42),
        ...     get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
        ...     item_tfms=Resize(460),
        ...     batch_tfms=aug_transforms(size=224, min_scale=0.75),
        ... )
        >>> loaders = pets.dataloaders(Path("breeds"))
    """

    blocks: Sequence[BlockOrClass] | None = None
    dl_type: Any = None
    getters: Sequence[Callable[[Any], Any] | None] | None = None
    n_inp: int = 1
    item_tfms: ItemTransforms = None
    batch_tfms: BatchTransforms = None
    _: KW_ONLY
    get_items: Callable[[Any], Any] | None = None
    splitter: Splitter | None = None
    get_y: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None = None
    get_x: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None = None
    fixes: Fixes = None
    new_classes: bool = False

    def __post_init__(self) -> None:
        if not self._gives_items:
            output_block(self.blocks)
        check_loader_type(self.dl_type)
        if self.n_inp != 1:
            raise ConfigError(
                f"n_inp must be 1, the image; several inputs are not supported. Received: {self.n_inp!r}"
            )
        if self.getters is not None and len(self.getters) != 2:
            raise ConfigError(
                f"getters needs 2 functions, one for the image and one for the label. Received: {len(self.getters)}"
            )
        if self.getters is not None and (self.get_x is not None or self.get_y is not None):
            raise ConfigError("Give either getters, or get_x and get_y, not both.")
        for name in ("get_x", "get_y"):
            getter = getattr(self, name)
            if isinstance(getter, list | tuple) and len(getter) != 1:
                raise ConfigError(
                    f"{name} must be one function, as there is one image with one label. Received: {len(getter)}. "
                    f"To apply several functions in turn: {name}=Pipeline([...])."
                )
        check_loader_options({}, self.item_tfms)

    @classmethod
    def from_columns(
        cls,
        blocks: Sequence[BlockOrClass] = (ImageBlock, CategoryBlock),
        getters: Sequence[Callable[[Any], Any]] | None = None,
        get_items: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> DataBlock:
        """Return a block whose images and labels come as two lists, or as what ``get_items`` makes of the source.

        Args:
            blocks: As ``DataBlock`` takes them.
            getters: Called with (image, label) of each item, for its image and its label; None takes them as they are.
            get_items: Called with the source, returns (images, labels); None: the source is these.
            **options: The other arguments of ``DataBlock``.

        Raises:
            ConfigError: One of the arguments cannot work; when it is resolved, the lists differ in length.

        Examples:
            >>> block = DataBlock.from_columns(get_items=lambda df: (df["file"], df["label"]))
        """

        def pairs(source: Any) -> list[Any]:
            columns = [
                list(column) for column in (source if get_items is None else get_items(source))
            ]
            if len(columns) != 2 or len(columns[0]) != len(columns[1]):
                raise ConfigError(
                    "DataBlock.from_columns takes images and labels, two lists of the same length. Received: "
                    f"{len(columns)} of length {', '.join(str(len(column)) for column in columns)}"
                )
            return list(zip(*columns, strict=True))

        of_pair = (itemgetter(0), itemgetter(1)) if getters is None else getters
        return cls(blocks, getters=of_pair, get_items=pairs, **options)

    def resolve(self, source: Any, path: Path | str = ".") -> ImageTable:
        """Return the table of a source: items listed, split and labelled, everything checked.

        Images that can be shown but not trained on (of one class only, or the same one in both sets) give a warning here,
        and the error when training begins.

        Args:
            source: What ``get_items`` is called with, or the items: a list of paths, a DataFrame.
            path: Folder that paths are shown relative to, where the source is not a folder.

        Raises:
            DataError: Something is wrong with the data; the message lists every problem.
        """
        items: Any = source if self.get_items is None else self.get_items(source)
        if isinstance(items, str | Path):
            raise ConfigError(
                f"Without get_items, the source must be a list of items. Received: {quoted(items)}. Add "
                "get_items=get_image_files."
            )
        is_frame = hasattr(items, "iterrows")
        items = items if is_frame else list(items)
        if not len(items):
            where = "The source" if self.get_items is None else "get_items"
            raise DataError(
                f"{where} gives no items. Received the source {source!r}. Check the path."
            )
        splitter = RandomSplitter() if self.splitter is None else self.splitter
        train, valid = _checked_split(splitter(items), len(items))
        used = sorted({*train, *valid})
        position_of = {item: position for position, item in enumerate(used)}
        chosen = items.iloc[used] if is_frame else [items[position] for position in used]
        get_x, get_y = self.getters_used()
        found, labels = _read_all(chosen, get_x, get_y)
        is_folder = isinstance(source, str | Path) and holds_images(Path(source))
        images = LabelledImages(
            root=Path(source if is_folder else path),
            paths=ImagePaths(map(_as_path, found)),
            labels=labels,
            train=[position_of[item] for item in train],
            valid=[position_of[item] for item in valid],
            names=get_y.names(items) if isinstance(get_y, ColReader) else (),
            row_word="row" if is_frame else "" if is_folder else "item",
            row_numbers=tuple(used),
            advice="Labels are what get_y returns.",
            before_training=False,
            notes=_left_out(items, used),
            by_chance=getattr(splitter, "by_chance", False),
        )
        block = output_block(self.blocks)
        images, dropped = fixed_images(images, block, self.fixes, new_classes=self.new_classes)
        return block.table(images.without(dropped))

    def dataloaders(
        self,
        source: Any,
        path: Path | str = ".",
        *,
        seed: int = 0,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders:
        """Return the data loaders of a source.

        Args:
            source: As ``resolve`` takes it.
            path: As ``resolve`` takes it; learners save and export to it.
            seed: Decides shuffling, crops and augmentation.
            **options: ``bs``, ``val_bs``, ``num_workers``, ``device`` and the others of ``LoaderOptions``.

        Raises:
            DataError: Something is wrong with the data.
            ConfigError: One of the arguments cannot work.
        """
        plain = self.plain()
        for block in _instances(self.blocks or ()):
            defaults: Any = getattr(block, "dls_kwargs", None) or {}
            options = cast("LoaderOptions", {**defaults, **options})
        check_loader_options(options, plain.item_tfms)
        table = plain.resolve(source, path)
        loaders = DataLoaders.from_table(
            table, plain.item_tfms, plain.batch_tfms, seed=seed, **options
        )
        loaders.path = Path(path)
        get_x, get_y = plain.getters_used()
        loaders.getters = (get_x, item_labeller(output_block(plain.blocks), get_y, table.vocab))
        return loaders

    def plain(self) -> DataBlock:
        """Return the same description without ``TransformBlock``: their transforms are among the other arguments."""
        image, label = _instances(_USUAL if self.blocks is None else self.blocks)
        get_x, get_y = self.getters or (_only(self.get_x), _only(self.get_y))
        item_tfms: list[Any] = []
        batch_tfms: list[Any] = []
        for block in (image, label):
            if isinstance(block, TransformBlock):
                item_tfms += as_steps(block.item_tfms)
                batch_tfms += as_steps(block.batch_tfms)
        if isinstance(image, TransformBlock):
            path_of, image, steps = image_steps(image.type_tfms)
            get_x = composed([one for one in (get_x, path_of) if one is not None] or [_itself])
            item_tfms = [*steps, *item_tfms]
        if isinstance(label, TransformBlock):
            functions, label = label_steps(label.type_tfms)
            get_y = composed([one for one in (get_y, *functions) if one is not None] or [_itself])
        return replace(
            self,
            blocks=(ImageBlock(), label),
            getters=None,
            get_x=get_x,
            get_y=get_y,
            item_tfms=[*item_tfms, *as_list(self.item_tfms), *image.item_tfms],
            batch_tfms=[*batch_tfms, *as_list(self.batch_tfms)],
        )

    def new(
        self,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
    ) -> DataBlock:
        """Return the same description with other transforms; ``None`` keeps those that are there."""
        return replace(
            self,
            item_tfms=self.item_tfms if item_tfms is None else item_tfms,
            batch_tfms=self.batch_tfms if batch_tfms is None else batch_tfms,
        )

    def datasets(self, source: Any, path: Path | str = ".") -> Datasets:
        """Return the images of a source, as ``resolve`` takes it, with labels and split, before any transform.

        Without ``blocks``, or with ``TransformBlock`` alone, nothing is opened or checked: each item is what ``get_x`` and
        ``get_y`` return of it (the item itself where they are not given).
        """
        from vizsla.notebook.datasets import Datasets

        if not self._gives_items:
            return Datasets.of_table(self.plain().resolve(source, path))
        items = source if self.get_items is None else self.get_items(source)
        splitter = RandomSplitter() if self.splitter is None else self.splitter
        getters = self.getters or [*map(_only, (self.get_x, self.get_y))]
        blocks = _instances((TransformBlock,) * 2 if self.blocks is None else self.blocks)
        steps = [
            [_itself if getter is None else getter, *as_steps(block.type_tfms)]
            for getter, block in zip(getters, blocks, strict=True)
        ]
        return Datasets(items, steps, splits=splitter(items))

    @property
    def _gives_items(self) -> bool:
        """Whether ``datasets`` gives items as they are, because no block says what they are."""
        made = _instances(self.blocks or ())
        return all(isinstance(one, TransformBlock) and not as_steps(one.type_tfms) for one in made)

    def summary(
        self, source: Any, bs: int = 4, show_batch: bool = False, path: Path | str = "."
    ) -> None:
        """Print, stage by stage, how the images of a source become a batch.

        It follows one image through every transform, then a small batch. If the images cannot form a batch, the last lines
        say why and what to add.

        Args:
            source: As ``resolve`` takes it.
            bs: The number of training images in the batch, fewer where there are fewer.
            show_batch: Draw the batch, too.
            path: As ``resolve`` takes it.

        Raises:
            DataError: Something is wrong with the data.
            CollateError: The images have different sizes.
        """
        from vizsla.notebook.summary import summarise_block

        loaders = summarise_block(self.plain(), source, bs=bs, path=path)
        if show_batch:
            loaders.show_batch(max_n=bs)

    def getters_used(self) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any]]:
        """Return what gives the path (None: the item is it) and the label of an item."""
        get_x, get_y = self.getters or (_only(self.get_x), _only(self.get_y))
        if get_y is None:
            raise ConfigError(
                "The DataBlock has no get_y, so images have no labels. Add one, for example get_y=parent_label."
            )
        return get_x, get_y


def _only(getter: Any) -> Callable[[Any], Any] | None:
    return getter[0] if isinstance(getter, list | tuple) else getter


def _itself(item: Any) -> Any:
    return item


def _left_out(items: Any, used: Sequence[int]) -> tuple[str, ...]:
    """Return a line about the items that the splitter put into neither set, if there are any."""
    if len(used) == len(items):
        return ()
    unused = sorted(set(range(len(items))) - set(used))
    shown = ", ".join(map(str, unused[:5])) + (", ..." if len(unused) > 5 else "")
    return (
        f"skipped {len(unused):,} of {len(items):,} items that the splitter puts into neither set, at positions "
        f"{shown}",
    )


def _checked_split(split: Any, num_items: int) -> Split:
    """Return what a splitter returned as two lists of ints, which must share no item and name only existing ones."""
    sets = [[int(position) for position in positions] for positions in split]
    if len(sets) != 2:
        raise ConfigError(
            "A splitter must return two lists of positions, for training and for validation. Received: "
            f"{len(sets)} lists"
        )
    train, valid = sets
    outside = [position for position in (*train, *valid) if not 0 <= position < num_items]
    if outside:
        raise ConfigError(
            f"The splitter returned position {outside[0]}; there are {num_items} items, from 0 to {num_items - 1}."
        )
    both = sorted(set(train) & set(valid))
    if both:
        raise ConfigError(
            f"The splitter put {len(both)} items into training and into validation, the first at position "
            f"{both[0]}. The validation result would be meaningless; put each item into one set only."
        )
    return train, valid


def _read_all(
    items: Any, get_x: Callable[[Any], Any] | None, get_y: Callable[[Any], Any]
) -> tuple[Iterable[Any], tuple[Any, ...]]:
    """Return the images and the labels of items, which are a list or a DataFrame."""
    is_frame = hasattr(items, "iterrows")
    columns_only = is_frame and isinstance(get_x, ColReader) and isinstance(get_y, ColReader)
    # A Series for each row takes 100 times as long as reading whole columns: only where a function wants to see one.
    rows = items if columns_only else list(each_item(items))
    if is_frame and isinstance(get_x, ColReader):
        images = get_x.read_frame(items)
    else:
        images = rows if get_x is None else [get_x(row) for row in rows]
    if is_frame and isinstance(get_y, ColReader):
        return images, tuple(get_y.read_frame(items))
    return images, take_labels(rows, get_y)


def _as_path(item: Any) -> Path:
    if isinstance(item, str | Path):
        return item if isinstance(item, Path) else Path(item)
    raise ConfigError(
        f"An image is given by its path. Received: {type(item).__name__} {item!r:.80}. "
        "Give a get_x that returns the path of an item."
    )
