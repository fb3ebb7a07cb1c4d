"""The lesson-1 dialect: ``from vizsla.classic import *`` gives a notebook of fastai 0.7 the names that it uses.

A thin layer: images are read, augmented, trained on and predicted by vizsla's engine. ``docs/classic.md`` says what every name
is in the engine's own words, and where the meaning differs from the original.
"""

# ruff: noqa: F403, F405 (each module says what it gives)

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
from torch.autograd import Variable
from torch.nn import functional as F

from vizsla.classic import data, learner, metrics, models, training, transforms
from vizsla.classic.data import *
from vizsla.classic.learner import *
from vizsla.classic.metrics import *
from vizsla.classic.models import *
from vizsla.classic.plots import *
from vizsla.classic.training import *
from vizsla.classic.transforms import *

__all__ = ["PIL", "F", "Image", "glob", "math", "nn", "np", "optim", "os", "pd", "plt", "random"]
__all__ += ["ImageModelResults", "Variable", "plot_confusion_matrix", "plots", "plots_from_files"]
__all__ += ["shutil", "torch"]
__all__ += data.__all__
__all__ += learner.__all__
__all__ += metrics.__all__
__all__ += models.__all__
__all__ += training.__all__
__all__ += transforms.__all__

# Log-probabilities of a sure model, -0.00007 beside -9.63393, are unreadable in exponents. Of this dialect only.
np.set_printoptions(precision=5, linewidth=110, suppress=True)

# Modules of the original that notebooks import from; each gives all names, but for one that only set how processes start.
for _name in ("imports", "conv_learner", "model", "dataset", "sgdr", "set_spawn"):
    _module = ModuleType(f"{__name__}.{_name}", "Gives the names of ``vizsla.classic``.")
    _module.__dict__.update(
        {} if _name == "set_spawn" else {"__all__": __all__, **{n: globals()[n] for n in __all__}}
    )
    sys.modules[_module.__name__] = _module
