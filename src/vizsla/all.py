"""Everything that a notebook in the style of fastai 2 takes for granted, by ``from vizsla.all import *``.

The names are those of ``vizsla`` (the same classes, no others), torchvision's networks under the names of its functions,
the layers and optimisers that lessons build networks with, and the few modules and helpers that cells use without an import. Networks of timm are given by name as text:
``vision_learner(dls, "convnext_tiny.fb_in22k")``.

Importing it sets two things for the whole program: ``pathlib.Path`` gets ``ls`` and ``BASE_PATH``, and prints short; Pillow's
images get ``to_thumb``, ``shape`` and their like. No seeds, no print options, no matplotlib settings.
"""

# ruff: noqa: F401, F403, F405 (names that cells use)
# pyright: reportUnusedImport=false, reportWildcardImportFromLibrary=false, reportUnsupportedDunderAll=false

import json
import math
import os
import random  # noqa: TID251 (cells use it; vizsla does not)
import re
import shutil
import string
import sys
import tempfile
import time
import warnings
from functools import partial
from operator import attrgetter, itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import matplotlib  # noqa: ICN001 (the name that cells use)
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL
import torch
import torch.nn.functional as F
from numpy import array, ndarray
from PIL import Image
from torch import Tensor, nn, sigmoid
from torch.utils.data import DataLoader

import vizsla
from vizsla.data.loading.dataloaders import DataLoader as TfmdDL
from vizsla.lists import L
from vizsla.models.backbones import FUNCTION_NAMES, architecture_function
from vizsla.models.heads import AdaptiveConcatPool2d, SigmoidRange, create_head
from vizsla.models.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    ConvLayer,
    Flatten,
    InstanceNorm,
    Lambda,
    LinBnDrop,
    MaxPool,
    MergeLayer,
    Mish,
    Module,
    NormType,
    PoolFlatten,
    PoolType,
    ResBlock,
    ResizeBatch,
    SEModule,
    SequentialEx,
    SimpleCNN,
    SimpleSelfAttention,
    Swish,
    View,
    apply_init,
    create_body,
    create_vision_model,
    default_split,
    has_pool_type,
    in_channels,
    init_cnn,
    init_default,
    model_sizes,
    num_features_model,
    params,
    sequential,
)
from vizsla.notebook.collections import (
    AttrGetter,
    Inf,
    ItemGetter,
    PadMode,
    ResizeMethod,
    first,
    ifnone,
    image2tensor,
    load_pickle,
    noop,
    parallel,
    patch_path,
    range_of,
    save_pickle,
    set_seed,
    tensor,
    to_cpu,
    to_np,
)
from vizsla.notebook.datasets import decode_at, show_at
from vizsla.notebook.image_files import resize_image, search_images_ddg
from vizsla.notebook.images import patch_image, plot_function, subplots
from vizsla.notebook.interpretation import ClassificationInterpretation as Interpretation
from vizsla.notebook.transforms import Category, MultiCategory, TitledStr, store_attr
from vizsla.train.callbacks.base import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from vizsla.train.callbacks.hooks import ActivationStats, Hook, Hooks, hook_output, hook_outputs
from vizsla.train.learner import cnn_learner
from vizsla.train.losses import LabelSmoothingCrossEntropy as LabelSmoothingCrossEntropyFlat
from vizsla.train.metrics import Metric
from vizsla.train.optim import Lookahead, Optimizer, OptimWrapper, RAdam, ranger

# fmt: off
_FOR_PROGRAMS = {
    "Audit", "Checkpoint", "Fix", "Prediction", "Predictor", "TrainConfig", "__version__", "audit",
    "balanced_class_weights", "compare", "from_hub", "grad_cam", "pack", "push_to_hub", "read_fixes", "robust", "train_classifier", "write_fixes",
}
"""Names of ``vizsla`` that cells import themselves, as they do its errors."""
# fmt: on

_PUBLIC = [
    name for name in vizsla.__all__ if name not in _FOR_PROGRAMS and not name.endswith("Error")
]

if TYPE_CHECKING:  # for editors; below, the same names without what cells do not need
    from torchvision.models import *

    from vizsla import *

    efficientnet_lite0 = xresnet18 = xresnet34 = xresnet50 = xresnet101 = xresnet152 = resnet34
else:
    globals().update({name: getattr(vizsla, name) for name in _PUBLIC})
    globals().update({name: architecture_function(name) for name in FUNCTION_NAMES})

search_images_bing = search_images_serpapi = search_images_ddg
_OURS = {"FUNCTION_NAMES", "TYPE_CHECKING", "architecture_function", "vizsla"}
__all__ = [name for name in globals() if not name.startswith("_") and name not in _OURS]

patch_path()
patch_image()
