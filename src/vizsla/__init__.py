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
    from vizsla.augment.colour import Brightness, Contrast, Hue, Saturation
    from vizsla.augment.erasing import RandomErasing
    from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
    from vizsla.augment.normalize import Normalize
    from vizsla.augment.presets import aug_transforms, setup_aug_tfms
    from vizsla.data.download import URLs, untar_data
    from vizsla.data.images.item_transforms import DihedralItem, FlipItem
    from vizsla.data.images.sizing import (
        CropPad,
        RandomCrop,
        RandomResizedCrop,
        RatioResize,
        Resize,
    )
    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.data.table.block import DataBlock
    from vizsla.data.table.blocks import (
        CategoryBlock,
        ImageBlock,
        MultiCategoryBlock,
        RegressionBlock,
    )
    from vizsla.data.table.factories import ImageDataLoaders
    from vizsla.data.table.labels import ColReader, RegexLabeller, parent_label, using_attr
    from vizsla.data.table.sources import get_image_files
    from vizsla.data.table.splits import (
        ColSplitter,
        EndSplitter,
        FileSplitter,
        FuncSplitter,
        GrandparentSplitter,
        GroupSplitter,
        IndexSplitter,
        MaskSplitter,
        RandomSplitter,
        RandomSubsetSplitter,
        StratifiedSplitter,
        TrainTestSplitter,
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
    from vizsla.evaluate.compare import compare
    from vizsla.evaluate.predictions import Predictions
    from vizsla.export.hub import from_hub, push_to_hub
    from vizsla.infer.grad_cam import grad_cam
    from vizsla.predict.predictor import Prediction, Predictor, load_learner
    from vizsla.recipe.config import TrainConfig
    from vizsla.recipe.recipe import train_classifier
    from vizsla.train.callbacks.averaging import EMACallback, WeightSoup
    from vizsla.train.callbacks.base import Callback
    from vizsla.train.callbacks.loggers import (
        CSVLogger,
        JSONLLogger,
        TensorBoardLogger,
        WandbLogger,
    )
    from vizsla.train.callbacks.step import (
        CutMix,
        GradientAccumulation,
        GradientClip,
        MixUp,
        ProgressiveResizing,
    )
    from vizsla.train.callbacks.tracking import (
        EarlyStoppingCallback,
        KeepBest,
        ReduceLROnPlateau,
        SaveModelCallback,
    )
    from vizsla.train.checkpoint import Checkpoint
    from vizsla.train.learner import Learner
    from vizsla.train.losses import (
        BCEWithLogitsLossFlat,
        CrossEntropyLossFlat,
        FocalLossFlat,
        LabelSmoothingCrossEntropy,
        balanced_class_weights,
    )
    from vizsla.train.metrics import (
        F1Score,
        Precision,
        Recall,
        RocAuc,
        accuracy,
        accuracy_multi,
        error_rate,
        top_k_accuracy,
    )
    from vizsla.train.optim import SGD, Adam
    from vizsla.train.suggestions import minimum, robust, slide, steep, valley
    from vizsla.train.vision_learner import vision_learner

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "BCEWithLogitsLossFlat",
    "Brightness",
    "CSVLogger",
    "Callback",
    "CategoryBlock",
    "Checkpoint",
    "ColReader",
    "ColSplitter",
    "ConfigError",
    "Contrast",
    "CropPad",
    "CrossEntropyLossFlat",
    "CutMix",
    "DataBlock",
    "DataError",
    "DataLoaders",
    "Dihedral",
    "DihedralItem",
    "EMACallback",
    "EarlyStoppingCallback",
    "EndSplitter",
    "F1Score",
    "FileSplitter",
    "Flip",
    "FlipItem",
    "FocalLossFlat",
    "FuncSplitter",
    "GradientAccumulation",
    "GradientClip",
    "GrandparentSplitter",
    "GroupSplitter",
    "Hue",
    "ImageBlock",
    "ImageDataLoaders",
    "IndexSplitter",
    "JSONLLogger",
    "KeepBest",
    "LabelError",
    "LabelSmoothingCrossEntropy",
    "Learner",
    "MaskSplitter",
    "MissingExtraError",
    "MixUp",
    "ModelFileError",
    "MultiCategoryBlock",
    "Normalize",
    "OutputError",
    "PictureError",
    "Precision",
    "Prediction",
    "Predictions",
    "Predictor",
    "ProgressiveResizing",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropGPU",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "RatioResize",
    "Recall",
    "ReduceLROnPlateau",
    "RegexLabeller",
    "RegressionBlock",
    "Resize",
    "RocAuc",
    "Rotate",
    "Saturation",
    "SaveModelCallback",
    "StratifiedSplitter",
    "TableError",
    "TensorBoardLogger",
    "TrainConfig",
    "TrainTestSplitter",
    "TrainingError",
    "URLs",
    "VizslaError",
    "WandbLogger",
    "Warp",
    "WeightSoup",
    "WeightsError",
    "Zoom",
    "__version__",
    "accuracy",
    "accuracy_multi",
    "aug_transforms",
    "balanced_class_weights",
    "compare",
    "error_rate",
    "from_hub",
    "get_image_files",
    "grad_cam",
    "load_learner",
    "minimum",
    "parent_label",
    "push_to_hub",
    "robust",
    "setup_aug_tfms",
    "slide",
    "steep",
    "top_k_accuracy",
    "train_classifier",
    "untar_data",
    "using_attr",
    "valley",
    "vision_learner",
]

