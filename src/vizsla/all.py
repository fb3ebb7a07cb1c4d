"""The pet-breeds dialect: everything that a notebook in the style of fastai 2 takes for granted, by ``from vizsla.all import *``.

Importing it sets nothing for the whole program but one thing: ``pathlib.Path`` gets ``ls`` and ``BASE_PATH``, and prints
short. No seeds, no print options, no matplotlib settings (see ``set_seed`` and the libraries' own functions for those).

The names come from the engine; those that a notebook looks at (loaders, items, batches) are the engine's dressed for that.
Networks of torchvision have their functions' names here; networks of timm are given by name: ``"convnext_tiny.fb_in22k"``.
"""

# Names stand several in a line: as one column they would fill this file, and nobody reads them one by one.
# fmt: off
# ruff: noqa: I001, RUF022

from __future__ import annotations

import json
import math
import os
import random  # noqa: TID251 (cells use it; vizsla does not)
import re
import shutil
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vizsla.augment.colour import Brightness, Contrast, Hue, Saturation
from vizsla.augment.erasing import RandomErasing
from vizsla.augment.normalize import Normalize
from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
from vizsla.augment.presets import aug_transforms, setup_aug_tfms
from vizsla.data.table.blocks import CategoryBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.images.sizing import CropPad, RandomCrop, RandomResizedCrop, RatioResize
from vizsla.data.images.item_transforms import DihedralItem, FlipItem
from vizsla.data.loading.dataloaders import DataLoader as TfmdDL
from vizsla.data.loading.dataloaders import DataLoaders, default_device
from vizsla.data.table.block import DataBlock
from vizsla.data.table.factories import ImageDataLoaders
from vizsla.notebook.batches import Datasets
from vizsla.notebook.tensors import Pipeline, TensorCategory, TensorImage, TensorMultiCategory
from vizsla.data.download import URLs, untar_data
from vizsla.data.table.splits import GroupSplitter, RandomSubsetSplitter, TrainTestSplitter
from vizsla.data.table.labels import ColReader, RegexLabeller, parent_label, using_attr
from vizsla.data.images.sizing import Resize
from vizsla.data.table.sources import get_image_files
from vizsla.data.table.splits import ColSplitter, EndSplitter, FileSplitter, FuncSplitter, GrandparentSplitter, IndexSplitter, MaskSplitter, RandomSplitter, StratifiedSplitter
from vizsla.evaluate.predictions import Predictions
from vizsla.predict.predictor import load_learner
from vizsla.notebook.architectures import (
    alexnet, convnext_base, convnext_large, convnext_small, convnext_tiny, densenet121,
    densenet161, densenet169, densenet201, efficientnet_b0, efficientnet_b1, efficientnet_b2,
    efficientnet_b3, efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7,
    efficientnet_lite0, efficientnet_v2_l, efficientnet_v2_m, efficientnet_v2_s, googlenet,
    inception_v3, maxvit_t, mnasnet0_5, mnasnet0_75, mnasnet1_0, mnasnet1_3, mobilenet_v2,
    mobilenet_v3_large, mobilenet_v3_small, regnet_x_16gf, regnet_x_1_6gf, regnet_x_32gf,
    regnet_x_3_2gf, regnet_x_400mf, regnet_x_800mf, regnet_x_8gf, regnet_y_128gf,
    regnet_y_16gf, regnet_y_1_6gf, regnet_y_32gf, regnet_y_3_2gf, regnet_y_400mf,
    regnet_y_800mf, regnet_y_8gf, resnet101, resnet152, resnet18, resnet34, resnet50,
    resnext101_32x8d, resnext101_64x4d, resnext50_32x4d, shufflenet_v2_x0_5,
    shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0, squeezenet1_0, squeezenet1_1,
    swin_b, swin_s, swin_t, swin_v2_b, swin_v2_s, swin_v2_t, vgg11, vgg11_bn, vgg13, vgg13_bn,
    vgg16, vgg16_bn, vgg19, vgg19_bn, vit_b_16, vit_b_32, vit_h_14, vit_l_16, vit_l_32,
    wide_resnet101_2, wide_resnet50_2,
)
from vizsla.notebook.cleaner import ImageClassifierCleaner
from vizsla.notebook.collections import (
    Inf, L, first, noop, patch_path, set_seed, tensor,
)
from vizsla.notebook.interpretation import ClassificationInterpretation
from vizsla.notebook.collections import AttrGetter, ItemGetter, PadMode, ResizeMethod, imagenet_stats
from vizsla.notebook.images import PILImage
from vizsla.notebook.images import plot_function, show_image, show_images, subplots, verify_images
from vizsla.data.table.labels import CategoryMap
from vizsla.train.callbacks.averaging import EMACallback, WeightSoup
from vizsla.train.callbacks.base import Callback
from vizsla.train.metrics import F1ScoreMulti, FBetaMulti, HammingLossMulti, JaccardMulti, MatthewsCorrCoefMulti, PrecisionMulti, RecallMulti
from vizsla.train.learner import Learner
from vizsla.train.callbacks.loggers import CSVLogger, JSONLLogger, ShowGraphCallback, TensorBoardLogger
from vizsla.train.losses import (
    BCEWithLogitsLossFlat, CrossEntropyLossFlat, FocalLossFlat, L1LossFlat,
    LabelSmoothingCrossEntropy, MSELossFlat,
)
from vizsla.train.metrics import (
    accuracy, accuracy_multi, error_rate, mae, mse, r2_score, rmse, top_k_accuracy,
)
from vizsla.train.callbacks.step import CutMix, MixUp
from vizsla.train.optim import Adam, SGD
from vizsla.train.metrics import APScoreBinary, APScoreMulti, RocAuc, RocAucBinary, RocAucMulti
from vizsla.train.metrics import BalancedAccuracy, CohenKappa, F1Score, FBeta, HammingLoss, Jaccard, MatthewsCorrCoef, Precision, Recall
from vizsla.train.callbacks.step import GradientAccumulation, GradientClip, ProgressiveResizing
from vizsla.train.suggestions import (
    SuggestedLRs, minimum, slide, steep, valley,
)
from vizsla.train.callbacks.tracking import EarlyStoppingCallback, KeepBest, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback, TrackerCallback
from vizsla.train.vision_learner import cnn_learner, vision_learner

