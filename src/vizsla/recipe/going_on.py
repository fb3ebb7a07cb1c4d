"""Go on from an earlier model: which choices its file makes, which classes must be there again, and what it says beforehand.

The body is kept as it is, and the head is fitted again in closed form, over the earlier classes and new ones, on the images that are
there. A class without images would be lost that way, so it is refused. With the same classes the model as it was competes with the
head that was fitted again: few new images do not replace what it learnt from many.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.compare import Comparison, compare
from vizsla.infer.run import predict_batches
from vizsla.models.classifier import Classifier
from vizsla.recipe.config import TrainConfig
from vizsla.text import counted, joined
from vizsla.train.earlier import EarlierModel, earlier_model
from vizsla.types import UNLABELLED, is_labelled

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.run import NumberFormat
    from vizsla.models.stages import Backbone
    from vizsla.types import ImageTable

_PADDING = {"border": "pad-border", "zeros": "pad-zeros"}
_MOST_NAMED = 12


def choices_of(config: TrainConfig) -> tuple[TrainConfig, EarlierModel | None]:
    """Open the model to go on from, and return the choices with its network and preparation of images; None if there is none.

    Raises:
        ConfigError: The file does not say how images are prepared, or a choice contradicts it.
        ModelFileError: It is missing or damaged.
    """
    if not config.start_from:
        return config, None
    place = Path(config.start_from)
    if place.is_dir() and not (place / "model.safetensors").exists():
        raise ConfigError(
            f"There is no model in {place}. If its run was cut off, finish it first: vizsla train DATA --out {place} --resume."
        )
    earlier = earlier_model(place)
    if earlier is None or earlier.bundle is None:
        raise ConfigError(
            f"{place} holds weights, and does not say how images are prepared or what the head is made of. Give a model file that "
            "learn.export or vizsla train wrote, or the folder of a run. Its body alone can be a start: --weights FILE (of "
            "learn.save also in Python: vision_learner(dls, arch, weights=FILE))."
        )
    manifest = earlier.bundle.manifest
    size, resize = manifest.size, manifest.resize
    if size is None or resize is None or size[0] != size[1]:
        raise ConfigError(
            f"The model {place} takes {earlier.preparation}, and this training makes squares. Go on with it in Python: "
            "vision_learner(dls, weights=FILE)."
        )
    method = _PADDING.get(resize.pad_mode, "pad") if resize.method == "pad" else resize.method
    made: dict[str, Any] = {"arch": earlier.arch, "size": size[0], "resize_method": method}
    if manifest.bit_depth is not None:
        made["bit_depth"] = manifest.bit_depth
    if not manifest.flip:  # its classes differ by left and right
        made["flip"] = False
    usual = TrainConfig()
    contrary = [
        f"{name} {getattr(config, name)!r} instead of {value!r}"
        for name, value in made.items()
        if getattr(config, name) not in (value, getattr(usual, name))
    ]
    if contrary:
        raise ConfigError(
            f"Network and preparation of images come from the model {place}. Received: {', '.join(contrary)}. Leave that out; or "
            f"begin a new model with its body: --weights {earlier.place}."
        )
    return replace(config, **made), earlier


def check_classes(earlier: EarlierModel, table: ImageTable) -> list[str]:
    """Return what is kept and what is new, a line each.

    Raises:
        ConfigError: The images are labelled for another task, or with other numbers.
        DataError: A class of the model has no image to learn from.
    """
    task = "category" if earlier.bundle is None else earlier.bundle.manifest.task
    if task != table.task or (task == "regression" and earlier.vocab != table.vocab):
        raise ConfigError(
            f"The model {earlier.place} is for the task {task!r} with {joined(earlier.vocab, limit=_MOST_NAMED)}. Received: labels "
            f"for {table.task!r} with {joined(table.vocab, limit=_MOST_NAMED)}. Give labels of the same kind."
        )
    targets = table.targets[table.train_rows]
    targets = targets[is_labelled(targets)]
    columns = targets.unique() if task == "category" else (targets != 0).any(0).nonzero()[:, 0]
    present = {table.vocab[column] for column in columns.tolist()}
    missing = [name for name in earlier.vocab if name not in present]
    if missing and task != "regression":
        raise DataError(
            f"The model {earlier.place} knows {counted(len(missing), 'class', 'classes')} of which the data has no image to learn "
            f"from: {joined(missing, limit=_MOST_NAMED)}. The head is fitted again on the images that are there, so these classes "
            "would be lost. Add images of them; or begin a model of the data's classes alone with the same body: --weights "
            f"{earlier.place}. In Python vision_learner(dls, weights=FILE) keeps their rows where CategoryBlock(vocab=[...]) names them."
        )
    what = f"the body is kept, the head is fitted again on all classes; {earlier.preparation}"
    return earlier.account(table.vocab, what=what)


def predict_before(
    earlier: EarlierModel, loaders: DataLoaders, *, precision: NumberFormat
) -> Predictions:
    """Return what the earlier model says of the validation images whose labels it knows, prepared as its file says."""
    if earlier.bundle is None:
        raise ConfigError(f"{earlier.place} does not say how images are prepared.")
    manifest, classifier = earlier.bundle.manifest, earlier.bundle.classifier
    table = loaders.table
    known = replace(table, vocab=earlier.vocab, targets=_targets_in(table, earlier.vocab))
    rows = table.valid_rows[is_labelled(known.targets[table.valid_rows])]
    prepared = DataLoaders(
        known,
        resize=manifest.resize,
        batch_size=loaders.bs,
        num_workers=loaders.num_workers,
        device=loaders.device,
        cache=loaders.cache,
        truncated=loaders.reader.truncated,
    )
    prepared.augmentation = manifest.final_resize.augmentation()
    classifier.place(loaders.device)
    found = predict_batches(
        classifier, prepared.loader_for(rows).batches(), table=known, precision=precision
    )
    classifier.cpu()
    return found


def as_it_was(earlier: EarlierModel, backbone: Backbone, table: ImageTable) -> Classifier | None:
    """Return the earlier model, on a body that has its weights, for the classes of a table; None if these are not the same."""
    head = earlier.build_head(backbone, num_classes=len(table.vocab))
    if head is None or {*earlier.vocab} != {*table.vocab} or not earlier.keep_head(head, table):
        return None
    return Classifier(
        backbone, head, vocab=table.vocab, task=table.task, class_type=table.class_type
    ).eval()


def beside(before: Predictions, after: Predictions) -> Comparison | None:
    """Compare the earlier model with the new one on the images whose labels both know; None if there are none."""
    both = after.take(torch.isin(after.rows, before.rows))
    if not len(both.rows):
        return None
    return compare(before, both, names=("the earlier model", "the new one"))


def _targets_in(table: ImageTable, vocab: tuple[str, ...]) -> torch.Tensor:
    """Return the targets of a table in another vocabulary; unknown where a label is not in it."""
    if table.task == "category":
        places = [vocab.index(name) if name in vocab else UNLABELLED for name in table.vocab]
        known = is_labelled(table.targets)
        return torch.where(known, torch.tensor(places)[table.targets], UNLABELLED)
    columns = [table.vocab.index(name) for name in vocab]
    others = [place for place, name in enumerate(table.vocab) if name not in vocab]
    targets = table.targets[:, columns].clone()
    targets[(table.targets[:, others] != 0).any(1)] = torch.nan
    return targets
