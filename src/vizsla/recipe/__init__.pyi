"""What the other packages use of vizsla.recipe."""

from .config import DataConfig as DataConfig
from .config import TrainConfig as TrainConfig
from .config import Truncated as Truncated
from .end_to_end import END_TO_END as END_TO_END
from .end_to_end import RATE_SHARES as RATE_SHARES
from .end_to_end import BestState as BestState
from .end_to_end import end_to_end_trainer as end_to_end_trainer
from .end_to_end import train_end_to_end as train_end_to_end
from .features_first import EPOCH_COLUMNS as EPOCH_COLUMNS
from .features_first import FEATURE_PHASES as FEATURE_PHASES
from .flips import Flips as Flips
from .flips import without_harmful as without_harmful
from .going_on import beside as beside
from .going_on import check_classes as check_classes
from .going_on import choices_of as choices_of
from .head_fit import PENALTIES as PENALTIES
from .head_fit import FeatureLayout as FeatureLayout
from .head_fit import HeadFit as HeadFit
from .head_fit import HeadSetting as HeadSetting
from .head_fit import default_setting as default_setting
from .head_fit import fit_feature_head as fit_feature_head
from .recipe import TrainedRun as TrainedRun
from .recipe import cache_for as cache_for
from .recipe import loaders_for as loaders_for
from .recipe import train_classifier as train_classifier
