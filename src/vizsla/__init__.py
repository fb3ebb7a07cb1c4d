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
    from vizsla.data.block import DataBlock
    from vizsla.data.blocks import CategoryBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
    from vizsla.data.crops import CropPad, RandomCrop, RandomResizedCrop, RatioResize
    from vizsla.data.dataloaders import DataLoaders
    from vizsla.data.datasets import URLs, untar_data
    from vizsla.data.drawn_splits import GroupSplitter, RandomSubsetSplitter, TrainTestSplitter
    from vizsla.data.factories import ImageDataLoaders
    from vizsla.data.item_flips import DihedralItem, FlipItem
    from vizsla.data.labels import ColReader, RegexLabeller, parent_label, using_attr
    from vizsla.data.presize import Resize
    from vizsla.data.sources import get_image_files
    from vizsla.data.splits import (
        ColSplitter,
        EndSplitter,
        FileSplitter,
        FuncSplitter,
        GrandparentSplitter,
        IndexSplitter,
        MaskSplitter,
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
    from vizsla.evaluate.compare import compare
    from vizsla.evaluate.predictions import Predictions
    from vizsla.export.hub import from_hub, push_to_hub
    from vizsla.export.predictor import Prediction, Predictor, load_learner
    from vizsla.infer.grad_cam import grad_cam
    from vizsla.train.averaging import EMACallback, WeightSoup
    from vizsla.train.callback import Callback
    from vizsla.train.checkpoint import Checkpoint
    from vizsla.train.class_weights import balanced_class_weights
    from vizsla.train.learner import Learner
    from vizsla.train.loggers import CSVLogger, JSONLLogger, TensorBoardLogger, WandbLogger
    from vizsla.train.losses import (
        BCEWithLogitsLossFlat,
        CrossEntropyLossFlat,
        FocalLossFlat,
        LabelSmoothingCrossEntropy,
    )
    from vizsla.train.metrics import accuracy, accuracy_multi, error_rate, top_k_accuracy
    from vizsla.train.mixing import CutMix, MixUp
    from vizsla.train.optim import SGD, Adam
    from vizsla.train.ranking_metrics import RocAuc
    from vizsla.train.recipes import TrainConfig, train_classifier
    from vizsla.train.score_metrics import F1Score, Precision, Recall
    from vizsla.train.step_options import GradientAccumulation, GradientClip, ProgressiveResizing
    from vizsla.train.suggestions import minimum, robust, slide, steep, valley
    from vizsla.train.tracking import (
        EarlyStoppingCallback,
        KeepBest,
        ReduceLROnPlateau,
        SaveModelCallback,
    )
    from vizsla.train.vision import vision_learner

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
    "Brightness": "vizsla.augment.pixels",
    "CSVLogger": "vizsla.train.loggers",
    "Callback": "vizsla.train.callback",
    "CategoryBlock": "vizsla.data.blocks",
    "Checkpoint": "vizsla.train.checkpoint",
    "ColReader": "vizsla.data.labels",
    "ColSplitter": "vizsla.data.splits",
    "ConfigError": "vizsla.errors",
    "Contrast": "vizsla.augment.pixels",
    "CropPad": "vizsla.data.crops",
    "CrossEntropyLossFlat": "vizsla.train.losses",
    "CutMix": "vizsla.train.mixing",
    "DataBlock": "vizsla.data.block",
    "DataError": "vizsla.errors",
    "DataLoaders": "vizsla.data.dataloaders",
    "Dihedral": "vizsla.augment.policy",
    "DihedralItem": "vizsla.data.item_flips",
    "EMACallback": "vizsla.train.averaging",
    "EarlyStoppingCallback": "vizsla.train.tracking",
    "EndSplitter": "vizsla.data.splits",
    "F1Score": "vizsla.train.score_metrics",
    "FileSplitter": "vizsla.data.splits",
    "Flip": "vizsla.augment.policy",
    "FlipItem": "vizsla.data.item_flips",
    "FocalLossFlat": "vizsla.train.losses",
    "FuncSplitter": "vizsla.data.splits",
    "GradientAccumulation": "vizsla.train.step_options",
    "GradientClip": "vizsla.train.step_options",
    "GrandparentSplitter": "vizsla.data.splits",
    "GroupSplitter": "vizsla.data.drawn_splits",
    "Hue": "vizsla.augment.pixels",
    "ImageBlock": "vizsla.data.blocks",
    "ImageDataLoaders": "vizsla.data.factories",
    "IndexSplitter": "vizsla.data.splits",
    "JSONLLogger": "vizsla.train.loggers",
    "KeepBest": "vizsla.train.tracking",
    "LabelError": "vizsla.errors",
    "LabelSmoothingCrossEntropy": "vizsla.train.losses",
    "Learner": "vizsla.train.learner",
    "MaskSplitter": "vizsla.data.splits",
    "MissingExtraError": "vizsla.errors",
    "MixUp": "vizsla.train.mixing",
    "ModelFileError": "vizsla.errors",
    "MultiCategoryBlock": "vizsla.data.blocks",
    "Normalize": "vizsla.augment.pixels",
    "OutputError": "vizsla.errors",
    "PictureError": "vizsla.errors",
    "Precision": "vizsla.train.score_metrics",
    "Prediction": "vizsla.export.predictor",
    "Predictions": "vizsla.evaluate.predictions",
    "Predictor": "vizsla.export.predictor",
    "ProgressiveResizing": "vizsla.train.step_options",
    "RandomCrop": "vizsla.data.crops",
    "RandomErasing": "vizsla.augment.pixels",
    "RandomResizedCrop": "vizsla.data.crops",
    "RandomResizedCropGPU": "vizsla.augment.policy",
    "RandomSplitter": "vizsla.data.splits",
    "RandomSubsetSplitter": "vizsla.data.drawn_splits",
    "RatioResize": "vizsla.data.crops",
    "Recall": "vizsla.train.score_metrics",
    "ReduceLROnPlateau": "vizsla.train.tracking",
    "RegexLabeller": "vizsla.data.labels",
    "RegressionBlock": "vizsla.data.blocks",
    "Resize": "vizsla.data.presize",
    "RocAuc": "vizsla.train.ranking_metrics",
    "Rotate": "vizsla.augment.policy",
    "SGD": "vizsla.train.optim",
    "Saturation": "vizsla.augment.pixels",
    "SaveModelCallback": "vizsla.train.tracking",
    "StratifiedSplitter": "vizsla.data.splits",
    "TableError": "vizsla.errors",
    "TensorBoardLogger": "vizsla.train.loggers",
    "TrainConfig": "vizsla.train.recipes",
    "TrainTestSplitter": "vizsla.data.drawn_splits",
    "TrainingError": "vizsla.errors",
    "URLs": "vizsla.data.datasets",
    "VizslaError": "vizsla.errors",
    "WandbLogger": "vizsla.train.loggers",
    "Warp": "vizsla.augment.policy",
    "WeightSoup": "vizsla.train.averaging",
    "WeightsError": "vizsla.errors",
    "Zoom": "vizsla.augment.policy",
    "accuracy": "vizsla.train.metrics",
    "accuracy_multi": "vizsla.train.metrics",
    "aug_transforms": "vizsla.augment.policy",
    "balanced_class_weights": "vizsla.train.class_weights",
    "compare": "vizsla.evaluate.compare",
    "error_rate": "vizsla.train.metrics",
    "from_hub": "vizsla.export.hub",
    "get_image_files": "vizsla.data.sources",
    "grad_cam": "vizsla.infer.grad_cam",
    "load_learner": "vizsla.export.predictor",
    "minimum": "vizsla.train.suggestions",
    "parent_label": "vizsla.data.labels",
    "push_to_hub": "vizsla.export.hub",
    "robust": "vizsla.train.suggestions",
    "setup_aug_tfms": "vizsla.augment.policy",
    "slide": "vizsla.train.suggestions",
    "steep": "vizsla.train.suggestions",
    "top_k_accuracy": "vizsla.train.metrics",
    "train_classifier": "vizsla.train.recipes",
    "untar_data": "vizsla.data.datasets",
    "using_attr": "vizsla.data.labels",
    "valley": "vizsla.train.suggestions",
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
