"""What the other packages use of vizsla.predict."""

from .formats import Format as Format
from .formats import part_of as part_of
from .formats import settings_of as settings_of
from .prediction import Prediction as Prediction
from .prediction import describe as describe
from .predictor import MOST_VIEWS as MOST_VIEWS
from .predictor import AnyImage as AnyImage
from .predictor import Predictor as Predictor
from .predictor import load_learner as load_learner
from .predictor import view_of as view_of
from .sorting import Sorted as Sorted
from .sorting import folder_names as folder_names
from .sorting import sort_images as sort_images
from .stream import Engine as Engine
from .stream import PathSource as PathSource
from .stream import Predicted as Predicted
from .stream import PredictOptions as PredictOptions
from .stream import print_predictions as print_predictions
from .stream import read_list as read_list
from .stream import walk_images as walk_images
from .stream import write_predictions as write_predictions
