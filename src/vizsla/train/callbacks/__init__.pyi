"""What the other packages use of vizsla.train.callbacks."""

from .averaging import EMACallback as EMACallback
from .averaging import WeightSoup as WeightSoup
from .averaging import renew_batch_norms as renew_batch_norms
from .base import Callback as Callback
from .base import Callbacks as Callbacks
from .base import Fit as Fit
from .base import FitSettings as FitSettings
from .base import as_callbacks as as_callbacks
from .loggers import CSVLogger as CSVLogger
from .loggers import JSONLLogger as JSONLLogger
from .loggers import MLflowLogger as MLflowLogger
from .loggers import ShowGraphCallback as ShowGraphCallback
from .loggers import TensorBoardLogger as TensorBoardLogger
from .loggers import WandbLogger as WandbLogger
from .step import CutMix as CutMix
from .step import GradientAccumulation as GradientAccumulation
from .step import GradientClip as GradientClip
from .step import MixUp as MixUp
from .step import ProgressiveResizing as ProgressiveResizing
from .tracking import EarlyStoppingCallback as EarlyStoppingCallback
from .tracking import KeepBest as KeepBest
from .tracking import ReduceLROnPlateau as ReduceLROnPlateau
from .tracking import SaveModelCallback as SaveModelCallback
from .tracking import TerminateOnNaNCallback as TerminateOnNaNCallback
