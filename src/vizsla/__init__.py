"""vizsla: labelled pictures in, a strong and honest image classifier out.

A public name is imported from its module when it is first used (PEP 562), so ``import vizsla`` and
``vizsla --help`` do not wait for torch. Every public name stands three times below, by hand: for type
checkers and editors, in ``__all__``, and in the table that finds its module. A contract test compares the three.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vizsla.augment.pixels import (
        Brightness,
        Contrast,
        Hue,
        Normalize,
        RandomErasing,
        Saturation,
    )
    from vizsla.augment.policy import (
        Dihedral,
        Flip,
        RandomResizedCropGPU,
        Rotate,
        Warp,
        Zoom,
        aug_transforms,
        setup_aug_tfms,
    )
    from vizsla.data.block import CategoryBlock, DataBlock, ImageBlock
    from vizsla.data.crops import CropPad, RandomCrop, RandomResizedCrop, RatioResize
    from vizsla.data.dataloaders import DataLoaders
    from vizsla.data.factories import ImageDataLoaders
    from vizsla.data.labels import ColReader, RegexLabeller, parent_label, using_attr
    from vizsla.data.presize import Resize
    from vizsla.data.sources import get_image_files
    from vizsla.data.splits import (
        ColSplitter,
        EndSplitter,
        FuncSplitter,
        GrandparentSplitter,
        IndexSplitter,
        RandomSplitter,
        StratifiedSplitter,
    )
    from vizsla.errors import (
        ConfigError,
        DataError,
        LabelError,
        MissingExtraError,
        ModelFileError,
        OutputError,
        PictureError,
        TableError,
        TrainingError,
        VizslaError,
        WeightsError,
    )
    from vizsla.evaluate.predictions import Predictions
    from vizsla.export.predictor import Prediction, Predictor, load_learner
    from vizsla.train.learner import Learner
    from vizsla.train.metrics import accuracy, error_rate
    from vizsla.train.recipes import TrainConfig, train_classifier
    from vizsla.train.vision import vision_learner

__version__ = "0.1.0"

__all__ = [
    "Brightness",
    "CategoryBlock",
    "ColReader",
    "ColSplitter",
    "ConfigError",
    "Contrast",
    "CropPad",
    "DataBlock",
    "DataError",
    "DataLoaders",
    "Dihedral",
    "EndSplitter",
    "Flip",
    "FuncSplitter",
    "GrandparentSplitter",
    "Hue",
    "ImageBlock",
    "ImageDataLoaders",
    "IndexSplitter",
    "LabelError",
    "Learner",
    "MissingExtraError",
    "ModelFileError",
    "Normalize",
    "OutputError",
    "PictureError",
    "Prediction",
    "Predictions",
    "Predictor",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropGPU",
    "RandomSplitter",
    "RatioResize",
    "RegexLabeller",
    "Resize",
    "Rotate",
    "Saturation",
    "StratifiedSplitter",
    "TableError",
    "TrainConfig",
    "TrainingError",
    "VizslaError",
    "Warp",
    "WeightsError",
    "Zoom",
    "__version__",
    "accuracy",
    "aug_transforms",
    "error_rate",
    "get_image_files",
    "load_learner",
    "parent_label",
    "setup_aug_tfms",
    "train_classifier",
    "using_attr",
    "vision_learner",
]

_MODULE_OF = {
    "Brightness": "vizsla.augment.pixels",
    "CategoryBlock": "vizsla.data.block",
    "ColReader": "vizsla.data.labels",
    "ColSplitter": "vizsla.data.splits",
    "ConfigError": "vizsla.errors",
    "Contrast": "vizsla.augment.pixels",
    "CropPad": "vizsla.data.crops",
    "DataBlock": "vizsla.data.block",
    "DataError": "vizsla.errors",
    "DataLoaders": "vizsla.data.dataloaders",
    "Dihedral": "vizsla.augment.policy",
    "EndSplitter": "vizsla.data.splits",
    "Flip": "vizsla.augment.policy",
    "FuncSplitter": "vizsla.data.splits",
    "GrandparentSplitter": "vizsla.data.splits",
    "Hue": "vizsla.augment.pixels",
    "ImageBlock": "vizsla.data.block",
    "ImageDataLoaders": "vizsla.data.factories",
    "IndexSplitter": "vizsla.data.splits",
    "LabelError": "vizsla.errors",
    "Learner": "vizsla.train.learner",
    "MissingExtraError": "vizsla.errors",
    "ModelFileError": "vizsla.errors",
    "Normalize": "vizsla.augment.pixels",
    "OutputError": "vizsla.errors",
    "PictureError": "vizsla.errors",
    "Prediction": "vizsla.export.predictor",
    "Predictions": "vizsla.evaluate.predictions",
    "Predictor": "vizsla.export.predictor",
    "RandomCrop": "vizsla.data.crops",
    "RandomErasing": "vizsla.augment.pixels",
    "RandomResizedCrop": "vizsla.data.crops",
    "RandomResizedCropGPU": "vizsla.augment.policy",
    "RandomSplitter": "vizsla.data.splits",
    "RatioResize": "vizsla.data.crops",
    "RegexLabeller": "vizsla.data.labels",
    "Resize": "vizsla.data.presize",
    "Rotate": "vizsla.augment.policy",
    "Saturation": "vizsla.augment.pixels",
    "StratifiedSplitter": "vizsla.data.splits",
    "TableError": "vizsla.errors",
    "TrainConfig": "vizsla.train.recipes",
    "TrainingError": "vizsla.errors",
    "VizslaError": "vizsla.errors",
    "Warp": "vizsla.augment.policy",
    "WeightsError": "vizsla.errors",
    "Zoom": "vizsla.augment.policy",
    "accuracy": "vizsla.train.metrics",
    "aug_transforms": "vizsla.augment.policy",
    "error_rate": "vizsla.train.metrics",
    "get_image_files": "vizsla.data.sources",
    "load_learner": "vizsla.export.predictor",
    "parent_label": "vizsla.data.labels",
    "setup_aug_tfms": "vizsla.augment.policy",
    "train_classifier": "vizsla.train.recipes",
    "using_attr": "vizsla.data.labels",
    "vision_learner": "vizsla.train.vision",
}

if not TYPE_CHECKING:  # a checker that saw this __getattr__ would accept every misspelt name

    def __getattr__(name: str) -> object:
        module = _MODULE_OF.get(name)
        if module is None:
            # name= and obj= let Python add "Did you mean ...?" from __dir__.
            raise AttributeError(
                f"module 'vizsla' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
            )
        value = getattr(import_module(module), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return list(__all__)
