"""The lesson-1 dialect: ``from vizsla.classic import *`` gives a notebook of fastai 0.7 the names that it uses.

A thin layer: pictures are read, augmented, trained on and predicted by vizsla's engine. ``docs/classic.md`` says what every name
is in the engine's own words, and where the meaning differs from the original.
"""

import math
import os
import random  # noqa: TID251 (a name that notebooks expect, not used here)
import shutil
import sys
from glob import glob
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL
import torch
from PIL import Image
from torch import nn, optim
from torch.nn import functional as F

from vizsla.classic.data import (
    ImageClassifierData,
    csv_source,
    folder_source,
    get_cv_idxs,
    open_image,
    read_dir,
    split_by_idx,
)
from vizsla.classic.learner import ConvLearner
from vizsla.classic.metrics import (
    VV,
    T,
    V,
    accuracy,
    accuracy_multi,
    accuracy_np,
    accuracy_thresh,
    confusion_matrix,
    to_np,
)
from vizsla.classic.models import (
    AdaptiveConcatPool2d,
    ConvnetBuilder,
    dn121,
    dn161,
    dn169,
    dn201,
    efficientnet_lite0,
    inception_4,
    inceptionresnet_2,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50,
    resnext101,
    resnext101_64,
    vgg16,
    vgg19,
    wrn,
)
from vizsla.classic.plots import ImageModelResults, plot_confusion_matrix, plots
from vizsla.classic.training import Callback
from vizsla.classic.transforms import (
    CONSTANT,
    REFLECT,
    REPLICATE,
    CropType,
    RandomDihedral,
    RandomFlip,
    RandomLighting,
    RandomRotate,
    RandomScale,
    Scale,
    TfmType,
    Transforms,
    imagenet_stats,
    inception_stats,
    tfms_from_model,
    tfms_from_stats,
    transforms_basic,
    transforms_side_on,
    transforms_top_down,
)

__all__ = [
    "CONSTANT",
    "PIL",
    "REFLECT",
    "REPLICATE",
    "VV",
    "AdaptiveConcatPool2d",
    "Callback",
    "ConvLearner",
    "ConvnetBuilder",
    "CropType",
    "F",
    "Image",
    "ImageClassifierData",
    "ImageModelResults",
    "RandomDihedral",
    "RandomFlip",
    "RandomLighting",
    "RandomRotate",
    "RandomScale",
    "Scale",
    "T",
    "TfmType",
    "Transforms",
    "V",
    "accuracy",
    "accuracy_multi",
    "accuracy_np",
    "accuracy_thresh",
    "confusion_matrix",
    "csv_source",
    "dn121",
    "dn161",
    "dn169",
    "dn201",
    "efficientnet_lite0",
    "folder_source",
    "get_cv_idxs",
    "glob",
    "imagenet_stats",
    "inception_4",
    "inception_stats",
    "inceptionresnet_2",
    "math",
    "nn",
    "np",
    "open_image",
    "optim",
    "os",
    "pd",
    "plot_confusion_matrix",
    "plots",
    "plt",
    "random",
    "read_dir",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50",
    "resnext101",
    "resnext101_64",
    "shutil",
    "split_by_idx",
    "tfms_from_model",
    "tfms_from_stats",
    "to_np",
    "torch",
    "transforms_basic",
    "transforms_side_on",
    "transforms_top_down",
    "vgg16",
    "vgg19",
    "wrn",
]

# Log-probabilities of a sure model, -0.00007 beside -9.63393, are unreadable in exponents. Of this dialect only.
np.set_printoptions(precision=5, linewidth=110, suppress=True)

# Modules of the original that notebooks import from; each gives all names, but for one that only set how processes start.
for _name in ("imports", "conv_learner", "model", "dataset", "sgdr", "set_spawn"):
    _module = ModuleType(f"{__name__}.{_name}", "Gives the names of ``vizsla.classic``.")
    _module.__dict__.update(
        {} if _name == "set_spawn" else {"__all__": __all__, **{n: globals()[n] for n in __all__}}
    )
    sys.modules[_module.__name__] = _module