_MODULE_OF = {
    "Adam": "vizsla.train.optim",
    "BCEWithLogitsLossFlat": "vizsla.train.losses",
    "Brightness": "vizsla.augment.colour",
    "CSVLogger": "vizsla.train.callbacks.loggers",
    "Callback": "vizsla.train.callbacks.base",
    "CategoryBlock": "vizsla.data.table.blocks",
    "Checkpoint": "vizsla.train.checkpoint",
    "ColReader": "vizsla.data.table.labels",
    "ColSplitter": "vizsla.data.table.splits",
    "ConfigError": "vizsla.errors",
    "Contrast": "vizsla.augment.colour",
    "CropPad": "vizsla.data.images.sizing",
    "CrossEntropyLossFlat": "vizsla.train.losses",
    "CutMix": "vizsla.train.callbacks.step",
    "DataBlock": "vizsla.data.table.block",
    "DataError": "vizsla.errors",
    "DataLoaders": "vizsla.data.loading.dataloaders",
    "Dihedral": "vizsla.augment.geometry",
    "DihedralItem": "vizsla.data.images.item_transforms",
    "EMACallback": "vizsla.train.callbacks.averaging",
    "EarlyStoppingCallback": "vizsla.train.callbacks.tracking",
    "EndSplitter": "vizsla.data.table.splits",
    "F1Score": "vizsla.train.metrics",
    "FileSplitter": "vizsla.data.table.splits",
    "Flip": "vizsla.augment.geometry",
    "FlipItem": "vizsla.data.images.item_transforms",
    "FocalLossFlat": "vizsla.train.losses",
    "FuncSplitter": "vizsla.data.table.splits",
    "GradientAccumulation": "vizsla.train.callbacks.step",
    "GradientClip": "vizsla.train.callbacks.step",
    "GrandparentSplitter": "vizsla.data.table.splits",
    "GroupSplitter": "vizsla.data.table.splits",
    "Hue": "vizsla.augment.colour",
    "ImageBlock": "vizsla.data.table.blocks",
    "ImageDataLoaders": "vizsla.data.table.factories",
    "IndexSplitter": "vizsla.data.table.splits",
    "JSONLLogger": "vizsla.train.callbacks.loggers",
    "KeepBest": "vizsla.train.callbacks.tracking",
    "LabelError": "vizsla.errors",
    "LabelSmoothingCrossEntropy": "vizsla.train.losses",
    "Learner": "vizsla.train.learner",
    "MaskSplitter": "vizsla.data.table.splits",
    "MissingExtraError": "vizsla.errors",
    "MixUp": "vizsla.train.callbacks.step",
    "ModelFileError": "vizsla.errors",
    "MultiCategoryBlock": "vizsla.data.table.blocks",
    "Normalize": "vizsla.augment.normalize",
    "OutputError": "vizsla.errors",
    "PictureError": "vizsla.errors",
    "Precision": "vizsla.train.metrics",
    "Prediction": "vizsla.predict.predictor",
    "Predictions": "vizsla.evaluate.predictions",
    "Predictor": "vizsla.predict.predictor",
    "ProgressiveResizing": "vizsla.train.callbacks.step",
    "RandomCrop": "vizsla.data.images.sizing",
    "RandomErasing": "vizsla.augment.erasing",
    "RandomResizedCrop": "vizsla.data.images.sizing",
    "RandomResizedCropGPU": "vizsla.augment.geometry",
    "RandomSplitter": "vizsla.data.table.splits",
    "RandomSubsetSplitter": "vizsla.data.table.splits",
    "RatioResize": "vizsla.data.images.sizing",
    "Recall": "vizsla.train.metrics",
    "ReduceLROnPlateau": "vizsla.train.callbacks.tracking",
    "RegexLabeller": "vizsla.data.table.labels",
    "RegressionBlock": "vizsla.data.table.blocks",
    "Resize": "vizsla.data.images.sizing",
    "RocAuc": "vizsla.train.metrics",
    "Rotate": "vizsla.augment.geometry",
    "SGD": "vizsla.train.optim",
    "Saturation": "vizsla.augment.colour",
    "SaveModelCallback": "vizsla.train.callbacks.tracking",
    "StratifiedSplitter": "vizsla.data.table.splits",
    "TableError": "vizsla.errors",
    "TensorBoardLogger": "vizsla.train.callbacks.loggers",
    "TrainConfig": "vizsla.recipe.config",
    "TrainTestSplitter": "vizsla.data.table.splits",
    "TrainingError": "vizsla.errors",
    "URLs": "vizsla.data.download",
    "VizslaError": "vizsla.errors",
    "WandbLogger": "vizsla.train.callbacks.loggers",
    "Warp": "vizsla.augment.geometry",
    "WeightSoup": "vizsla.train.callbacks.averaging",
    "WeightsError": "vizsla.errors",
    "Zoom": "vizsla.augment.geometry",
    "accuracy": "vizsla.train.metrics",
    "accuracy_multi": "vizsla.train.metrics",
    "aug_transforms": "vizsla.augment.presets",
    "balanced_class_weights": "vizsla.train.losses",
    "compare": "vizsla.evaluate.compare",
    "error_rate": "vizsla.train.metrics",
    "from_hub": "vizsla.export.hub",
    "get_image_files": "vizsla.data.table.sources",
    "grad_cam": "vizsla.infer.grad_cam",
    "load_learner": "vizsla.predict.predictor",
    "minimum": "vizsla.train.suggestions",
    "parent_label": "vizsla.data.table.labels",
    "push_to_hub": "vizsla.export.hub",
    "robust": "vizsla.train.suggestions",
    "setup_aug_tfms": "vizsla.augment.presets",
    "slide": "vizsla.train.suggestions",
    "steep": "vizsla.train.suggestions",
    "top_k_accuracy": "vizsla.train.metrics",
    "train_classifier": "vizsla.recipe.recipe",
    "untar_data": "vizsla.data.download",
    "using_attr": "vizsla.data.table.labels",
    "valley": "vizsla.train.suggestions",
    "vision_learner": "vizsla.train.vision_learner",
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