patch_path()

__all__ = [
    "APScoreBinary", "APScoreMulti",
    "Adam", "AttrGetter", "BCEWithLogitsLossFlat", "BalancedAccuracy", "Brightness",
    "CSVLogger", "Callback", "CategoryBlock", "CategoryMap", "ClassificationInterpretation",
    "CohenKappa", "ColReader", "ColSplitter", "Contrast", "CropPad", "CrossEntropyLossFlat",
    "CutMix", "DataBlock", "DataLoaders", "Datasets", "Dihedral", "EMACallback",
    "EarlyStoppingCallback", "EndSplitter", "F", "F1Score", "F1ScoreMulti", "FBeta",
    "FBetaMulti", "FileSplitter", "Flip", "FocalLossFlat", "FuncSplitter",
    "GradientAccumulation", "GradientClip", "GrandparentSplitter", "GroupSplitter",
    "HammingLoss", "HammingLossMulti", "Hue", "Image", "ImageBlock", "ImageClassifierCleaner",
    "ImageDataLoaders", "IndexSplitter", "Inf", "ItemGetter", "JSONLLogger", "Jaccard",
    "JaccardMulti", "KeepBest", "L", "L1LossFlat", "LabelSmoothingCrossEntropy", "Learner",
    "MSELossFlat", "MaskSplitter", "MatthewsCorrCoef", "MatthewsCorrCoefMulti", "MixUp",
    "MultiCategoryBlock", "Normalize", "PIL", "PILImage", "PadMode", "Path", "Pipeline",
    "Precision", "PrecisionMulti", "Predictions", "ProgressiveResizing", "RandomCrop",
    "RandomErasing", "RandomResizedCrop", "RandomResizedCropGPU", "RandomSplitter",
    "RandomSubsetSplitter", "RatioResize", "FlipItem", "DihedralItem", "Recall", "RecallMulti", "ReduceLROnPlateau",
    "RegexLabeller", "RegressionBlock", "Resize", "ResizeMethod", "RocAuc", "RocAucBinary", "RocAucMulti",
    "Rotate", "SGD", "Saturation", "SaveModelCallback", "ShowGraphCallback",
    "StratifiedSplitter", "SuggestedLRs", "TensorBoardLogger", "TensorCategory", "TensorImage",
    "TensorMultiCategory", "TerminateOnNaNCallback", "TfmdDL", "TrackerCallback",
    "TrainTestSplitter", "URLs", "Warp", "WeightSoup", "Zoom", "accuracy", "accuracy_multi",
    "alexnet", "aug_transforms", "cnn_learner", "convnext_base", "convnext_large",
    "convnext_small", "convnext_tiny", "default_device", "densenet121", "densenet161",
    "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
    "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6",
    "efficientnet_b7", "efficientnet_lite0", "efficientnet_v2_l", "efficientnet_v2_m",
    "efficientnet_v2_s", "error_rate", "first", "get_image_files", "googlenet",
    "imagenet_stats", "inception_v3", "json", "load_learner", "mae", "math", "maxvit_t",
    "minimum", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "mse", "nn", "noop", "np", "os", "parent_label",
    "partial", "patch_path", "pd", "plot_function", "plt", "r2_score", "random", "re",
    "regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf",
    "regnet_x_800mf", "regnet_x_8gf", "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf",
    "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf",
    "resnet101", "resnet152", "resnet18", "resnet34", "resnet50", "resnext101_32x8d",
    "resnext101_64x4d", "resnext50_32x4d", "rmse", "set_seed", "setup_aug_tfms", "show_image",
    "show_images", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0", "shutil", "slide", "squeezenet1_0", "squeezenet1_1", "steep",
    "subplots", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t", "tensor",
    "top_k_accuracy", "torch", "untar_data", "using_attr", "valley", "verify_images", "vgg11",
    "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vision_learner",
    "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2",
    "wide_resnet50_2",
]
